package voter_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
)

const persistent = replication.Durability_DURABILITY_PERSISTENT

// tx is one transaction of a client.
type tx struct {
	cl *client
	id *replication.Timestamp
}

func (cl *client) begin(op *replication.TxStart) *tx {
	cl.c.t.Helper()
	a := cl.do(&replication.Request{Op: &replication.Request_TxStart{TxStart: op}})
	if err := a.Refused(); err != nil {
		cl.c.t.Fatal(err)
	}
	return &tx{cl, a.GetTxStarted().GetId()}
}

func (x *tx) get(key string) string {
	x.cl.c.t.Helper()
	return value(x.cl.c.t, x.cl.do(&replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{
		Tx: &replication.TxRef{Id: x.id}, Keys: []*replication.GetKey{{Durability: persistent, Key: key}}}}}))
}

func (x *tx) put(key, value string) *replication.Answer {
	x.cl.c.t.Helper()
	return x.cl.do(&replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{
		Tx: &replication.TxRef{Id: x.id}, Items: []*replication.WriteItem{{Durability: persistent, Key: key, Value: []byte(value)}}}}})
}

func (x *tx) end(commit bool) *replication.Answer {
	x.cl.c.t.Helper()
	return x.cl.do(&replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{
		Tx: &replication.TxRef{Id: x.id}, Commit: commit}}})
}

func wantOutcome(t *testing.T, what string, a *replication.Answer, want replication.TxOutcome) {
	t.Helper()
	if got := a.GetTxEnded().GetOutcome(); got != want {
		t.Errorf("%s: %v, want %v", what, a, want)
	}
}

// What a transaction has read, written and locked is in the log: it goes on under
// the next leader, and one whose read has changed in between does not commit there.
func TestTransactionsSurviveTheLeader(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("a", "1")
	reader, writer, stale := cl.begin(&replication.TxStart{}), cl.begin(&replication.TxStart{}), cl.begin(&replication.TxStart{})
	if got := reader.get("a") + writer.get("a") + stale.get("a"); got != "111" {
		t.Fatalf("read %q", got)
	}
	if err := writer.put("a", "2").Refused(); err != nil {
		t.Fatal(err)
	}
	n := c.leader()
	n.stop(0)
	c.leader()
	if got := writer.get("a"); got != "2" {
		t.Errorf("after the leader was killed the transaction sees %q of its own write", got)
	}
	if a := stale.put("a", "x"); a.GetCode() != replication.Code_CODE_LOCKED {
		t.Errorf("the lock of a staged write is gone: %v", a)
	}
	wantOutcome(t, "reading only, nothing has changed", reader.end(true), replication.TxOutcome_TX_OUTCOME_COMMITTED)
	wantOutcome(t, "the writer", writer.end(true), replication.TxOutcome_TX_OUTCOME_COMMITTED)
	n.start()
	c.leader().stop(0)
	c.leader()
	wantOutcome(t, "asked again at a third leader", writer.end(true), replication.TxOutcome_TX_OUTCOME_COMMITTED)
	wantOutcome(t, "the one that read the old value", stale.end(true), replication.TxOutcome_TX_OUTCOME_ABORTED)
	if got := cl.get("a"); got != "2" {
		t.Errorf("a = %q", got)
	}
}

// A plain write waits for the lock of a transaction, and goes through when that
// ends. One that belongs to a transaction is refused at once.
func TestPlainWritesWaitForTransactions(t *testing.T) {
	c := newCluster(t, []string{"a"}, nil)
	cl, other := c.client(), c.client()
	x := cl.begin(&replication.TxStart{})
	if err := x.put("k", "staged").Refused(); err != nil {
		t.Fatal(err)
	}
	if a := other.begin(&replication.TxStart{}).put("k", "y"); a.GetCode() != replication.Code_CODE_LOCKED {
		t.Errorf("a write in another transaction: %v", a)
	}
	v := c.leader().v.Load()
	answered := make(chan *replication.Answer, 1)
	go func() { // ends with the transaction, or after the longest wait
		answered <- other.do(put("k", "plain"))
	}()
	eventually(t, "the write waits", func() bool { return v.Status().ParkedRequests == 1 })
	select {
	case a := <-answered:
		t.Fatalf("answered under the lock: %v", a)
	default:
	}
	wantOutcome(t, "rolled back", x.end(false), replication.TxOutcome_TX_OUTCOME_ROLLED_BACK)
	if a := <-answered; a.Refused() != nil {
		t.Errorf("after the lock was gone: %v", a)
	}
	if got := cl.get("k"); got != "plain" {
		t.Errorf("k = %q", got)
	}
	if n := v.Status().ParkedRequests; n != 0 {
		t.Errorf("%d requests are still counted as waiting", n)
	}
}

