package holds_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// newTableRig is a rig whose agents keep a lease table.
func newTableRig(t testing.TB) *rig { return newTableRigAt(t, statemachine.CurrentLevel) }

func newTableRigAt(t testing.TB, level uint32) *rig {
	r := &rig{t: t, began: time.Now(), table: filepath.Join(t.TempDir(), "table"), boot: "boot"}
	r.q = newQuorum(t, level, r.now)
	r.h = r.newHolds()
	return r
}

// restart kills the agent as kill -9 does, and starts the next.
func (r *rig) restart() {
	r.h.Crash()
	r.h = r.newHolds()
}

// crashed is a rig for real processes that ends as if it were killed.
func crashed(t *testing.T) *rig {
	r := newTableRig(t)
	t.Cleanup(func() { r.h.Crash() })
	return r
}

// reborn runs f in bubbles, as bubble does.
func reborn(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, level := range []uint32{3, statemachine.CurrentLevel} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTableRigAt(t, level)
				defer r.close()
				defer r.q.setFault(nil)
				f(t, r)
			})
		})
	}
}

func (r *rig) attach(id string) localapi.Hold {
	r.t.Helper()
	o, err := r.h.Attach(context.Background(), id, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// The whole promise: a process goes on under the same token, over any number of
// agents, and its end frees the lock at once.
func TestProcessHoldOutlivesAgents(t *testing.T) {
	r := crashed(t)
	p, f := startProcess(t)
	req := processRequest("l", true, f)
	req.NeedAck = true
	a := r.open(req)
	token := *r.want(a, soon, localapi.HoldHeld).Token
	a.Ack()
	r.want(a, soon, localapi.HoldRenewed)
	id := a.ID()
	next := r.open(request("l"))
	r.want(next, soon, localapi.HoldQueued)
	if err := next.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		r.restart()
		e := r.want(r.attach(id), soon, localapi.HoldHeld)
		if *e.Token != token || e.Hold != id {
			t.Fatalf("taken up as %+v, want token %d", e, token)
		}
		if left := time.Duration(e.DeadlineBoottimeNS) - bootAhead - r.now(); left <= ttl/2 || left > ttl {
			t.Fatalf("the deadline is %v away", left)
		}
	}
	r.restart() // nobody attaches: the process alone is the witness
	b := r.open(request("l"))
	r.want(b, soon, localapi.HoldQueued)
	p.kill()
	if e := r.want(b, soon, localapi.HoldHeld); *e.Token != token+1 {
		t.Fatalf("the next holder has %+v", e)
	}
	b.Disconnect()
}

// Who died while there was no agent is found dead by the next one.
func TestHolderThatDiedWithoutAnAgent(t *testing.T) {
	for _, tree := range []bool{true, false} {
		r := crashed(t)
		p, f := startProcess(t)
		a := r.open(processRequest("l", tree, f))
		r.want(a, soon, localapi.HoldHeld)
		id := a.ID()
		r.h.Crash()
		p.kill()
		r.h = r.newHolds()
		if tree {
			await(t, "the lock to be free", func() bool { return r.q.owner(t, "l") == "" })
			continue
		}
		// Others of its tree may live: it is left to its lease.
		await(t, "the lock to be detached", func() bool { return len(r.q.lock(t, "l").GetSession()) == 0 })
		if o := r.q.owner(t, "l"); o != id {
			t.Fatalf("held by %q, want the old holder until its lease ends", o)
		}
	}
}

// The same in a container: its first process is no sign of life, and its end frees
// the lock, whether the next agent sees it or only what it left.
func TestContainerThatDiedWithoutAnAgent(t *testing.T) {
	for _, whole := range []bool{true, false} {
		r := crashed(t)
		guard, f1 := startProcess(t)
		first, f2 := startProcess(t)
		req := processRequest("l", false, f1, f2)
		req.LastEndsTree = true
		a := r.open(req)
		r.want(a, soon, localapi.HoldHeld)
		r.h.Crash()
		guard.kill()
		if whole {
			first.kill()
		}
		r.h = r.newHolds()
		if !whole {
			await(t, "the lock to be detached", func() bool { return len(r.q.lock(t, "l").GetSession()) == 0 })
			if o := r.q.owner(t, "l"); o != a.ID() {
				t.Fatalf("held by %q, want the old holder until its lease ends", o)
			}
			continue
		}
		await(t, "the lock to be free", func() bool { return r.q.owner(t, "l") == "" })
	}
}

// What another boot has written may be of another host, whose holders run: their
// lock is theirs until their lease has ended, and nobody here prolongs it.
func TestAnotherBootIsLeftToItsLease(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		r.h.Crash()
		last := time.Now()
		r.boot = "another boot"
		r.h = r.newHolds()
		if o, err := r.h.Attach(context.Background(), a.ID(), nil); err == nil {
			t.Fatalf("taken up as %s", o.ID())
		}
		time.Sleep(ttl - 2*time.Second) // virtual: in a synctest bubble
		if o := r.q.owner(t, "l"); o != a.ID() {
			t.Fatalf("held by %q while the lease goes on", o)
		}
		b := r.open(request("l"))
		r.want(b, ttl, localapi.HoldQueued)
		r.want(b, ttl, localapi.HoldHeld)
		if after := time.Since(last); after > ttl+ttl/4 { // the next sweep
			t.Errorf("free after %v: somebody renewed it", after)
		}
		b.Disconnect()
	})
}

