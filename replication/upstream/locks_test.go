package upstream_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// A free lock is granted with the answer, its token rises, and a renewal moves the
// lease of every lock of the session.
func TestARenewalExtendsEveryLock(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		const ttl = 20 * time.Second
		r.must(open(session, ttl))
		for i, lock := range []string{"a", "b", "c"} {
			g := r.must(wait(session, lock, owner(i))).GetLockGrant()
			if !g.GetGranted() || g.GetToken() != 0 || g.GetRemainingMs() <= 0 {
				r.Fatalf("a free lock was answered with %v", g)
			}
		}
		r.pass(5 * time.Second)
		began := time.Now()
		a := r.must(renew(session, 7)).GetSession()
		if a.GetAttempt() != 7 {
			r.Errorf("the answer is to attempt %d", a.GetAttempt())
		}
		for _, lock := range []string{"a", "b", "c"} {
			if l := r.k.lockOf(lock); l.ends.Before(began.Add(ttl + time.Second)) {
				r.Errorf("the lease of %s ends %s after the renewal began, want a second more than %s for clocks that differ", lock, l.ends.Sub(began), ttl)
			}
		}
		r.must(unlock("a", owner(0)))
		if g := r.must(wait(session, "a", owner(10))).GetLockGrant(); g.GetToken() != 1 {
			r.Errorf("the next token is %d", g.GetToken())
		}
	})
}

// However many locks hang from a session, a renewal is one stream, and each lock one
// message on it.
func TestARenewalIsOneStream(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		const locks = 1000
		r.must(open(session, 20*time.Second))
		for i := range locks {
			r.must(wait(session, fmt.Sprint("lock", i), owner(i)))
		}
		r.pass(5 * time.Second)
		r.must(renew(session, 1))
		if n := r.k.count("TryExtendLock"); r.k.streams != 1 || n != locks {
			r.Errorf("a renewal of %d locks took %d streams and %d extends", locks, r.k.streams, n)
		}
	})
}

// Who waits on this host stands in one line, and what is given back goes to the
// first at once.
func TestALineIsServedInOrder(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.must(open(session, time.Minute))
		n := r.watch(session)
		r.must(wait(session, "a", owner(0)))
		for i := 1; i <= 5; i++ {
			if g := r.must(wait(session, "a", owner(i))).GetLockGrant(); g.GetGranted() || int(g.GetPosition()) != i {
				r.Fatalf("waiter %d was answered with %v", i, g)
			}
		}
		r.must(unlock("a", owner(3))) // changes its mind
		last := 0
		for _, next := range []int{1, 2, 4, 5} {
			began := time.Now()
			r.must(unlock("a", owner(last)))
			r.until("the next in line has it", time.Minute, func() bool {
				return len(n.of(replication.Event_KIND_GRANTED, owner(next))) == 1
			})
			if took := time.Since(began); took > 10*time.Millisecond {
				r.Errorf("waiter %d had the lock %s after it was given back", next, took)
			}
			if l := r.k.lockOf("a"); l.owner != string(owner(next)) {
				r.Fatalf("the cluster says that %s has it", l.owner)
			}
			last = next
		}
		if moved := n.of(replication.Event_KIND_POSITION, owner(5)); len(moved) < 3 || moved[len(moved)-1].GetHold().GetPosition() != 1 {
			r.Errorf("the last in line was told %v", moved)
		}
	})
}

// Who does not want to queue is told at once, also behind others of this host.
func TestBusyIsSaidAtOnce(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.must(open(session, time.Minute))
		r.must(wait(session, "a", owner(0)))
		for i := 1; i < 3; i++ {
			a, err := r.do(time.Second, tryOnce(session, "a", owner(i)))
			if err != nil || a.GetCode() != replication.Code_CODE_BUSY {
				r.Fatalf("a busy lock was answered with %v, %v", a, err)
			}
		}
		if g := r.must(wait(session, "a", owner(3))).GetLockGrant(); g.GetPosition() != 1 {
			r.Fatalf("those who did not queue are still in line: %v", g)
		}
		a, err := r.do(time.Second, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
			Durability: persistent, Name: "a", Owner: []byte("me"), TtlMs: 1000}}})
		if err != nil || a.GetCode() != replication.Code_CODE_BUSY {
			r.Fatalf("a try past the line was answered with %v, %v", a, err)
		}
	})
}

