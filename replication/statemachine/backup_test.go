package statemachine_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// restored carries the rows of a world through a backup into a new one.
func restored(t *testing.T, w *world, floor int64) (*world, statemachine.BackupSummary) {
	t.Helper()
	machine, ok := w.store.Get(statemachine.MachineRow())
	if !ok {
		t.Fatal("the machine has no row")
	}
	filter := statemachine.NewBackupFilter()
	r, err := statemachine.NewRestorer(machine)
	if err != nil {
		t.Fatal(err)
	}
	n := &world{t: t, store: newMapStore(), term: 2, index: 1, clock: w.clock, wallMS: w.wallMS, number: map[string]uint64{}, tx: w.tx}
	for key, value := range w.store.Scan(nil, nil) {
		keep, err := filter.Keep(key, value)
		if err != nil {
			t.Fatal(err)
		}
		if !keep {
			if _, err := r.Row(key, value); !errors.Is(err, statemachine.ErrNotBackedUp) {
				t.Fatalf("row %x is not in a backup, and a restore takes it: %v", key, err)
			}
			continue
		}
		if value, err = r.Row(key, value); err != nil {
			t.Fatal(err)
		}
		n.store.Put(key, value)
	}
	for _, row := range r.Finish(floor, w.wallMS, []byte("config")) {
		n.store.Put(row.Key, row.Value)
	}
	n.store.ever = nil // a restored store has seen keys that this one has not
	n.m = newMachine(t, n.store)
	if p := n.m.Position(); p.Index != 1 || p.Term != 1 || string(p.Configuration) != "config" || p.LeaseClockNS != int64(w.clock) {
		t.Fatalf("restored at %+v", p)
	}
	n.do("session_open id=client host=h node=n ttl_ms=1000000s")
	return n, filter.BackupSummary
}

func TestBackupAndRestore(t *testing.T) {
	w := newWorld(t)
	w.clock = 7 * time.Second
	w.do("set key=a value=1", "set key=a value=2", "set key=b value=x", "delete key=b", "set key=ends expires_ms=60s",
		"set key=e durability=0 value=1",
		"sequence_create name=s initial=0 increment=5 maximum=100", "sequence_next name=s count=2 idempotency_key=k",
		"lock_try name=l owner=o ttl_ms=60s", "lock_unlock name=l owner=o", "lock_try name=l owner=o ttl_ms=60s",
		"lock_wait name=held session=client owner="+string(hold("h")))
	n, sum := restored(t, w, 1000)
	if sum.HighestToken != 1 || sum.Keys != 2 || sum.Sequences != 1 {
		t.Errorf("summary %+v", sum)
	}
	state := n.read("machine_get").GetMachine()
	if state.Keys != 2 || state.Sequences != 1 || state.LocksHeld != 0 || state.Waiters != 0 || state.Sessions != 1 {
		t.Errorf("counted %+v", state)
	}
	for line, want := range map[string]string{
		"get key=a":              "value=2",
		"get key=ends":           "remaining_ms=1m0s",
		"get key=b":              "found=false",
		"get key=e durability=0": "found=false",
		"history key=a":          "value=1",
		"sequence_get name=s":    "held=true",
	} {
		if got := show(n.read(line).ProtoReflect()); !strings.Contains(got, want) && !(want == "found=false" && !strings.Contains(got, "found=true")) {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	// Locks are free, and their tokens above the floor, known or not.
	for _, name := range []string{"l", "held", "new"} {
		if got := n.do("lock_try name=" + name + " owner=o ttl_ms=60s")[0]; got.GetLockGrant().GetToken() != 1001 {
			t.Errorf("%s: %s", name, show(got.ProtoReflect()))
		}
	}
	// What expires had its time stand still.
	n.clock += 61 * time.Second
	n.do("sweep")
	if got := n.read("machine_get").GetMachine(); got.Keys != 1 {
		t.Errorf("%d keys after the end of one", got.Keys)
	}
	if got := n.do("set key=a value=3")[0].GetWritten().GetItems()[0].GetRevision(); got != 2 {
		t.Errorf("revision %d", got)
	}
}

// A restored sequence stands still until its current value is named; a replay
// under an idempotency key consumes nothing, so it is answered.
func TestRestoredSequencesStandStill(t *testing.T) {
	w := newWorld(t)
	w.do("sequence_create name=s initial=0 increment=1", "sequence_next name=s count=3 idempotency_key=k")
	n, _ := restored(t, w, 0)
	code := func(line string, want replication.Code) *replication.Answer {
		t.Helper()
		a := n.do(line)[0]
		n.wantCode(a, want)
		return a
	}
	code("sequence_next name=s count=1", replication.Code_CODE_HELD)
	if a := code("sequence_next name=s count=3 idempotency_key=k", replication.Code_CODE_OK); !a.GetAllocation().GetReplayed() {
		t.Error("not a replay")
	}
	code("sequence_update name=s increment=2", replication.Code_CODE_OK)
	code("sequence_next name=s count=1", replication.Code_CODE_HELD)
	code("sequence_update name=s current=10 only_held=true", replication.Code_CODE_OK)
	code("sequence_update name=s current=20 only_held=true", replication.Code_CODE_CONDITION_FAILED)
	if a := code("sequence_next name=s count=1", replication.Code_CODE_OK); a.GetAllocation().GetStart() != 12 {
		t.Errorf("went on with %d", a.GetAllocation().GetStart())
	}
	again, _ := restored(t, n, 0) // a backup of a restored cluster holds it anew
	again.wantCode(again.do("sequence_next name=s count=1")[0], replication.Code_CODE_HELD)
}

func TestTokenFloor(t *testing.T) {
	const now = 1_764_000_000_000
	for _, c := range []struct {
		highest, wanted, want int64
		ok                    bool
	}{
		{-1, 0, now / 1000 << 20, true},
		{1 << 52, 0, 1<<52 + 1<<20, true},
		{5, 5 + 1<<20, 5 + 1<<20, true},
		{5, 4 + 1<<20, 0, false},
		{1<<53 - 1, 0, 0, false},
		{1<<63 - 5, 0, 0, false}, // no sum may overflow, and begin below it
		{5, 1 << 60, 0, false},
	} {
		got, err := statemachine.TokenFloor(c.highest, now, c.wanted)
		if (err == nil) != c.ok || got != c.want {
			t.Errorf("above %d, wanted %d: %d, %v; want %d", c.highest, c.wanted, got, err, c.want)
		}
	}
}

// A floor is a part of what a later backup knows: two restores in a row rise.
func TestFloorIsBackedUp(t *testing.T) {
	n, _ := restored(t, newWorld(t), 5000)
	if _, sum := restored(t, n, 0); sum.HighestToken != 5000 {
		t.Errorf("the highest token is %d", sum.HighestToken)
	}
}

// Of a transaction of the old cluster nothing is claimed: it may have been
// committed after the backup was taken.
func TestTransactionsOfTheOldCluster(t *testing.T) {
	w := newWorld(t)
	w.do("set key=a")
	w.wallMS += 1000 // labelled after the backup
	n, _ := restored(t, w, 0)
	end := &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{
		Tx: &replication.TxRef{Id: &replication.Timestamp{PhysicalMs: w.wallMS - 500}}, Commit: true}}}
	n.number["client"]++
	end.Session, end.Number = sid("client"), n.number["client"]
	if res := n.apply(n.term, []*replication.Request{end}); res.Answers[0].GetCode() != replication.Code_CODE_NOT_FOUND {
		t.Errorf("%s", show(res.Answers[0].ProtoReflect()))
	}
}
