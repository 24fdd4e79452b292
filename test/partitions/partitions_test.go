package partitions_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// binary is the kahu under test, built once.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kahu-partitions-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = cluster.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// soak reports whether the long tests shall be long.
func soak() bool { return os.Getenv("KAHU_SOAK") != "" }

// bounded is the test's context with a deadline of its own.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("the test's bound of %s is over", d))
	t.Cleanup(cancel)
	return ctx
}

// startHosts starts three voters and two proxies, each on a host of its own.
func startHosts(t *testing.T) (*lab, *cluster.Cluster) {
	t.Helper()
	l := newLab(t, 5)
	c, err := cluster.Start(bounded(t, time.Minute), cluster.Options{Binary: binary, Voters: 3, Proxies: 2, Places: l.places(),
		Args: []string{"--gossip", "local"}}) // it takes somebody for gone after seconds
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ends of the agents' logs:\n%s", c.Logs(40))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	l.settle(c)
	return l, c
}

// castNow says who plays what.
func castNow(ctx context.Context, t *testing.T, l *lab, c *cluster.Cluster) cast {
	t.Helper()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	now := cast{all: l.hosts}
	for _, h := range l.hosts {
		switch {
		case h.agent == leader:
			now.leader = h
		case h.agent.Voter:
			now.followers = append(now.followers, h)
		default:
			now.proxies = append(now.proxies, h)
		}
	}
	return now
}

const (
	// changesInside are wanted on each serving host while a partition stands, and
	// more where nothing else makes it last.
	changesInside     = 100
	moreChangesInside = 300
	// settled is how long after a cut an answer may still come from before it: a
	// request that crossed the wire, a leader that has not noticed.
	settled = 3 * time.Second
)

// Hosts lose each other in every way, under load. The service is linearizable
// throughout, goes on where a quorum is reached, and no lock has two holders.
func TestPartitions(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	l, c := startHosts(t)
	r := &registry{}
	holding, end := context.WithCancel(t.Context())
	var holders sync.WaitGroup
	stopHolders := func() { end(); holders.Wait() }
	t.Cleanup(stopHolders)
	for _, h := range l.hosts {
		holders.Go(func() { r.hold(holding, h, own(h), true) })
		for i := range 3 {
			holders.Go(func() { r.hold(holding, h, fmt.Sprintf("shared/%d", i), false) })
		}
	}
	waitOwn(bounded(t, time.Minute), t, l, r)
	for _, h := range l.hosts { // rivals, who get it when its own host is cut off
		for _, other := range l.hosts {
			if h != other {
				holders.Go(func() { r.hold(holding, h, own(other), false) })
			}
		}
	}
	for _, s := range shapes {
		if s.short || soak() {
			t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) { run(t, l, c, r, s) })
		}
	}
	stopHolders()
	r.judge(t)
	t.Logf("locks were held %d times, %d of them lost", r.count(func(*tenure) bool { return true }), r.count(func(t *tenure) bool { return t.lost }))
}

// run puts one partition on the cluster, heals it, and judges.
func run(t *testing.T, l *lab, c *cluster.Cluster, r *registry, s shape) {
	ctx := bounded(t, 90*time.Second)
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	l.t = t
	w := startLoad(t, l, s.name+"/")
	w.waitForChanges(ctx, l.hosts, 20, time.Now())
	waitOwn(ctx, t, l, r)
	who := castNow(ctx, t, l, c)
	p := s.make(who)
	cut, cutAt, open := time.Now(), boottime(), w.open.Load()
	l.cut(p.drops)
	standing := time.Now()
	defer l.heal() // when the test ends before

	w.waitForChanges(ctx, p.serving, 1, standing)
	back := time.Since(cut)
	changes := changesInside
	if len(p.starved) == 0 {
		changes = moreChangesInside
	}
	w.waitForChanges(ctx, p.serving, changes, standing)
	waitStarved(ctx, t, w, r, p, standing, cutAt)
	dropped := waitMet(ctx, t, l, p)
	if p.gossip {
		waitGossip(ctx, t, l, len(l.hosts)-1)
		w.waitForChanges(ctx, p.serving, changesInside, time.Now())
	}
	healing := time.Now()
	l.heal()
	w.waitForChanges(ctx, l.hosts, 20, time.Now())
	healed := time.Since(healing)
	if p.gossip {
		waitGossip(ctx, t, l, 0)
		t.Logf("gossip has healed after %s", time.Since(healing).Round(time.Millisecond))
	}
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.judge()

	inside := w.count(l.hosts, func(a answer) bool { return a.asked.After(standing) && a.answered.Before(healing) && a.err == nil })
	refused := w.count(l.hosts, func(a answer) bool { return a.asked.Before(healing) && a.answered.After(cut) && a.err != nil })
	t.Logf("the cut stood for %s; %d operations were in flight when it came, %d were answered within it and %d failed; each serving host had a change acknowledged after %s, all hosts again %s after the heal; packets dropped: %s",
		healing.Sub(cut).Round(time.Millisecond), open, inside, refused, back.Round(time.Millisecond), healed.Round(time.Millisecond), text(dropped))
	if failed := w.errorsSeen(p.serving, func(a answer) bool { return a.asked.Before(healing) && a.answered.After(cut) }); len(failed) > 0 {
		t.Logf("of them on serving hosts:\n%s", strings.Join(failed, "\n"))
	}
	proved(t, p, w, r, standing, healing, cutAt, back, inside)
}

