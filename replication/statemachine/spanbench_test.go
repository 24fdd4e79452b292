package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

type spanCase struct {
	name       string
	read       bool
	start, end func(i, n int) string
	prefix     bool // locks on buckets instead
	around     bool // the keys: writes are refused, or told
}

// spans is how so many locks on spans, or ranges read, lie around the keys that are
// written. start, end: of the i-th of n.
var spans = []spanCase{
	{name: "locks apart", start: func(i, _ int) string { return fmt.Sprintf("k/m%06d", 2*i) }, end: func(i, _ int) string { return fmt.Sprintf("k/m%06d", 2*i+1) }},
	{name: "locks on buckets", prefix: true},
	{name: "locks around", around: true, start: func(i, _ int) string { return fmt.Sprintf("k/a%06d", i) }, end: func(i, _ int) string { return fmt.Sprintf("k/z%06d", i) }},
	{name: "ended locks first", around: true, start: func(i, _ int) string { return fmt.Sprintf("k/a%06d", 2*i) },
		end: func(i, n int) string { // those of the older half end before the keys
			if i < n/2 {
				return fmt.Sprintf("k/b%06d", i)
			}
			return fmt.Sprintf("k/z%06d", i)
		}},
	{name: "reads apart", read: true, start: func(i, _ int) string { return fmt.Sprintf("k/m%06d", 2*i) }, end: func(i, _ int) string { return fmt.Sprintf("k/m%06d", 2*i+1) }},
	{name: "reads around", read: true, around: true, start: func(i, _ int) string { return fmt.Sprintf("k/a%06d", i) }, end: func(i, _ int) string { return fmt.Sprintf("k/z%06d", i) }},
}

// txs starts transactions that hold n spans together, 256 each.
func (d *driver) txs(n int, op func(tx *replication.TxRef, from, to int) *replication.Request) {
	for from := 0; from < n; from += statemachine.MaxTxPredicates {
		start := d.apply(d.encode(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{TimeoutMs: 300_000}}}))
		ref := &replication.TxRef{Id: start.Answers[0].GetTxStarted().GetId()}
		for at := from; at < min(from+statemachine.MaxTxPredicates, n); {
			to := min(at+statemachine.MaxTxSpansAtOnce, n)
			req := op(ref, at, to)
			if req.GetTxRead() != nil {
				to = at + 1
			}
			if a := d.apply(d.encode(req)).Answers[0]; a.Code != replication.Code_CODE_OK {
				d.b.Fatal(a)
			}
			at = to
		}
	}
}

// holdSpans has transactions hold n spans.
func (d *driver) holdSpans(s spanCase, n int) {
	d.b.Helper()
	d.apply(d.encode(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: 2}}}))
	d.txs(n, func(tx *replication.TxRef, from, to int) *replication.Request {
		if s.read {
			start, end := s.start(from, n), s.end(from, n)
			return &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: tx,
				Range: &replication.Range{Durability: 1, Start: &start, End: &end}}}}
		}
		op := &replication.TxLock{Tx: tx}
		for i := from; i < to; i++ {
			l := &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_PREFIX, Durability: 1, Key: fmt.Sprint("bucket", i)}
			if !s.prefix {
				start, end := s.start(i, n), s.end(i, n)
				l = &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_RANGE, Durability: 1, Key: "k", Start: &start, End: &end, Shared: true}
			}
			op.Locks = append(op.Locks, l)
		}
		return &replication.Request{Op: &replication.Request_TxLock{TxLock: op}}
	})
}

// BenchmarkWritesUnderSpans is what the rule of conflicts and the notices cost an
// entry of plain writes while transactions hold many locks and have read many ranges.
func BenchmarkWritesUnderSpans(b *testing.B) {
	const items = 1000
	for _, s := range spans {
		for _, n := range []int{10, 1_000, statemachine.MaxTxSpans} {
			b.Run(fmt.Sprint(s.name, "/", n), func(b *testing.B) {
				d := newDriver(b)
				d.holdSpans(s, n)
				entry := make([]*replication.WriteItem, items)
				for i := range entry {
					entry[i] = &replication.WriteItem{Durability: 1, Key: fmt.Sprintf("k/m%06d", 2*(i*7919%4_000)+1), Value: []byte("value")}
				}
				var entries [][]byte
				b.ReportAllocs()
				for b.Loop() {
					if len(entries) == 0 {
						b.StopTimer()
						for range 64 {
							entries = append(entries, d.encode(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: entry}}}))
						}
						b.StartTimer()
					}
					a := d.apply(entries[0]).Answers[0]
					if len(a.GetWritten().GetItems()) == 0 {
						b.Fatal(a)
					}
					if got := a.GetWritten().GetItems()[0].GetCode(); (got == replication.Code_CODE_LOCKED) != (s.around && !s.read) {
						b.Fatal(a)
					}
					entries = entries[1:]
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/items, "ns/item")
			})
		}
	}
}
