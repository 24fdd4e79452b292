package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// kahu exec passes its command's end through, and says by its own codes what
// went wrong before or instead of it.
func TestExecExitCodes(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	held := must(t, a, "lock", "try", "taken", "--owner", "me", "--ttl", "10m")
	if held == "" {
		t.Fatal("lock try says nothing")
	}
	cases := []struct {
		name string
		args []string
		code int
		err  string
	}{
		{"success", []string{"--lock", "a", "--", "true"}, 0, ""},
		{"the command's own code", []string{"--lock", "a", "--", "sh", "-c", "exit 7"}, 7, ""},
		{"not got at once", []string{"--lock", "taken", "--wait", "0", "--", "true"}, 75, "taken"},
		{"not got in time", []string{"--lock", "taken", "--wait", "50ms", "--", "true"}, 75, "taken"},
		{"no such command", []string{"--lock", "a", "--", "/no/such/command"}, 127, "/no/such/command"},
		{"not a program", []string{"--lock", "a", "--", "/etc/passwd"}, 126, "/etc/passwd"},
		{"TTL that does not cover grace", []string{"--lock", "a", "--ttl", "2s", "--grace", "5s", "--", "true"}, 64, "grace"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			s := kahu(t, a, append([]string{"exec"}, tc.args...)...)
			if s.code != tc.code || !strings.Contains(s.err, tc.err) {
				t.Errorf("exit code %d, want %d; it says %q, want something about %q", s.code, tc.code, s.err, tc.err)
			}
			if tc.err == "" && s.err != "" {
				t.Errorf("it says %q although all is well", s.err)
			}
		})
	}
	t.Run("the lock is broken", func(t *testing.T) {
		cmd := a.Command(bounded(t, time.Minute), "exec", "--lock", "b", "--grace", "1s", "--", "sh", "-c", "echo on; exec sleep 600")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		must(t, a, "lock", "break", "b", "--reason", "the test says so")
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 76 {
			t.Errorf("after a break kahu exec ends with %v, want 76", err)
		}
		if !strings.Contains(said.String(), "the test says so") {
			t.Errorf("it says %q, without the reason", said.String())
		}
	})
}

// A killed tree's lock goes to the next in line when its last process is dead,
// not when its lease ends: with a TTL of 30 s, within milliseconds.
func TestNextHolderAfterTreeDeath(t *testing.T) {
	rounds := 20
	if soak() {
		rounds = 300
	}
	if testing.Short() {
		rounds = 3
	}
	c := startCluster(t, cluster.Options{Voters: 3})
	var took []time.Duration
	for i := range rounds {
		took = append(took, afterTreeDeath(t, c, i))
	}
	t.Logf("%d rounds from the last death to the next holder: %s", rounds, spread(took))
	// The goal is 10 ms at p99 on an idle machine (make soak). Other packages'
	// tests run beside this one.
	limit, q := 100*time.Millisecond, 0.5
	if soak() {
		limit, q = 10*time.Millisecond, 0.99
	}
	if got := quantile(took, q); got > limit {
		t.Errorf("the %g quantile is %s, more than %s", q, got, limit)
	}
}

// afterTreeDeath lets one exec hold a lock and a client of another agent wait
// for it, kills the exec's face and its command, and returns the time from the
// death of all to the grant.
func afterTreeDeath(t *testing.T, c *cluster.Cluster, round int) time.Duration {
	t.Helper()
	ctx := bounded(t, time.Minute)
	lock := fmt.Sprintf("round%d", round)
	holder, waiter := c.Agents[round%3], c.Agents[(round+1)%3]

	cmd := holder.Command(ctx, "exec", "--lock", lock, "--ttl", "30s", "--", "sh", "-c", "echo on; while :; do sleep 600; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatalf("the command did not start: %v", err)
	}
	tree := descendants(t, cmd.Process.Pid)
	if len(tree) < 2 {
		t.Fatalf("kahu exec has the descendants %v only", tree)
	}
	// The guard's own stages are killed first, then the command; what counts is
	// when the last process of the command is dead.
	stages, command := split(t, append([]int{cmd.Process.Pid}, tree...))
	if len(command) == 0 {
		t.Fatal("the command has no process")
	}

	client2 := waiter.Dial()
	defer client2.Close()
	hold, err := client2.OpenHold(ctx, client.HoldOptions{Lock: lock, TTL: 30 * time.Second, Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	waitQueued(ctx, t, hold)

	granted := make(chan time.Time, 1)
	go func() { // ends with the grant or the test
		select {
		case <-hold.Held():
			granted <- time.Now()
		case <-ctx.Done():
		}
	}()
	for _, fd := range append(stages, command...) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have died with its parent
	}
	died := allDead(t, command)
	var at time.Time
	select {
	case at = <-granted:
	case <-ctx.Done():
		t.Fatalf("round %d: not granted: %v", round, context.Cause(ctx))
	}
	_, _ = io.Copy(io.Discard, lines) // killed
	_ = cmd.Wait()                    // killed
	if hold.Token() != 1 {
		t.Errorf("round %d: the next holder has token %d, want 1", round, hold.Token())
	}
	return at.Sub(died)
}

// waitQueued reads events until the hold stands in line.
func waitQueued(ctx context.Context, t *testing.T, hold *client.Hold) {
	t.Helper()
	select {
	case e := <-hold.Events():
		if e.Type != "queued" {
			t.Fatalf("the waiter was told %+v, want queued", e)
		}
	case <-ctx.Done():
		t.Fatal("the waiter was told nothing")
	}
}

// descendants are all processes below pid.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	// The children of all threads: Go forks from any of them.
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil // it has ended
	}
	var all []int
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}

// split opens pidfds of the guard's stages and of the others.
func split(t *testing.T, pids []int) (stages, others []int) {
	t.Helper()
	for _, pid := range pids {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		fd := openPidfds(t, []int{pid})
		if strings.HasPrefix(string(comm), "kahu") {
			stages = append(stages, fd...)
		} else {
			others = append(others, fd...)
		}
	}
	return stages, others
}

// openPidfds opens a pidfd for each; they are closed with the test.
func openPidfds(t *testing.T, pids []int) []int {
	t.Helper()
	var fds []int
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("opening a pidfd of %d: %v", pid, err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

// allDead waits until every process is dead and returns when the last was.
func allDead(t *testing.T, pidfds []int) time.Time {
	t.Helper()
	for _, fd := range pidfds {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				t.Fatalf("waiting for a death: %d, %v", n, err)
			}
			break
		}
	}
	return time.Now()
}

// The agent sees the end of a tree as soon as the guard does, and gives the lock
// back by itself when it is first. The command's own exit code must not get lost
// over that: it did in one of 250 runs, on a busy machine.
func TestShortCommandsKeepTheirExitCode(t *testing.T) {
	each := 25
	if testing.Short() {
		each = 2
	}
	c := startCluster(t, cluster.Options{Voters: 1})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range each {
				cmd := c.Agents[0].Command(bounded(t, time.Minute), "exec", "--lock", fmt.Sprintf("l%d", i), "--", "sh", "-c", "exit 7")
				if s := finish(t, cmd); s.code != 7 || s.err != "" {
					t.Errorf("the command ended with 7, kahu exec with %d: %s", s.code, s.err)
				}
			}
		})
	}
	group.Wait()
}
