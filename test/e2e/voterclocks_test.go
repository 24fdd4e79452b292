package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/clocks"
	"github.com/kahu-sh/kahu/test/cluster"
)

const (
	clockTTL = 6 * time.Second  // of holds: it covers an election, and four renewals
	shortKey = 10 * time.Second // a key that ends while clocks are wrong
	longKey  = 10 * time.Minute
)

// The wall clocks of voters are wrong: of a follower, of the leader, of two of three,
// by an hour and by a day, to either side, and are put right again. Who holds a lock
// keeps it, under its token; a key with an end is there until then; an election and
// a restart among wrong clocks change nothing; a backup that is made then is whole. And
// each host whose clock is wrong says so in one line.
func TestVotersWithWrongClocks(t *testing.T) {
	if !clocks.Supported {
		t.Skipf("SKIPPED: no clock can be shifted on %s", runtime.GOARCH)
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const day = 24 * time.Hour
	type who func(leader *cluster.Agent, followers []*cluster.Agent) []*cluster.Agent
	leader := func(l *cluster.Agent, _ []*cluster.Agent) []*cluster.Agent { return []*cluster.Agent{l} }
	follower := func(_ *cluster.Agent, f []*cluster.Agent) []*cluster.Agent { return f[:1] }
	followers := func(_ *cluster.Agent, f []*cluster.Agent) []*cluster.Agent { return f }
	leaderAndOne := func(l *cluster.Agent, f []*cluster.Agent) []*cluster.Agent { return []*cluster.Agent{l, f[0]} }
	l := newClockLab(t)
	for _, c := range []struct {
		name  string
		who   who
		by    time.Duration
		short bool // also without KAHU_SOAK
	}{
		{"a follower a day ahead", follower, day, false},
		{"a follower a day behind", follower, -day, false},
		{"a follower an hour ahead", follower, time.Hour, false},
		{"a follower an hour behind", follower, -time.Hour, false},
		{"the leader a day ahead", leader, day, false},
		{"the leader a day behind", leader, -day, false},
		{"the leader an hour ahead", leader, time.Hour, false},
		{"the leader an hour behind", leader, -time.Hour, false},
		{"both followers a day ahead", followers, day, false},
		{"both followers a day behind", followers, -day, false},
		{"both followers an hour ahead", followers, time.Hour, false},
		{"both followers an hour behind", followers, -time.Hour, false},
		{"the leader and a follower a day ahead", leaderAndOne, day, true},
		{"the leader and a follower a day behind", leaderAndOne, -day, false},
		{"the leader and a follower an hour ahead", leaderAndOne, time.Hour, false},
		{"the leader and a follower an hour behind", leaderAndOne, -time.Hour, false},
	} {
		if !c.short && !soak() {
			continue
		}
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			l.t = t
			now, others := l.cast()
			wrong := c.who(now, others)
			l.set("short", shortKey)
			l.shift(c.by, wrong...)
			if soak() {
				l.renewed("after the step")
			}
			l.says(c.by, wrong...)
			l.backup(wrong[0])
			l.elect()
			l.renewed("after an election")
			l.restart(wrong[len(wrong)-1], c.by)
			l.renewed("after a restart")
			l.ends("short", shortKey)
			l.shift(0, wrong...)
			l.renewed("when they were put right")
			l.right(wrong...)
		})
	}
}

