package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
)

// TestScriptsPayForRowsThatTheyDoNotGet checks that what a script goes through costs
// fuel, from feature level 4 on, although nothing of it is there: scans of keys that
// have gone, or were not there yet, went on for seconds in one entry.
func TestScriptsPayForRowsThatTheyDoNotGet(t *testing.T) {
	for _, c := range []struct {
		name, text string
		level3     uint64 // at most
		level4     uint64 // at least
	}{
		{"deleted", "LET v = SCAN BY PREFIX gone RETURN count(v)", 10_000, 100 * 3_000},
		{"before they were", "LET v = SCAN BY PREFIX k AS OF %d RETURN count(v)", 10_000, 100 * 6_000},
		{"deeper than the bucket", "LET v = GET BY BUCKET deep RETURN count(v)", 10_000, 20 * 21_000},
		{"history under many holds", "LET v = EGET old AS OF %d RETURN v", 60_000, 50_000},
		{"history", "LET v = GET old AT 1 RETURN v", 60_000, 50_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			for level, want := range map[uint32]func(uint64) bool{
				3: func(fuel uint64) bool { return fuel > 0 && fuel <= c.level3 },
				4: func(fuel uint64) bool { return fuel >= c.level4 && fuel < 2*c.level4 },
			} {
				s, then := manyRows(t, level)
				text := c.text
				if c.name == "before they were" || c.name == "history under many holds" {
					text = fmt.Sprintf(text, then)
				}
				a := s.apply(scriptRequest(text, nil))[0]
				if fuel := a.GetScriptResult().GetFuelUsed(); !want(fuel) {
					t.Errorf("level %d: %d units for %s", level, fuel, a)
				}
			}
		})
	}
}

// manyRows is a state with rows of which little is to be seen, and a time before them.
func manyRows(t *testing.T, level uint32) (s *scripts, then int64) {
	s = newScriptsAt(t, level)
	then = s.nowMS
	for i := range 200 {
		s.apply(&replication.Request{Op: &replication.Request_SnapshotHoldAcquire{SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{
			Holder: fmt.Sprint("holder", i), LeaseMs: 1e9}}})
	}
	s.nowMS += 10
	write := func(kind replication.WriteKind, d replication.Durability, keys ...string) {
		var items []*replication.WriteItem
		for _, k := range keys {
			items = append(items, &replication.WriteItem{Kind: kind, Durability: d, Key: k, Value: []byte("v")})
		}
		s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: items}}})
	}
	const set, del = replication.WriteKind_WRITE_KIND_SET, replication.WriteKind_WRITE_KIND_DELETE
	const stays = replication.Durability_DURABILITY_PERSISTENT
	const goes = replication.Durability_DURABILITY_EPHEMERAL
	var keys, gone, deep []string
	for i := range 100 {
		keys, gone = append(keys, fmt.Sprintf("k%02d", i)), append(gone, fmt.Sprintf("gone%02d", i))
	}
	for i := range 20 {
		deep = append(deep, fmt.Sprintf("deep/%02d/x", i), fmt.Sprintf("deep/%02d/y", i))
	}
	write(set, stays, append(append(keys, gone...), deep...)...)
	write(set, stays, keys...)
	write(del, stays, gone...)
	for range 30 {
		s.nowMS++
		write(set, stays, "old")
		write(set, goes, "old")
	}
	return s, then
}

// TestBucketsOfBucketsArePaged checks that a page of a bucket which a transaction
// reads ends early when there is much to step over beneath it, from level 4 on, and
// that the pages together have everything.
func TestBucketsOfBucketsArePaged(t *testing.T) {
	for level, want := range map[uint32]int{3: 1, 4: 3} {
		s := newScriptsAt(t, level)
		var items []*replication.WriteItem
		for i := range 1200 {
			items = append(items, &replication.WriteItem{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: fmt.Sprintf("b/%04d/deeper", i)})
		}
		items = append(items, &replication.WriteItem{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: "b/last"})
		s.apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: items}}})
		started := s.apply(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{}}})[0]
		ref := &replication.TxRef{Id: started.GetTxStarted().GetId()}
		r := &replication.Range{Prefix: "b", Bucket: true, Durability: replication.Durability_DURABILITY_PERSISTENT}
		pages, found := 0, 0
		for more := true; more && pages < 50; pages++ {
			a := s.apply(&replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: ref, Range: r}}})[0]
			if err := a.Refused(); err != nil {
				t.Fatal(err)
			}
			found += len(a.GetEntries().GetEntries())
			if more = a.GetEntries().GetMore(); more {
				last := a.GetEntries().GetResume()
				if last == "" {
					entries := a.GetEntries().GetEntries()
					last = entries[len(entries)-1].GetKey()
				}
				r.Start, r.StartExclusive = &last, true
			}
		}
		if pages != want || found != 1 {
			t.Errorf("level %d: %d keys in %d pages, want 1 in %d", level, found, pages, want)
		}
	}
}
