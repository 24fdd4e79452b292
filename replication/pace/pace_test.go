package pace_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/pace"
)

// Loops that began at different times are woken together, none later than it asked
// for, and slow ones at moments of the quickest one.
func TestLoopsAreWokenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = time.Minute
		began := time.Now()
		var mu sync.Mutex
		moments := map[time.Time]int{}
		var loops sync.WaitGroup
		for i, every := range []time.Duration{100 * time.Millisecond, time.Second, time.Second, 500 * time.Millisecond} {
			loops.Go(func() { // ends after a minute
				late := time.Duration(i) * 237 * time.Millisecond
				time.Sleep(late) // virtual: they begin apart
				last, times := time.Now(), 0
				for time.Since(began) < most {
					time.Sleep(pace.Next(every)) // virtual
					if d := time.Since(last); d <= 0 || d > every {
						t.Errorf("a loop of every %s was woken after %s", every, d)
						return
					}
					last = time.Now()
					times++
					mu.Lock()
					moments[last]++
					mu.Unlock()
				}
				if want := int((most - late + every - 1) / every); times != want {
					t.Errorf("a loop of every %s was woken %d times in %s, want %d", every, times, most, want)
				}
			})
		}
		loops.Wait()
		if want := int(most / (100 * time.Millisecond)); len(moments) != want {
			t.Errorf("four loops were woken at %d moments, want the %d of the quickest", len(moments), want)
		}
	})
}
