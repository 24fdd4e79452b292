package holds_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// Real processes end in real time, so these tests run outside of a bubble. They
// wait for events, with a limit that is only reached when one is missing.
const soon = 10 * time.Second

// process is a child that sleeps, and its pidfd.
type process struct {
	cmd *exec.Cmd
}

func startProcess(t testing.TB) (process, *os.File) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := process{cmd}
	t.Cleanup(p.kill)
	return p, os.NewFile(uintptr(fd), "pidfd")
}

// kill returns when the process is dead.
func (p process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // says that it was killed, or that it was waited for before
}

func processRequest(lock string, treeEnds bool, pidfds ...*os.File) localapi.HoldRequest {
	req := request(lock)
	req.Witness, req.TreeEnds, req.Pidfds = localapi.WitnessProcess, treeEnds, pidfds
	return req
}

func newProcessRig(t *testing.T) *rig {
	r := newRig(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // do not wait for holders
		if err := r.h.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestDeadTreeFreesItsLock(t *testing.T) {
	r := newProcessRig(t)
	p1, f1 := startProcess(t)
	p2, f2 := startProcess(t)
	a := r.open(processRequest("l", true, f1, f2))
	r.want(a, soon, localapi.HoldHeld)
	b := r.open(request("l"))
	r.want(b, soon, localapi.HoldQueued)

	a.Disconnect()
	p1.kill()
	r.silent(b, 50*time.Millisecond) // p2 lives
	if o := r.q.owner(t, "l"); o != a.ID() {
		t.Fatalf("held by %q while a process of the holder lives", o)
	}
	p2.kill()
	r.want(b, soon, localapi.HoldHeld)
	b.Disconnect()
}

// The time from the death of a tree to the next grant, without a quorum's share.
func TestDeadTreeIsNoticedInMilliseconds(t *testing.T) {
	r := newProcessRig(t)
	var took []time.Duration
	for range 20 {
		p, f := startProcess(t)
		a := r.open(processRequest("l", true, f))
		r.want(a, soon, localapi.HoldHeld)
		b := r.open(request("l"))
		r.want(b, soon, localapi.HoldQueued)
		p.kill()
		dead := time.Now()
		r.want(b, soon, localapi.HoldHeld)
		took = append(took, time.Since(dead))
		if err := b.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	t.Logf("from death to the next grant: median %s, worst %s", took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > 10*time.Millisecond {
		t.Errorf("the median of %s is over 10 ms", took[len(took)/2])
	}
}

// Without TreeEnds the lock is neither freed nor renewed: it ends by its lease.
func TestDeadWitnessesWithoutTreeEndsDetach(t *testing.T) {
	r := newProcessRig(t)
	p, f := startProcess(t)
	a := r.open(processRequest("l", false, f))
	r.want(a, soon, localapi.HoldHeld)
	a.Disconnect()
	p.kill()
	await(t, "the lock to be detached", func() bool { return len(r.q.lock(t, "l").GetSession()) == 0 })
	if o := r.q.owner(t, "l"); o != a.ID() {
		t.Fatalf("held by %q, want the holder until its lease ends", o)
	}
	// The guard may still come and say that its tree is empty.
	again, err := r.h.Attach(context.Background(), a.ID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if o := r.q.owner(t, "l"); o != "" {
		t.Fatalf("held by %s after its release", o)
	}
}

// In a container the lock waits for the lease when only the guard has died, and
// is free at once when the container has: its first process keeps nothing alive.
func TestEndOfTheContainerFreesTheLock(t *testing.T) {
	for _, guardDiesFirst := range []bool{true, false} {
		r := newProcessRig(t)
		guard, f1 := startProcess(t)
		first, f2 := startProcess(t)
		req := processRequest("l", false, f1, f2)
		req.LastEndsTree = true
		a := r.open(req)
		r.want(a, soon, localapi.HoldHeld)
		a.Disconnect()
		if guardDiesFirst {
			guard.kill()
			await(t, "the lock to be detached", func() bool { return len(r.q.lock(t, "l").GetSession()) == 0 })
			if o := r.q.owner(t, "l"); o != a.ID() {
				t.Fatalf("held by %q, want the holder: others in its container may run", o)
			}
		}
		first.kill()
		await(t, "the lock to be free", func() bool { return r.q.owner(t, "l") == "" })
	}
}

func TestWitnessesThatDieInLine(t *testing.T) {
	r := newProcessRig(t)
	a := r.open(request("l"))
	r.want(a, soon, localapi.HoldHeld)
	p, f := startProcess(t)
	b := r.open(processRequest("l", false, f))
	r.want(b, soon, localapi.HoldQueued)
	p.kill()
	if e := r.want(b, soon, localapi.HoldReleased); e.Reason != holds.ReasonProcessesEnded {
		t.Fatalf("released with %q", e.Reason)
	}
	if n := r.q.lock(t, "l").GetQueueLength(); n != 0 {
		t.Fatalf("%d stand in line", n)
	}
	a.Disconnect()
}

// A guard whose connection broke finds its hold again, and the connection that
// was replaced ends nothing.
func TestAttach(t *testing.T) {
	r := newProcessRig(t)
	_, f := startProcess(t)
	a := r.open(processRequest("l", true, f))
	token := *r.want(a, soon, localapi.HoldHeld).Token
	again, err := r.h.Attach(context.Background(), a.ID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Next(context.Background()); err == nil {
		t.Fatal("the replaced connection is still told")
	}
	a.Disconnect()
	if e := r.want(again, soon, localapi.HoldHeld); *e.Token != token || e.Hold != a.ID() {
		t.Fatalf("attached to %+v", e)
	}
	var refused *replication.RefusedError
	if _, err := r.h.Attach(context.Background(), "none", nil); !errors.As(err, &refused) || refused.Code != replication.Code_CODE_NOT_FOUND {
		t.Fatalf("attached to nothing: %v", err)
	}
	c := r.open(request("other"))
	if _, err := r.h.Attach(context.Background(), c.ID(), nil); err == nil {
		t.Fatal("attached to a hold whose connection is its witness")
	}
	if err := again.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.h.Attach(context.Background(), a.ID(), nil); err == nil {
		t.Fatal("attached to a hold that was released")
	}
}

// A process outlives the agent: its lock is not given away.
func TestCloseLeavesProcessHolds(t *testing.T) {
	r := newRig(t)
	_, f := startProcess(t)
	a := r.open(processRequest("l", true, f))
	r.want(a, soon, localapi.HoldHeld)
	if err := r.h.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if o := r.q.owner(t, "l"); o != a.ID() {
		t.Fatalf("held by %q after Close, want the process", o)
	}
	if _, err := a.Next(context.Background()); !errors.Is(err, replication.ErrStopped) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestBadWitnesses(t *testing.T) {
	r := newProcessRig(t)
	_, f := startProcess(t)
	file, err := os.Open("/dev/null") // cannot be watched by epoll
	if err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]localapi.HoldRequest{
		"none":                   processRequest("l", true),
		"not a process":          processRequest("l", true, f, file),
		"last without others":    func() localapi.HoldRequest { q := processRequest("l", false, f); q.LastEndsTree = true; return q }(),
		"of a connection's hold": func() localapi.HoldRequest { q := request("l"); q.Pidfds = []*os.File{f}; return q }(),
	} {
		var refused *replication.RefusedError
		if _, err := r.h.Open(context.Background(), req); !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the pidfd of a refused hold stays open: %v", err)
	}
	if n := len(r.h.List()); n != 0 {
		t.Errorf("%d holds are left of refused requests", n)
	}
}

// await polls for a condition that nothing announces.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	limit := time.After(soon)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A hold with a process as witness outlives its connection: the pidfds of one
// user are bounded by themselves, or they would use up the agent's files.
func TestPidfdLimit(t *testing.T) {
	r := newProcessRig(t)
	r.maxPidfds = 8
	r.h = r.newHolds()
	ask := func(uid int64, n int) (localapi.Hold, error) {
		p, f := startProcess(t)
		t.Cleanup(p.kill)
		files := []*os.File{f}
		for len(files) < n {
			fd, err := unix.Dup(int(f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, os.NewFile(uintptr(fd), "pidfd"))
		}
		req := processRequest("l", true, files...)
		req.Info = &replication.HolderInfo{Uid: uid}
		return r.h.Open(context.Background(), req)
	}
	limited := func(what string, err error) {
		t.Helper()
		var refused *replication.RefusedError
		if !errors.As(err, &refused) || refused.Code != replication.Code_CODE_LIMIT {
			t.Fatalf("%s: %v", what, err)
		}
	}
	first, err := ask(1000, 4)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(1000, 1)
	limited("a fifth pidfd of one user", err)
	if _, err = ask(1001, 3); err != nil {
		t.Fatalf("another user: %v", err)
	}
	_, err = ask(0, 2)
	limited("a ninth pidfd", err)
	if err := first.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err = ask(1000, 4); err != nil {
		t.Fatalf("after a release: %v", err)
	}
}
