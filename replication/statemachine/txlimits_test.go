package statemachine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// txDo carries out one operation of transaction name.
func (w *world) txDo(op *replication.Request) *replication.Answer {
	w.t.Helper()
	if op.TakesReceipt() {
		w.number["client"]++
		op.Session, op.Number, op.DoneBelow = sid("client"), w.number["client"], w.number["client"]
	}
	res := w.apply(w.term, []*replication.Request{op})
	if res.Diverged != nil {
		w.t.Fatal(res.Diverged)
	}
	return res.Answers[0]
}

func (w *world) ref(name string) *replication.TxRef { return &replication.TxRef{Id: w.tx[name]} }

func (w *world) stage(name string, items ...*replication.WriteItem) *replication.Answer {
	w.t.Helper()
	return w.txDo(&replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: w.ref(name), Items: items}}})
}

func setItems(prefix string, n, valueBytes int) (items []*replication.WriteItem) {
	for i := range n {
		items = append(items, &replication.WriteItem{Durability: 1, Key: fmt.Sprintf("%s%05d", prefix, i), Value: make([]byte, valueBytes)})
	}
	return items
}

// Everything that one transaction holds has a bound and an answer, and what was
// refused changes nothing: the transaction can still commit.
func TestTransactionLimits(t *testing.T) {
	for name, fill := range map[string]func(w *world) *replication.Answer{
		"writes": func(w *world) *replication.Answer {
			for i := 0; i < statemachine.MaxTxWrites; i += statemachine.MaxTxItems {
				w.wantCode(w.stage("T", setItems(fmt.Sprint("k", i, "/"), statemachine.MaxTxItems, 1)...), replication.Code_CODE_OK)
			}
			return w.stage("T", setItems("l", 1, 1)...)
		},
		"staged bytes": func(w *world) *replication.Answer {
			for i := range 16 {
				w.wantCode(w.stage("T", setItems(fmt.Sprint("k", i), 1, 1<<20-100)...), replication.Code_CODE_OK)
			}
			return w.stage("T", setItems("l", 1, 1<<20)...)
		},
		"locks": func(w *world) *replication.Answer {
			lock := func(from, n int) *replication.Answer {
				op := &replication.TxLock{Tx: w.ref("T")}
				for i := range n {
					op.Locks = append(op.Locks, &replication.TxLockItem{Durability: 1, Key: fmt.Sprint("k", from+i)})
				}
				return w.txDo(&replication.Request{Op: &replication.Request_TxLock{TxLock: op}})
			}
			for i := 0; i < statemachine.MaxTxLocks; i += statemachine.MaxTxItems {
				w.wantCode(lock(i, statemachine.MaxTxItems), replication.Code_CODE_OK)
			}
			return lock(statemachine.MaxTxLocks, 1)
		},
		"reads": func(w *world) *replication.Answer {
			read := func(from, n int) *replication.Answer {
				op := &replication.TxRead{Tx: w.ref("T")}
				for i := range n {
					op.Keys = append(op.Keys, &replication.GetKey{Durability: 1, Key: fmt.Sprint("k", from+i)})
				}
				return w.txDo(&replication.Request{Op: &replication.Request_TxRead{TxRead: op}})
			}
			for i := 0; i < statemachine.MaxTxReads; i += 200 {
				w.wantCode(read(i, 200), replication.Code_CODE_OK)
			}
			return read(statemachine.MaxTxReads, 1)
		},
		"ranges": func(w *world) *replication.Answer {
			for i := range statemachine.MaxTxPredicates {
				w.wantCode(w.do(fmt.Sprint("T range prefix=p", i))[0], replication.Code_CODE_OK)
			}
			return w.do("T range prefix=more")[0]
		},
		"names": func(w *world) *replication.Answer {
			var a *replication.Answer
			for i := range 200 {
				long := strings.Repeat("n", replication.MaxNameBytes-10) + fmt.Sprint(i)
				if a = w.do("T get key=" + long)[0]; a.Code != replication.Code_CODE_OK {
					break
				}
			}
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := txWorld(t)
			w.wantCode(fill(w), replication.Code_CODE_LIMIT)
			before := w.m.Position().Hash
			w.m = newMachine(t, w.store)
			if w.m.Position().Hash != before {
				t.Error("the hash changed by loading")
			}
			w.wantCode(fill2(w), replication.Code_CODE_OK)
			if got := w.outcome("T commit"); got != replication.TxOutcome_TX_OUTCOME_COMMITTED {
				t.Errorf("at the limit: %v", got)
			}
			w.begin("T")
			w.wantCode(w.stage("T", setItems("k", 1, 1)...), replication.Code_CODE_OK)
		})
	}
}