// A copy of the data directory, started beside the agent that it was copied from,
// takes nothing of it away.
func TestACopyReleasesNothing(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		text, err := os.ReadFile(r.table)
		if err != nil {
			t.Fatal(err)
		}
		copied := *r
		copied.table = filepath.Join(t.TempDir(), "table")
		if err := os.WriteFile(copied.table, text, 0o600); err != nil {
			t.Fatal(err)
		}
		copied.h = copied.newHolds()
		defer copied.close()
		time.Sleep(3 * ttl) // virtual: in a synctest bubble
		if o := r.q.owner(t, "l"); o != a.ID() {
			t.Errorf("held by %q: a copy has released what its holder has", o)
		}
	})
}

// The quorum's list wins: what it has not is lost, and told as soon as the guard
// comes back.
func TestLockBrokenWithoutAnAgent(t *testing.T) {
	r := crashed(t)
	_, f := startProcess(t)
	a := r.open(processRequest("l", true, f))
	r.want(a, soon, localapi.HoldHeld)
	r.h.Crash()
	r.q.must(t, &replication.Request{Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "l"}}})
	r.h = r.newHolds()
	r.want(r.attach(a.ID()), soon, localapi.HoldLost)
	if _, err := r.h.Attach(context.Background(), a.ID(), nil); err == nil {
		t.Error("its end is told twice")
	}
}

// The other way round: what nobody here knows is released, when the table is whole.
func TestHoldThatNobodyWasTold(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		session := r.q.lock(t, "l").GetSession()
		r.h.Crash()
		r.strayHold(session, "stray")
		r.h = r.newHolds()
		time.Sleep(time.Second) // virtual: in a synctest bubble
		if o := r.q.owner(t, "stray"); o != "" {
			t.Errorf("%s is held by %q", "stray", o)
		}
		if o := r.q.owner(t, "l"); o != a.ID() {
			t.Errorf("l is held by %q", o)
		}
	})
}

// With a damaged table somebody may run under what it does not name any more:
// until the deadlines of the agent before have passed.
func TestDamagedTableReleasesLate(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		session := r.q.lock(t, "l").GetSession()
		r.h.Crash()
		r.strayHold(session, "stray")
		f, err := os.OpenFile(r.table, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(append(binary.LittleEndian.AppendUint32(nil, 4), "checksum  {}"...)[:16]); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r.h = r.newHolds()
		b := r.attach(a.ID())
		r.want(b, time.Second, localapi.HoldHeld)
		time.Sleep(ttl - 2*time.Second) // virtual: in a synctest bubble
		if r.q.owner(t, "stray") == "" {
			t.Error("released although its holder may run")
		}
		time.Sleep(ttl) // virtual: in a synctest bubble
		if o := r.q.owner(t, "stray"); o != "" {
			t.Errorf("held by %q for ever", o)
		}
	})
}

// strayHold is a lock in a session, by an owner that no table names.
func (r *rig) strayHold(session []byte, lock string) {
	r.t.Helper()
	r.q.must(r.t, &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: lock, Session: session,
		Owner: []byte("0123456789abcdef0123456789abcdef")}}})
}

func resumable(lock string) localapi.HoldRequest {
	req := request(lock)
	req.Resume, req.NeedAck = true, false
	return req
}