// Two hosts never have a lock together, and the one that waits gets it when the
// lease of the other, who is gone, has ended.
func TestALeaseThatLapsesGoesToTheOtherHost(t *testing.T) {
	bubble(t, 3, func(r *rig) {
		const ttl = 10 * time.Second
		r.must(open(session, ttl))
		r.must(wait(session, "a", owner(0)))
		began := time.Now()
		other := &rig{T: r.T, k: r.k, started: r.started}
		other.c = other.client()
		other.must(open(session, ttl))
		n := other.watch(session)
		if g := other.must(wait(session, "a", owner(1))).GetLockGrant(); g.GetGranted() {
			r.Fatal("two hosts have the lock")
		}
		other.until("the lock is the other host's", time.Minute, func() bool { return len(n.of(replication.Event_KIND_GRANTED, owner(1))) == 1 })
		if took := time.Since(began); took < ttl || took > ttl+3*time.Second {
			r.Errorf("it took %s with a lease of %s", took, ttl)
		}
		if token := n.of(replication.Event_KIND_GRANTED, owner(1))[0].GetHold().GetToken(); token != 1 {
			r.Errorf("its token is %d", token)
		}
		// The first host finds out with its next renewal.
		n = r.watch(session)
		r.must(renew(session, 1))
		r.until("the first host is told", time.Second, func() bool { return len(n.of(replication.Event_KIND_LOST, owner(0))) == 1 })
	})
}

// A lock that was broken at the cluster is lost with the next renewal, and no other
// lock of the session with it.
func TestALockThatWasTakenIsLostAlone(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		r.must(open(session, 20*time.Second))
		n := r.watch(session)
		r.must(wait(session, "a", owner(0)))
		r.must(wait(session, "b", owner(1)))
		r.pass(5 * time.Second)
		r.k.take("a")
		// The answer, which moves the deadline of all, says what it does not move.
		if got := r.must(renew(session, 1)).GetSession(); !got.GetHoldsListed() || len(got.GetHolds()) != 1 {
			r.Errorf("a renewal that lost a lock was answered with %v", got)
		}
		if got := r.must(renew(session, 2)).GetSession(); got.GetHoldsListed() {
			r.Errorf("the one after it was answered with %v", got)
		}
		r.until("the holder is told", time.Second, func() bool { return len(n.of(replication.Event_KIND_LOST, owner(0))) == 1 })
		if got := n.of(replication.Event_KIND_LOST, owner(1)); len(got) != 0 {
			r.Errorf("the other lock is lost as well: %v", got)
		}
		a := r.must(&replication.Request{Op: &replication.Request_SessionGet{SessionGet: &replication.SessionGet{Id: session}}}).GetSession()
		if len(a.GetHolds()) != 1 || string(a.GetHolds()[0].GetOwner()) != string(owner(1)) {
			r.Errorf("the session has %v", a.GetHolds())
		}
	})
}

// A server that does not answer costs a renewal seconds and not the lease: the
// others are asked.
func TestARenewalGoesToAnotherServer(t *testing.T) {
	for name, broken := range map[string]fault{"silent": silent, "lost": lost, "refused": refused, "MustRetry": retry} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 3, func(r *rig) {
				r.must(open(session, 20*time.Second))
				for i := range 50 {
					r.must(wait(session, string(rune('A'+i)), owner(i)))
				}
				inUse := slices.IndexFunc(r.c.Status(), func(s upstreamStatus) bool { return s.InUse })
				r.k.setPlan(func(q request) fault {
					if q.server == inUse {
						return broken
					}
					return fine
				})
				r.pass(5 * time.Second)
				began := time.Now()
				r.must(renew(session, 1))
				if took := time.Since(began); took > 3*time.Second {
					r.Errorf("the renewal took %s", took)
				}
				for i := range 50 {
					if l := r.k.lockOf(string(rune('A' + i))); l.ends.Before(began.Add(20 * time.Second)) {
						r.Errorf("lock %d was not extended", i)
					}
				}
				// The others are asked first from now on, if this one said nothing at all.
				if s := r.c.Status()[inUse]; broken != retry && (s.InUse || s.Failure == "") {
					r.Errorf("it is still in use: %+v", s)
				}
			})
		})
	}
}

