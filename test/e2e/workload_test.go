package e2e_test

import (
	"context"
	"fmt"
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
	// patience is the clients' deadline, within which a change of leader is no error.
	patience = 15 * time.Second
	// pace keeps histories small enough to judge.
	pace = 4 * time.Millisecond
	// judging bounds the judgement of one object.
	judging = 2 * time.Minute
)

// A workload is clients on all agents that ask all the time, and a record of
// what they were answered. Those on proxies never lose their agent, so for
// them an error is a failure of the service.
type workload struct {
	t       *testing.T
	history *history.Recorder
	asker   *questions.Asker
	end     context.CancelFunc
	group   sync.WaitGroup

	acknowledged atomic.Int64 // when the last change was acknowledged that was asked for on a proxy: its call, Unix nanoseconds
}

// startWorkload starts the clients; they end with stop, or with the test.
func startWorkload(t *testing.T, c *cluster.Cluster) *workload {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &workload{t: t, history: history.NewRecorder(), end: cancel}
	w.asker = &questions.Asker{History: w.history, Locks: 1, Patience: patience}
	t.Cleanup(w.stop)
	first := c.Agents[0].Dial()
	defer first.Close()
	if err := w.asker.Prepare(ctx, first); err != nil {
		t.Fatal(err)
	}
	for i, a := range c.Agents {
		workers := 1
		if !a.Voter {
			workers = 3
		}
		for j := range workers {
			w.group.Go(func() { w.client(ctx, a, fmt.Sprintf("client%d.%d", i, j)) })
		}
	}
	return w
}

// stop ends the clients and waits for them.
func (w *workload) stop() {
	w.end()
	w.group.Wait()
	w.asker.Wait()
}

// judge fails the test for every object whose history cannot have happened.
func (w *workload) judge() {
	w.t.Helper()
	began := time.Now()
	for _, sentence := range w.history.Check(judging) {
		w.t.Error(sentence)
	}
	w.t.Logf("judged %d operations in %s", w.history.Count(), time.Since(began).Round(time.Millisecond))
}

// waitForOperations waits until so many more were recorded.
func (w *workload) waitForOperations(ctx context.Context, n int) {
	w.t.Helper()
	from := w.history.Count()
	if err := cluster.Wait(ctx, fmt.Sprintf("%d more operations are done", n), func(context.Context) (bool, error) {
		return w.history.Count() >= from+n, nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// waitForAcknowledged waits until a change was acknowledged that was asked for after t.
func (w *workload) waitForAcknowledged(ctx context.Context, t time.Time) {
	w.t.Helper()
	if err := cluster.Wait(ctx, "a change is acknowledged again", func(context.Context) (bool, error) {
		return w.acknowledged.Load() > t.UnixNano(), nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// client asks one agent, one question after the other.
func (w *workload) client(ctx context.Context, a *cluster.Agent, name string) {
	c := a.Dial()
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
		asked := time.Now()
		changed, err := w.asker.Question(asking, w.t.Context(), c, name, n, revisions)
		cancel()
		switch {
		case err == nil && changed && !a.Voter:
			w.acknowledged.Store(asked.UnixNano())
		case err != nil && !a.Voter:
			w.t.Errorf("a client on %s, which was never killed, got an error after %s: %v", a.Name, time.Since(asked).Round(time.Millisecond), err)
		case err != nil:
			// Its agent may have been killed: wait for it, and do not spin.
			_ = a.WaitServing(ctx)
		}
	}
}

// quantile is the q-th of some durations; q is 0 to 1.
func quantile(d []time.Duration, q float64) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[int(q*float64(len(d)-1))]
}

// spread is some durations in one line.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	at := func(q float64) time.Duration { return quantile(d, q).Round(100 * time.Microsecond) }
	return fmt.Sprintf("least %s, median %s, p99 %s, most %s", at(0), at(0.5), at(0.99), at(1))
}

// storages are the engines that the binary has and that survive a crash.
func storages(t *testing.T) []string {
	t.Helper()
	rocks, err := cluster.HaveRocksDB(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	if rocks {
		return []string{"sqlite", "rocksdb"}
	}
	t.Log("SKIPPED for rocksdb: the binary was built without it")
	return []string{"sqlite"}
}
