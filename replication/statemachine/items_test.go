package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// TestItemsOfOneWriteAreBounded: a write of 300,000 empty items, which fits a
// request, took a second to apply.
func TestItemsOfOneWriteAreBounded(t *testing.T) {
	s := newScripts(t)
	write := func(n int) *replication.Answer {
		w := &replication.Write{}
		for i := range n {
			w.Items = append(w.Items, &replication.WriteItem{Durability: 1, Key: fmt.Sprint(i)})
		}
		return s.apply(&replication.Request{Op: &replication.Request_Write{Write: w}})[0]
	}
	if a := write(replication.MaxWriteItems); a.Code != replication.Code_CODE_OK {
		t.Errorf("the most: %v %s", a.Code, a.Detail)
	}
	if a := write(replication.MaxWriteItems + 1); a.Code != replication.Code_CODE_INVALID || a.GetWritten() != nil {
		t.Errorf("one more: %v %s", a.Code, a.Detail)
	}
}

// TestLocksShareTheBudgetOfAnEntry: an entry full of requests for range locks, each
// held against thousands of others, took seconds to apply.
func TestLocksShareTheBudgetOfAnEntry(t *testing.T) {
	s := newScripts(t)
	begin := func() *replication.TxRef {
		s.nowMS++
		return &replication.TxRef{Id: s.apply(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{TimeoutMs: 300_000}}})[0].GetTxStarted().GetId()}
	}
	spans := func(tx *replication.TxRef, prefix string, from int) *replication.Request {
		op := &replication.TxLock{Tx: tx}
		for i := range statemachine.MaxTxSpansAtOnce {
			op.Locks = append(op.Locks, &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_PREFIX, Durability: 1, Key: fmt.Sprint(prefix, from+i)})
		}
		return &replication.Request{Op: &replication.Request_TxLock{TxLock: op}}
	}
	held, other := begin(), begin()
	for i := 0; i < statemachine.MaxTxSpans-1000; i += statemachine.MaxTxSpansAtOnce {
		if a := s.apply(spans(held, "held", i))[0]; a.Code != replication.Code_CODE_OK {
			t.Fatal(a)
		}
	}
	var reqs []*replication.Request
	for range 100 {
		reqs = append(reqs, spans(other, "held", 0)) // refused, after having been held against all
	}
	reqs = append(reqs, &replication.Request{Op: &replication.Request_TxUnlock{TxUnlock: &replication.TxUnlock{Tx: other, Locks: reqs[0].GetTxLock().Locks}}})
	counts := make(map[replication.Code]int)
	answers := s.apply(reqs...)
	for _, a := range answers {
		counts[a.Code]++
	}
	if counts[replication.Code_CODE_LOCKED] < 1 || counts[replication.Code_CODE_LOCKED] > 3 || counts[replication.Code_CODE_PROPOSE_AGAIN] < 97 ||
		answers[100].Code != replication.Code_CODE_PROPOSE_AGAIN {
		t.Errorf("of 101 commands: %v", counts)
	}
}

// TestLargeValuesShareTheBudgetOfAnEntry: the answers of an entry are in memory all
// at once, and so are its changes.
func TestLargeValuesShareTheBudgetOfAnEntry(t *testing.T) {
	s := newScripts(t)
	const mib, n = 1 << 20, 20
	var reads, ranges, ends []*replication.Request
	for i := range n {
		s.nowMS++
		key := fmt.Sprintf("k%02d", i)
		tx := &replication.TxRef{Id: s.apply(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{TimeoutMs: 300_000}}})[0].GetTxStarted().GetId()}
		if a := s.apply(&replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: tx, Items: []*replication.WriteItem{
			{Durability: 1, Key: key, Value: make([]byte, 2*mib)}}}}})[0]; a.Code != replication.Code_CODE_OK {
			t.Fatal(a)
		}
		reads = append(reads, &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: tx,
			Keys: []*replication.GetKey{{Durability: 1, Key: key}}}}})
		ranges = append(ranges, &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: tx,
			Range: &replication.Range{Durability: 1, Prefix: key}}}})
		ends = append(ends, &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: tx, Commit: true}}})
	}
	for what, reqs := range [][]*replication.Request{reads, ranges, ends} {
		done := 0
		for i, a := range s.apply(reqs...) {
			switch {
			case a.Code == replication.Code_CODE_PROPOSE_AGAIN:
			case i != done:
				t.Errorf("kind %d: %d was carried out, and %d was not", what, i, done)
			default:
				done++
			}
		}
		if done != 3 { // of 2 MiB each
			t.Errorf("kind %d: %d of %d were carried out in one entry", what, done, n)
		}
	}
}

