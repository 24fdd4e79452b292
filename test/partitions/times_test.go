package partitions_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// mostOutage is the longest that any of the times below may be on a machine that
// does other things as well. The aims are far below; what was measured is logged.
const mostOutage = 10 * time.Second

// From the start of three agents with an empty disk and each other's addresses
// to the first lock: the aim is 5 s.
func TestColdStart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts agents")
	}
	rounds := 1
	if soak() {
		rounds = 10
	}
	var took []time.Duration
	for range rounds {
		t.Run("round", func(t *testing.T) { // its hosts go with it
			l := newLab(t, 3)
			ctx := bounded(t, time.Minute)
			c, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: 3, Places: l.places()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Stop(); err != nil {
					t.Error(err)
				}
			}()
			began := time.Now()
			for _, a := range c.Agents {
				if err := a.Start(); err != nil {
					t.Fatal(err)
				}
			}
			locker := c.Agents[0].Dial()
			defer locker.Close()
			var hold *client.Hold
			if err := cluster.Wait(ctx, "a lock is held", func(ctx context.Context) (bool, error) {
				hold, err = locker.Hold(ctx, client.HoldOptions{Lock: "first", Wait: -1})
				return err == nil, err
			}); err != nil {
				t.Fatalf("%v\n%s", err, c.Logs(20))
			}
			took = append(took, time.Since(began))
			_ = hold.Close() // always nil
		})
	}
	t.Logf("from cold start to the first lock: %s", spread(took))
	if len(took) > 0 && slices.Max(took) > mostOutage {
		t.Errorf("the first lock took %s", slices.Max(took))
	}
}

// A leader is killed, and in other rounds asked to end. Writers on the proxies
// go on: how long is nothing acknowledged? Aims: 2 s, and 100 ms.
func TestTimeWithoutAWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	rounds := 5
	if soak() {
		rounds = 30
	}
	l, c := startHosts(t)
	for _, way := range []struct {
		name string
		end  func(*cluster.Agent) error
	}{
		{"kill -9", (*cluster.Agent).Kill},
		{"asked to end", (*cluster.Agent).Terminate},
	} {
		t.Run(way.name, func(t *testing.T) {
			ctx := bounded(t, time.Duration(rounds)*30*time.Second)
			var without []time.Duration
			for range rounds {
				without = append(without, withoutWrite(ctx, t, l, c, way.end))
			}
			t.Logf("leader %s: time without an acknowledged write: %s", way.name, spread(without))
			if most := slices.Max(without); most > mostOutage {
				t.Errorf("%s without an acknowledged write", most)
			}
		})
	}
}

// writersOnProxy write on each proxy.
const writersOnProxy = 4

// withoutWrite ends the leader under writes, and returns the longest time
// between two acknowledgements from then on. It starts the leader again.
func withoutWrite(ctx context.Context, t *testing.T, l *lab, c *cluster.Cluster, end func(*cluster.Agent) error) time.Duration {
	t.Helper()
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	who := castNow(ctx, t, l, c)
	var mu sync.Mutex
	var acks, asked []time.Time // of one write each
	writing, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer func() { stop(); group.Wait() }()
	for _, h := range who.proxies {
		for i := range writersOnProxy {
			group.Go(func() {
				w := h.agent.Dial()
				defer w.Close()
				for writing.Err() == nil {
					at := time.Now()
					if _, err := w.KVSet(writing, fmt.Sprintf("times/%s/%d", h.name, i), []byte("v"), client.WriteOptions{}); err != nil {
						if writing.Err() == nil {
							t.Errorf("a write on %s failed after %s: %v", h.name, time.Since(at), err)
						}
						return
					}
					mu.Lock()
					acks, asked = append(acks, time.Now()), append(asked, at)
					mu.Unlock()
				}
			})
		}
	}
	written := func(after time.Time, n int) {
		if err := cluster.Wait(ctx, "writes are acknowledged", func(context.Context) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			count := 0
			for i := range acks {
				if asked[i].After(after) {
					count++
				}
			}
			return count >= n, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	written(time.Time{}, 100)
	ended := time.Now()
	if err := end(who.leader.agent); err != nil {
		t.Fatal(err)
	}
	written(time.Now(), 100)
	stop()
	group.Wait()
	if err := who.leader.agent.Start(); err != nil {
		t.Fatal(err)
	}
	if err := who.leader.agent.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	last, longest := ended, time.Duration(0)
	slices.SortFunc(acks, time.Time.Compare)
	for _, at := range acks {
		if at.After(ended) {
			longest = max(longest, at.Sub(last))
			last = at
		}
	}
	return longest
}

// spread is some durations in one line.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d rounds, least %s, median %s, p99 %s, most %s", len(d), at(0), at(0.5), at(0.99), at(1))
}