// own is the lock that a host keeps for as long as it can.
func own(h *host) string { return "own/" + h.name }

// waitOwn waits until each host holds its own lock.
func waitOwn(ctx context.Context, t *testing.T, l *lab, r *registry) {
	t.Helper()
	err := cluster.Wait(ctx, "every host holds its own lock", func(context.Context) (bool, error) {
		return r.count(func(t *tenure) bool { return t.till == 0 && t.lock == own(t.host) }) == len(l.hosts), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// waitStarved waits until each starved host has been refused something and has
// lost its own lock, and, where somebody serves, until that lock was held there.
func waitStarved(ctx context.Context, t *testing.T, w *load, r *registry, p partition, standing time.Time, cutAt time.Duration) {
	t.Helper()
	for _, h := range p.starved {
		err := cluster.Wait(ctx, h.name+" is refused, and loses its lock", func(context.Context) (bool, error) {
			refused := w.count(one(h), func(a answer) bool { return a.asked.After(standing) && a.err != nil })
			lost := r.count(func(t *tenure) bool { return t.host == h && t.lock == own(h) && t.lost && t.till > cutAt })
			return refused > 0 && lost > 0, fmt.Errorf("%d refused, %d lost", refused, lost)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(p.serving) == 0 || len(p.starved) == 0 {
		return
	}
	for _, h := range p.starved {
		err := cluster.Wait(ctx, "the lock of "+h.name+" is held on a serving host", func(context.Context) (bool, error) {
			return r.count(func(t *tenure) bool { return t.lock == own(h) && t.from > cutAt && slices.Contains(p.serving, t.host) }) > 0, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// packetsMet are wanted before a partition counts as met: not only one that was
// under way.
const packetsMet = 5

// waitMet waits until every host that shall be denied something was, and
// returns how much.
func waitMet(ctx context.Context, t *testing.T, l *lab, p partition) (dropped map[*host]int) {
	t.Helper()
	err := cluster.Wait(ctx, "packets are dropped before every host that is cut off", func(context.Context) (bool, error) {
		dropped = l.dropped()
		for _, d := range p.drops {
			if dropped[d.to] < packetsMet {
				return false, fmt.Errorf("%s was denied %d packets", d.to.name, dropped[d.to])
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dropped
}

// proved fails a run that shows nothing, or that cost what it may not.
func proved(t *testing.T, p partition, w *load, r *registry, standing, healing time.Time, cutAt, back time.Duration, inside int) {
	t.Helper()
	if inside == 0 && len(p.serving) > 0 {
		t.Error("no operation was answered while the partition stood: this shows nothing")
	}
	late := w.count(p.starved, func(a answer) bool {
		return a.changed && a.asked.After(standing.Add(settled)) && a.answered.Before(healing)
	})
	if late > 0 {
		t.Errorf("%d changes asked for on hosts without a quorum, %s and more after the cut, were acknowledged within it", late, settled)
	}
	for _, h := range p.serving {
		lost := r.count(func(t *tenure) bool { return t.host == h && t.lost && t.till > cutAt })
		switch {
		case lost > 0 && back > holdTTL/2:
			t.Logf("%s lost %d holds; not judged, since the machine took %s for an election", h.name, lost, back)
		case lost > 0:
			t.Errorf("%s, which reached a quorum again after %s, lost %d holds", h.name, back, lost)
		}
	}
	if !p.calm {
		return
	}
	if failed := w.errorsSeen(slices.Concat(p.serving, p.starved), func(a answer) bool { return a.answered.After(standing) }); len(failed) > 0 {
		t.Errorf("questions failed in a partition that touches no quorum:\n%s", strings.Join(failed, "\n"))
	}
}

// waitGossip waits until on each host gossip takes so many others for gone.
func waitGossip(ctx context.Context, t *testing.T, l *lab, gone int) {
	t.Helper()
	alive := len(l.hosts) - gone
	for _, h := range l.hosts {
		c := h.agent.Dial()
		err := cluster.Wait(ctx, fmt.Sprintf("gossip on %s counts %d alive", h.name, alive), func(ctx context.Context) (bool, error) {
			text, err := c.Metrics(ctx)
			if err != nil {
				return false, err
			}
			for line := range strings.Lines(string(text)) {
				if n, ok := strings.CutPrefix(strings.TrimSpace(line), `kahu_gossip_members{state="alive"} `); ok {
					return n == fmt.Sprint(alive), fmt.Errorf("it counts %s", n)
				}
			}
			return false, errors.New("it counts nobody")
		})
		_ = c.Close() // always nil
		if err != nil {
			t.Fatal(err)
		}
	}
}

// text is numbers by host, in one line.
func text(numbers map[*host]int) string {
	var parts []string
	for h, n := range numbers {
		parts = append(parts, fmt.Sprintf("%s %d", h.name, n))
	}
	return strings.Join(parts, ", ")
}
