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
