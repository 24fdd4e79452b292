package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
)

// txWorld is a world at feature level 2 with two open transactions, T and U.
func txWorld(t testing.TB, options ...string) *world {
	t.Helper()
	w := newWorld(t)
	w.do("set_level level=2")
	w.begin("T", options...)
	w.begin("U", options...)
	return w
}

func (w *world) begin(name string, options ...string) *replication.TxStarted {
	w.t.Helper()
	line := "tx_start"
	for _, o := range options {
		line += " " + o
	}
	s := w.do(line)[0].GetTxStarted()
	if s == nil {
		w.t.Fatalf("%s was not started", name)
	}
	w.tx[name] = s.Id
	return s
}

func (w *world) outcome(line string) replication.TxOutcome {
	w.t.Helper()
	return w.do(line)[0].GetTxEnded().GetOutcome()
}

// TestLockConflicts is the table of contract/decisions.md 33, each pair in both
// orders: whoever comes second is granted or refused at once, whoever came first
// keeps what it has, and own locks never conflict.
func TestLockConflicts(t *testing.T) {
	locks := []struct{ name, line string }{
		{"key", "key=p/5"},
		{"other key", "key=q/5"},
		{"deeper key", "key=p/5/x"},
		{"prefix", "kind=prefix key=p"},
		{"other prefix", "kind=prefix key=q"},
		{"shared", "kind=range key=p/ start=p/3 end=p/7 shared"},
		{"shared apart", "kind=range key=p/ start=p/8 shared"},
		{"exclusive", "kind=range key=p/ start=p/4 end=p/6"},
		{"ephemeral exclusive", "kind=range key=p/ ephemeral"},
	}
	// want[held] lists what is refused under it.
	want := map[string][]string{
		"key":                 {"key"},
		"other key":           {"other key"},
		"deeper key":          {"deeper key"},
		"prefix":              {"key", "prefix", "shared", "shared apart", "exclusive"},
		"other prefix":        {"other key", "other prefix"},
		"shared":              {"key", "deeper key", "prefix", "exclusive"},
		"shared apart":        {"prefix"},
		"exclusive":           {"key", "deeper key", "prefix", "shared", "exclusive"},
		"ephemeral exclusive": {"ephemeral exclusive"},
	}
	for _, held := range locks {
		refused := make(map[string]bool)
		for _, name := range want[held.name] {
			refused[name] = true
		}
		for _, wanted := range locks {
			t.Run(held.name+"/"+wanted.name, func(t *testing.T) {
				w := txWorld(t)
				w.wantCode(w.do("T lock " + held.line)[0], replication.Code_CODE_OK)
				w.wantCode(w.do("T lock " + wanted.line)[0], replication.Code_CODE_OK) // own locks pass
				w = txWorld(t)
				w.do("T lock " + held.line)
				a := w.do("U lock " + wanted.line)[0]
				if !refused[wanted.name] {
					w.wantCode(a, replication.Code_CODE_OK)
					return
				}
				w.wantCode(a, replication.Code_CODE_LOCKED)
				if got, holder := a.GetTxLocked().GetHolder(), w.tx["T"]; got.GetPhysicalMs() != holder.PhysicalMs || got.GetCounter() != holder.Counter {
					t.Errorf("the holder is %v, not %v", got, holder)
				}
				// It is granted once the first has ended, in whatever way.
				for _, end := range []string{"T commit", "T rollback", "clock"} {
					w := txWorld(t)
					w.do("T lock " + held.line)
					if end == "clock" {
						w.clock += 20_000_000_000
						w.begin("U")
					} else {
						w.do(end)
					}
					w.wantCode(w.do("U lock " + wanted.line)[0], replication.Code_CODE_OK)
				}
			})
		}
	}
}

// Writes, plain or in a transaction, are refused under every foreign lock that
// covers the key, of either mode (I11); reads never are (decisions.md 34).
func TestWritesUnderLocks(t *testing.T) {
	for _, c := range []struct {
		lock    string
		covered bool
	}{
		{"key=p/5", true}, {"key=p/4", false}, {"kind=prefix key=p", true}, {"kind=prefix key=p/5", false},
		{"kind=range key=p/ shared", true}, {"kind=range key=p/ start=p/5 end=p/5 end_inclusive", true},
		{"kind=range key=p/ start=p/5 start_exclusive", false}, {"kind=range key=p/ end=p/5", false},
		{"kind=range key=q", false}, {"kind=range key=p/5", true}, {"key=p/5 ephemeral", false},
	} {
		for _, write := range []string{"set key=p/5 value=x", "delete key=p/5", "extend key=p/5 expires_ms=9s"} {
			for _, who := range []string{"", "U "} {
				t.Run(fmt.Sprint(c.lock, "/", who, write), func(t *testing.T) {
					w := txWorld(t)
					w.do("set key=p/5 value=old", "T lock "+c.lock)
					want := replication.Code_CODE_OK
					if c.covered {
						want = replication.Code_CODE_LOCKED
					}
					w.wantCode(w.do(who + write)[0], want)
					if !c.covered {
						return
					}
					w.wantCode(w.do("T " + write)[0], replication.Code_CODE_OK)
					if got := w.read("get key=p/5").GetEntries().Entries[0]; string(got.Value) != "old" {
						t.Errorf("a plain read under the lock: %v", got)
					}
					a := w.do("U get key=p/5")[0]
					w.wantCode(a, replication.Code_CODE_OK)
				})
			}
		}
	}
}

