package rest_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/btree"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// rows is a store in memory.
type rows struct{ m btree.Map[string, []byte] }

func (s *rows) Get(key []byte) ([]byte, bool) { return s.m.Get(string(key)) }
func (s *rows) Put(key, value []byte)         { s.m.Set(string(key), bytes.Clone(value)) }
func (s *rows) PutFresh(key, value []byte)    { s.m.Set(string(key), bytes.Clone(value)) }
func (s *rows) Delete(key []byte)             { s.m.Delete(string(key)) }
func (s *rows) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		s.m.Ascend(string(from), func(k string, v []byte) bool {
			return (to == nil || k < string(to)) && yield([]byte(k), v)
		})
	}
}

func (s *rows) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		var all [][2][]byte
		for k, v := range s.Scan(from, to) {
			all = append(all, [2][]byte{k, bytes.Clone(v)})
		}
		for _, row := range slices.Backward(all) {
			if !yield(row[0], row[1]) {
				return
			}
		}
	}
}

var session = []byte("0123456789abcdef")

// startMS is the wall clock at the begin of each test.
const startMS = 1_700_000_000_000

// quorum is a Coordinator over a state machine of one, whose clock goes on by a
// millisecond with each command.
type quorum struct {
	mu      sync.Mutex
	store   rows
	machine *statemachine.Machine
	index   uint64
	number  uint64
	elapsed time.Duration
	lost    error // answers instead of the machine
}

func newQuorum(tb testing.TB) *quorum {
	q := &quorum{}
	var err error
	if q.machine, err = statemachine.New(&q.store); err != nil {
		tb.Fatal(err)
	}
	for _, req := range []*replication.Request{
		{Op: &replication.Request_Opening{Opening: &replication.Opening{Node: "n1"}}},
		{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}},
		{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: session, Host: "h", Node: "n1", TtlMs: 1 << 40}}},
	} {
		if a, err := q.commit(req); err != nil || a.GetCode() != replication.Code_CODE_OK {
			tb.Fatal(a, err)
		}
	}
	return q
}

func (q *quorum) commit(req *replication.Request) (*replication.Answer, error) {
	q.index++
	q.elapsed += time.Millisecond
	entry, err := statemachine.EncodeEntry(&replication.LogEntry{Format: 1, Level: statemachine.CurrentLevel, Term: 1,
		LeaseClockNs: int64(time.Second + q.elapsed), WallMs: startMS + q.elapsed.Milliseconds(), Requests: []*replication.Request{req}})
	if err != nil {
		return nil, err
	}
	res := q.machine.Apply(q.index, 1, entry)
	if res.Diverged != nil || len(res.Answers) != 1 {
		return nil, fmt.Errorf("apply %v: %v, %d answers", req, res.Diverged, len(res.Answers))
	}
	return res.Answers[0], nil
}

// advance moves all clocks, and lets the machine see it.
func (q *quorum) advance(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.elapsed += d
	if _, err := q.commit(&replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{}}}); err != nil {
		panic(err)
	}
}

func (q *quorum) lose(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost = err
}

func (q *quorum) Do(_ context.Context, req *replication.Request) (*replication.Answer, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost != nil {
		return nil, q.lost
	}
	if req.IsRead() {
		return statemachine.Read(&q.store, req), nil
	}
	if req.TakesReceipt() {
		q.number++
		req.Session, req.Number, req.DoneBelow = session, q.number, q.number
	}
	return q.commit(req)
}

func (q *quorum) Watch(ctx context.Context, _ []byte, _ func(*replication.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

// alone is a cluster of one voter that leads.
type alone struct{}

func (alone) Leader() (string, bool) { return "http://127.0.0.1:2070", true }
func (alone) View() kahuna.View {
	return kahuna.View{Initialized: true, Ready: true, Version: 1, Endpoint: "127.0.0.1:7351", URL: "http://127.0.0.1:2070", Role: kahuna.Voter,
		Members: []kahuna.Member{{Node: "n1", Endpoint: "127.0.0.1:7351", URL: "http://127.0.0.1:2070", Role: kahuna.Voter, Leader: true}}}
}

func (alone) Leave(context.Context) kahuna.Left {
	return kahuna.Left{Outcome: kahuna.LeaveInsufficientVoters, Version: 1, Reason: "the last voter stays"}
}

// realService is a Service over q that trusts whoever it does not know, as
// --kahuna-insecure does.
func realService(tb testing.TB, q *quorum) *kahuna.Service {
	tb.Helper()
	rules, err := policy.New([]policy.Rule{{Anonymous: true, Everyone: true, Allow: []policy.Verb{policy.Admin}}})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := kahuna.New(kahuna.Config{Coordinator: q, Policy: rules, Cluster: alone{}, Logger: slog.New(slog.DiscardHandler), LeaderWait: time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}
