package holds_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
)

// TestThousandIdleHoldsAreCheap lets a quarter of an hour pass for 1,000 holds, each with a
// listener that is told of every renewal, and compares the processor time of
// this process with it. The bound is the whole agent's; the quorum of the
// test, which is in it, stands for the rest.
func TestThousandIdleHoldsAreCheap(t *testing.T) {
	const n, idle = 1000, 15 * time.Minute
	bubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		told := make([]int, n)
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
					if e.Type != localapi.HoldRenewed {
						t.Errorf("an idle hold was told %+v", e)
					}
					told[i]++
				}
			})
		}
		before := processorTime(t)
		time.Sleep(idle) // virtual: in a synctest bubble
		spent := processorTime(t) - before
		cancel()
		wg.Wait()
		const renewals = int(idle / (ttl / 4))
		for i, got := range told {
			if got < renewals-1 || got > renewals {
				t.Fatalf("hold %d was told of %d renewals, want %d", i, got, renewals)
			}
		}
		share := float64(spent) / float64(idle)
		t.Logf("%d holds: %s of processor time in %s, %.3f %% of a core; %s a renewal", n, spent, idle, 100*share, spent/time.Duration(renewals))
		if share > 0.03 {
			t.Errorf("%d idle holds take %.1f %% of a core, want under 3 %%", n, 100*share)
		}
	})
}

func processorTime(t *testing.T) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
