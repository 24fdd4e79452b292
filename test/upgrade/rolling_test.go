package upgrade_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/test/cluster"
)

const (
	current = statemachine.CurrentLevel
	before  = current - 1
)

// older makes an agent's next start that of the build before.
func older(a *cluster.Agent) {
	if a.Binary = os.Getenv("KAHU_BEFORE"); a.Binary == "" {
		a.Args = []string{"--feature-level-cap", strconv.Itoa(int(before))}
	}
}

// newer makes it that of this build.
func newer(a *cluster.Agent) { a.Binary, a.Args = "", nil }

// level waits until a voter has applied a state of this feature level.
func level(ctx context.Context, t *testing.T, a *cluster.Agent, want uint32) {
	t.Helper()
	if err := cluster.Wait(ctx, fmt.Sprintf("%s has feature level %d", a.Name, want), func(ctx context.Context) (bool, error) {
		s, err := a.Status(ctx)
		if err != nil || s.Voter == nil {
			return false, err
		}
		return s.Voter.Level == want, fmt.Errorf("it has %d", s.Voter.Level)
	}); err != nil {
		t.Fatal(err)
	}
}

// raised waits for the level of this build.
func raised(ctx context.Context, t *testing.T, a *cluster.Agent) { level(ctx, t, a, current) }

// refusesToStart starts an agent whose data are of a newer build: it ends by itself
// and says so in one line.
func refusesToStart(ctx context.Context, t *testing.T, a *cluster.Agent) {
	t.Helper()
	last := endsByItself(ctx, t, a)
	if !strings.Contains(last, "written by a newer kahu") || !strings.Contains(last, fmt.Sprintf("knows up to %d", before)) {
		t.Errorf("%s ended with: %s", a.Name, last)
	}
}

// endsByItself starts an agent, waits for its end, and returns its last line.
func endsByItself(ctx context.Context, t *testing.T, a *cluster.Agent) string {
	t.Helper()
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Wait(ctx, a.Name+" has ended", func(context.Context) (bool, error) {
		return !a.Running(), errors.New("it runs")
	}); err != nil {
		t.Fatal(err)
	}
	return a.LogTail(1)
}

// Agents are upgraded one by one under load, taken back while one voter is still of
// the build before, and upgraded again, all of them: no write is lost, no number comes
// twice, no hold is lost and no token changes. Then the level rises by itself, and the
// build before is refused.
func TestRollingUpgradeBothWays(t *testing.T) {
	c := newCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx := bounded(t, 4*time.Minute)
	for _, a := range c.Agents {
		older(a)
	}
	start(ctx, t, c.Agents...)
	level(ctx, t, c.Agents[0], before)
	l := beginLoad(ctx, t, c)
	last := c.Voters()[2]
	some := []*cluster.Agent{c.Proxies()[0], c.Voters()[0], c.Voters()[1]}
	for i, to := range []func(*cluster.Agent){newer, older, newer} {
		for j, a := range some {
			replace(ctx, t, c, a, to, (i+j)%2 == 1)
			l.goesOn(ctx, t)
			level(ctx, t, last, before)
		}
	}
	replace(ctx, t, c, last, newer, false)
	for _, v := range c.Voters() {
		raised(ctx, t, v)
	}
	l.goesOn(ctx, t)
	l.finish(ctx, t)

	// Too late to go back: one that tries ends at once, and the others go on.
	one := c.Voters()[0]
	if err := one.Terminate(); err != nil {
		t.Fatal(err)
	}
	older(one)
	refusesToStart(ctx, t, one)
	if text, ok := says(t, c.Proxies()[0], "kv", "set", "k", "still"); !ok {
		t.Errorf("without the voter that went back: %s", text)
	}
	newer(one)
	start(ctx, t, one)
}

