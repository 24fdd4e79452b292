package voter_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/test/history"
)

// lists runs transactions that append to lists and read them, and records what
// they were told.
type lists struct {
	c      *cluster
	begin  time.Time
	broken bool // reads are made outside of the transaction: lost updates must show

	mu   sync.Mutex
	next int64
	txs  []*history.ListTx
}

func (l *lists) now() int64 { return int64(time.Since(l.begin)) }

func (l *lists) element() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return l.next
}

func (l *lists) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.txs)
}

// transact runs one transaction, optimistic or with all its keys locked first.
func (l *lists) transact(cl *client, r *rand.Rand, number int) {
	t := &history.ListTx{Client: number, Begin: l.now(), Outcome: history.ListAborted}
	a, err := cl.try(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{}}}, 20*time.Second)
	if err != nil || a.Refused() != nil {
		l.c.t.Errorf("starting a transaction: %v %v", a, err)
		return
	}
	ref := &replication.TxRef{Id: a.GetTxStarted().GetId()}
	if r.IntN(3) == 0 {
		_, _ = cl.try(&replication.Request{Op: &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: ref, Locks: []*replication.TxLockItem{
			{Kind: replication.TxLockKind_TX_LOCK_KIND_RANGE, Durability: persistent, Key: "list/", TtlMs: 5_000}}}}}, 20*time.Second)
	}
	ok := true
	for range 1 + r.IntN(4) {
		if ok = l.operation(cl, r, ref, t); !ok {
			break
		}
	}
	end, err := cl.try(&replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: ref, Commit: ok}}}, 20*time.Second)
	t.End = l.now()
	switch outcome := end.GetTxEnded().GetOutcome(); {
	case err != nil || outcome == replication.TxOutcome_TX_OUTCOME_UNKNOWN:
		t.Outcome = history.ListUnknown
	case outcome == replication.TxOutcome_TX_OUTCOME_COMMITTED:
		t.Outcome = history.ListCommitted
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.txs = append(l.txs, t)
}

// operation reads a list, and perhaps appends to it.
func (l *lists) operation(cl *client, r *rand.Rand, ref *replication.TxRef, t *history.ListTx) bool {
	key := fmt.Sprintf("list/%d", r.IntN(5))
	read := &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: ref,
		Keys: []*replication.GetKey{{Durability: persistent, Key: key}}}}}
	if l.broken {
		read = get(key)
	}
	a, err := cl.try(read, 20*time.Second)
	if err != nil || a.Refused() != nil {
		return false
	}
	text := string(a.GetEntries().GetEntries()[0].GetValue())
	op := history.ListOp{Key: key}
	for _, s := range strings.Fields(text) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			l.c.t.Errorf("list %s holds %q", key, text)
		}
		op.Read = append(op.Read, n)
	}
	t.Ops = append(t.Ops, op)
	if r.IntN(2) == 0 {
		return true
	}
	v := l.element()
	a, err = cl.try(&replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: ref, Items: []*replication.WriteItem{
		{Durability: persistent, Key: key, Value: []byte(strings.TrimSpace(fmt.Sprint(text, " ", v)))}}}}}, 20*time.Second)
	t.Ops = append(t.Ops, history.ListOp{Key: key, Append: v})
	return err == nil && a.Refused() == nil
}

// run has clients at work until enough transactions have ended, with faults of
// the caller meanwhile.
func (l *lists) run(clients, transactions int, faults func(done func() bool)) {
	var wg sync.WaitGroup
	done := func() bool { return l.count() >= transactions || l.c.t.Failed() }
	for i := range clients {
		cl, r := l.c.client(), rand.New(rand.NewPCG(uint64(i), 7))
		wg.Go(func() {
			for !done() {
				l.transact(cl, r, i)
			}
		})
	}
	faults(done)
	wg.Wait()
}

// Transactions over few lists, while leaders are killed, show no anomaly.
func TestTransactionsUnderLeaderKillsAreSerializable(t *testing.T) {
	transactions, most := 400, 3
	if os.Getenv("KAHU_SOAK") != "" {
		transactions, most = 10_000, 30
	}
	c := newCluster(t, three, nil)
	l := &lists{c: c, begin: time.Now()}
	kills := 0
	l.run(8, transactions, func(done func() bool) {
		for !done() && kills < most {
			at := l.count() + transactions/(most+1)
			eventually(t, "transactions go on", func() bool { return l.count() >= at || done() })
			n := c.leader()
			n.stop(0)
			kills++
			c.leader()
			n.start()
		}
	})
	if err := history.CheckListAppends(l.txs, 5); err != nil {
		t.Error(err)
	}
	committed := 0
	for _, x := range l.txs {
		if x.Outcome == history.ListCommitted {
			committed++
		}
	}
	t.Logf("%d transactions, %d committed, %d leaders killed", len(l.txs), committed, kills)
	if committed < transactions/10 || kills == 0 {
		t.Errorf("%d of %d committed, with %d kills: that shows nothing", committed, len(l.txs), kills)
	}
}

// The same clients, reading outside of their transactions, must be caught:
// otherwise the test above shows nothing.
func TestBrokenTransactionsAreCaught(t *testing.T) {
	l := &lists{c: newCluster(t, []string{"a"}, nil), begin: time.Now(), broken: true}
	l.run(8, 300, func(func() bool) {})
	found := history.CheckLists(l.txs)
	if !slices.ContainsFunc(found, func(a history.Anomaly) bool {
		return strings.HasPrefix(a.Kind, "G") || a.Kind == "internal" || a.Kind == "incompatible-order"
	}) {
		t.Errorf("nothing was found in %d transactions that read outside of themselves: %v", len(l.txs), found)
	}
}