// fill2 shows that another transaction is not touched by the limits of the first.
func fill2(w *world) *replication.Answer {
	w.t.Helper()
	return w.do("U get key=other")[0]
}

// Operation ids are bounded; beyond, the transaction is told so as in the reference.
func TestOperationsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("65,536 operations")
	}
	w := txWorld(t, "timeout_ms=300s")
	for i := 0; i < statemachine.MaxTxOperations; i += 512 {
		var lines []string
		for n := range 512 {
			lines = append(lines, fmt.Sprintf("T lock key=k op=%d", i+n))
		}
		w.do(lines...)
	}
	w.wantCode(w.do("T lock key=k op=more")[0], replication.Code_CODE_ABORTED)
	w.wantCode(w.do("T lock key=k op=5")[0], replication.Code_CODE_OK) // one of the first again
	w.do("T rollback")
	// Its rows go in portions, whatever else happens.
	left := w.store.rows.Len()
	for left > 100 {
		w.do("sweep")
		now := w.store.rows.Len()
		if now >= left || left-now > 3_000 {
			t.Fatalf("%d rows, then %d", left, now)
		}
		left = now
	}
}

// Transactions are bounded in number, and so are the outcomes remembered. One
// whose outcome was dropped is unknown, never "cannot have committed".
func TestTransactionsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.do("set_level level=2")
	w.begin("first")
	w.wantCode(w.do("first set key=k value=1")[0], replication.Code_CODE_OK)
	w.do("first commit")
	for range statemachine.MaxTransactions / 500 {
		var lines []string
		for range 500 {
			lines = append(lines, "tx_start timeout_ms=1s")
		}
		w.do(lines...)
	}
	w.wantCode(w.do("tx_start")[0], replication.Code_CODE_ADMISSION_REFUSED)
	if n := w.m.OpenTransactions(); n != statemachine.MaxTransactions {
		t.Fatalf("%d are open", n)
	}
	w.clock += 20 * time.Second
	for i := 0; w.m.OpenTransactions() > 0; i++ {
		if i > statemachine.MaxTransactions/200 {
			t.Fatalf("%d are open after %d sweeps", w.m.OpenTransactions(), i)
		}
		w.do("sweep")
	}
	w.begin("T") // makes room by ending one more
	w.do("T rollback")
	w.wantCode(w.do("first commit")[0], replication.Code_CODE_NOT_FOUND)
	w.wantCode(w.do("first rollback")[0], replication.Code_CODE_NOT_FOUND)
	if due, ok := w.m.Due(); !ok || due <= int64(w.clock) {
		t.Errorf("due at %d of %d: %v", due, w.clock, ok)
	}
	w.clock += 10 * time.Minute
	for range 20 {
		w.do("sweep limit=10000")
	}
	if n := w.store.rows.Len(); n > 20 {
		t.Errorf("%d rows are left when all is forgotten:\n%s", n, strings.Join(w.store.dump()[:20], "\n"))
	}
}

