package holds_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/btree"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// quorum is a Coordinator over the real state machine, without Raft: every
// request is an entry of its own, stamped with the test's lease time.
type quorum struct {
	now func() time.Duration

	mu       sync.Mutex
	store    *rows
	machine  *statemachine.Machine
	index    uint64
	number   uint64
	watchers map[*watcher]bool
	// fault decides about each request before it is sent; nil: all is well.
	fault func(*replication.Request) fault
	// deaf drops the events of all watches.
	deaf bool
	// pageRows bounds a page of a session's holds.
	pageRows uint32
	// listAfter is how long the list that begins a watch is on its way.
	listAfter time.Duration
	seen      []*replication.Request // what was asked, in order
}

// fault is what happens to one request.
type fault struct {
	before  time.Duration // on its way to the leader; until ctx ends when < 0
	drop    bool          // never arrives
	after   time.Duration // the answer on its way back; until ctx ends when < 0
	lose    bool          // the answer is lost
	first   func()        // runs right before it is applied, without the lock
	refused error         // returned at once
}

var requestSession = []byte("request-session!")

func newQuorum(t testing.TB, level uint32, now func() time.Duration) *quorum {
	q := &quorum{now: now, store: &rows{}, watchers: map[*watcher]bool{}, pageRows: 2}
	m, err := statemachine.New(q.store)
	if err != nil {
		t.Fatal(err)
	}
	q.machine = m
	q.must(t, &replication.Request{Op: &replication.Request_Opening{Opening: &replication.Opening{Node: "n1"}}})
	q.must(t, &replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: level}}})
	q.must(t, &replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: requestSession, Host: "test", Node: "n1", TtlMs: (30 * 24 * time.Hour).Milliseconds()}}})
	return q
}

// must applies a request as another agent would, without faults.
func (q *quorum) must(t testing.TB, req *replication.Request) *replication.Answer {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	ans := q.apply(req)
	if ans.GetCode() != replication.Code_CODE_OK {
		t.Fatalf("%v was answered with %v: %s", req.Op, ans.GetCode(), ans.GetDetail())
	}
	return ans
}

// apply makes an entry of one request. mu is held.
func (q *quorum) apply(req *replication.Request) *replication.Answer {
	q.index++
	if req.TakesReceipt() {
		q.number++
		req.Session, req.Number, req.DoneBelow = requestSession, q.number, q.number
	}
	b, err := statemachine.EncodeEntry(&replication.LogEntry{
		Level: statemachine.CurrentLevel, Term: 1, LeaseClockNs: int64(q.now()), WallMs: 1,
		Requests: []*replication.Request{req}})
	if err != nil {
		panic(err)
	}
	res := q.machine.Apply(q.index, 1, b)
	if res.Diverged != nil {
		panic(res.Diverged)
	}
	for _, e := range res.Events {
		for w := range q.watchers {
			if w.session == e.Session && !q.deaf {
				w.push(e.Event)
			}
		}
	}
	return res.Answers[0]
}

// answer reads, or applies. mu is held.
func (q *quorum) answer(req *replication.Request) *replication.Answer {
	if !req.IsRead() {
		return q.apply(req)
	}
	if get := req.GetSessionGet(); get != nil {
		get.Limit = min(get.Limit, q.pageRows)
	}
	return statemachine.Read(q.store, req)
}

