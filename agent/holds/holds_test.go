package holds_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

func TestGrantQueueRelease(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("l")), localapi.Hold(nil)
		e := r.want(a, time.Second, localapi.HoldHeld)
		if *e.Token != 0 || e.Hold != a.ID() || e.Lock != "l" || e.Reason != "" {
			t.Fatalf("held %+v", e)
		}
		r.wantDeadline(e, r.now())
		b = r.open(request("l"))
		if e := r.want(b, time.Second, localapi.HoldQueued); e.Position != 1 {
			t.Fatalf("queued %+v", e)
		}
		if err := a.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.want(a, time.Second, localapi.HoldReleased)
		if _, err := a.Next(context.Background()); err != io.EOF {
			t.Fatalf("after the last event: %v", err)
		}
		if e := r.want(b, time.Second, localapi.HoldHeld); *e.Token != 1 {
			t.Fatalf("held %+v", e)
		}
		b.Disconnect()
		r.want(b, time.Second, localapi.HoldReleased)
		if o := r.q.owner(t, "l"); o != "" {
			t.Fatalf("held by %s after its connection was closed", o)
		}
	})
}

// A renewal that is answered late counts from when it was sent.
func TestDeadlineCountsFromTheFirstByte(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		r.q.setFault(on(isRenew, fault{before: 300 * time.Millisecond, after: 400 * time.Millisecond}))
		began := r.now()
		e := r.want(a, time.Minute, localapi.HoldRenewed)
		sent := r.now() - 700*time.Millisecond
		if sent-began != ttl/4 {
			t.Fatalf("renewed after %s, want a quarter of the ttl", sent-began)
		}
		r.wantDeadline(e, sent)
		a.Disconnect()
	})
}

// An attempt that hangs does not keep others from being made; when it is
// acknowledged after them, the deadline stays.
func TestHungAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		const roundTrip = 10 * time.Millisecond
		var hung bool
		r.q.setFault(func(req *replication.Request) fault {
			if isRenew(req) && !hung {
				hung = true
				return fault{before: 3 * time.Second}
			}
			return fault{before: roundTrip}
		})
		opened := r.now()
		r.want(a, time.Minute, localapi.HoldAtRisk)
		if after := r.now() - opened; after != ttl/4+time.Second {
			t.Fatalf("at risk after %s, want a quarter of the ttl and a second", after)
		}
		e := r.want(a, time.Second, localapi.HoldRenewed)
		second := opened + ttl/4 + time.Second
		r.wantDeadline(e, second)
		r.silent(a, 4*time.Second) // the first arrives at the quorum now
		e = r.want(a, time.Minute, localapi.HoldRenewed)
		r.wantDeadline(e, second+ttl/4)
		if n := r.q.count(isRenew); n != 3 {
			t.Fatalf("%d renewals, want the one that hung and two more", n)
		}
		a.Disconnect()
	})
}

func TestLostAtTheLocalDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("l")), localapi.Hold(nil)
		r.want(a, time.Second, localapi.HoldHeld)
		b = r.open(request("l"))
		r.want(b, time.Second, localapi.HoldQueued)
		opened := r.now()
		r.q.setFault(func(*replication.Request) fault { return fault{drop: true} })
		e := r.want(a, time.Minute, localapi.HoldAtRisk)
		r.wantDeadline(e, opened)
		e = r.want(a, time.Minute, localapi.HoldLost)
		if after := r.now() - opened; after != told || e.Reason != holds.ReasonDeadline {
			t.Fatalf("lost after %s with %q, want %s", after, e.Reason, told)
		}
		if o := r.q.owner(t, "l"); o != a.ID() {
			t.Fatalf("held by %q when the holder was told to stop, want the holder", o)
		}
		r.silent(b, time.Minute)
		// Back again: the session has ended, and the waiter starts anew.
		r.q.setFault(nil)
		r.want(b, time.Minute, localapi.HoldHeld)
		a.Disconnect()
		b.Disconnect()
	})
}

