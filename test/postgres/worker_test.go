package postgres_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// A worker is paused past its lease, another takes the lock and does the work,
// and the first wakes up and goes on writing.
func TestPausedWorker(t *testing.T) {
	dir, admin := installed(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	binary, err := cluster.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(ctx, cluster.Options{Binary: binary, Voters: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	kahu := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = append(os.Environ(), "KAHU_SOCKET="+c.Agents[0].Socket)
		return cmd
	}

	// The first worker keeps its lease itself, so that nobody stops it: this is
	// the worker that the guard cannot help.
	out, err := kahu("lock", "try", "billing", "--owner", "first", "--ttl", "2s", "--output", "json").Output()
	if err != nil {
		t.Fatalf("taking the lock: %v: %s", err, out)
	}
	var grant struct{ Token int }
	if err := json.Unmarshal(out, &grant); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	first := exec.CommandContext(ctx, "psql", "-qX", "-h", dir, "-U", "app", "postgres")
	first.Env = append(os.Environ(), fmt.Sprintf("PGOPTIONS=-c kahu.lock=billing -c kahu.token=%d", grant.Token))
	stdin, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	first.Stdout, first.Stderr = &said, &said
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin, "CALL kahu.enter(); INSERT INTO ledger VALUES (1, 100);")
	for deadline := time.Now().Add(20 * time.Second); admin.value("SELECT count(*)::text FROM ledger") != "1"; time.Sleep(10 * time.Millisecond) { // nothing announces it
		if time.Now().After(deadline) {
			t.Fatalf("the first worker does not write: %s", said.String())
		}
	}
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin, "INSERT INTO ledger VALUES (2, 100);") // what it does when it wakes

	second := kahu("exec", "--lock", "billing", "--wait", "30s", "--", "sh", "-c",
		`PGOPTIONS="-c kahu.lock=$KAHU_LOCK -c kahu.token=$KAHU_FENCING_TOKEN" psql -qXv ON_ERROR_STOP=1 -h "$0" -U app postgres -c "CALL kahu.enter()" -c "INSERT INTO ledger VALUES (3, $KAHU_FENCING_TOKEN)"`, dir)
	if out, err := second.CombinedOutput(); err != nil {
		t.Fatalf("the second worker: %v: %s", err, out)
	}

	if err := first.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := first.Wait(); err != nil {
		t.Fatalf("the first worker: %v: %s", err, said.String())
	}
	if !strings.Contains(said.String(), "stale fencing token "+strconv.Itoa(grant.Token)) {
		t.Errorf("the first worker was told: %s", said.String())
	}
	if got, want := admin.value("SELECT string_agg(id || '=' || amount, ' ' ORDER BY id) FROM ledger"), fmt.Sprintf("1=100 3=%d", grant.Token+1); got != want {
		t.Errorf("the ledger has %s, want %s", got, want)
	}
}
