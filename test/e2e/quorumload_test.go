package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// slowestWrite is what a write may take while an operator changes who votes, with make
// soak: nobody has to be missed for any of it.
const slowestWrite = time.Second

// An operator changes who votes, and who leads, in turns, under load. Nothing that is
// written meanwhile fails, and with make soak none takes as long as an election does.
func TestTheQuorumChangesUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	rounds, callers := 1, "8"
	if soak() {
		rounds, callers = 5, "64"
	}
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 2})
	ctx := bounded(t, time.Duration(rounds)*3*time.Minute)
	load := c.Proxies()[0].Command(ctx, "bench", "put", "--callers", callers, "--warmup", "0s", "--duration", "1h")
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := load.Process.Kill(); err != nil {
			t.Errorf("the load has ended: %v", err)
		}
		_ = load.Wait() // killed
	}()
	p := startProbes(t, c)
	defer p.stop()

	members := func() map[string]wire.ClusterMember {
		t.Helper()
		var all wire.ClusterMembers
		if err := json.Unmarshal([]byte(must(t, c.Agents[0], "cluster", "members", "--output", "json")), &all); err != nil {
			t.Fatal(err)
		}
		by := map[string]wire.ClusterMember{}
		for _, m := range all.Members {
			by[m.Host] = m
		}
		return by
	}
	leads := func() (leader, follower *cluster.Agent) {
		t.Helper()
		now, err := c.Leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range c.Agents {
			if a.Voter && a != now {
				return now, a
			}
		}
		return now, nil
	}
	await := func(a *cluster.Agent, role string) {
		t.Helper()
		if err := cluster.Wait(ctx, a.Name+" is a "+role, func(context.Context) (bool, error) {
			m := members()[a.Name]
			return m.Role == role, fmt.Errorf("it is a %s", m.Role)
		}); err != nil {
			t.Fatal(err)
		}
	}
	promote := func(a *cluster.Agent) {
		t.Helper()
		p.during(ctx, "promote", func() {
			must(t, a, "cluster", "promote", a.Name)
			await(a, wire.MemberVoter)
		})
	}
	for range rounds {
		leader, follower := leads()
		p.during(ctx, "transfer-leadership", func() { must(t, leader, "cluster", "transfer-leadership", follower.Name) })
		leader, follower = leads()
		p.during(ctx, "demote a follower", func() { must(t, follower, "cluster", "demote", follower.Name) })
		await(follower, wire.MemberStandby)
		promote(follower)
		leader, follower = leads()
		p.during(ctx, "demote the leader", func() { must(t, follower, "cluster", "demote", leader.Name) })
		await(leader, wire.MemberStandby)
		promote(leader)
		_, follower = leads()
		p.during(ctx, "a follower leaves", func() { must(t, follower, "cluster", "leave") })
		promote(follower)
		leader, _ = leads()
		p.during(ctx, "the leader leaves", func() { must(t, leader, "cluster", "leave") })
		promote(leader)
	}
	p.report()
}

// probes write on every agent, one write after the other, and note how long each took.
type probes struct {
	t     *testing.T
	end   context.CancelFunc
	group sync.WaitGroup

	mu      sync.Mutex
	what    string // is done now
	took    map[string][]time.Duration
	order   []string
	writes  int
	slowest map[string]string
}

func startProbes(t *testing.T, c *cluster.Cluster) *probes {
	ctx, cancel := context.WithCancel(t.Context())
	p := &probes{t: t, end: cancel, took: map[string][]time.Duration{}, slowest: map[string]string{}}
	for _, a := range c.Agents {
		p.group.Go(func() {
			w := a.Dial()
			defer w.Close()
			for n := 0; ctx.Err() == nil; n++ {
				// It outlives stop, so that none stays unanswered.
				asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				before, began := p.now(), time.Now()
				_, err := w.KVSet(asking, "probe/"+a.Name, fmt.Append(nil, n), client.WriteOptions{})
				cancel()
				if err != nil {
					t.Errorf("a write on %s failed after %s (%s): %v", a.Name, time.Since(began), before, err)
					return
				}
				p.note(a.Name, before, began)
			}
		})
	}
	return p
}

func (p *probes) now() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.what
}

// note counts a write for what was done when it began, and when it ended.
func (p *probes) note(agent, before string, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	took := time.Since(began)
	for i, what := range []string{before, p.what} {
		if what == "" || i > 0 && what == before {
			continue
		}
		if p.took[what] == nil {
			p.order = append(p.order, what)
		}
		p.took[what] = append(p.took[what], took)
		if took > slowestWrite {
			p.slowest[what] += fmt.Sprintf(" %s on %s at %s;", took.Round(time.Millisecond), agent, began.Format("15:04:05.000"))
		}
	}
}

// during does something, and waits until writes have begun and ended within it and after.
func (p *probes) during(ctx context.Context, what string, do func()) {
	p.t.Helper()
	p.mu.Lock()
	p.what = what
	p.mu.Unlock()
	do()
	p.mu.Lock()
	more := p.writes + 50
	p.mu.Unlock()
	if err := cluster.Wait(ctx, "writes go on", func(context.Context) (bool, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.writes >= more, nil
	}); err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.what = ""
	p.mu.Unlock()
}

func (p *probes) stop() {
	p.end()
	p.group.Wait()
}

func (p *probes) report() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.order) == 0 {
		p.t.Error("nothing was written meanwhile: this shows nothing")
	}
	for _, what := range p.order {
		p.t.Logf("%s: %d writes, %s", what, len(p.took[what]), spread(p.took[what]))
		if slow := p.slowest[what]; slow != "" && soak() {
			p.t.Errorf("%s: writes took longer than %s:%s", what, slowestWrite, slow)
		}
	}
}