// A client that comes back by its id goes on under the same token. One that does
// not keeps the lock for one TTL: until then it may believe that it holds it.
func TestConnectionHoldAfterRestart(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		back, away, plain := r.open(resumable("back")), r.open(resumable("away")), r.open(request("plain"))
		token := *r.want(back, time.Second, localapi.HoldHeld).Token
		r.want(away, time.Second, localapi.HoldHeld)
		r.want(plain, time.Second, localapi.HoldHeld)
		time.Sleep(time.Minute) // virtual: time for renewals
		r.restart()
		again := r.attach(back.ID())
		if e := r.want(again, time.Second, localapi.HoldHeld); *e.Token != token {
			t.Fatalf("taken up as %+v", e)
		}
		time.Sleep(ttl - time.Second) // virtual: in a synctest bubble
		for lock, o := range map[string]localapi.Hold{"back": back, "away": away, "plain": plain} {
			if got := r.q.owner(t, lock); got != o.ID() {
				t.Errorf("%s: held by %q before its holder's last deadline has passed", lock, got)
			}
		}
		time.Sleep(2 * time.Second) // virtual: in a synctest bubble
		for lock, want := range map[string]string{"back": back.ID(), "away": "", "plain": ""} {
			if got := r.q.owner(t, lock); got != want {
				t.Errorf("%s: held by %q, want %q", lock, got, want)
			}
		}
		if _, err := r.h.Attach(context.Background(), back.ID(), nil); err == nil {
			t.Error("a connection's hold was taken away from its connection")
		}
		again.Disconnect()
		time.Sleep(time.Second) // virtual: in a synctest bubble
		if got := r.q.owner(t, "back"); got != "" {
			t.Errorf("held by %q after its connection closed", got)
		}
	})
}

// An orderly stop gives back what nobody takes up, and nothing else.
func TestCloseForTheNextAgent(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		r.want(r.open(request("taken")), time.Second, localapi.HoldHeld)
		kept, queued := r.open(resumable("kept")), r.open(resumable("taken"))
		token := *r.want(kept, time.Second, localapi.HoldHeld).Token
		r.want(queued, time.Second, localapi.HoldQueued)
		plain := r.open(request("plain"))
		r.want(plain, time.Second, localapi.HoldHeld)
		closed := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			closed <- r.h.Close(ctx)
		}()
		r.want(plain, time.Second, localapi.HoldLost)
		for _, o := range []localapi.Hold{kept, queued, plain} {
			o.Disconnect() // their connections end with the agent
		}
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		if o := r.q.owner(t, "plain"); o != "" {
			t.Errorf("plain is held by %q", o)
		}
		r.h = r.newHolds()
		if e := r.want(r.attach(kept.ID()), time.Second, localapi.HoldHeld); *e.Token != token {
			t.Errorf("taken up as %+v", e)
		}
		if e := r.want(r.attach(queued.ID()), time.Second, localapi.HoldQueued); e.Position != 1 {
			t.Errorf("in line as %+v", e)
		}
	})
}

// A place in line is kept, with what is left of the patience.
func TestPlaceInLineAfterRestart(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		other := r.open(request("other")) // keeps the session of the lock apart
		r.want(other, time.Second, localapi.HoldHeld)
		r.q.must(t, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
			Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "l", Owner: []byte("me"), TtlMs: time.Hour.Milliseconds()}}})
		req := resumable("l")
		req.Wait = 20 * time.Second
		a := r.open(req)
		r.want(a, time.Second, localapi.HoldQueued)
		time.Sleep(10 * time.Second) // virtual: in a synctest bubble
		r.restart()
		b := r.attach(a.ID())
		r.want(b, time.Second, localapi.HoldQueued)
		r.silent(b, 9*time.Second)
		if e := r.want(b, 2*time.Second, localapi.HoldReleased); e.Reason != holds.ReasonTimeout {
			t.Errorf("%+v", e)
		}
	})
}

// A grant that was not answered before the agent was killed is not kept for ever;
// one that was is kept although nobody says a word.
func TestAcksOutliveAgents(t *testing.T) {
	r := crashed(t)
	r.ackTimeout = 100 * time.Millisecond
	_, f1 := startProcess(t)
	_, f2 := startProcess(t)
	open := func(lock string, f *os.File) localapi.Hold {
		req := processRequest(lock, true, f)
		req.NeedAck = true
		o := r.open(req)
		r.want(o, soon, localapi.HoldHeld)
		return o
	}
	r.h.Crash()
	r.ackTimeout = time.Hour
	r.h = r.newHolds()
	acked := open("acked", f1)
	acked.Ack()
	r.want(acked, soon, localapi.HoldRenewed)
	silent := open("silent", f2)
	r.h.Crash()
	r.ackTimeout = 50 * time.Millisecond
	r.h = r.newHolds()
	await(t, "the grant to be given back", func() bool { return r.q.owner(t, "silent") == "" })
	if o := r.q.owner(t, "acked"); o != acked.ID() {
		t.Errorf("acked is held by %q", o)
	}
	r.want(r.attach(acked.ID()), soon, localapi.HoldHeld)
	r.want(r.attach(silent.ID()), soon, localapi.HoldLost)
}

