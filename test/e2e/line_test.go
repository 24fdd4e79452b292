package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// Guards on several agents stand in one line. Who is killed in it is left out,
// and who is stopped when its turn comes does not hold up the others: the grant
// that nobody accepts goes to the next, and the stopped one stands in line anew.
func TestOneLineAcrossAgents(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a grant that nobody accepts")
	}
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx := bounded(t, time.Minute)
	must(t, c.Agents[0], "lock", "try", "line", "--owner", "me", "--ttl", "10m")
	order := filepath.Join(c.Dir, "order")
	var waiters []*exec.Cmd
	for i := range 6 {
		a := c.Agents[i%4]
		cmd := a.Command(ctx, "exec", "--lock", "line", "--", "sh", "-c", fmt.Sprintf("echo %d $KAHU_FENCING_TOKEN >>%s", i, order))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waiters = append(waiters, cmd)
		waitForLine(ctx, t, c.Agents[0], "line", i+1)
	}
	if err := waiters[2].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitForLine(ctx, t, c.Agents[0], "line", 5)
	stopped := openPidfds(t, append([]int{waiters[3].Process.Pid}, descendants(t, waiters[3].Process.Pid)...))
	signalAll(stopped, unix.SIGSTOP)
	must(t, c.Agents[0], "lock", "unlock", "line", "--owner", "me")
	for _, i := range []int{0, 1, 4, 5} {
		if err := waiters[i].Wait(); err != nil {
			t.Errorf("waiter %d: %v", i, err)
		}
	}
	signalAll(stopped, unix.SIGCONT)
	if err := waiters[3].Wait(); err != nil {
		t.Errorf("the waiter that was stopped: %v", err)
	}
	_ = waiters[2].Wait() // killed
	text, err := os.ReadFile(order)
	if err != nil {
		t.Fatal(err)
	}
	// Token 0 was the test's own, and 3 the one that nobody accepted.
	if got, want := string(text), "0 1\n1 2\n4 4\n5 5\n3 6\n"; got != want {
		t.Errorf("they ran, with their tokens, as\n%swant\n%s", got, want)
	}
}

func signalAll(pidfds []int, s syscall.Signal) {
	for _, fd := range pidfds {
		_ = unix.PidfdSendSignal(fd, s, nil, 0) // it may have ended
	}
}

// waitForLine waits until n stand in line for the lock.
func waitForLine(ctx context.Context, t *testing.T, a *cluster.Agent, lock string, n int) {
	t.Helper()
	asking := a.Dial()
	defer asking.Close()
	err := cluster.Wait(ctx, fmt.Sprintf("%d wait for %s", n, lock), func(ctx context.Context) (bool, error) {
		l, err := asking.LockInfo(ctx, lock, client.LockOptions{})
		return err == nil && int(l.QueueLength) == n, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// --wait is the user's patience. An agent that dies meanwhile costs the place in
// line, and does not start the wait anew.
func TestWaitIsNotBegunAnew(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx := bounded(t, time.Minute)
	must(t, c.Agents[0], "lock", "try", "taken", "--owner", "me", "--ttl", "10m")
	proxy := c.Proxies()[0]
	const wait = 5 * time.Second
	cmd := proxy.Command(ctx, "exec", "--lock", "taken", "--wait", wait.String(), "--", "true")
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(ctx, t, c.Agents[0], "taken", 1)
	pause(ctx, time.Until(began.Add(wait/2)))
	if err := proxy.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // by its code
	if code, took := cmd.ProcessState.ExitCode(), time.Since(began); code != 75 || took < wait || took > wait+wait/3 {
		t.Errorf("it ended with %d after %v, want 75 after %v", code, took, wait)
	}
}

// A quorum that is away for less than the lease costs a line on stderr; one that
// is away for longer stops the command, before the lease has ended.
func TestExecWithoutQuorum(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a lease")
	}
	c := startCluster(t, cluster.Options{Voters: 3})
	ctx := bounded(t, time.Minute)
	const ttl = 8 * time.Second
	a := c.Agents[0]
	cmd := a.Command(ctx, "exec", "--lock", "l", "--ttl", ttl.String(), "--grace", "500ms", "--", "sh", "-c", "echo on; exec sleep 600")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	quorum := func(do func(*cluster.Agent) error) {
		t.Helper()
		for _, other := range c.Agents[1:] {
			if err := do(other); err != nil {
				t.Fatal(err)
			}
		}
	}
	quorum((*cluster.Agent).Pause)
	pause(ctx, ttl/2)
	quorum((*cluster.Agent).Resume)
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	must(t, a, "lock", "info", "l") // held, and through the quorum
	if s := kahu(t, a, "exec", "--lock", "l", "--wait", "0", "--", "true"); s.code == 75 && !strings.Contains(s.err, "held by somebody else") {
		t.Errorf("it does not say why the lock was not got: %s", s.err)
	} else if code := s.code; code != 75 {
		t.Errorf("after a short silence the lock is free: %d", code)
	}
	pause(ctx, ttl/4+time.Second) // a renewal
	quorum((*cluster.Agent).Pause)
	silent := time.Now()
	_ = cmd.Wait() // by its code
	took := time.Since(silent)
	quorum((*cluster.Agent).Resume)
	if code := cmd.ProcessState.ExitCode(); code != 76 || took > ttl {
		t.Errorf("without a quorum it ended with %d after %v, want 76 within %v", code, took, ttl)
	}
	for _, want := range []string{"the quorum is silent", "the command was stopped"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it says %q, and not %q", said.String(), want)
		}
	}
}