// Starts beyond the slots wait at the leader by priority, and are refused when
// their wait is over.
func TestAdmission(t *testing.T) {
	c := newCluster(t, []string{"a"}, func(cfg *voter.Config) { cfg.MaxTransactions = 1 })
	cl := c.client()
	v := c.leader().v.Load()
	running := cl.begin(&replication.TxStart{})
	a := cl.do(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{AdmissionWaitMs: 1}}})
	if a.GetCode() != replication.Code_CODE_ADMISSION_REFUSED || a.GetTxStarted() != nil {
		t.Fatalf("with no slot: %v", a)
	}
	type started struct {
		name string
		tx   *tx
	}
	order := make(chan started, 3)
	for i, w := range []struct {
		name     string
		priority replication.TxPriority
	}{{"low", replication.TxPriority_TX_PRIORITY_LOW}, {"high", replication.TxPriority_TX_PRIORITY_CRITICAL}} {
		waiting := c.client()
		go func() { // ends when it is admitted
			order <- started{w.name, waiting.begin(&replication.TxStart{Priority: w.priority, AdmissionWaitMs: 20_000})}
		}()
		eventually(t, "it waits", func() bool { return v.Status().QueuedStarts == i+1 })
	}
	for _, want := range []string{"high", "low"} {
		wantOutcome(t, "the one before", running.end(false), replication.TxOutcome_TX_OUTCOME_ROLLED_BACK)
		next := <-order
		if next.name != want {
			t.Fatalf("%s was admitted before %s", next.name, want)
		}
		running = next.tx
	}
	running.end(false)
}

// A start that waits longer than an attempt of its agent may keeps its place: it
// asks again under the same id.
func TestAdmissionKeepsItsPlace(t *testing.T) {
	c := newCluster(t, []string{"a"}, func(cfg *voter.Config) { cfg.MaxTransactions = 1 })
	cl, first, second := c.client(), c.client(), c.client()
	v := c.leader().v.Load()
	running := cl.begin(&replication.TxStart{})
	start := func(cl *client, n uint64) *replication.Request {
		return &replication.Request{Session: cl.session[:], Number: n, Op: &replication.Request_TxStart{TxStart: &replication.TxStart{AdmissionWaitMs: 20_000}}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() { _, err := v.Serve(ctx, start(first, 100)); left <- err }()
	eventually(t, "the first waits", func() bool { return v.Status().QueuedStarts == 1 })
	answers := make(chan string, 2)
	ask := func(name string, cl *client) {
		a, err := v.Serve(context.Background(), start(cl, 100))
		answers <- fmt.Sprint(name, " ", a.GetCode(), err)
		if err == nil {
			(&tx{cl, a.GetTxStarted().GetId()}).end(false)
		}
	}
	var asking sync.WaitGroup
	asking.Go(func() { ask("second", second) })
	eventually(t, "both wait", func() bool { return v.Status().QueuedStarts == 2 })
	cancel()
	if err := <-left; err == nil {
		t.Fatal("a start whose caller went away was admitted")
	}
	asking.Go(func() { ask("first", first) })
	eventually(t, "both wait again", func() bool { return v.Status().QueuedStarts == 2 })
	running.end(false)
	if got := <-answers + ", " + <-answers; got != "first CODE_OK <nil>, second CODE_OK <nil>" {
		t.Errorf("admitted: %s", got)
	}
	asking.Wait()
}

// Who waits at a leader that is no more is sent to the next one at once.
func TestAdmissionFollowsTheLeader(t *testing.T) {
	c := newCluster(t, three, func(cfg *voter.Config) { cfg.MaxTransactions = 1 })
	cl, waiting := c.client(), c.client()
	old := c.leader()
	cl.begin(&replication.TxStart{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	left := make(chan error, 1)
	go func() { // ends when the leader resigns
		_, err := old.v.Load().Serve(ctx, &replication.Request{Session: waiting.session[:], Number: 9,
			Op: &replication.Request_TxStart{TxStart: &replication.TxStart{AdmissionWaitMs: 30_000}}})
		left <- err
	}()
	eventually(t, "it waits", func() bool { return old.v.Load().Status().QueuedStarts == 1 })
	if err := old.v.Load().TransferLeadership(ctx, ""); err != nil {
		t.Fatal(err)
	}
	var notLeader *replication.NotLeaderError
	if err := <-left; !errors.As(err, &notLeader) {
		t.Errorf("after the leader resigned: %v", err)
	}
	next := c.leader().v.Load()
	eventually(t, "the next leader counts the slots that are taken", func() bool { return next.Status().Transactions == 1 })
}

// A read as of a time that the log has not passed yet never changes afterwards:
// what is written later is labelled later (contract/decisions.md 5).
func TestReadAsOfNowDoesNotChange(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("k", "before")
	asOf := &replication.Timestamp{PhysicalMs: time.Now().Add(500 * time.Millisecond).UnixMilli(), Counter: 1<<32 - 1}
	read := func() string {
		r := get("k")
		r.GetGet().AsOf = asOf
		return value(t, cl.do(r))
	}
	first := read()
	cl.put("k", "after")
	if again := read(); first != "before" || again != first {
		t.Errorf("as of one time: %q, and after a write %q", first, again)
	}
	if got := cl.get("k"); got != "after" {
		t.Errorf("now: %q", got)
	}
	// Far ahead: the latest state, as Kahuna answers, and no label runs ahead.
	asOf = &replication.Timestamp{PhysicalMs: time.Now().Add(time.Hour).UnixMilli()}
	if got := read(); got != "after" {
		t.Errorf("as of an hour ahead: %q", got)
	}
	if p := c.leader().v.Load().Position(); p.WallMS > time.Now().Add(time.Minute).UnixMilli() {
		t.Errorf("the labels are at %d", p.WallMS)
	}
}
