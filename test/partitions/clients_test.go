package partitions_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
	"github.com/kahu-sh/kahu/test/history"
	"github.com/kahu-sh/kahu/test/questions"
)

const (
	// patience is the deadline of one operation.
	patience = 4 * time.Second
	// pace keeps histories small enough to judge.
	pace = 10 * time.Millisecond
	// clientsOnHost ask on each host.
	clientsOnHost = 2
	// judging bounds the judgement of one object.
	judging = 2 * time.Minute
)

// A load is clients on every host, and a record of what they were answered.
type load struct {
	t       *testing.T
	history *history.Recorder
	asker   *questions.Asker
	end     context.CancelFunc
	group   sync.WaitGroup

	mu      sync.Mutex
	answers map[*host][]answer
	open    atomic.Int64 // operations without an answer
}

// An answer is when something was asked and answered.
type answer struct {
	asked, answered time.Time
	changed         bool // a change that the quorum decided
	err             error
}

// startLoad starts clients that use names with this prefix, until stop or the
// test's end.
func startLoad(t *testing.T, l *lab, prefix string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &load{t: t, history: history.NewRecorder(), end: cancel, answers: map[*host][]answer{}}
	w.asker = &questions.Asker{History: w.history, Prefix: prefix, Locks: 3, Patience: patience}
	t.Cleanup(w.stop)
	first := l.hosts[0].agent.Dial()
	defer first.Close()
	if err := w.asker.Prepare(ctx, first); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.hosts {
		for i := range clientsOnHost {
			w.group.Go(func() { w.client(ctx, h, fmt.Sprintf("%s.%d", h.name, i)) })
		}
	}
	return w
}

// stop ends the clients and waits for them.
func (w *load) stop() {
	w.end()
	w.group.Wait()
	w.asker.Wait()
}

// client asks one agent, one question after the other.
func (w *load) client(ctx context.Context, h *host, name string) {
	c := h.agent.Dial()
	defer c.Close()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	revisions := map[string]int64{}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// The question outlives stop, so that none stays unanswered.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		one := answer{asked: time.Now()}
		w.open.Add(1)
		one.changed, one.err = w.asker.Question(asking, w.t.Context(), c, name, n, revisions)
		w.open.Add(-1)
		one.answered = time.Now()
		cancel()
		w.mu.Lock()
		w.answers[h] = append(w.answers[h], one)
		w.mu.Unlock()
	}
}

// count is how many answers on some hosts are as asked.
func (w *load) count(hosts []*host, is func(answer) bool) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range hosts {
		for _, a := range w.answers[h] {
			if is(a) {
				n++
			}
		}
	}
	return n
}

// waitForChanges waits until on each of the hosts so many changes were
// acknowledged that were asked for after t.
func (w *load) waitForChanges(ctx context.Context, hosts []*host, n int, t time.Time) {
	w.t.Helper()
	for _, h := range hosts {
		err := cluster.Wait(ctx, fmt.Sprintf("%d changes asked for on %s after %s are acknowledged", n, h.name, t.Format("15:04:05.000")), func(context.Context) (bool, error) {
			return w.count(one(h), func(a answer) bool { return a.changed && a.asked.After(t) }) >= n, nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// judge fails the test for every object whose history cannot have happened.
func (w *load) judge() {
	w.t.Helper()
	began := time.Now()
	for _, sentence := range w.history.Check(judging) {
		w.t.Error(sentence)
	}
	w.t.Logf("judged %d operations in %s", w.history.Count(), time.Since(began).Round(time.Millisecond))
}

// errorsSeen are the different errors of answers on some hosts as asked, with their
// number.
func (w *load) errorsSeen(hosts []*host, is func(answer) bool) (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]int{}
	for _, h := range hosts {
		for _, a := range w.answers[h] {
			if a.err != nil && is(a) {
				seen[h.name+": "+a.err.Error()]++
			}
		}
	}
	for _, text := range slices.Sorted(maps.Keys(seen)) {
		lines = append(lines, fmt.Sprintf("%d × %s", seen[text], text))
	}
	return lines
}
