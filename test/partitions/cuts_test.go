package partitions_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// afterElection is how long after an election, at most, anybody's next answer may
// take on a machine that does other things as well; the aim is well below.
const afterElection = 5 * time.Second

// The leader's host vanishes: nothing of it arrives any more, no reset, no word. How
// long until writes and reads that were and are asked for through a proxy, and
// through the voter that was not elected, are answered again? And how long after
// somebody was elected?
func TestTimeFromACut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	rounds := 3
	if soak() {
		rounds = 30
	}
	l, c := startHosts(t)
	ctx := bounded(t, time.Duration(rounds)*time.Minute)
	took := map[string][]time.Duration{}
	for range rounds {
		for way, d := range fromCut(ctx, t, l, c) {
			took[way] = append(took[way], d)
		}
	}
	for _, way := range []string{"election", "proxy write", "proxy read", "follower write", "follower read"} {
		t.Logf("from the cut to: %s: %s", way, spread(took[way]))
	}
	for way, all := range took {
		for i, d := range all {
			if late := d - took["election"][i]; late > afterElection {
				t.Errorf("%s: %s after the election, %s after the cut", way, late, d)
			}
		}
	}
}

// ways are how somebody may be asked.
var ways = []struct {
	name string
	ask  func(ctx context.Context, c *client.Client, key string) error
}{
	{"write", func(ctx context.Context, c *client.Client, key string) error {
		_, err := c.KVSet(ctx, key, []byte("v"), client.WriteOptions{})
		return err
	}},
	{"read", func(ctx context.Context, c *client.Client, key string) error {
		_, err := c.KVExists(ctx, key, client.ReadOptions{})
		if errors.Is(err, client.ErrNotFound) {
			return nil
		}
		return err
	}},
}

// askers ask some hosts, one question after the other by each way.
type askers struct {
	t     *testing.T
	end   context.CancelFunc
	group sync.WaitGroup

	mu       sync.Mutex
	answered map[asker][]time.Time
}

type asker struct {
	host *host
	way  string
}

func startAskers(ctx context.Context, t *testing.T, hosts []*host) *askers {
	a := &askers{t: t, answered: map[asker][]time.Time{}}
	ctx, a.end = context.WithCancel(ctx)
	for _, h := range hosts {
		for _, way := range ways {
			who := asker{h, way.name}
			a.mu.Lock()
			a.answered[who] = nil
			a.mu.Unlock()
			a.group.Go(func() {
				c := h.agent.Dial()
				defer c.Close()
				for ctx.Err() == nil {
					if err := way.ask(ctx, c, "cuts/"+h.name); err != nil {
						if ctx.Err() == nil {
							t.Errorf("a %s on %s failed: %v", way.name, h.name, err)
						}
						return
					}
					a.mu.Lock()
					a.answered[who] = append(a.answered[who], time.Now())
					a.mu.Unlock()
				}
			})
		}
	}
	return a
}

func (a *askers) stop() {
	a.end()
	a.group.Wait()
}

// wait blocks until every asker was answered several times after t.
func (a *askers) wait(ctx context.Context, after time.Time) {
	a.t.Helper()
	if err := cluster.Wait(ctx, "everybody is answered", func(context.Context) (bool, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for who, all := range a.answered {
			if i := slices.IndexFunc(all, after.Before); i < 0 || len(all)-i < 5 {
				return false, fmt.Errorf("no %s on %s", who.way, who.host.name)
			}
		}
		return true, nil
	}); err != nil {
		a.t.Fatal(err)
	}
}

// back is how long after t the longest time without an answer ended. The askers
// have stopped.
func (a *askers) back(who asker, t time.Time) (after time.Duration) {
	last, longest := t, time.Duration(-1)
	for _, at := range a.answered[who] {
		if at.Before(t) {
			continue
		}
		if gap := at.Sub(last); gap > longest {
			longest, after = gap, at.Sub(t)
		}
		last = at
	}
	return after
}

// fromCut cuts the leader off, and returns after how long each kind of host was
// answered again by each way, the slowest of a kind. It heals.
func fromCut(ctx context.Context, t *testing.T, l *lab, c *cluster.Cluster) map[string]time.Duration {
	t.Helper()
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	who := castNow(ctx, t, l, c)
	a := startAskers(ctx, t, who.others(who.leader))
	defer a.stop()
	a.wait(ctx, time.Now())

	l.cut(apart(one(who.leader), who.others(who.leader)))
	defer l.heal()
	cut := time.Now()
	elected, at := awaitElection(ctx, t, who.followers)
	a.wait(ctx, at)
	a.stop()

	took := map[string]time.Duration{"election": at.Sub(cut)}
	for _, h := range who.others(who.leader, elected) { // asking the one that leads shows nothing
		kind := "follower"
		if slices.Contains(who.proxies, h) {
			kind = "proxy"
		}
		for _, way := range ways {
			took[kind+" "+way.name] = max(took[kind+" "+way.name], a.back(asker{h, way.name}, cut))
		}
	}
	return took
}

// awaitElection returns the first of these voters that leads, and when it began to.
func awaitElection(ctx context.Context, t *testing.T, voters []*host) (leader *host, at time.Time) {
	t.Helper()
	if err := cluster.Wait(ctx, "another voter leads", func(ctx context.Context) (bool, error) {
		for _, h := range voters {
			s, err := h.agent.Status(ctx)
			if err != nil {
				return false, err
			}
			if s.Voter != nil && s.Voter.Serving {
				leader, at = h, time.Now()
				return true, nil
			}
		}
		return false, nil
	}); err != nil {
		t.Fatal(err)
	}
	return leader, at
}
