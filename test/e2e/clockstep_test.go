package e2e_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/clocks"
	"github.com/kahu-sh/kahu/test/cluster"
)

// Somebody sets the wall clocks of all hosts, agents, guards and commands, by a day
// and back by two, and then that of the leader by a century. Whoever holds a lock
// under a lease of seconds keeps it with its token, a key that lives for ten minutes
// lives, and both end as they should. The labels of writes tell that the clocks were
// seen: they follow all voters, not one, and never go back.
func TestStepsOfTheWallClockLoseNothing(t *testing.T) {
	if !clocks.Supported {
		t.Skipf("SKIPPED: no clock can be shifted on %s", runtime.GOARCH)
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const ttl, day = 6 * time.Second, 24 * time.Hour
	c := startCluster(t, cluster.Options{Voters: 3})
	ctx := bounded(t, 2*time.Minute)
	a := c.Agents[0]
	asks := a.Dial()
	defer asks.Close()

	guard := a.Command(ctx, "exec", "--lock", "job", "--ttl", ttl.String(), "--grace", "200ms", "--", "sleep", "600")
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	held := func() (int64, error) {
		l, err := asks.LockInfo(ctx, "job", client.LockOptions{})
		return l.Token, err
	}
	if err := cluster.Wait(ctx, "the lock is held", func(context.Context) (bool, error) {
		_, err := held()
		return err == nil && len(descendants(t, guard.Process.Pid)) > 2, err
	}); err != nil {
		t.Fatal(err)
	}
	token, _ := held()
	if _, err := asks.KVSet(ctx, "lives", nil, client.WriteOptions{TTL: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	writes := 0
	// ahead is how far the label of a write that is made now is from the time.
	ahead := func() time.Duration {
		t.Helper()
		writes++
		before := time.Now()
		if _, err := asks.KVSet(ctx, "label", fmt.Append(nil, writes), client.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		e, err := asks.KVGet(ctx, "label", client.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		label, err := time.Parse(time.RFC3339, e.Modified)
		if err != nil {
			t.Fatal(err)
		}
		return label.Sub(before)
	}
	step := func(by time.Duration, agents ...*cluster.Agent) {
		t.Helper()
		pids := append(descendants(t, guard.Process.Pid), guard.Process.Pid)
		for _, a := range agents {
			pids = append(pids, a.Pid())
		}
		if n, err := clocks.Shift(ctx, by, pids...); err != nil || n != len(pids) {
			t.Fatalf("stepping %v by %s: %d, %v", pids, by, n, err)
		}
	}
	stays := func(when string) {
		t.Helper()
		pause(ctx, ttl+ttl/4) // longer than a lease that is not renewed
		now, err := held()
		if err != nil || now != token || len(descendants(t, guard.Process.Pid)) <= 2 {
			t.Fatalf("%s: the lock is under token %d, was %d (%v), and kahu exec has the processes %v",
				when, now, token, err, descendants(t, guard.Process.Pid))
		}
		e, err := asks.KVGet(ctx, "lives", client.ReadOptions{})
		if err != nil || e.RemainingMS < (8*time.Minute).Milliseconds() || e.RemainingMS > (10*time.Minute).Milliseconds() {
			t.Errorf("%s: the key that lives for ten minutes: %+v, %v", when, e, err)
		}
	}

	step(day, c.Agents...)
	if err := cluster.Wait(ctx, "labels follow all voters", func(context.Context) (bool, error) {
		d := ahead()
		return d > day-time.Hour, fmt.Errorf("they are %s ahead", d)
	}); err != nil {
		t.Fatal(err)
	}
	step(-day, c.Agents...)
	stays("a day ahead, then a day behind")
	if d := ahead(); d < day-time.Hour {
		t.Errorf("after the clocks were set back labels are %s ahead, and were a day", d)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step(100*365*day, leader)
	stays("a century ahead")
	if d := ahead(); d > 2*day {
		t.Errorf("labels follow the leader's clock alone: %s ahead", d)
	}
	if err := guard.Cancel(); err != nil {
		t.Fatal(err)
	}
	_ = guard.Wait() // killed
	if err := cluster.Wait(ctx, "the lock of a guard that was killed is free", func(context.Context) (bool, error) {
		_, err := held()
		return err != nil, nil
	}); err != nil {
		t.Error(err)
	}
}
