package scriptrun_test

import (
	"bytes"
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/btree"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// world is a quorum of one without a network or a log: a Coordinator that applies
// each request as an entry. Its clock is that of the test's bubble.
type world struct {
	t     testing.TB
	start time.Time

	mu     sync.Mutex
	rows   btree.Map[string, []byte]
	m      *statemachine.Machine
	index  uint64
	number uint64
	kinds  []string // of the requests, in order
	// before is called for each request; an answer or error of its own is given instead.
	before func(*replication.Request) (*replication.Answer, error)
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, start: time.Now()}
	var err error
	if w.m, err = statemachine.New(w); err != nil {
		t.Fatal(err)
	}
	w.do(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}})
	w.do(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: bytes.Repeat([]byte{1}, 16), TtlMs: 1e12}}})
	w.kinds = nil
	return w
}

func (w *world) nowMS() int64 { return scripttest.StartMS + time.Since(w.start).Milliseconds() }

// Do implements replication.Coordinator.
func (w *world) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if w.before != nil {
		if a, err := w.before(req); a != nil || err != nil {
			return a, err
		}
	}
	if ctx.Err() != nil {
		return nil, replication.ErrUnavailable
	}
	return w.do(req), nil
}

// Watch implements replication.Coordinator.
func (w *world) Watch(context.Context, []byte, func(*replication.Event)) error {
	panic("nobody watches")
}

func (w *world) do(req *replication.Request) *replication.Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if req.IsRead() {
		// A leader moves the clock when something is due.
		w.apply(&replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: 1}}})
		// It brings the labels above a time as of which is read.
		if ms := max(req.GetGet().GetAsOf().GetPhysicalMs(), req.GetRange().GetAsOf().GetPhysicalMs()); ms > 0 && ms <= w.nowMS()+1000 {
			w.apply(&replication.Request{Op: &replication.Request_Advance{Advance: &replication.Advance{AboveMs: ms}}})
		}
		return statemachine.Read(w, req)
	}
	if req.TakesReceipt() {
		w.number++
		req.Session, req.Number, req.DoneBelow = bytes.Repeat([]byte{1}, 16), w.number, w.number
	}
	return w.apply(req)
}

func (w *world) apply(req *replication.Request) *replication.Answer {
	b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: statemachine.CurrentLevel, Term: 1, LeaseClockNs: w.nowMS() * 1e6, WallMs: w.nowMS(),
		Requests: []*replication.Request{req}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	res := w.m.Apply(w.index, 1, b)
	if res.Diverged != nil {
		w.t.Fatal(res.Diverged)
	}
	return res.Answers[0]
}

func (w *world) Get(key []byte) ([]byte, bool) { return w.rows.Get(string(key)) }
func (w *world) Put(key, value []byte)         { w.rows.Set(string(key), bytes.Clone(value)) }
func (w *world) PutFresh(key, value []byte)    { w.Put(key, value) }
func (w *world) Delete(key []byte)             { w.rows.Delete(string(key)) }

func (w *world) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		w.rows.Ascend(string(from), func(k string, v []byte) bool {
			return (to == nil || k < string(to)) && yield([]byte(k), v)
		})
	}
}

func (w *world) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		visit := func(k string, v []byte) bool {
			return to != nil && k >= string(to) || k >= string(from) && yield([]byte(k), v)
		}
		if to == nil {
			w.rows.Reverse(visit)
			return
		}
		w.rows.Descend(string(to), visit)
	}
}

var _ replication.Coordinator = (*world)(nil)
