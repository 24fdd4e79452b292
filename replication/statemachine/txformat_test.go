package statemachine_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

const goldenTxFile = "testdata/rows2.golden"

// goldenTxWorld has a row of every kind that came with feature level 2.
func goldenTxWorld(t testing.TB) *world {
	w := newWorld(t)
	w.clock, w.wallMS = 5_000_000_000, 1_700_000_000_000
	w.do("set_level level=2", "set key=a value=1", "set key=b value=1 expires_ms=60s", "set key=p/1 value=1 expires_ms=60s")
	w.begin("T", "coordinator_key=one", "locking=1", "timeout_ms=60s", "async_release", "auto_commit", "validate_reads", "durable", "yield", "priority=4")
	w.begin("U", "coordinator_key=two", "timeout_ms=60s", "read_timestamp=1700000000000.0")
	w.begin("V", "timeout_ms=60s")
	w.begin("W")
	w.begin("X", "timeout_ms=60s")
	w.do("T get key=b", "T get key=missing ephemeral", "T bucket prefix=p", "T set key=a value=2 op=one", "T delete key=b",
		"T set key=n expires_ms=9s", "T set key=e value= ephemeral", "T extend key=n expires_ms=90s",
		"V lock kind=prefix key=q", "V lock kind=range key=r start=r1 end=r2 end_inclusive shared ttl_ms=9s", "V range prefix=a end=c",
		"U get key=a", "W set key=w value=w", "W commit", "X lock key=x ; key=y ttl_ms=1s",
		"snapshot_hold_acquire holder=me timestamp=1699999999999.7 lease_ms=60s", "key_space_set name=p ranged")
	w.do("set key=p/2 value=1") // which T has seen missing
	return w
}

// TestGoldenTransactionRows holds the formats of level 2 still, like TestGoldenRows.
func TestGoldenTransactionRows(t *testing.T) {
	w := goldenTxWorld(t)
	got := strings.Join(w.store.dump(), "\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(goldenTxFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenTxFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("the rows have changed (-golden +now):\n%s", d)
	}
	s := newMapStore()
	for _, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
		k, v, _ := strings.Cut(line, " = ")
		key, _ := hex.DecodeString(k)
		value, _ := hex.DecodeString(v)
		s.Put(key, value)
		if again, ok := statemachine.RecodeRow(key, value); !ok || !bytes.Equal(again, value) {
			t.Errorf("row %s is not read as it was written: %x", line, again)
		}
	}
	w.store, w.m = s, newMachine(t, s)
	// What the rows decide, they still decide.
	if l := w.read("tx_list").GetTransactions().GetTransactions(); len(l) != 4 || l[0].Trouble == "" || l[0].Writes != 5 || l[3].Locks != 2 {
		t.Errorf("open transactions: %v", l)
	}
	w.wantCode(w.do("set key=x value=x")[0], replication.Code_CODE_LOCKED)
	w.wantCode(w.do("set key=q/1 value=x")[0], replication.Code_CODE_LOCKED)
	for line, want := range map[string]replication.TxOutcome{
		"T commit": replication.TxOutcome_TX_OUTCOME_ABORTED, "V commit": replication.TxOutcome_TX_OUTCOME_COMMITTED,
		"W rollback": replication.TxOutcome_TX_OUTCOME_COMMITTED,
	} {
		if got := w.outcome(line); got != want {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
	}
	if f := w.read("snapshot_floor_get").GetSnapshotFloor(); f.GetHolds() != 1 || f.GetFloor().GetCounter() != 7 {
		t.Errorf("the floor: %v", f)
	}
	if k := w.read("key_space_list").GetKeySpaces(); len(k.GetNames()) != 1 {
		t.Errorf("key spaces: %v", k)
	}
}
