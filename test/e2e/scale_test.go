package e2e_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// Renewals cost a session, not a hold: an agent with 1,000 holds writes one log
// entry per interval and hardly works.
func TestIdleHoldsAreCheap(t *testing.T) {
	holds, watch := 200, 10*time.Second
	if soak() {
		holds, watch = 1000, time.Minute
	}
	if testing.Short() {
		t.Skip("watches an idle agent for seconds")
	}
	c := startCluster(t, cluster.Options{Voters: 3})
	ctx := bounded(t, 5*time.Minute)
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	keeper := c.Voters()[0] // a follower, unless there is none before the leader
	if keeper == leader {
		keeper = c.Voters()[1]
	}
	holder := keeper.Dial()
	defer holder.Close()
	const ttl = 8 * time.Second
	kept := make([]*client.Hold, holds)
	group, opening := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for i := range kept {
		group.Go(func() error {
			var err error
			kept[i], err = holder.Hold(opening, client.HoldOptions{Lock: fmt.Sprintf("hold/%d", i), TTL: ttl, Wait: time.Minute})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	began, index, cpu := time.Now(), applied(t, keeper), cpuTime(t, keeper.Pid())
	select {
	case <-time.After(watch): // the measurement itself: what an idle agent costs over time
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
	took := time.Since(began)
	entries, used := applied(t, keeper)-index, cpuTime(t, keeper.Pid())-cpu
	for i, h := range kept {
		if h.State() != "held" {
			t.Fatalf("hold %d is %q after %s", i, h.State(), took)
		}
	}
	// A renewal every TTL/4, and the leader's digest once a second.
	most := uint64(took/(ttl/4)) + uint64(took/time.Second) + 3
	t.Logf("%d holds over %s: %d log entries (renewals and digests, at most %d), %.1f %% of a core", holds, took.Round(time.Millisecond), entries, most, 100*used.Seconds()/took.Seconds())
	if entries > most {
		t.Errorf("%d log entries in %s, more than %d", entries, took, most)
	}
	if share := used.Seconds() / took.Seconds(); soak() && share > 0.03 {
		t.Errorf("an idle agent used %.1f %% of a core", 100*share)
	}
}

// A million keys do not live in memory, and a restart does not read them.
func TestMillionKeys(t *testing.T) {
	if !soak() {
		t.Skip("writes a gigabyte three times; make soak")
	}
	const keys, valueBytes = 1_000_000, 1024
	for _, storage := range storages(t) {
		t.Run(storage, func(t *testing.T) {
			ctx := bounded(t, 25*time.Minute)
			c := startCluster(t, cluster.Options{Voters: 3, Storage: storage})
			leader, err := c.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			fill(ctx, t, leader, keys, valueBytes)
			t.Logf("%d keys of %d bytes set in %s", keys, valueBytes, time.Since(began).Round(time.Second))
			for _, a := range c.Voters() {
				if rss := residentMiB(t, a.Pid()); rss > 600 {
					t.Errorf("%s has %d MiB resident, more than 600", a.Name, rss)
				} else {
					t.Logf("%s has %d MiB resident", a.Name, rss)
				}
			}
			follower := c.Voters()[0]
			if follower == leader {
				follower = c.Voters()[1]
			}
			for _, a := range []*cluster.Agent{follower, leader} {
				if err := a.Kill(); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if err := a.Start(); err != nil {
					t.Fatal(err)
				}
				if err := a.WaitServing(ctx); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("%s served %s after its start, more than 5 s", a.Name, took)
				} else {
					t.Logf("%s served %s after its start", a.Name, took.Round(time.Millisecond))
				}
				if got := must(t, a, "kv", "exists", fmt.Sprintf("million/%d", keys-1)); got != "revision 0" {
					t.Errorf("the last key has %q", got)
				}
			}
		})
	}
}

// fill sets keys million/0 and up.
func fill(ctx context.Context, t *testing.T, a *cluster.Agent, keys, valueBytes int) {
	t.Helper()
	c := a.Dial()
	defer c.Close()
	value := []byte(strings.Repeat("v", valueBytes))
	const writers = 256
	group, ctx := errgroup.WithContext(ctx)
	for w := range writers {
		group.Go(func() error {
			for i := w; i < keys; i += writers {
				if _, err := c.KVSet(ctx, fmt.Sprintf("million/%d", i), value, client.WriteOptions{}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// cpuTime is what a process has used, from /proc.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The command's name in parentheses may have spaces; behind it, user and
	// system time are fields 12 and 13.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// residentMiB is the resident memory of a process.
func residentMiB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
