package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// TestRangesAsOfATimeUnderManyHolds reads a range as of a time from which every
// key has long moved on, while there are many snapshot holds. Before feature level 4
// looking for what they keep is part of the work that is bounded, and what was looked
// at last must still be a key; since then it is done once.
func TestRangesAsOfATimeUnderManyHolds(t *testing.T) {
	for level, most := range map[uint32]int{3: 30, 4: 1} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) { underManyHolds(t, level, most) })
	}
}

func underManyHolds(t *testing.T, level uint32, most int) {
	s := newScriptsAt(t, level)
	at := s.apply(&replication.Request{Op: &replication.Request_KeySpaceSet{KeySpaceSet: &replication.KeySpaceSet{Name: "first"}}})[0].GetTime()
	for i := range 500 {
		s.apply(&replication.Request{Op: &replication.Request_SnapshotHoldAcquire{SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{
			Holder: fmt.Sprint("holder", i), Timestamp: at, LeaseMs: 1e9}}})
	}
	s.nowMS += 10
	const keys, revisions = 30, 20
	for range revisions {
		for k := range keys {
			s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{
				{Key: fmt.Sprintf("k/%02d", k), Value: []byte("v")}}}}})
		}
	}
	started := s.apply(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{ReadTimestamp: at}}})[0]
	ref := &replication.TxRef{Id: started.GetTxStarted().GetId()}
	r := &replication.Range{Prefix: "k/"}
	pages := 0
	for more := true; more; pages++ {
		a := s.apply(&replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: ref, Range: r}}})[0]
		if a.Code != replication.Code_CODE_OK || len(a.GetEntries().Entries) != 0 {
			t.Fatalf("page %d: %v", pages, a)
		}
		if more = a.GetEntries().More; more {
			if next := a.GetEntries().GetResume(); r.Start != nil && next <= *r.Start {
				t.Fatalf("after %q it goes on at %q", *r.Start, next)
			}
			r.Start, r.StartExclusive = a.GetEntries().Resume, true
		}
	}
	if pages > most || most > 1 && pages < 4 {
		t.Errorf("%d keys in %d pages: a page looks at 4,000 rows, and each key takes more than 500 where it asks for holds", keys, pages)
	}
	// A script meets the same, and runs as a session when it is too much.
	want := replication.Code_CODE_FUEL_SPENT
	if most == 1 {
		want = replication.Code_CODE_OK
	}
	a := s.apply(scriptRequest(fmt.Sprintf("LET n = EGET BY BUCKET k AS OF %d RETURN count(n)", at.PhysicalMs), nil))[0]
	if a.Code != want {
		t.Errorf("the script: %v", a)
	}
}

// TestHoldsCountAtApplyAsInReads compares what a script reads of the past at apply with
// what anybody reads of it, while holds come and go in the very same entry.
func TestHoldsCountAtApplyAsInReads(t *testing.T) {
	for level := uint32(2); level <= statemachine.CurrentLevel; level++ {
		s := newScriptsAt(t, level)
		var at []*replication.Timestamp
		for i := range 60 { // 16 are kept without a hold
			s.nowMS++
			if i == 20 {
				s.apply(&replication.Request{Op: &replication.Request_SnapshotHoldAcquire{SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{
					Holder: "first", Timestamp: at[15], LeaseMs: 100}}})
			}
			a := s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{
				{Durability: replication.Durability_DURABILITY_EPHEMERAL, Key: "k", Value: fmt.Append(nil, i)}}}}})[0]
			at = append(at, a.GetTime())
		}
		check := func(when string) (lost int) {
			s.nowMS++
			for i, then := range at {
				a := s.apply(scriptRequest(fmt.Sprintf("LET v = EGET k AS OF %d RETURN v", then.PhysicalMs), nil))[0]
				r := statemachine.Read(s.store, &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{
					Keys: []*replication.GetKey{{Durability: replication.Durability_DURABILITY_EPHEMERAL, Key: "k"}},
					AsOf: &replication.Timestamp{PhysicalMs: then.PhysicalMs, Counter: 1<<32 - 1}}}})
				tooOld := r.GetCode() == replication.Code_CODE_TOO_OLD
				if tooOld != (a.GetScriptResult().GetKind() == replication.ScriptKind_SCRIPT_KIND_ABORTED) {
					t.Errorf("level %d, %s: revision %d: read %s, the script %s", level, when, i, r, a)
					continue
				}
				if tooOld {
					lost++
					continue
				}
				if want := fmt.Sprint(i); string(r.GetEntries().GetEntries()[0].GetValue()) != want || string(a.GetScriptResult().GetValues()[0].GetValue()) != want {
					t.Errorf("level %d, %s: revision %d: read %s, the script %s", level, when, i, r, a)
				}
			}
			return lost
		}
		if n := check("under a hold"); n == 0 || n >= 20 {
			t.Errorf("level %d: of the revisions before the hold %d are lost", level, n)
		}
		s.nowMS += 100 // the hold ends in the entry of the first script
		if n := check("after it"); n != 60-17 {
			t.Errorf("level %d: without a hold %d revisions are lost", level, n)
		}
	}
}

// TestScriptsPayForTheValuesThatTheyCompare checks that a condition on a large
// value, and a new end for it, cost what reading it does: a loop of a thousand was
// seconds of work.
func TestScriptsPayForTheValuesThatTheyCompare(t *testing.T) {
	s := newScripts(t)
	s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{
		{Durability: 1, Key: "large", Value: make([]byte, 1<<20)}}}}})
	for _, text := range []string{
		"FOR i IN 1..10 DO SET large 1 CMP 'other' END",
		"FOR i IN 1..10 DO EXTEND large 100000 END",
	} {
		a := s.apply(scriptRequest(text, nil))[0]
		if a.Code != replication.Code_CODE_FUEL_SPENT {
			t.Errorf("%s: %v", text, a)
		}
	}
	if res := s.Run("EXTEND large 100000", nil); res.Type != script.TypeExtended || res.Fuel < 3<<20 {
		t.Errorf("%v for %d units", res.Type, res.Fuel)
	}
}