// Do implements replication.Coordinator.
func (q *quorum) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	q.mu.Lock()
	q.seen = append(q.seen, req)
	var f fault
	if q.fault != nil {
		f = q.fault(req)
	}
	q.mu.Unlock()
	if f.refused != nil {
		return nil, f.refused
	}
	if f.drop {
		f.before = -1
	}
	if err := pause(ctx, f.before); err != nil {
		return nil, fmt.Errorf("%w: %w", replication.ErrUnavailable, err)
	}
	if f.first != nil {
		f.first()
	}
	q.mu.Lock()
	ans := q.answer(req)
	q.mu.Unlock()
	if err := pause(ctx, f.after); err != nil {
		return nil, fmt.Errorf("%w: %w", replication.ErrUnknownOutcome, err)
	}
	if f.lose {
		return nil, replication.ErrUnknownOutcome
	}
	return ans, nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	var c <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		c = t.C
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Watch implements replication.Coordinator.
func (q *quorum) Watch(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	w := &watcher{session: [16]byte(session), more: make(chan struct{}, 1), broken: make(chan struct{})}
	q.mu.Lock()
	list, _ := statemachine.SessionHolds(q.store, session)
	w.push(&replication.Event{Kind: replication.Event_KIND_LISTED, Holds: list, Index: q.index})
	q.watchers[w] = true
	late := q.listAfter
	q.mu.Unlock()
	_ = pause(ctx, late) // the loop below looks at ctx
	defer func() {
		q.mu.Lock()
		delete(q.watchers, w)
		q.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.broken:
			return replication.ErrUnavailable
		case <-w.more:
			for _, e := range w.take() {
				fn(e)
			}
		}
	}
}

// breakWatches is what an election does.
func (q *quorum) breakWatches() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for w := range q.watchers {
		close(w.broken)
		delete(q.watchers, w)
	}
}

type watcher struct {
	session [16]byte
	more    chan struct{}
	broken  chan struct{}
	mu      sync.Mutex
	events  []*replication.Event
}

func (w *watcher) push(e *replication.Event) {
	w.mu.Lock()
	w.events = append(w.events, e)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []*replication.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.events
	w.events = nil
	return out
}

// owner is the hold id that has the lock now, "" when it is free.
func (q *quorum) owner(t testing.TB, lock string) string {
	t.Helper()
	l := q.lock(t, lock)
	return string(l.GetOwner())
}

// lock inspects a lock at the present lease time; nil when it is free.
func (q *quorum) lock(t testing.TB, name string) *replication.Lock {
	t.Helper()
	q.must(t, &replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: 1000}}})
	q.mu.Lock()
	defer q.mu.Unlock()
	ans := statemachine.Read(q.store, &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, QueueLimit: 100}}})
	if ans.GetCode() == replication.Code_CODE_NOT_FOUND {
		return nil
	}
	if ans.GetCode() != replication.Code_CODE_OK {
		t.Fatalf("reading the lock %s: %v %s", name, ans.GetCode(), ans.GetDetail())
	}
	return ans.GetLock()
}

// count is how many requests were asked that match.
func (q *quorum) count(match func(*replication.Request) bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, r := range q.seen {
		if match(r) {
			n++
		}
	}
	return n
}

func (q *quorum) setFault(f func(*replication.Request) fault) {
	q.mu.Lock()
	q.fault = f
	q.mu.Unlock()
}

func isRenew(r *replication.Request) bool  { return r.GetSessionRenew() != nil }
func isWait(r *replication.Request) bool   { return r.GetLockWait() != nil }
func isList(r *replication.Request) bool   { return r.GetSessionGet() != nil }
func isUnlock(r *replication.Request) bool { return r.GetLockUnlock() != nil }

// on makes a fault for those requests that match.
func on(match func(*replication.Request) bool, f fault) func(*replication.Request) fault {
	return func(r *replication.Request) fault {
		if match(r) {
			return f
		}
		return fault{}
	}
}

// rows is a statemachine.Store in memory.
type rows struct{ m btree.Map[string, []byte] }

func (r *rows) Get(key []byte) ([]byte, bool) { return r.m.Get(string(key)) }
func (r *rows) Put(key, value []byte)         { r.m.Set(string(key), bytes.Clone(value)) }
func (r *rows) PutFresh(key, value []byte)    { r.Put(key, value) }
func (r *rows) Delete(key []byte)             { r.m.Delete(string(key)) }

func (r *rows) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		r.m.Ascend(string(from), func(k string, v []byte) bool {
			return (to == nil || k < string(to)) && yield([]byte(k), v)
		})
	}
}

func (r *rows) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		step := func(k string, v []byte) bool {
			if to != nil && k >= string(to) {
				return true
			}
			return k >= string(from) && yield([]byte(k), v)
		}
		if to == nil {
			r.m.Reverse(step)
		} else {
			r.m.Descend(string(to), step)
		}
	}
}