// While no server answers, a renewal is not acknowledged, and says why.
func TestNobodyAnswers(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		r.must(open(session, 20*time.Second))
		r.must(wait(session, "a", owner(0)))
		r.k.kill(0)
		r.k.kill(1)
		r.pass(5 * time.Second)
		if a, err := r.do(5*time.Second, renew(session, 1)); err == nil {
			r.Fatalf("a renewal that nobody answered was acknowledged: %v", a)
		}
		r.pass(time.Minute)
		if r.c.Ready() {
			r.Error("it calls itself ready")
		}
		for _, s := range r.c.Status() {
			if s.Healthy || s.Failure == "" {
				r.Errorf("a server that is gone is shown as %+v", s)
			}
		}
	})
}

// One partition without a leader costs its own lock, and not those of the others.
func TestOneLockIsGivenUpForTheOthers(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		const ttl = 20 * time.Second
		r.must(open(session, ttl))
		n := r.watch(session)
		r.must(wait(session, "well", owner(0)))
		r.must(wait(session, "sick", owner(1)))
		r.k.setPlan(func(q request) fault {
			if q.key == "sick" {
				return retry
			}
			return fine
		})
		r.pass(ttl / 4)
		began := time.Now()
		if _, err := r.do(ttl, renew(session, 1)); err != nil {
			r.Fatalf("the session was lost with one lock: %v", err)
		}
		if took := time.Since(began); took < ttl/4-time.Second || took > ttl/2 {
			r.Errorf("it was given up after %s more, with a ttl of %s", took, ttl)
		}
		r.until("its holder is told", time.Second, func() bool { return len(n.of(replication.Event_KIND_LOST, owner(1))) == 1 })
		if l := r.k.lockOf("sick"); l.owner != string(owner(1)) {
			r.Errorf("it was given back although its holder still runs: %+v", l)
		}
		if l := r.k.lockOf("well"); l.ends.Before(began.Add(ttl)) {
			r.Error("the other lock was not extended")
		}
	})
}

// A renewal that is acknowledged while a lock is being taken moves the deadline that
// its holder will be told: the grant waits until its lease counts from there as well.
func TestAGrantIsNoOlderThanTheRenewal(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		const ttl = 10 * time.Second
		r.must(open(session, ttl))
		r.k.setPlan(func(q request) fault {
			if q.method == "TryLock" {
				return slow
			}
			return fine
		})
		granted := make(chan *replication.Answer)
		go func() { granted <- r.must(wait(session, "a", owner(0))) }()
		r.pass(500 * time.Millisecond)
		renewed := time.Now()
		r.must(renew(session, 1))
		if g := (<-granted).GetLockGrant(); !g.GetGranted() {
			r.Fatalf("a free lock was answered with %v", g)
		}
		if l := r.k.lockOf("a"); l.ends.Before(renewed.Add(ttl + time.Second)) {
			r.Errorf("the lease ends %s after the renewal, want %s", l.ends.Sub(renewed), ttl+time.Second)
		}
	})
}

// A lock that was taken by an attempt whose answer was lost has a lease that began
// then: it is extended before its holder is told.
func TestALostAnswerDoesNotLengthenTheLease(t *testing.T) {
	for name, broken := range map[string]fault{"lost": lost, "silent": silent, "MustRetry": retryLie, "Errored": errored} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(r *rig) {
				const ttl = 10 * time.Second
				r.must(open(session, ttl))
				tries := 0
				r.k.setPlan(func(q request) fault {
					if q.method != "TryLock" {
						return fine
					}
					if tries++; tries == 1 {
						return broken
					}
					return fine
				})
				r.pass(time.Second)
				r.must(renew(session, 1)) // the deadline counts from here
				acked := time.Now()
				g := r.must(wait(session, "a", owner(0))).GetLockGrant()
				if !g.GetGranted() || g.GetToken() != 0 {
					r.Fatalf("it was answered with %v", g)
				}
				l := r.k.lockOf("a")
				if left := time.Until(l.ends).Milliseconds() - 1000; g.GetRemainingMs() > left || l.ends.Before(acked.Add(ttl+time.Second)) {
					r.Errorf("it was told of %d ms, the cluster's lease has %d ms", g.GetRemainingMs(), left)
				}
			})
		})
	}
}

