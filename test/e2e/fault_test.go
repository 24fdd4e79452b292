package e2e_test

import (
	"context"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// The leader is killed -9 under load, again and again. Clients on agents that
// live see delay and no error; nothing acknowledged is lost, no fencing token
// and no sequence value is given out twice.
func TestLeaderKilledUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	kills := 20
	if soak() {
		kills = 100
	}
	ctx := bounded(t, time.Duration(kills)*20*time.Second)
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 2})
	w := startWorkload(t, c)

	var without []time.Duration
	met := 0 // operations in flight at the instants of the kills
	for i := range kills {
		leader, err := c.Leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w.waitForOperations(ctx, 200)
		before := w.history.Count()
		met += w.history.InFlight()
		killed := time.Now()
		if err := leader.Kill(); err != nil {
			t.Fatal(err)
		}
		w.waitForAcknowledged(ctx, killed)
		without = append(without, time.Since(killed))
		w.waitForOperations(ctx, 100)
		if w.history.Count() == before {
			t.Errorf("kill %d: no operation during the fault; the load does not meet it", i+1)
		}
		if err := leader.Start(); err != nil {
			t.Fatal(err)
		}
		if err := leader.WaitServing(ctx); err != nil {
			t.Fatalf("after kill %d: %v", i+1, err)
		}
	}
	w.stop()
	w.judge()
	if met == 0 {
		t.Error("no operation was in flight at any of the kills; the load does not meet them")
	}
	t.Logf("%d kills, %d operations, time until the next acknowledged write: %s", kills, w.history.Count(), spread(without))
}

// A leader that is stopped for longer than an election, and continued, must
// step down without answering from the past.
func TestLeaderStoppedUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	stops := 5
	if soak() {
		stops = 40
	}
	ctx := bounded(t, time.Duration(stops)*30*time.Second)
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 2})
	w := startWorkload(t, c)
	for i := range stops {
		leader, err := c.Leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w.waitForOperations(ctx, 100)
		stopped := time.Now()
		if err := leader.Pause(); err != nil {
			t.Fatal(err)
		}
		w.waitForAcknowledged(ctx, stopped)
		w.waitForOperations(ctx, 100)
		if err := leader.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := leader.WaitServing(ctx); err != nil {
			t.Fatalf("after stop %d: %v", i+1, err)
		}
	}
	w.stop()
	w.judge()
	t.Logf("%d stops, %d operations", stops, w.history.Count())
}

// What was acknowledged is there after every agent was killed at once.
func TestEverybodyKilledAndStartedAgain(t *testing.T) {
	ctx := bounded(t, 2*time.Minute)
	for _, storage := range storages(t) {
		t.Run(storage, func(t *testing.T) {
			c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1, Storage: storage})
			a := c.Agents[0]
			must(t, a, "kv", "set", "kept", "yes")
			must(t, a, "seq", "create", "numbers")
			must(t, a, "seq", "reserve", "numbers", "41")
			must(t, a, "lock", "try", "gate", "--owner", "me", "--ttl", "10m")
			for _, a := range c.Agents {
				if err := a.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			for _, a := range c.Agents {
				if err := a.Start(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.WaitServing(ctx); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: all serve %s after they were started", storage, time.Since(began).Round(time.Millisecond))
			for _, a := range c.Agents {
				if got := must(t, a, "kv", "get", "kept"); got != "yes" {
					t.Errorf("%s reads %q", a.Name, got)
				}
			}
			if got := must(t, a, "seq", "next", "numbers"); got != "42" {
				t.Errorf("the next value is %s, want 42", got)
			}
			if s := kahu(t, a, "lock", "try", "gate", "--owner", "another"); s.code != 3 {
				t.Errorf("a lock that was held ends with %d: %s%s", s.code, s.out, s.err)
			}
			must(t, a, "lock", "unlock", "gate", "--owner", "me")
			if s := kahu(t, a, "lock", "try", "gate", "--owner", "another", "--output", "json"); s.code != 0 {
				t.Errorf("try after unlock: %s", s.err)
			}
		})
	}
}

// A follower that was away catches up and is as good as the others.
func TestFollowerRestartsAndCatchesUp(t *testing.T) {
	ctx := bounded(t, 2*time.Minute)
	c := startCluster(t, cluster.Options{Voters: 3})
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var follower *cluster.Agent
	for _, a := range c.Voters() {
		if a != leader {
			follower = a
		}
	}
	for _, end := range []func() error{follower.Terminate, follower.Kill} {
		must(t, follower, "kv", "set", "a", "before")
		if err := end(); err != nil {
			t.Fatal(err)
		}
		must(t, leader, "kv", "set", "a", "meanwhile")
		if err := follower.Start(); err != nil {
			t.Fatal(err)
		}
		if err := follower.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
		if got := must(t, follower, "kv", "get", "a"); got != "meanwhile" {
			t.Errorf("the follower reads %q", got)
		}
		waitApplied(ctx, t, leader, follower)
	}
}

// waitApplied waits until a follower has applied what the leader has, and
// compares their rolling hashes.
func waitApplied(ctx context.Context, t *testing.T, leader, follower *cluster.Agent) {
	t.Helper()
	err := cluster.Wait(ctx, follower.Name+" has applied what "+leader.Name+" has", func(ctx context.Context) (bool, error) {
		l, err := leader.Status(ctx)
		if err != nil {
			return false, err
		}
		f, err := follower.Status(ctx)
		if err != nil {
			return false, err
		}
		if l.Voter.AppliedIndex != f.Voter.AppliedIndex {
			return false, nil
		}
		if l.Voter.Hash != f.Voter.Hash {
			t.Errorf("at index %d the leader's hash is %s and the follower's %s", l.Voter.AppliedIndex, l.Voter.Hash, f.Voter.Hash)
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