// A voter whose clock stands at 1970, since its battery is dead, is one of three that
// begin a cluster; then another one with an empty disk joins it.
func TestVoterThatBootsWithoutAClock(t *testing.T) {
	if !clocks.Supported {
		t.Skipf("SKIPPED: no clock can be shifted on %s", runtime.GOARCH)
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dead := -time.Duration(time.Now().Unix()-7200) * time.Second
	ctx := bounded(t, 2*time.Minute)
	c, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ends of the agents' logs:\n%s", c.Logs(30))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	startWrong(ctx, t, c.Agents[0], dead)
	for _, a := range c.Agents[1:] {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	must(t, c.Agents[0], "kv", "set", "k", "v")
	newcomer := c.Agents[2]
	if leader, err := c.Leader(ctx); err != nil {
		t.Fatal(err)
	} else if leader == newcomer {
		newcomer = c.Agents[1]
	}
	if err := newcomer.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(newcomer.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	startWrong(ctx, t, newcomer, dead)
	if err := newcomer.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	if got := must(t, newcomer, "kv", "get", "k"); got != "v" {
		t.Errorf("it reads %q", got)
	}
	l := &clockLab{t: t, ctx: ctx, c: c}
	l.says(dead, c.Agents[0], newcomer)
}

// startWrong starts an agent whose clock is wrong from its first moment.
func startWrong(ctx context.Context, t *testing.T, a *cluster.Agent, by time.Duration) {
	t.Helper()
	err := a.Start()
	if err == nil {
		err = a.Pause() // before it has done anything
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err := clocks.Shift(ctx, by, a.Pid()); err != nil || n != 1 {
		t.Fatalf("stepping the clock of %s by %s: %d, %v", a.Name, by, n, err)
	}
	if err := a.Resume(); err != nil {
		t.Fatal(err)
	}
}

// clockLab is a cluster with a hold on each agent, and keys with an end.
type clockLab struct {
	t     *testing.T
	ctx   context.Context
	c     *cluster.Cluster
	asks  *client.Client
	holds []*client.Hold
	set0  map[string]time.Time // before a key was set
}

func newClockLab(t *testing.T) *clockLab {
	bound := 4 * time.Minute
	if soak() {
		bound = 30 * time.Minute
	}
	l := &clockLab{t: t, ctx: bounded(t, bound), c: startCluster(t, cluster.Options{Voters: 3, Proxies: 1}), set0: map[string]time.Time{}}
	l.asks = l.c.Proxies()[0].Dial()
	t.Cleanup(func() { _ = l.asks.Close() }) // always nil
	for _, a := range l.c.Agents {
		c := a.Dial()
		t.Cleanup(func() { _ = c.Close() })
		h, err := c.Hold(l.ctx, client.HoldOptions{Lock: "held/" + a.Name, TTL: clockTTL})
		if err != nil {
			t.Fatal(err)
		}
		l.holds = append(l.holds, h)
	}
	l.set("long", longKey)
	return l
}

func (l *clockLab) cast() (leader *cluster.Agent, followers []*cluster.Agent) {
	l.t.Helper()
	leader, err := l.c.Leader(l.ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	return leader, slices.DeleteFunc(slices.Clone(l.c.Voters()), func(a *cluster.Agent) bool { return a == leader })
}

func (l *clockLab) set(key string, ttl time.Duration) {
	l.t.Helper()
	l.set0[key] = time.Now()
	if _, err := l.asks.KVSet(l.ctx, key, nil, client.WriteOptions{TTL: ttl}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *clockLab) shift(by time.Duration, agents ...*cluster.Agent) {
	l.t.Helper()
	var pids []int
	for _, a := range agents {
		pids = append(pids, a.Pid())
	}
	if n, err := clocks.Shift(l.ctx, by, pids...); err != nil || n != len(pids) {
		l.t.Fatalf("stepping the clocks of %d agents by %s: %d, %v", len(agents), by, n, err)
	}
}

// renewed waits until each hold was renewed twice more, and sees that none was lost and
// its token stayed, and that the keys are there.
func (l *clockLab) renewed(when string) {
	l.t.Helper()
	var first []time.Duration
	for _, h := range l.holds {
		deadline, _ := h.Deadline()
		first = append(first, deadline)
	}
	for i, h := range l.holds {
		name := l.c.Agents[i].Name
		if err := cluster.Wait(l.ctx, "the hold of "+name+" is renewed "+when, func(context.Context) (bool, error) {
			select {
			case <-h.Lost():
				l.t.Fatalf("%s: the hold of %s is lost", when, name)
			default:
			}
			now, _ := h.Deadline()
			return now-first[i] > clockTTL*3/8, fmt.Errorf("its deadline has moved by %s", now-first[i])
		}); err != nil {
			l.t.Fatal(err)
		}
		k, err := l.asks.LockInfo(l.ctx, "held/"+name, client.LockOptions{})
		if err != nil || k.Token != h.Token() {
			l.t.Errorf("%s: the lock of %s is under token %d, was %d (%v)", when, name, k.Token, h.Token(), err)
		}
	}
	l.there("short", shortKey)
	if !l.there("long", longKey) {
		l.t.Errorf("%s: a key that lives for %s is gone", when, longKey)
	}
}

// there reports whether a key is there. It is, before its time is over.
func (l *clockLab) there(key string, ttl time.Duration) bool {
	l.t.Helper()
	e, err := l.asks.KVGet(l.ctx, key, client.ReadOptions{})
	since := time.Since(l.set0[key])
	switch {
	case errors.Is(err, client.ErrNotFound):
		if since < ttl {
			l.t.Errorf("%s lives for %s and is gone after %s", key, ttl, since)
		}
		return false
	case err != nil:
		l.t.Fatal(err)
	case time.Duration(e.RemainingMS)*time.Millisecond > ttl:
		l.t.Errorf("%s, set for %s, lives for another %d ms", key, ttl, e.RemainingMS)
	}
	return true
}

// ends waits until a key is gone.
func (l *clockLab) ends(key string, ttl time.Duration) {
	l.t.Helper()
	if err := cluster.Wait(l.ctx, key+" ends", func(context.Context) (bool, error) {
		return !l.there(key, ttl), fmt.Errorf("it was set %s ago", time.Since(l.set0[key]))
	}); err != nil {
		l.t.Fatal(err)
	}
}

// says waits until the status of each of the agents has a line about its clock.
func (l *clockLab) says(by time.Duration, agents ...*cluster.Agent) {
	l.t.Helper()
	off := by.Abs().Round(time.Hour).String()
	for _, a := range agents {
		if err := cluster.Wait(l.ctx, a.Name+" says that its clock is wrong", func(context.Context) (bool, error) {
			out := must(l.t, a, "status")
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "notice") && strings.Contains(line, "wall clock") && (strings.Contains(line, off) || by.Abs() > 1000*time.Hour) {
					return true, nil
				}
			}
			return false, errors.New(out)
		}); err != nil {
			l.t.Fatal(err)
		}
	}
}

// right waits until nothing is wrong with the clocks any more.
func (l *clockLab) right(agents ...*cluster.Agent) {
	l.t.Helper()
	for _, a := range agents {
		if err := cluster.Wait(l.ctx, a.Name+" says nothing of its clock", func(ctx context.Context) (bool, error) {
			s, err := a.Status(ctx)
			return err == nil && s.ClockProblem == "", fmt.Errorf("%s, %w", s.ClockProblem, err)
		}); err != nil {
			l.t.Fatal(err)
		}
	}
}

// backup makes one, and looks at it.
func (l *clockLab) backup(a *cluster.Agent) {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "backup")
	must(l.t, a, "backup", file)
	must(l.t, a, "backup", "verify", file)
}

// elect has another voter lead, without being asked.
func (l *clockLab) elect() {
	l.t.Helper()
	old, _ := l.cast()
	if err := old.Pause(); err != nil {
		l.t.Fatal(err)
	}
	err := cluster.Wait(l.ctx, "another voter leads", func(ctx context.Context) (bool, error) {
		for _, a := range l.c.Voters() {
			if a == old {
				continue
			}
			if s, err := a.Status(ctx); err == nil && s.Voter != nil && s.Voter.Serving {
				return true, nil
			}
		}
		return false, nil
	})
	if e := old.Resume(); err != nil || e != nil {
		l.t.Fatal(errors.Join(err, e))
	}
}

// restart kills an agent, whose clock is wrong again when it comes back.
func (l *clockLab) restart(a *cluster.Agent, by time.Duration) {
	l.t.Helper()
	if err := a.Kill(); err != nil {
		l.t.Fatal(err)
	}
	startWrong(l.ctx, l.t, a, by)
	if err := a.WaitServing(l.ctx); err != nil {
		l.t.Fatal(err)
	}
}