// An agent that is started again finds its locks, by the table that the one before
// kept: those that it has, and none that it only waited for.
func TestTheNextAgentTakesTheLocksUp(t *testing.T) {
	bubble(t, 2, func(r *rig) {
		const ttl = 20 * time.Second
		r.must(open(session, ttl))
		r.must(wait(session, "a", owner(0)))
		r.must(wait(session, "b", owner(1)))
		r.must(wait(session, "a", owner(2))) // in line
		if err := r.c.Close(); err != nil {
			r.Fatal(err)
		}
		r.k.take("b") // broken meanwhile
		r.pass(5 * time.Second)
		r.c = r.client()
		var table []*replication.SessionHold
		for i, lock := range []string{"a", "b", "a"} {
			table = append(table, &replication.SessionHold{Owner: owner(i), Name: lock, Durability: persistent})
		}
		r.c.Adopt(session, ttl, table)
		req := renew(session, 1)
		req.GetSessionRenew().CheckHolds = true
		began := time.Now()
		a := r.must(req).GetSession()
		if len(a.GetHolds()) != 1 || string(a.GetHolds()[0].GetOwner()) != string(owner(0)) || !a.GetHolds()[0].GetGranted() || a.GetHolds()[0].GetToken() != 0 {
			r.Fatalf("the session has %v", a.GetHolds())
		}
		if l := r.k.lockOf("a"); l.ends.Before(began.Add(ttl)) {
			r.Error("the lock was not extended")
		}
		// Who waited asks again, and is served after it.
		n := r.watch(session)
		if g := r.must(wait(session, "a", owner(2))).GetLockGrant(); g.GetPosition() != 1 {
			r.Fatalf("who waited was answered with %v", g)
		}
		r.must(unlock("a", owner(0)))
		r.until("it is served", time.Second, func() bool { return len(n.of(replication.Event_KIND_GRANTED, owner(2))) == 1 })
	})
}

// An owner that the agent before may have taken the lock with is not told of a lease
// that began then.
func TestTheNextAgentDoesNotTrustAnOldLease(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		const ttl = 20 * time.Second
		r.must(open(session, ttl))
		r.must(wait(session, "a", owner(0)))
		if err := r.c.Close(); err != nil {
			r.Fatal(err)
		}
		r.pass(15 * time.Second)
		r.c = r.client()
		r.c.Adopt(session, ttl, []*replication.SessionHold{{Owner: owner(0), Name: "a", Durability: persistent}})
		r.k.setPlan(func(q request) fault { // the first word about it is lost
			if q.method == "TryExtendLock" {
				return retry
			}
			return fine
		})
		if a, err := r.do(time.Second, renew(session, 1)); err == nil {
			r.Fatalf("a lock that nobody extended was taken up: %v", a)
		}
		r.k.setPlan(nil)
		r.must(unlock("a", owner(0)))
		if l := r.k.lockOf("a"); l.owner != "" {
			r.Errorf("it was not given back: %+v", l)
		}
	})
}

// Giving a place in line up while the lock is being taken leaves nothing behind.
func TestAPlaceGivenUpWhileItIsServed(t *testing.T) {
	for name, broken := range map[string]fault{"slow": slow, "lost": lost, "silent": silent} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(r *rig) {
				r.must(open(session, time.Minute))
				r.k.setPlan(func(q request) fault {
					if q.method == "TryLock" {
						return broken
					}
					return fine
				})
				if a, err := r.do(100*time.Millisecond, wait(session, "a", owner(0))); err == nil {
					r.Fatalf("it was answered with %v", a)
				}
				r.must(unlock("a", owner(0)))
				if l := r.k.lockOf("a"); l.owner != "" {
					r.Errorf("the lock is left with %q until %s", l.owner, l.ends)
				}
				a := r.must(&replication.Request{Op: &replication.Request_SessionGet{SessionGet: &replication.SessionGet{Id: session}}})
				if len(a.GetSession().GetHolds()) != 0 {
					r.Errorf("the session has %v", a.GetSession().GetHolds())
				}
			})
		})
	}
}