// The quorum's list wins: both ways, by the renewal's hash alone.
func TestRenewalReconciles(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("a")), r.open(request("b"))
		r.want(a, time.Second, localapi.HoldHeld)
		r.want(b, time.Second, localapi.HoldHeld)
		synctest.Wait() // the watch has its list
		r.q.mu.Lock()
		r.q.deaf = true
		session := append([]byte(nil), r.q.seen[0].GetSessionOpen().GetId()...)
		r.q.mu.Unlock()
		r.q.must(t, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
			Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "a", Owner: []byte(a.ID())}}})
		r.q.must(t, &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
			Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "stray", Session: session,
			Owner: []byte(strings.Repeat("ab", 16))}}})
		r.want(a, ttl/4+time.Second, localapi.HoldLost)
		r.want(b, time.Second, localapi.HoldRenewed)
		synctest.Wait()
		if o := r.q.owner(t, "stray"); o != "" {
			t.Fatalf("what nobody here knows is still held by %s", o)
		}
		if o := r.q.owner(t, "b"); o != b.ID() {
			t.Fatalf("the other hold is with %q", o)
		}
		b.Disconnect()
	})
}

// A grant that happens while nobody watches is in the list of the next watch.
func TestGrantWhileTheWatchIsBroken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("l")), localapi.Hold(nil)
		r.want(a, time.Second, localapi.HoldHeld)
		b = r.open(request("l"))
		r.want(b, time.Second, localapi.HoldQueued)
		synctest.Wait() // the watch has its list
		r.q.breakWatches()
		if err := a.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.want(b, time.Second, localapi.HoldHeld)
		b.Disconnect()
	})
}

// The lock is granted while the wait is being given up.
func TestGrantRacesWithTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		req := request("l")
		req.Wait = 2 * time.Second
		b := r.open(req)
		r.want(b, time.Second, localapi.HoldQueued)
		var once sync.Once
		r.q.setFault(on(func(req *replication.Request) bool {
			return string(req.GetLockUnlock().GetOwner()) == b.ID()
		}, fault{first: func() {
			once.Do(func() {
				r.q.must(t, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
					Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "l", Owner: []byte(a.ID())}}})
				if o := r.q.owner(t, "l"); o != b.ID() {
					t.Errorf("held by %q, want the waiter", o)
				}
			})
		}}))
		if e := r.want(b, 3*time.Second, localapi.HoldReleased); e.Reason != holds.ReasonTimeout {
			t.Fatalf("released with %q", e.Reason)
		}
		synctest.Wait()
		if o := r.q.owner(t, "l"); o != "" {
			t.Fatalf("a lock that nobody waits for is held by %s", o)
		}
		r.want(a, time.Second, localapi.HoldLost)
	})
}

func TestNoQueue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		req := request("l")
		req.Wait = 0
		b := r.open(req)
		if e := r.want(b, time.Second, localapi.HoldReleased); e.Reason != holds.ReasonTimeout {
			t.Fatalf("released with %q", e.Reason)
		}
		r.q.setFault(func(*replication.Request) fault { return fault{drop: true} })
		began := r.now()
		b = r.open(req)
		if e := r.want(b, time.Minute, localapi.HoldReleased); e.Reason != holds.ReasonUnavailable || r.now()-began != 10*time.Second {
			t.Fatalf("released after %s with %q", r.now()-began, e.Reason)
		}
		r.q.setFault(nil)
		a.Disconnect()
	})
}

func TestAck(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		req := request("l")
		req.NeedAck = true
		a, b := r.open(req), localapi.Hold(nil)
		r.want(a, time.Second, localapi.HoldHeld)
		b = r.open(req)
		r.want(b, time.Second, localapi.HoldQueued)
		granted := r.now()
		if e := r.want(a, time.Minute, localapi.HoldLost); e.Reason != holds.ReasonNotAcknowledged || r.now()-granted != 5*time.Second {
			t.Fatalf("lost after %s with %q", r.now()-granted, e.Reason)
		}
		a.Ack() // too late
		if _, err := a.Next(context.Background()); err != io.EOF {
			t.Fatalf("a late ack is answered with %v", err)
		}
		r.want(b, time.Second, localapi.HoldHeld)
		b.Ack()
		r.want(b, 0+time.Millisecond, localapi.HoldRenewed)
		r.want(b, ttl, localapi.HoldRenewed)
		if o := r.q.owner(t, "l"); o != b.ID() {
			t.Fatalf("held by %q", o)
		}
		b.Disconnect()
	})
}

