package holds_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// TestNeverDoubled plays random stories: two agents, few locks, callers that
// come and go, a quorum that hangs, loses answers and breaks watches. While a
// holder may run, as far as it was told, the quorum must have the lock for it;
// when everybody has left, nothing may be left at the quorum.
func TestNeverDoubled(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := story{
			seed:    rapid.Uint64().Draw(rt, "seed"),
			callers: rapid.IntRange(2, 8).Draw(rt, "callers"),
			faulty:  rapid.IntRange(0, 60).Draw(rt, "percent of requests that meet a fault"),
			silence: time.Duration(rapid.IntRange(0, 60).Draw(rt, "seconds of silence")) * time.Second,
		}
		if rapid.Bool().Draw(rt, "renewals have the list in them") {
			s.level = 3
		} else {
			s.level = statemachine.CurrentLevel
		}
		var problem error
		synctest.Test(t, func(t *testing.T) { problem = s.play(t) })
		if problem != nil {
			rt.Fatal(problem)
		}
	})
}

type story struct {
	level   uint32
	seed    uint64
	callers int
	faulty  int
	silence time.Duration

	mu       sync.Mutex
	rnd      *rand.Rand
	problems []error
}

func (s *story) random(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.IntN(n)
}

func (s *story) failed(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Errorf(format, args...))
}

func (s *story) play(t *testing.T) error {
	s.rnd = rand.New(rand.NewPCG(s.seed, 1))
	r := newRigAt(t, s.level)
	agents := []*holds.Holds{r.h, r.newHolds()}
	r.q.setFault(s.fault)
	var wg sync.WaitGroup
	for range s.callers {
		wg.Go(func() {
			for range 4 {
				s.caller(r, agents[s.random(len(agents))])
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			time.Sleep(time.Duration(s.random(20)) * time.Second) // virtual: in a synctest bubble
			r.q.breakWatches()
		}
		r.q.setFault(func(*replication.Request) fault { return fault{drop: true} })
		time.Sleep(s.silence) // virtual: in a synctest bubble
		r.q.setFault(s.fault)
	})
	wg.Wait()
	r.q.setFault(nil)
	time.Sleep(2 * ttl) // virtual: hung requests end, reconciliation has its turn
	for _, lock := range []string{"a", "b"} {
		if o := r.q.owner(t, lock); o != "" {
			s.failed("the lock %s is still held by %s", lock, o)
		}
	}
	for _, h := range agents {
		if n := len(h.List()); n != 0 {
			s.failed("an agent still keeps %d holds: %+v", n, h.List())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_ = h.Close(ctx)
		cancel()
	}
	return errors.Join(s.problems...)
}

// fault makes one request in so many go wrong.
func (s *story) fault(*replication.Request) fault {
	if s.random(100) >= s.faulty {
		return fault{}
	}
	d := time.Duration(s.random(3000)) * time.Millisecond
	switch s.random(6) {
	case 0:
		return fault{before: d}
	case 1:
		return fault{after: d}
	case 2:
		return fault{lose: true}
	case 3:
		return fault{refused: replication.ErrUnavailable}
	case 4:
		return fault{after: -1}
	}
	return fault{before: -1}
}

// caller takes a lock, checks while it may run, and leaves one way or another.
func (s *story) caller(r *rig, h *holds.Holds) {
	lock := []string{"a", "b"}[s.random(2)]
	req := request(lock)
	req.TTL, req.Grace = 12*time.Second, time.Second
	req.Wait = []time.Duration{-1, 0, 3 * time.Second}[s.random(3)]
	req.NeedAck = s.random(2) == 0
	o, err := h.Open(context.Background(), req)
	if err != nil {
		s.failed("%v", err)
		return
	}
	defer o.Disconnect()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.random(60_000))*time.Millisecond)
	defer cancel()
	running := false
	var until time.Duration // boot time
	for {
		e, err := o.Next(ctx)
		if err != nil {
			break // the caller has had enough
		}
		switch e.Type {
		case localapi.HoldHeld, localapi.HoldRenewed, localapi.HoldAtRisk:
			running = !req.NeedAck || e.Type != localapi.HoldHeld
			if d := time.Duration(e.DeadlineBoottimeNS); d < until {
				s.failed("the deadline of %s moved back from %v to %v", lock, until, d)
			} else {
				until = d
			}
			if e.Type == localapi.HoldHeld {
				o.Ack()
			}
			// Under the last event the holder runs until its deadline: at any
			// moment before the next event, and up to the kill after it.
			if running && r.now()+bootAhead < until {
				if owner := r.q.owner(r.t, lock); owner != o.ID() {
					s.failed("%s runs under %s until %v, and the quorum has %q at %v", o.ID(), lock, until, owner, r.now()+bootAhead)
				}
			}
		case localapi.HoldLost:
			// Told to stop; it has its grace until the deadline.
			if running && e.Reason == holds.ReasonDeadline {
				if left := until - r.now() - bootAhead; left > 0 {
					time.Sleep(left) // virtual: in a synctest bubble
				}
				if owner := r.q.owner(r.t, lock); owner != o.ID() {
					s.failed("%s had %s until %v, and the quorum has %q", o.ID(), lock, until, owner)
				}
			}
			return
		case localapi.HoldReleased:
			return
		}
	}
	if running && r.now()+bootAhead < until {
		if owner := r.q.owner(r.t, lock); owner != o.ID() {
			s.failed("%s still runs under %s, and the quorum has %q", o.ID(), lock, owner)
		}
	}
	if s.random(2) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = o.Release(ctx) // the agent goes on trying
	}
}