// What cannot be asked of the cluster is refused in words that name upstream mode.
func TestRefusals(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		for _, req := range []*replication.Request{
			{Op: &replication.Request_LockList{}},
			{Op: &replication.Request_SequenceList{}},
			{Op: &replication.Request_TxList{}},
			{Op: &replication.Request_Opening{}},
			{Op: &replication.Request_Write{Write: &replication.Write{Atomic: true, Items: []*replication.WriteItem{{Key: "a"}, {Key: "b"}}}}},
			{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{{Key: "a", Kind: replication.WriteKind_WRITE_KIND_DELETE, IfRevision: true}}}}},
			{Op: &replication.Request_Range{Range: &replication.Range{Descending: true}}},
		} {
			a, err := r.do(time.Second, req)
			if err != nil || a.GetCode() != replication.Code_CODE_INVALID || !strings.Contains(a.GetDetail(), "upstream mode") {
				r.Errorf("%T was answered with %v, %v", req.GetOp(), a, err)
			}
		}
		r.k.setPlan(func(request) fault { return denied })
		a, err := r.do(time.Second, &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{Durability: persistent, Name: "a"}}})
		if err != nil || a.GetCode() != replication.Code_CODE_DENIED {
			r.Errorf("a caller that the cluster denies is answered with %v, %v", a, err)
		}
		a, err = r.do(time.Second, &replication.Request{Op: &replication.Request_SnapshotFloorGet{}})
		if err != nil || a.GetCode() != replication.Code_CODE_INVALID || !strings.Contains(a.GetDetail(), "does not have this call") {
			r.Errorf("a call that the cluster does not have is answered with %v, %v", a, err)
		}
	})
}

// A lock is broken with the owner that the cluster shows, and a holder on this host
// is told why at once.
func TestBreak(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.must(open(session, time.Minute))
		n := r.watch(session)
		r.must(wait(session, "a", owner(0)))
		r.must(wait(session, "a", owner(1)))
		r.must(&replication.Request{Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{Durability: persistent, Name: "a", Reason: "stuck"}}})
		r.until("the next has it", time.Second, func() bool { return len(n.of(replication.Event_KIND_GRANTED, owner(1))) == 1 })
		gone := n.of(replication.Event_KIND_LOST, owner(0))
		if len(gone) != 1 || gone[0].GetReason() != "broken: stuck" {
			r.Errorf("the holder was told %v", gone)
		}
	})
}

// What the agent before asked for may be granted to nobody, late: whoever asks under
// the same owner is told of a lease that began after that.
func TestTheNextAgentMeetsALateGrant(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		const ttl = 20 * time.Second
		r.must(open(session, ttl))
		r.k.setPlan(func(q request) fault {
			if q.method == "TryLock" {
				return late
			}
			return fine
		})
		if a, err := r.do(time.Second, wait(session, "a", owner(0))); err == nil {
			r.Fatalf("it was answered with %v", a)
		}
		if err := r.c.Close(); err != nil {
			r.Fatal(err)
		}
		r.c = r.client()
		r.c.Adopt(session, ttl, []*replication.SessionHold{{Owner: owner(0), Name: "a", Durability: persistent}})
		r.must(renew(session, 1))
		r.pass(10 * time.Second) // it is granted now
		r.k.setPlan(nil)
		g := r.must(wait(session, "a", owner(0))).GetLockGrant()
		if left := time.Until(r.k.lockOf("a").ends).Milliseconds() - 1000; !g.GetGranted() || g.GetRemainingMs() > left {
			r.Errorf("it was told of %d ms, and the cluster's lease has %d ms", g.GetRemainingMs(), left)
		}
	})
}