// The agent before may have been killed before it had asked.
func TestHoldThatWasNeverAskedFor(t *testing.T) {
	r := crashed(t)
	r.want(r.open(request("other")), soon, localapi.HoldHeld) // the session is open
	r.q.setFault(func(req *replication.Request) fault {
		if req.GetLockWait() != nil {
			return fault{before: -1}
		}
		return fault{}
	})
	_, f := startProcess(t)
	req := processRequest("l", true, f)
	req.NeedAck = true
	a := r.open(req)
	await(t, "the request to be sent", func() bool {
		return r.q.count(func(req *replication.Request) bool { return req.GetLockWait().GetName() == "l" }) > 0
	})
	r.h.Crash()
	r.q.setFault(nil)
	r.h = r.newHolds()
	r.want(r.attach(a.ID()), soon, localapi.HoldHeld)
}

// A session that has ended meanwhile is not brought back to life.
func TestRestartAfterTheLease(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		token := *r.want(a, time.Second, localapi.HoldHeld).Token
		r.h.Crash()
		time.Sleep(ttl + time.Second) // virtual: in a synctest bubble
		_ = r.q.lock(t, "l")          // a sweep
		r.h = r.newHolds()
		r.want(r.attach(a.ID()), time.Second, localapi.HoldLost)
		b := r.open(resumable("l"))
		if e := r.want(b, time.Second, localapi.HoldHeld); *e.Token != token+1 {
			t.Errorf("held anew as %+v", e)
		}
	})
}

// Nobody is told a deadline before the new agent has renewed by itself.
func TestNoDeadlineWithoutOwnRenewal(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		r.h.Crash()
		r.q.setFault(func(*replication.Request) fault { return fault{refused: replication.ErrUnavailable} })
		r.h = r.newHolds()
		b := r.attach(a.ID())
		r.silent(b, 5*time.Second)
		r.q.setFault(nil)
		r.want(b, time.Second, localapi.HoldHeld)
	})
}

// A disk that is full refuses new holds, and takes none that it has.
func TestTableThatCannotBeWritten(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		a := r.open(resumable("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		r.h.BreakTable()
		b := r.open(resumable("m"))
		if e := r.want(b, time.Second, localapi.HoldReleased); e.Reason == "" {
			t.Errorf("%+v", e)
		}
		if o := r.q.owner(t, "m"); o != "" {
			t.Errorf("m is held by %q", o)
		}
		r.want(a, ttl, localapi.HoldRenewed)
		if err := a.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestPidsAreNotTrustedAlone(t *testing.T) {
	p, f := startProcess(t)
	f.Close()
	pid := p.cmd.Process.Pid
	if found, err := holds.ReopenWithStart(pid, 0); err != nil || !found {
		t.Errorf("a living process is not found: %v, %v", found, err)
	}
	if found, err := holds.ReopenWithStart(pid, 1); err != nil || found {
		t.Errorf("a process with another start time is taken for it: %v, %v", found, err)
	}
}

// Where /proc shows a user its own processes only, one that cannot be seen has not
// ended: to release its hold would double the holder.
func TestHiddenProcessesHaveNotEnded(t *testing.T) {
	if pid, _ := strconv.Atoi(os.Getenv("KAHU_TEST_HIDDEN_PID")); pid > 0 {
		found, err := holds.Reopen(pid, 4711)
		fmt.Printf("found %v, error %v\n", found, err)
		return
	}
	if found, err := holds.Reopen(os.Getpid(), 0); err == nil || found {
		t.Errorf("a process whose start nobody saw: found %v, error %v", found, err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	p, f := startProcess(t)
	f.Close()
	cmd := exec.Command("unshare", "--mount", "sh", "-c",
		"mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups /proc/self/fd/3 -test.run='^TestHiddenProcessesHaveNotEnded$'")
	cmd.Env = append(os.Environ(), fmt.Sprintf("KAHU_TEST_HIDDEN_PID=%d", p.cmd.Process.Pid))
	cmd.ExtraFiles = []*os.File{self}
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "found ") {
		t.Skipf("no way to hide processes here: %v, %s", err, out)
	}
	if !strings.Contains(string(out), "found false, error /proc does not show") {
		t.Errorf("a living process that is hidden: %s", out)
	}
}