// replace ends an agent, orderly or by kill -9, starts its other build, and waits
// until it has what the others have: the next one may go then.
func replace(ctx context.Context, t *testing.T, c *cluster.Cluster, a *cluster.Agent, to func(*cluster.Agent), kill bool) {
	t.Helper()
	end := a.Terminate
	if kill {
		end = a.Kill
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	to(a)
	start(ctx, t, a)
	if !a.Voter {
		return
	}
	if err := cluster.Wait(ctx, a.Name+" has caught up", func(ctx context.Context) (bool, error) {
		leader, err := c.Leader(ctx)
		if err != nil {
			return false, err
		}
		theirs, err := leader.Status(ctx)
		if err != nil || theirs.Voter == nil {
			return false, err
		}
		own, err := a.Status(ctx)
		if err != nil || own.Voter == nil {
			return false, err
		}
		return own.Voter.AppliedIndex >= theirs.Voter.AppliedIndex, errors.New("it is behind")
	}); err != nil {
		t.Fatal(err)
	}
}

// load is what goes on meanwhile through every agent: numbers of one sequence, a key
// that each worker sets and reads back, and a lock that is held all the time.
type load struct {
	stop    context.CancelFunc
	workers sync.WaitGroup
	holds   []*client.Hold
	tokens  []int64

	mu     sync.Mutex
	given  map[int64]string // number → who got it
	rounds []int            // of each worker
	failed []error
}

func beginLoad(ctx context.Context, t *testing.T, c *cluster.Cluster) *load {
	t.Helper()
	if text, ok := says(t, c.Agents[0], "seq", "create", "numbers"); !ok {
		t.Fatal(text)
	}
	ctx, stop := context.WithCancel(ctx)
	l := &load{stop: stop, given: map[int64]string{}, rounds: make([]int, len(c.Agents))}
	t.Cleanup(func() { stop(); l.workers.Wait() })
	for i, a := range c.Agents {
		cl := a.Dial()
		t.Cleanup(func() { cl.Close() })
		hold, err := cl.Hold(ctx, client.HoldOptions{Lock: fmt.Sprintf("held%d", i), TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hold.Close() })
		l.holds, l.tokens = append(l.holds, hold), append(l.tokens, hold.Token())
		l.workers.Go(func() { l.work(ctx, i, cl) }) // ends with ctx
	}
	return l
}

// work repeats rounds until ctx ends, or something that was answered is not true.
func (l *load) work(ctx context.Context, i int, cl *client.Client) {
	for round := 1; ctx.Err() == nil; round++ {
		err := l.round(ctx, i, round, cl)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		if err != nil {
			l.failed = append(l.failed, fmt.Errorf("worker %d, round %d: %w", i, round, err))
		} else {
			l.rounds[i] = round
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (l *load) round(ctx context.Context, i, round int, cl *client.Client) error {
	who := fmt.Sprintf("worker %d, round %d", i, round)
	var got wire.Allocation
	if err := insist(ctx, func() (err error) {
		got, err = cl.SequenceNext(ctx, "numbers", who) // the key makes asking again safe
		return err
	}); err != nil {
		return err
	}
	l.mu.Lock()
	other, twice := l.given[got.Start]
	l.given[got.Start] = who
	l.mu.Unlock()
	if twice {
		return fmt.Errorf("it got number %d, which %s has", got.Start, other)
	}
	key := fmt.Sprint("worker", i)
	if err := insist(ctx, func() error {
		_, err := cl.KVSet(ctx, key, []byte(who), client.WriteOptions{})
		return err
	}); err != nil {
		return err
	}
	var entry wire.Entry
	if err := insist(ctx, func() (err error) {
		entry, err = cl.KVGet(ctx, key, client.ReadOptions{})
		return err
	}); err != nil {
		return err
	}
	if string(entry.Value) != who {
		return fmt.Errorf("it reads %q after it has set its own", entry.Value)
	}
	return nil
}

// insist asks again while its agent is being replaced.
func insist(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, client.ErrNoAgent), errors.Is(err, client.ErrUnavailable), errors.Is(err, client.ErrUnknownOutcome):
		default:
			return err
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// goesOn waits until every worker has done some rounds more, and looks at the holds.
func (l *load) goesOn(ctx context.Context, t *testing.T) {
	t.Helper()
	rounds := func() []int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Clone(l.rounds)
	}
	from := rounds()
	if err := cluster.Wait(ctx, "every worker goes on", func(context.Context) (bool, error) {
		l.mu.Lock()
		failed := errors.Join(l.failed...)
		l.mu.Unlock()
		if failed != nil {
			t.Fatal(failed)
		}
		for i, n := range rounds() {
			if n < from[i]+5 {
				return false, fmt.Errorf("worker %d has done %d rounds", i, n-from[i])
			}
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	for i, h := range l.holds {
		if s := h.State(); s != wire.HoldHeld && s != wire.HoldAtRisk || h.Token() != l.tokens[i] {
			t.Fatalf("the hold at agent %d is %s under token %d, it began with %d: %v", i, s, h.Token(), l.tokens[i], h.Err())
		}
	}
}

// finish ends the load, and counts what was given out.
func (l *load) finish(ctx context.Context, t *testing.T) {
	t.Helper()
	l.stop()
	l.workers.Wait()
	for i, h := range l.holds {
		if err := h.Release(ctx); err != nil {
			t.Errorf("the hold at agent %d: %v", i, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.failed {
		t.Error(err)
	}
	done := 0
	for _, n := range l.rounds {
		done += n
	}
	if len(l.given) < done {
		t.Errorf("%d rounds were done, and %d numbers given out", done, len(l.given))
	}
	t.Logf("%d rounds", done)
}