// An entry carries out costly commands up to a budget, and leaves the rest to be
// proposed again, without a receipt.
func TestEntriesAreBounded(t *testing.T) {
	w := txWorld(t)
	var reqs []*replication.Request
	for i := range 8 {
		w.number["client"]++
		reqs = append(reqs, &replication.Request{Session: sid("client"), Number: w.number["client"], Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{
			Tx: w.ref("T"), Items: setItems(fmt.Sprint("k", i), 120, 1)}}})
	}
	reqs = append(reqs, w.request("set key=plain"))
	reqs[8].DoneBelow = 0 // all of them are sent again
	done := 0
	for _, a := range w.apply(w.term, reqs).Answers {
		switch a.Code {
		case replication.Code_CODE_OK:
			done++
		case replication.Code_CODE_PROPOSE_AGAIN:
		default:
			t.Fatal(a)
		}
	}
	if done < 2 || done > 8 {
		t.Fatalf("%d of 9 were carried out", done)
	}
	for entries := 1; done < 9; entries++ {
		if entries > 8 {
			t.Fatal("it does not end")
		}
		done = 0
		for _, a := range w.apply(w.term, reqs).Answers { // those done give their receipts
			if a.Code == replication.Code_CODE_OK {
				done++
			}
		}
	}
	if got := w.do("T commit")[0].GetTxEnded(); got.GetWrites() != 960 {
		t.Errorf("%v", got)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 10, statemachine.MaxTxItems} {
		b.Run(fmt.Sprint(n, " writes"), func(b *testing.B) {
			w := txWorld(b)
			items := setItems("k", n, 100)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				w.wallMS++
				w.begin("T")
				w.stage("T", items...)
				end := w.request("T commit")
				b.StartTimer()
				if a := w.txDo(end); a.Code != replication.Code_CODE_OK {
					b.Fatal(a)
				}
			}
		})
	}
}

// BenchmarkTransaction is a read, a write and a commit, each in its own entry.
func BenchmarkTransaction(b *testing.B) {
	w := txWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		w.wallMS++
		w.begin("T")
		w.do("T get key=k")
		w.do("T set key=k value=v")
		w.do("T commit")
	}
}

// A page looks at so many keys at most, deleted ones and those of deeper buckets
// included, and says where to go on. Pages add up to the range, own writes in it.
func TestPagesOfDeadKeys(t *testing.T) {
	w := newWorld(t)
	w.do("set_level level=2", "set key=p/zz value=last", "set key=p/a value=first")
	dead := func(prefix, suffix string, kind replication.WriteKind) {
		for from := 0; from < 10_000; from += 1000 {
			op := &replication.Write{}
			for i := range 1000 {
				op.Items = append(op.Items, &replication.WriteItem{Kind: kind, Durability: 1, Key: fmt.Sprintf("%s%05d%s", prefix, from+i, suffix)})
			}
			w.wantCode(w.txDo(&replication.Request{Op: &replication.Request_Write{Write: op}}), replication.Code_CODE_OK)
		}
	}
	dead("p/d", "", replication.WriteKind_WRITE_KIND_SET)
	dead("p/d", "", replication.WriteKind_WRITE_KIND_DELETE)
	dead("p/s", "/deeper", replication.WriteKind_WRITE_KIND_SET)
	for _, descending := range []bool{false, true} {
		w.begin("T", "timeout_ms=60s")
		for _, own := range []string{"p/b", "p/d05000", "p/m", "p/zzz"} {
			w.do("T set key=" + own + " value=own")
		}
		op := &replication.Range{Durability: 1, Prefix: "p", Bucket: true, Descending: descending}
		var got []string
		pages := 0
		for ; ; pages++ {
			if pages > 10 {
				t.Fatalf("no end after %d pages, at %q", pages, op)
			}
			a := w.txDo(&replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: w.ref("T"), Range: op}}})
			w.wantCode(a, replication.Code_CODE_OK)
			for _, e := range a.GetEntries().Entries {
				got = append(got, e.Key)
			}
			if !a.GetEntries().More {
				break
			}
			next := a.GetEntries().GetResume()
			if descending {
				op.End = &next
			} else {
				op.Start, op.StartExclusive = &next, true
			}
		}
		want := []string{"p/a", "p/b", "p/d05000", "p/m", "p/zz", "p/zzz"}
		if descending {
			slices.Reverse(want)
		}
		if !slices.Equal(got, want) || pages < 2 {
			t.Errorf("in %d pages: %v, want %v", pages+1, got, want)
		}
		// All of it is watched, also what only dead keys were seen of.
		w.do("set key=p/d09999 value=new")
		if got := w.outcome("T commit"); got != replication.TxOutcome_TX_OUTCOME_ABORTED {
			t.Errorf("descending %v: %v", descending, got)
		}
		w.do("delete key=p/d09999")
	}
}