// No event but the answer to the ack follows a grant that needs one: a renewal
// must not be taken for it.
func TestNoRenewedBeforeTheAck(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		first := r.open(request("other"))
		r.want(first, time.Second, localapi.HoldHeld)
		r.silent(first, ttl/4-time.Second) // the session renews in a second
		req := request("l")
		req.NeedAck = true
		a := r.open(req)
		r.want(a, time.Second, localapi.HoldHeld)
		r.silent(a, 4*time.Second)
		r.want(first, time.Second, localapi.HoldRenewed)
		a.Ack()
		r.want(a, time.Millisecond, localapi.HoldRenewed)
		a.Disconnect()
		first.Disconnect()
	})
}

func TestSessionLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("l")), localapi.Hold(nil)
		r.want(a, time.Second, localapi.HoldHeld)
		b = r.open(request("l"))
		r.want(b, time.Second, localapi.HoldQueued)
		synctest.Wait() // the watch has its list
		r.q.mu.Lock()
		session := r.q.seen[0].GetSessionOpen().GetId()
		r.q.mu.Unlock()
		r.q.must(t, &replication.Request{Op: &replication.Request_SessionClose{SessionClose: &replication.SessionClose{Id: session}}})
		r.want(a, time.Second, localapi.HoldLost)
		if e := r.want(b, time.Minute, localapi.HoldHeld); *e.Token != 1 {
			t.Fatalf("held %+v", e)
		}
		b.Disconnect()
	})
}

// The answer to LockWait is lost: asked again under the same owner, the lock is
// taken once.
func TestUnknownOutcomeOfTheRequest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var lost bool
		r.q.deaf = true // else the event would tell
		r.q.setFault(func(req *replication.Request) fault {
			f := fault{lose: isWait(req) && !lost}
			lost = lost || f.lose
			return f
		})
		a := r.open(request("l"))
		if e := r.want(a, time.Second, localapi.HoldHeld); *e.Token != 0 {
			t.Fatalf("held with token %d: taken twice", *e.Token)
		}
		a.Disconnect()
	})
}

// Nothing stays at the quorum of a caller that left before the answer came,
// whatever became of its request.
func TestDisconnectWhileAsking(t *testing.T) {
	for name, f := range map[string]fault{
		"not sent":          {drop: true},
		"sent, no answer":   {after: -1},
		"answered late":     {after: time.Second},
		"applied afterward": {before: time.Second},
		"answer lost":       {lose: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				warm := r.open(request("warm"))
				r.want(warm, time.Second, localapi.HoldHeld)
				r.q.setFault(on(isWait, f))
				a := r.open(request("l"))
				synctest.Wait()
				a.Disconnect()
				r.next(warm, ttl) // at the next renewal at the latest
				synctest.Wait()
				if o := r.q.owner(t, "l"); o != "" {
					t.Fatalf("held by %s", o)
				}
				warm.Disconnect()
			})
		})
	}
}

// A release is sent again until the quorum has confirmed it.
func TestReleaseIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		r.q.setFault(on(isUnlock, fault{refused: replication.ErrUnavailable}))
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := a.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("released without a quorum: %v", err)
		}
		r.q.setFault(nil)
		r.want(a, 5*time.Second, localapi.HoldReleased)
		if o := r.q.owner(t, "l"); o != "" {
			t.Fatalf("held by %s", o)
		}
	})
}

// A renewal costs one request for all holds.
func TestThousandHoldsOneRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const n = 1000
		all := make([]localapi.Hold, n)
		for i := range all {
			all[i] = r.open(request("l" + string(rune('0'+i%10)) + strings.Repeat("x", i/10)))
		}
		for _, o := range all {
			r.want(o, time.Second, localapi.HoldHeld)
		}
		before := r.q.count(func(*replication.Request) bool { return true })
		for _, o := range all {
			r.want(o, ttl/4+time.Second, localapi.HoldRenewed)
		}
		renewals := r.q.count(isRenew)
		if all := r.q.count(func(*replication.Request) bool { return true }); renewals != 1 || all != before+1 {
			t.Fatalf("%d renewals and %d requests in one interval, want 1", renewals, all-before)
		}
		for _, o := range all {
			o.Disconnect()
		}
		for _, o := range all {
			r.want(o, time.Second, localapi.HoldReleased)
		}
	})
}

func TestIdleSessionIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		if err := a.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // virtual: in a synctest bubble
		closes := r.q.count(func(r *replication.Request) bool { return r.GetSessionClose() != nil })
		if closes != 1 {
			t.Fatalf("%d sessions were closed, want 1", closes)
		}
		b := r.open(request("l"))
		r.want(b, time.Second, localapi.HoldHeld)
		b.Disconnect()
	})
}

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("l")), localapi.Hold(nil)
		r.want(a, time.Second, localapi.HoldHeld)
		b = r.open(request("l"))
		r.want(b, time.Second, localapi.HoldQueued)
		done := make(chan struct{})
		go func() { r.close(); close(done) }()
		r.want(b, time.Second, localapi.HoldReleased)
		r.want(a, time.Second, localapi.HoldLost)
		synctest.Wait()
		if o := r.q.owner(t, "l"); o != a.ID() {
			t.Fatalf("held by %q before the holder has gone", o)
		}
		if _, err := r.h.Open(context.Background(), request("x")); !errors.Is(err, replication.ErrStopped) {
			t.Fatalf("opened while stopping: %v", err)
		}
		a.Disconnect()
		<-done
		if o := r.q.owner(t, "l"); o != "" {
			t.Fatalf("held by %s after Close", o)
		}
	})
}

func TestMetricsAndList(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		registry := prometheus.NewPedanticRegistry()
		r.registry = registry
		h := r.newHolds()
		req := request("l")
		req.Info = &replication.HolderInfo{Uid: 7, Command: "make"}
		a, err := h.Open(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		r.want(a, time.Second, localapi.HoldHeld)
		b, err := h.Open(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		r.want(b, time.Second, localapi.HoldQueued)
		r.want(a, ttl, localapi.HoldRenewed)
		want := `
# HELP kahu_holds Locks kept for local processes, and places in line, by state.
# TYPE kahu_holds gauge
kahu_holds{state="at-risk"} 0
kahu_holds{state="held"} 1
kahu_holds{state="lost"} 0
kahu_holds{state="queued"} 1
kahu_holds{state="released"} 0
# HELP kahu_session_renewals_total Renewals of this agent's sessions, by outcome. Each keeps all holds with one TTL.
# TYPE kahu_session_renewals_total counter
kahu_session_renewals_total{outcome="acknowledged"} 2
kahu_session_renewals_total{outcome="failed"} 0
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "kahu_holds", "kahu_session_renewals_total"); err != nil {
			t.Error(err)
		}
		list := h.List()
		if len(list) != 2 {
			t.Fatalf("listed %+v", list)
		}
		for _, info := range list {
			held := info.Hold == a.ID()
			if (info.State == "held") != held || (info.Token != nil) != held || (info.Position == 1) == held ||
				info.Holder.UID != 7 || info.Holder.Command != "make" || info.TTLMS != ttl.Milliseconds() || !info.Connected {
				t.Errorf("listed %+v", info)
			}
		}
		a.Disconnect()
		b.Disconnect()
		if err := h.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n, err := testutil.GatherAndCount(registry); n != 0 || err != nil {
			t.Errorf("%d metrics are left after Close, error %v", n, err)
		}
	})
}

// A list that was taken before a lock was granted does not end the hold, though
// it arrives later and does not name it.
func TestListOlderThanAGrant(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		warm := r.open(request("warm"))
		r.want(warm, time.Second, localapi.HoldHeld)
		synctest.Wait() // the watch has its list
		r.q.mu.Lock()
		r.q.deaf = true
		session := r.q.seen[0].GetSessionOpen().GetId()
		r.q.mu.Unlock()
		r.q.must(t, &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
			Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "stray", Session: session,
			Owner: []byte(strings.Repeat("ab", 16))}}}) // makes the quorum answer with its list
		r.q.setFault(on(isRenew, fault{after: 500 * time.Millisecond}))
		r.silent(warm, ttl/4+100*time.Millisecond) // the list is on its way
		late := r.open(request("late"))
		r.want(late, 100*time.Millisecond, localapi.HoldHeld)
		r.want(warm, time.Second, localapi.HoldRenewed) // the list has arrived
		r.want(late, time.Second, localapi.HoldRenewed)
		if e := r.next(late, ttl); e.Type != localapi.HoldRenewed {
			t.Fatalf("the hold that is younger than the list is told %+v", e)
		}
		if o := r.q.owner(t, "late"); o != late.ID() {
			t.Fatalf("held by %q", o)
		}
		late.Disconnect()
		warm.Disconnect()
	})
}