// A prefix or range lock is granted over a foreign lock on a key inside; the
// owner of that key cannot commit while it lives, and can when it has gone (I14b).
func TestWiderLockOverKeyLock(t *testing.T) {
	for _, lock := range []string{"kind=prefix key=p", "kind=range key=p", "kind=range key=p shared"} {
		w := txWorld(t)
		w.do("T set key=p/1 value=T", "U lock "+lock)
		if got := w.outcome("T commit"); got != replication.TxOutcome_TX_OUTCOME_ABORTED {
			t.Errorf("%s: committed under it: %v", lock, got)
		}
		w = txWorld(t)
		w.do("T set key=p/1 value=T", "U lock "+lock)
		w.wantCode(w.do("U set key=p/1 value=U")[0], replication.Code_CODE_LOCKED)
		w.do("U rollback")
		if got := w.outcome("T commit"); got != replication.TxOutcome_TX_OUTCOME_COMMITTED {
			t.Errorf("%s: after it has gone: %v", lock, got)
		}
	}
}

// A yielding transaction gives way to whoever is not (decisions.md 39).
func TestYield(t *testing.T) {
	for name, taker := range map[string]string{
		"a plain write": "set key=k value=x", "a lock": "U lock key=k", "a staged write": "U set key=k value=x",
	} {
		w := newWorld(t)
		w.do("set_level level=2")
		w.begin("T", "yield")
		w.begin("U")
		w.begin("V", "yield")
		w.wantCode(w.do("T lock kind=prefix key=p")[0], replication.Code_CODE_INVALID)
		w.do("T lock key=other")
		w.wantCode(w.do("T set key=k value=T")[0], replication.Code_CODE_OK)
		for _, yielder := range []string{"set key=k value=y yield", "V set key=k value=V", "V lock key=k"} {
			w.wantCode(w.do(yielder)[0], replication.Code_CODE_LOCKED)
		}
		w.wantCode(w.do(taker)[0], replication.Code_CODE_OK)
		w.m = newMachine(t, w.store) // and so it is after a restart
		w.wantCode(w.do("T get key=k")[0], replication.Code_CODE_ABORTED)
		w.wantCode(w.do("U lock key=other")[0], replication.Code_CODE_OK) // all its locks are free
		if got := w.outcome("T commit"); got != replication.TxOutcome_TX_OUTCOME_ABORTED {
			t.Errorf("%s: the one that yielded: %v", name, got)
		}
	}
}

