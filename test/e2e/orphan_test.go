package e2e_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/test/cluster"
)

// Who calls kahu exec without job control (a script of a service, of cron or of
// CI) shares a process group with its face. The kernel hangs up on a group that
// becomes orphaned while one of its members is stopped: the end of a guard's
// stages must not make it so.
func TestCallerOutlivesAStoppedFace(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	ctx := bounded(t, time.Minute)
	begun := filepath.Join(c.Dir, "begun")
	// A session of its own, whose parent is in another: nothing but the guard could
	// keep this group from being an orphan.
	script := exec.CommandContext(ctx, "sh", "-c", `trap 'echo hung up' HUP; "$0" exec --lock l -- sh -c "echo >`+begun+`; exec sleep 600"; echo "it ended with $?"`, binary)
	script.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	script.Env = append(os.Environ(), "KAHU_SOCKET="+c.Agents[0].Socket)
	var said bytes.Buffer
	script.Stdout = &said
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(ctx, t, begun)
	tree := descendants(t, script.Process.Pid)
	if len(tree) < 3 {
		t.Fatalf("the script has the descendants %v only", tree)
	}
	face, keeper := tree[0], tree[1] // each before its children
	stages := openPidfds(t, []int{face, keeper})
	signalAll(stages[:1], unix.SIGSTOP)
	signalAll(stages[1:], unix.SIGKILL)
	allDead(t, stages[1:])
	signalAll(stages[:1], unix.SIGCONT)
	var exit *exec.ExitError
	if err := script.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := said.String(); strings.Contains(got, "hung up") || !strings.Contains(got, "it ended with 76") {
		t.Errorf("the script says %q", got)
	}
}