// A script pays for the rows that it gets; what it only steps over is bounded.
func TestScriptsStepOverFewDeadKeys(t *testing.T) {
	w := newWorld(t)
	w.do("set_level level=2", "set key=p/zz value=last")
	for _, kind := range []replication.WriteKind{replication.WriteKind_WRITE_KIND_SET, replication.WriteKind_WRITE_KIND_DELETE} {
		for from := 0; from < 6_000; from += 1000 {
			op := &replication.Write{}
			for i := range 1000 {
				op.Items = append(op.Items, &replication.WriteItem{Kind: kind, Durability: 1, Key: fmt.Sprintf("p/d%05d", from+i)})
			}
			w.txDo(&replication.Request{Op: &replication.Request_Write{Write: op}})
		}
	}
	run := func(text string) *replication.Answer {
		return w.txDo(&replication.Request{Op: &replication.Request_Script{Script: &replication.Script{Text: []byte(text)}}})
	}
	w.wantCode(run("LET x = GET BY BUCKET `p` SET a count(x)"), replication.Code_CODE_FUEL_SPENT)
	w.wantCode(run("LET x = SCAN BY PREFIX `p/d0` LET y = SCAN BY PREFIX `p/d00` SET a 1"), replication.Code_CODE_FUEL_SPENT)
	w.wantCode(run("LET x = SCAN BY PREFIX `p/d00` LET y = SCAN BY PREFIX `p/z` SET a count(y)"), replication.Code_CODE_OK)
	if got := w.read("get key=a").GetEntries().Entries[0]; string(got.Value) != "1" {
		t.Errorf("a = %v", got)
	}
}

// What a transaction leaves behind is small, however long its names are.
func TestLongNamesAreNotKept(t *testing.T) {
	w := txWorld(t, "timeout_ms=60s")
	long := func(n int) string { return strings.Repeat("k", 60<<10) + fmt.Sprint(n) }
	w.wantCode(w.do("tx_start coordinator_key=" + long(0))[0], replication.Code_CODE_INVALID)
	w.do("T range prefix=k", "T set key=own value=1")
	w.do("set key=" + long(1))
	// The name is too long to be remembered, so every key counts as changed.
	w.wantCode(w.do("T get key=other")[0], replication.Code_CODE_ABORTED)
	w.m = newMachine(t, w.store)
	w.wantCode(w.do("T get key=other")[0], replication.Code_CODE_ABORTED)
	w.do("U set key=" + long(2) + " value=1")
	if a := w.do("U commit")[0].GetTxEnded(); a.GetOutcome() != replication.TxOutcome_TX_OUTCOME_COMMITTED || len(a.RecordAnchorKey) != statemachine.MaxCoordinatorBytes {
		t.Errorf("committed: %v, with an anchor of %d bytes", a.GetOutcome(), len(a.GetRecordAnchorKey()))
	}
	for k, v := range w.store.Scan([]byte{0x50}, []byte{0x52}) {
		if len(v) > 8<<10 && k[0] == 0x50 {
			t.Errorf("row %x has %d bytes", k, len(v))
		}
	}
}
