package holds_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi"
)

// Whoever holds under a session is told of a renewal at once, and all of them share
// a look at the clocks: reading them is a call of the kernel each.
func TestHoldsShareALookAtTheClocks(t *testing.T) {
	const n = 200
	bubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		told := make(chan localapi.HoldEvent, n)
		for i := range n {
			o := r.open(request(fmt.Sprintf("lock-%d", i)))
			r.want(o, time.Second, localapi.HoldHeld)
			wg.Go(func() {
				defer o.Disconnect()
				for {
					e, err := o.Next(ctx)
					if err != nil {
						return
					}
					told <- e
				}
			})
		}
		const renewals = 4
		before := r.looks.Load()
		for range renewals {
			deadlines := map[int64]bool{}
			for range n {
				e := <-told
				if e.Type != localapi.HoldRenewed {
					t.Fatalf("an idle hold was told %+v", e)
				}
				deadlines[e.DeadlineBoottimeNS] = true
			}
			if len(deadlines) != 1 {
				t.Errorf("one renewal has %d deadlines", len(deadlines))
			}
		}
		if looks := r.looks.Load() - before; looks > 3*renewals {
			t.Errorf("%d holds looked %d times at the clock to be told of %d renewals", n, looks, renewals)
		}
		cancel()
		wg.Wait()
	})
}

// Find and Counts say what List does.
func TestFindAndCounts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.open(request("l"))
		r.want(a, time.Second, localapi.HoldHeld)
		b := r.open(request("l"))
		r.want(b, time.Second, localapi.HoldQueued)
		other := r.open(request("m"))
		r.want(other, time.Second, localapi.HoldHeld)
		if n := r.h.Counts(); n.Held != 2 || n.Queued != 1 || n.AtRisk != 0 || len(n.Contain) != 0 {
			t.Errorf("%+v", n)
		}
		for _, want := range r.h.List() {
			got, ok := r.h.Find(want.Hold)
			if !ok || got.Lock != want.Lock || got.State != want.State || got.Holder != want.Holder {
				t.Errorf("found %+v, listed %+v", got, want)
			}
		}
		if got, ok := r.h.Find("none"); ok {
			t.Errorf("found %+v", got)
		}
		for _, o := range []localapi.Hold{a, b, other} {
			o.Disconnect()
		}
	})
}
