package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// TestRangesAsOfATimeUnderManyHolds reads a range as of a time from which every
// key has long moved on, while there are many snapshot holds: looking for what
// they keep is part of the work that is bounded, and what was looked at last must
// still be a key.
func TestRangesAsOfATimeUnderManyHolds(t *testing.T) {
	s := newScripts(t)
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
	if pages < 4 || pages > keys {
		t.Errorf("%d keys in %d pages: a page looks at 4,000 rows, and each key takes more than 500", keys, pages)
	}
	// A script meets the same, and runs as a session when it is too much.
	a := s.apply(scriptRequest(fmt.Sprintf("LET n = EGET BY BUCKET k AS OF %d RETURN count(n)", at.PhysicalMs), nil))[0]
	if a.Code != replication.Code_CODE_FUEL_SPENT {
		t.Errorf("the script: %v", a)
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
