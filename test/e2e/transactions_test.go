package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
	"github.com/kahu-sh/kahu/test/history"
)

// appenders are clients on all agents that append to lists and read them in
// transactions, and a record of what each run of a transaction was told.
type appenders struct {
	t     *testing.T
	begin time.Time
	end   context.CancelFunc
	group sync.WaitGroup

	round     atomic.Int64 // lists are new in each round, so that they stay short
	element   atomic.Int64
	inFlight  atomic.Int64
	committed atomic.Int64 // with an append
	conflicts atomic.Int64
	asked     atomic.Int64 // when the transaction was asked for that was committed last, of those on proxies

	mu  sync.Mutex
	txs []*history.ListTx
}

func startAppenders(t *testing.T, c *cluster.Cluster) *appenders {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &appenders{t: t, begin: time.Now(), end: cancel}
	t.Cleanup(w.stop)
	for i, a := range c.Agents {
		workers := 1
		if !a.Voter {
			workers = 3
		}
		for j := range workers {
			w.group.Go(func() { w.client(ctx, a, 10*i+j) })
		}
	}
	return w
}

func (w *appenders) stop() {
	w.end()
	w.group.Wait()
}

func (w *appenders) now() int64 { return int64(time.Since(w.begin)) }

// client runs transactions on one agent, one after the other.
func (w *appenders) client(ctx context.Context, a *cluster.Agent, number int) {
	c := a.Dial()
	defer c.Close()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*patience)
		asked := w.now()
		w.inFlight.Add(1)
		wrote, err := w.transact(asking, c, number)
		w.inFlight.Add(-1)
		cancel()
		switch {
		case err == nil && wrote:
			w.committed.Add(1)
			if !a.Voter {
				w.asked.Store(asked)
			}
		case err != nil && !a.Voter:
			w.t.Errorf("a transaction on %s, which was never killed, failed after %s: %v", a.Name, time.Duration(w.now()-asked).Round(time.Millisecond), err)
		case err != nil:
			_ = a.WaitServing(ctx) // its agent may have been killed: do not spin
		}
	}
}

// transact runs one transaction of a random kind. Each run of its function is a
// transaction of the history: those before the last were aborted, says Transact.
func (w *appenders) transact(ctx context.Context, c *client.Client, number int) (wrote bool, err error) {
	o := client.TxOptions{Timeout: patience}
	switch rand.IntN(4) {
	case 0:
		o.ReadOnly = true
	case 1:
		o.Pessimistic = true
	}
	var run *history.ListTx
	before := w.now()
	err = c.TransactWith(ctx, o, func(tx *client.Tx) error {
		if run != nil {
			run.Outcome = history.ListAborted
			w.conflicts.Add(1)
		}
		run = &history.ListTx{Client: number, Begin: before, Outcome: history.ListUnknown}
		w.mu.Lock()
		run.Name = fmt.Sprintf("T%d", len(w.txs))
		w.txs = append(w.txs, run)
		w.mu.Unlock()
		defer func() { before = w.now() }() // the next one is begun after this
		round := w.round.Load()
		wrote = false
		for range 1 + rand.IntN(4) {
			appended, err := w.operation(tx, fmt.Sprintf("list/%d/%d", round, rand.IntN(5)), run, !o.ReadOnly && rand.IntN(2) == 0)
			if err != nil {
				return err
			}
			wrote = wrote || appended
		}
		return nil
	})
	if run == nil {
		return false, err
	}
	run.End = w.now()
	switch {
	case err == nil:
		run.Outcome = history.ListCommitted
	case !errors.Is(err, client.ErrUnknownOutcome):
		run.Outcome = history.ListAborted
	}
	return wrote, err
}

// operation reads a list, and perhaps appends to it.
func (w *appenders) operation(tx *client.Tx, key string, run *history.ListTx, appends bool) (appended bool, err error) {
	e, err := tx.Get(key, client.ReadOptions{})
	if err != nil && !errors.Is(err, client.ErrNotFound) {
		return false, err
	}
	read := history.ListOp{Key: key}
	for text := range strings.SplitSeq(string(e.Value), ",") {
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return false, err
		}
		read.Read = append(read.Read, n)
	}
	run.Ops = append(run.Ops, read)
	if !appends {
		return false, nil
	}
	n := w.element.Add(1)
	// In the history before it is asked for: also what fails may have happened.
	run.Ops = append(run.Ops, history.ListOp{Key: key, Append: n})
	text := strconv.FormatInt(n, 10)
	if len(e.Value) > 0 {
		text = string(e.Value) + "," + text
	}
	_, err = tx.Set(key, []byte(text), client.WriteOptions{})
	return err == nil, err
}

// waitForCommits waits until so many more transactions have appended.
func (w *appenders) waitForCommits(ctx context.Context, n int64) {
	w.t.Helper()
	from := w.committed.Load()
	if err := cluster.Wait(ctx, fmt.Sprintf("%d more transactions are committed", n), func(context.Context) (bool, error) {
		return w.committed.Load() >= from+n, nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// waitForCommitAskedAfter waits for a commit of a transaction that began after t.
func (w *appenders) waitForCommitAskedAfter(ctx context.Context, t int64) {
	w.t.Helper()
	if err := cluster.Wait(ctx, "a transaction is committed again", func(context.Context) (bool, error) {
		return w.asked.Load() > t, nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// judge fails the test for what a strictly serializable store does not show, and
// for a history that could not have shown anything.
func (w *appenders) judge(met int64) {
	w.t.Helper()
	if err := history.CheckListAppends(w.txs, 10); err != nil {
		w.t.Error(err)
	}
	if met == 0 {
		w.t.Error("no transaction was open at any of the faults; the load does not meet them")
	}
	if w.conflicts.Load() == 0 {
		w.t.Error("no transaction met a conflict; the load proves nothing")
	}
	unknown := 0
	for _, t := range w.txs {
		if t.Outcome == history.ListUnknown {
			unknown++
		}
	}
	w.t.Logf("%d runs of transactions, %d committed with an append, %d conflicts, %d of unknown outcome, %d open at a fault",
		len(w.txs), w.committed.Load(), w.conflicts.Load(), unknown, met)
}

// Leaders are killed -9 and stopped under transactions that append to lists:
// what everybody was told fits one order of transactions, which is that of real
// time; clients on agents that live see delay and no error.
func TestTransactionsUnderFaults(t *testing.T) {
	faults := 3
	if soak() {
		faults = 60
	}
	ctx := bounded(t, time.Duration(faults)*30*time.Second)
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 2})
	w := startAppenders(t, c)
	met := int64(0)
	for i := range faults {
		leader, err := c.Leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w.round.Add(1)
		w.waitForCommits(ctx, 30)
		fault, heal := leader.Kill, leader.Start
		if i%2 == 1 {
			fault, heal = leader.Pause, leader.Resume
		}
		met += w.inFlight.Load()
		began := w.now()
		if err := fault(); err != nil {
			t.Fatal(err)
		}
		w.waitForCommitAskedAfter(ctx, began) // else the fault proved nothing, and the test fails
		w.waitForCommits(ctx, 20)
		if err := heal(); err != nil {
			t.Fatal(err)
		}
		if err := leader.WaitServing(ctx); err != nil {
			t.Fatalf("after fault %d: %v", i+1, err)
		}
	}
	w.waitForCommits(ctx, 20)
	w.stop()
	w.judge(met)
}
