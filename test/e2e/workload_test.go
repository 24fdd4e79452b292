package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
	"github.com/kahu-sh/kahu/test/history"
)

const (
	// patience is the clients' deadline, within which a change of leader is no error.
	patience = 15 * time.Second
	// pace keeps histories small enough to judge.
	pace = 4 * time.Millisecond
	// judging bounds the judgement of one object.
	judging = 2 * time.Minute
	// leaseBeyondTest is a lease that no test outlives, as the model wants it.
	leaseBeyondTest = 12 * time.Hour
)

// A workload is clients on all agents that ask all the time, and a record of
// what they were answered. Those on proxies never lose their agent, so for
// them an error is a failure of the service.
type workload struct {
	t       *testing.T
	history *history.Recorder
	end     context.CancelFunc
	group   sync.WaitGroup

	acknowledged atomic.Int64 // when the last change was acknowledged that was asked for on a proxy: its call, Unix nanoseconds
}

// startWorkload starts the clients; they end with stop, or with the test.
func startWorkload(t *testing.T, c *cluster.Cluster) *workload {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &workload{t: t, history: history.NewRecorder(), end: cancel}
	t.Cleanup(w.stop)
	must(t, c.Agents[0], "seq", "create", "s0")
	must(t, c.Agents[0], "seq", "create", "s1")
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
		changed, err := w.question(asking, c, name, n, revisions)
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

// question asks one thing. changed says that a change was acknowledged. An
// error is one that a user would see.
func (w *workload) question(ctx context.Context, c *client.Client, name string, n int, revisions map[string]int64) (changed bool, err error) {
	key := fmt.Sprintf("k%d", rand.IntN(4))
	sequence := fmt.Sprintf("s%d", rand.IntN(2))
	value := fmt.Sprintf("%s.%d", name, n)
	switch rand.IntN(6) {
	case 0:
		p := w.history.Set(key, value)
		got, err := c.KVSet(ctx, key, []byte(value), client.WriteOptions{})
		return w.wrote(p, got, err)
	case 1:
		revision := revisions[key]
		p := w.history.SetIf(key, value, revision)
		got, err := c.KVSet(ctx, key, []byte(value), client.WriteOptions{If: client.Condition{Revision: &revision}})
		return w.wrote(p, got, err)
	case 2, 3:
		p := w.history.Get(key)
		got, err := c.KVGet(ctx, key, client.ReadOptions{})
		switch {
		case errors.Is(err, client.ErrNotFound):
			p.Missing()
			return false, nil
		case err != nil:
			p.Never() // a read without an answer says nothing
			return false, err
		}
		revisions[key] = got.Revision
		p.Found(got.Revision, string(got.Value))
		return false, nil
	case 4:
		p := w.history.Next(sequence, 1)
		got, err := c.SequenceNext(ctx, sequence, "")
		if err != nil {
			return false, unanswered(p, err)
		}
		p.Got(got.Start, got.End)
		return true, nil
	}
	return w.pair(ctx, c, value)
}

// wrote records what became of a set.
func (w *workload) wrote(p *history.Pending, got wire.Written, err error) (bool, error) {
	var failed *client.ConditionError
	switch {
	case errors.As(err, &failed):
		p.Refused(failed.Revision)
		return true, nil
	case err != nil:
		return false, unanswered(p, err)
	}
	p.Done(got.Revision)
	return true, nil
}

// pair tries a lock and gives it back.
func (w *workload) pair(ctx context.Context, c *client.Client, owner string) (bool, error) {
	const lock = "gate"
	p := w.history.Try(lock, owner)
	got, err := c.LockTry(ctx, lock, []byte(owner), leaseBeyondTest, client.LockOptions{})
	switch {
	case errors.Is(err, client.ErrBusy):
		p.Busy()
		return true, nil
	case err != nil:
		err = unanswered(p, err)
		w.giveBack(c, lock, owner) // it may be ours, and nobody else would ever get it
		return false, err
	}
	p.Granted(got.Token)
	p = w.history.Unlock(lock, owner)
	if err := c.LockUnlock(ctx, lock, []byte(owner), client.LockOptions{}); err != nil {
		err = unanswered(p, err)
		w.giveBack(c, lock, owner)
		return false, err
	}
	p.Unlocked(true)
	return true, nil
}

// giveBack unlocks until there is an answer.
func (w *workload) giveBack(c *client.Client, lock, owner string) {
	for w.t.Context().Err() == nil {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		p := w.history.Unlock(lock, owner)
		err := c.LockUnlock(ctx, lock, []byte(owner), client.LockOptions{})
		switch {
		case err == nil:
			p.Unlocked(true)
		case errors.Is(err, client.ErrNotFound), errors.Is(err, client.ErrNotOwner):
			p.Unlocked(false)
			err = nil
		default:
			_ = unanswered(p, err)
		}
		if err == nil {
			cancel()
			return
		}
		select { // not too often: the agent is being started again
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		cancel()
	}
}

// unanswered records a change without an answer, and returns the error.
func unanswered(p *history.Pending, err error) error {
	if errors.Is(err, client.ErrNoAgent) || errors.Is(err, client.ErrUnavailable) {
		p.Never()
	} else {
		p.Unknown()
	}
	return err
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
