package partitions_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// A follower comes back, from a cut or after its host was down, and as soon as the
// leader hears it the other one goes, as when hosts are restarted one after the
// other. The two that are there are a quorum at once: nothing waits for what the
// leader still believes of the first. How long is nothing answered?
func TestOneFollowerGoesAsTheOtherIsBack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	rounds, away := 1, 6*time.Second
	if soak() {
		rounds, away = 3, 12*time.Second
	}
	l, c := startHosts(t)
	for _, way := range []struct {
		name      string
		end, back func(l *lab, c cast, h *host) error
	}{
		{"cut off", func(l *lab, c cast, h *host) error { l.cut(apart(one(h), c.others(h))); return nil },
			func(l *lab, _ cast, _ *host) error { l.heal(); return nil }},
		{"killed", func(_ *lab, _ cast, h *host) error { return h.agent.Kill() },
			func(_ *lab, _ cast, h *host) error { return h.agent.Start() }},
	} {
		t.Run(way.name, func(t *testing.T) {
			l.t = t
			defer l.heal()
			ctx := bounded(t, time.Duration(rounds)*(away+time.Minute))
			var took []time.Duration
			for range rounds {
				if err := c.WaitServing(ctx); err != nil {
					t.Fatal(err)
				}
				who := castNow(ctx, t, l, c)
				first, second := who.followers[0], who.followers[1]
				if err := way.end(l, who, first); err != nil {
					t.Fatal(err)
				}
				waitSilent(ctx, t, who.leader, first, func(silent time.Duration) bool { return silent > away })
				a := startAskers(ctx, t, append(one(who.leader), who.proxies...))
				a.wait(ctx, time.Now())
				if err := way.back(l, who, first); err != nil {
					t.Fatal(err)
				}
				waitSilent(ctx, t, who.leader, first, func(silent time.Duration) bool { return silent < time.Second })
				gone := time.Now()
				if err := way.end(l, who, second); err != nil {
					t.Fatal(err)
				}
				a.wait(ctx, time.Now())
				a.stop()
				longest := time.Duration(0)
				for asker := range a.answered {
					if asker.way == "write" {
						longest = max(longest, a.back(asker, gone)) // no less than the time without an answer
					}
				}
				took = append(took, longest)
				if err := way.back(l, who, second); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("the other follower is %s: a write again after %s", way.name, spread(took))
			// Both that are there know each other: there is nothing to elect.
			if most := slices.Max(took); soak() && most > 2*time.Second {
				t.Errorf("%s until a write was answered, although the leader reached a majority all the time", most)
			}
		})
	}
}

// waitSilent waits until the leader's Raft has not heard h for as long as asked.
func waitSilent(ctx context.Context, t *testing.T, leader, h *host, as func(time.Duration) bool) {
	t.Helper()
	c := leader.agent.Dial()
	defer c.Close()
	if err := cluster.Wait(ctx, "the leader hears, or misses, "+h.name, func(ctx context.Context) (bool, error) {
		all, err := c.ClusterMembers(ctx)
		if err != nil {
			return false, err
		}
		for _, m := range all.Members {
			if m.Host == h.name && m.SilentMS != nil {
				silent := time.Duration(*m.SilentMS) * time.Millisecond
				return as(silent), fmt.Errorf("it is silent for %s", silent)
			}
		}
		return false, fmt.Errorf("%s does not lead, or does not know it", leader.name)
	}); err != nil {
		t.Fatal(err)
	}
}