// What was read under a lock that is held without a gap may expire; without the
// lock, or with a gap, it has changed (decisions.md 32).
func TestExpiryOfWhatWasRead(t *testing.T) {
	for _, c := range []struct {
		name, lock, read string
		gap              bool
		want             replication.TxOutcome
	}{
		{"key lock", "T lock key=p/1", "T get key=p/1", false, replication.TxOutcome_TX_OUTCOME_COMMITTED},
		{"prefix lock", "T lock kind=prefix key=p", "T bucket prefix=p", false, replication.TxOutcome_TX_OUTCOME_COMMITTED},
		{"range lock, part read", "T lock kind=range key=p shared", "T range prefix=p/ limit=1", false, replication.TxOutcome_TX_OUTCOME_COMMITTED},
		{"no lock", "T lock key=other", "T get key=p/1", false, replication.TxOutcome_TX_OUTCOME_ABORTED},
		{"no lock, bucket", "T lock key=other", "T bucket prefix=p", false, replication.TxOutcome_TX_OUTCOME_ABORTED},
		{"key lock, bucket read", "T lock key=p/1", "T bucket prefix=p", false, replication.TxOutcome_TX_OUTCOME_ABORTED},
		{"a gap", "T lock key=p/1", "T get key=p/1", true, replication.TxOutcome_TX_OUTCOME_ABORTED},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := txWorld(t)
			ttl := " ttl_ms=9s"
			if c.gap {
				ttl = " ttl_ms=1s"
			}
			w.do("set key=p/1 value=1 expires_ms=2s", c.lock+ttl, c.read)
			w.clock += 1_500_000_000
			if c.gap {
				w.do(c.lock + ttl)
			}
			w.clock += 1_000_000_000
			w.do("sweep") // whether it is swept makes no difference
			if got := w.outcome("T commit"); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}

// An extend by somebody else changes nothing that was read, unless it brings an
// end forward.
func TestExtendOfWhatWasRead(t *testing.T) {
	for to, want := range map[string]replication.TxOutcome{
		"0": replication.TxOutcome_TX_OUTCOME_COMMITTED, "20s": replication.TxOutcome_TX_OUTCOME_COMMITTED,
		"5s": replication.TxOutcome_TX_OUTCOME_ABORTED,
	} {
		for _, read := range []string{"T get key=p/1", "T bucket prefix=p"} {
			w := txWorld(t)
			w.do("set key=p/1 value=1 expires_ms=10s", read, "extend key=p/1 expires_ms="+to)
			if got := w.outcome("T commit"); got != want {
				t.Errorf("%s, extended to %s: %v", read, to, got)
			}
		}
	}
}

// A page of a range is watched to its last key, that one included, in both
// directions, and no further.
func TestPagesAreWatched(t *testing.T) {
	for _, c := range []struct {
		way, key string
		want     replication.TxOutcome
	}{
		{"", "p/2", replication.TxOutcome_TX_OUTCOME_ABORTED}, {"", "p/1x", replication.TxOutcome_TX_OUTCOME_ABORTED},
		{"", "p/2x", replication.TxOutcome_TX_OUTCOME_COMMITTED}, {"", "p/3", replication.TxOutcome_TX_OUTCOME_COMMITTED},
		{" descending", "p/2", replication.TxOutcome_TX_OUTCOME_ABORTED}, {" descending", "p/2x", replication.TxOutcome_TX_OUTCOME_ABORTED},
		{" descending", "p/1x", replication.TxOutcome_TX_OUTCOME_COMMITTED}, {" descending", "p/1", replication.TxOutcome_TX_OUTCOME_COMMITTED},
	} {
		w := txWorld(t)
		w.do("set key=p/1", "set key=p/2", "set key=p/3", "T range prefix=p/ limit=2"+c.way, "set key="+c.key+" value=new")
		if got := w.outcome("T commit"); got != c.want {
			t.Errorf("two of three read%s, then %s set: %v", c.way, c.key, got)
		}
	}
}

// Two that saw the same key are noted in one order, whether the machine met them
// in another before it was loaded or not.
func TestNotesAreInOrder(t *testing.T) {
	for _, read := range []string{" get key=k", " range prefix=k"} {
		w := txWorld(t)
		w.do("U"+read, "T"+read)
		other := newWorld(t)
		for k, v := range w.store.Scan(nil, nil) {
			other.store.Put(k, v)
		}
		other.m, other.index, other.number = newMachine(t, other.store), w.index, w.number
		other.number = map[string]uint64{"client": w.number["client"]}
		w.do("set key=k")
		other.do("set key=k")
		if a, b := w.m.Position().Hash, other.m.Position().Hash; a != b {
			t.Errorf("%s: the hash is %x, and %x after loading", read, a, b)
		}
	}
}

// A shared range lock becomes exclusive when nobody else shares it, and never
// shared again.
func TestUpgradeOfARangeLock(t *testing.T) {
	w := txWorld(t)
	const lock = " lock kind=range key=p start=p/1 end=p/9"
	w.do("T"+lock+" shared", "U"+lock+" shared")
	w.wantCode(w.do("T" + lock)[0], replication.Code_CODE_LOCKED)
	w.do("U rollback")
	w.begin("U")
	w.wantCode(w.do("T" + lock)[0], replication.Code_CODE_OK)
	w.wantCode(w.do("T" + lock + " shared")[0], replication.Code_CODE_OK)
	w.m = newMachine(t, w.store)
	w.wantCode(w.do("U" + lock + " shared")[0], replication.Code_CODE_LOCKED)
	if n := w.read("tx_list").GetTransactions().Transactions[0].Locks; n != 1 {
		t.Errorf("one range was locked four times, and counts as %d locks", n)
	}
	// Given up, it is free; what is not held is no error.
	w.wantCode(w.do("T unlock kind=range key=p start=p/1 end=p/9 ; key=none")[0], replication.Code_CODE_OK)
	w.wantCode(w.do("U" + lock)[0], replication.Code_CODE_OK)
}

// A commit that is durable has no ephemeral write (contract: T19).
func TestDurableCommit(t *testing.T) {
	for write, want := range map[string]replication.TxOutcome{
		"T set key=k value=1":           replication.TxOutcome_TX_OUTCOME_COMMITTED,
		"T set key=k value=1 ephemeral": replication.TxOutcome_TX_OUTCOME_ABORTED,
	} {
		w := txWorld(t, "durable")
		w.do("T set key=other value=1", write)
		if got := w.outcome("T commit"); got != want {
			t.Errorf("%s: %v", write, got)
		}
		if found := w.read("get key=other").GetEntries().Entries[0].Found; found != (want == replication.TxOutcome_TX_OUTCOME_COMMITTED) {
			t.Errorf("%s: the other write is there: %v", write, found)
		}
	}
}