// TestExtendsOfLargeValuesShareTheBudgetOfAnEntry: each writes the value again, so
// an entry of a thousand small requests made gigabytes of changes.
func TestExtendsOfLargeValuesShareTheBudgetOfAnEntry(t *testing.T) {
	s := newScripts(t)
	put := func(key string, bytes int) {
		s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{{Durability: 1, Key: key, Value: make([]byte, bytes)}}}}})
	}
	put("large", 2<<20)
	put("small", 1000)
	extend := func(n int, key string) *replication.Request {
		w := &replication.Write{}
		for range n {
			w.Items = append(w.Items, &replication.WriteItem{Durability: 1, Key: key, Kind: replication.WriteKind_WRITE_KIND_EXTEND, ExpiresMs: 1000})
		}
		return &replication.Request{Op: &replication.Request_Write{Write: w}}
	}
	var reqs []*replication.Request
	for range 10 {
		reqs = append(reqs, extend(1, "large"), extend(1, "small"))
	}
	for i, a := range s.apply(reqs...) {
		want := replication.Code_CODE_OK
		if i%2 == 0 && i >= 6 {
			want = replication.Code_CODE_PROPOSE_AGAIN
		}
		if a.Code != want {
			t.Errorf("request %d: %v, want %v", i, a.Code, want)
		}
	}
	for n, want := range map[int]replication.Code{8: replication.Code_CODE_OK, 9: replication.Code_CODE_LIMIT} {
		if a := s.apply(extend(n, "large"))[0]; a.Code != want {
			t.Errorf("%d at once: %v %s, want %v", n, a.Code, a.Detail, want)
		}
	}
	// What is not there, or malformed, is nobody's cost.
	a := s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: append(extend(1, "none").GetWrite().Items, extend(1, "").GetWrite().Items...)}}})[0]
	if items := a.GetWritten().GetItems(); len(items) != 2 || items[0].Code != replication.Code_CODE_NOT_FOUND || items[1].Code != replication.Code_CODE_INVALID {
		t.Error(a)
	}
}

// TestExtendsOfATransactionCountWhatTheyWrite: the commit writes the value again
// for each of them.
func TestExtendsOfATransactionCountWhatTheyWrite(t *testing.T) {
	s := newScripts(t)
	tx := &replication.TxRef{Id: s.apply(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{TimeoutMs: 300_000}}})[0].GetTxStarted().GetId()}
	w := &replication.TxWrite{Tx: tx, Items: []*replication.WriteItem{{Durability: 1, Key: "large", Value: make([]byte, 2<<20-100)}}}
	for range 10 {
		w.Items = append(w.Items, &replication.WriteItem{Durability: 1, Key: "large", Kind: replication.WriteKind_WRITE_KIND_EXTEND, ExpiresMs: 1000})
	}
	for i, item := range s.apply(&replication.Request{Op: &replication.Request_TxWrite{TxWrite: w}})[0].GetWritten().GetItems() {
		want := replication.Code_CODE_OK
		if i >= 8 { // of 2 MiB each, with the first
			want = replication.Code_CODE_LIMIT
		}
		if item.Code != want {
			t.Errorf("item %d: %v, want %v", i, item.Code, want)
		}
	}
	if a := s.apply(&replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: tx, Commit: true}}})[0]; a.GetTxEnded().GetWrites() != 8 {
		t.Error(a)
	}
}
