package holds_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ttl   = 30 * time.Second
	grace = 5 * time.Second
	// told and stop are the contract in numbers: what remains of a lease of 30 s
	// when it was renewed just now, until the holder is told to stop (5 s grace,
	// 1 s kill, 0.2 % drift), and until it must have stopped.
	told = ttl - 5*time.Second - time.Second - 60*time.Millisecond
	stop = ttl - time.Second - 60*time.Millisecond
	// bootAhead is how far boot time and lease time are apart in tests.
	bootAhead = 1000 * time.Second
)

// rig is one agent's Holds over a quorum.
type rig struct {
	t     testing.TB
	began time.Time
	q     *quorum
	h     *holds.Holds
	// registry is nil unless a test wants metrics.
	registry  prometheus.Registerer
	maxPidfds int // 0: the default
	maxHolds  int // 0: 1,000
	// Of tests that restart the agent.
	table, boot string
	ackTimeout  time.Duration

	looks *atomic.Int64 // at the boot clock
	adopt func(id []byte, ttl time.Duration, holds []*replication.SessionHold)
}

func (r *rig) now() time.Duration { return time.Since(r.began) + time.Hour }

func newRig(t testing.TB) *rig { return newRigAt(t, statemachine.CurrentLevel) }

// newRigAt is newRig with a quorum of this feature level.
func newRigAt(t testing.TB, level uint32) *rig {
	r := &rig{t: t, began: time.Now()}
	r.q = newQuorum(t, level, r.now)
	r.h = r.newHolds()
	return r
}

func (r *rig) newHolds() *holds.Holds {
	if r.looks == nil {
		r.looks = new(atomic.Int64)
	}
	looks := r.looks
	h, err := holds.New(holds.Config{
		Coordinator: r.q, Node: "n1", Host: "host", LeaseNow: r.now,
		Boottime: func() time.Duration { looks.Add(1); return r.now() + bootAhead }, BootID: cmp.Or(r.boot, "boot"),
		Logger: slog.New(slog.DiscardHandler), Registerer: r.registry, MaxHolds: cmp.Or(r.maxHolds, 1000), MaxPidfds: r.maxPidfds,
		TablePath: r.table, AckTimeout: r.ackTimeout, Adopt: r.adopt,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.h.Close(ctx); err != nil {
		r.t.Error(err)
	}
}

func request(lock string) localapi.HoldRequest {
	return localapi.HoldRequest{Lock: lock, Durability: replication.Durability_DURABILITY_PERSISTENT,
		TTL: ttl, Wait: -1, Grace: grace, Witness: localapi.WitnessConnection}
}

func (r *rig) open(req localapi.HoldRequest) localapi.Hold {
	r.t.Helper()
	o, err := r.h.Open(context.Background(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// next returns the next event, which must come within limit.
func (r *rig) next(o localapi.Hold, limit time.Duration) localapi.HoldEvent {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	e, err := o.Next(ctx)
	if err != nil {
		r.t.Fatalf("no event within %s: %v", limit, err)
	}
	return e
}

func (r *rig) want(o localapi.Hold, limit time.Duration, t localapi.HoldEventType) localapi.HoldEvent {
	r.t.Helper()
	e := r.next(o, limit)
	if e.Type != t {
		r.t.Fatalf("the next event is %+v, want %s", e, t)
	}
	return e
}

// silent fails if an event comes within d.
func (r *rig) silent(o localapi.Hold, d time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if e, err := o.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatalf("event %+v, error %v, want silence", e, err)
	}
}

// wantDeadline checks an event's deadline against a renewal sent at s.
func (r *rig) wantDeadline(e localapi.HoldEvent, s time.Duration) {
	r.t.Helper()
	left := s + stop - r.now()
	want := r.now() + bootAhead + left - left/11
	if got := time.Duration(e.DeadlineBoottimeNS); got != want || e.BootID != "boot" || e.SafeMS != left.Milliseconds() {
		r.t.Fatalf("%s has the deadline %v, safe for %d ms, boot %q; want %v, %d", e.Type, got, e.SafeMS, e.BootID, want, left.Milliseconds())
	}
}

// bubble runs f with a fake clock and fails on goroutines that outlive Close: over a
// quorum whose renewals have the list of holds in them, and over one of today.
func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, level := range []uint32{3, statemachine.CurrentLevel} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRigAt(t, level)
				defer r.close() // also after a failure: nothing may be left in the bubble
				defer r.q.setFault(nil)
				f(t, r)
			})
		})
	}
}
