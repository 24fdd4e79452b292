package statemachine_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// oldRevision is what a test remembers of a revision.
type oldRevision struct {
	number int64
	value  string
	at     *replication.Timestamp
}

// writer writes keys and remembers all their revisions.
type writer struct {
	*world
	durability string
	keep       int64
	revisions  map[string][]oldRevision
}

func (w *writer) set(lines ...string) {
	for i, a := range w.do(lines...) {
		item := a.GetWritten().GetItems()[0]
		var key, value string
		if _, err := fmt.Sscanf(lines[i], "set key=%s value=%s", &key, &value); err != nil {
			w.t.Fatal(err)
		}
		w.revisions[key] = append(w.revisions[key], oldRevision{item.Revision, value, item.Modified})
	}
}

func (w *writer) line(key string, value int, more string) string {
	return fmt.Sprintf("set key=%s value=v%d%s%s", key, value, w.durability, more)
}

func (w *writer) get(key string, how string) *replication.Answer {
	return w.read(fmt.Sprintf("get key=%s%s %s", key, w.durability, how))
}

// check reads one revision by number, and as of the time at which it was the newest.
func (w *writer) check(key string, at int) {
	revs := w.revisions[key]
	r, newest := revs[at], revs[len(revs)-1].number
	want := replication.Code_CODE_OK
	if r.number < newest-w.keep {
		want = replication.Code_CODE_TOO_OLD
	}
	asOf := w.request(fmt.Sprintf("get key=%s%s", key, w.durability))
	asOf.GetGet().AsOf = r.at
	for how, a := range map[string]*replication.Answer{
		"by number": w.get(key, fmt.Sprintf("revision=%d", r.number)),
		"as of":     statemachine.Read(w.store, asOf),
	} {
		if a.Code != want {
			w.t.Fatalf("%s %s, revision %d of %d: %v, want %v", key, how, r.number, newest, a, want)
		}
		if want != replication.Code_CODE_OK {
			continue
		}
		if e := a.GetEntries().Entries[0]; string(e.Value) != r.value || e.Revision != r.number {
			w.t.Fatalf("%s %s, revision %d of %d: %v, want %q", key, how, r.number, newest, e, r.value)
		}
	}
}

// records counts the records in all chunks, by asking the machine's own decoder.
func (w *writer) records() (chunks, records int) {
	for key, row := range w.store.Scan([]byte{0x31}, []byte{0x32}) {
		n, ok := statemachine.RecordsInChunk(key, row)
		if !ok {
			w.t.Fatalf("chunk %x cannot be read: %x", key, row)
		}
		chunks, records = chunks+1, records+n
	}
	return chunks, records
}

// What has fallen out of history is cleaned away, however hot and cold keys are
// mixed and wherever the machine is restarted; what has not stays readable.
func TestHistoryIsCleaned(t *testing.T) {
	w := &writer{world: newWorld(t), durability: " ephemeral", keep: statemachine.HistoryEphemeral, revisions: map[string][]oldRevision{}}
	rng := rand.New(rand.NewPCG(1, 2))
	var lines []string
	most := 0
	for i := range 60_000 {
		key := fmt.Sprintf("hot%d", rng.IntN(5))
		if rng.IntN(20) == 0 {
			key = fmt.Sprintf("cold%d", rng.IntN(500))
		}
		lines = append(lines, w.line(key, i, ""))
		if len(lines) < 1+i%70 {
			continue
		}
		w.wallMS++
		w.set(lines...)
		lines = lines[:0]
		if i%1000 < 70 {
			_, n := w.records()
			most = max(most, n)
			w.m = newMachine(t, w.store)
		}
		if revs := w.revisions["hot0"]; len(revs) > 0 {
			w.check("hot0", max(0, len(revs)-1-int(w.keep)))
		}
	}
	kept := 0
	for key, revs := range w.revisions {
		kept += min(len(revs)-1, int(w.keep))
		for at := range revs {
			if at >= len(revs)-3*int(w.keep) || at%97 == 0 {
				w.check(key, at)
			}
		}
	}
	chunks, records := w.records()
	t.Logf("%d records in %d chunks, at most %d, %d to be kept", records, chunks, most, kept)
	if records < kept || most > 5*kept/2+2*4096 {
		t.Errorf("%d records, at most %d: %d are to be kept", records, most, kept)
	}
}

// A key that was dropped and made anew does not see, nor keep, its namesake's history.
func TestHistoryOfANamesake(t *testing.T) {
	w := newWorld(t)
	for i := range 9 {
		w.do(fmt.Sprintf("set key=k value=old%d", i))
	}
	w.do("delete key=k")
	w.clock += time.Duration(statemachine.TombstoneNS) + 1
	w.do("sweep")
	w.do("set key=k value=new0")
	w.do("set key=k value=new1")
	e := w.read("history key=k").GetEntries().GetEntries()
	if len(e) != 2 || string(e[0].Value) != "new1" || string(e[1].Value) != "new0" {
		t.Fatalf("%v", e)
	}
	// Enough of another key's revisions fall out for a pass.
	for i := range 3000 {
		w.do(fmt.Sprintf("set key=l value=%d", i), "set key=l value=b", "set key=l value=c")
	}
	left := 0
	for key, row := range w.store.Scan([]byte{0x31}, []byte{0x32}) {
		names, _ := statemachine.NamesInChunk(key, row)
		left += names["k"]
	}
	if left != 1 {
		t.Errorf("%d records of the key are left, of which 1 is in its history", left)
	}
	w.wantCode(w.read("get key=k revision=0"), replication.Code_CODE_OK)
}

// Any old revision is found, by number and by time, in histories longer than
// what a key keeps, with gaps, and through restarts.
func TestOldRevisionsAreFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &writer{world: newWorld(t), keep: statemachine.HistoryPersistent, revisions: map[string][]oldRevision{}}
		w.store.ever = nil
		n := rapid.IntRange(1, 2600).Draw(rt, "revisions")
		for i := 0; i < n; {
			var lines []string
			for range rapid.IntRange(1, 300).Draw(rt, "in one entry") {
				lines = append(lines, w.line("k", i, ""))
				i++
			}
			w.wallMS++
			w.set(lines...)
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				w.m = newMachine(t, w.store)
			}
		}
		last := len(w.revisions["k"]) - 1
		for range 60 {
			w.check("k", rapid.IntRange(0, last).Draw(rt, "revision"))
		}
		before := rapid.IntRange(1, last+1).Draw(rt, "before")
		e := w.read(fmt.Sprintf("history key=k before=%d limit=5", before)).GetEntries().GetEntries()
		for i := range min(5, before, max(0, before-last+int(w.keep))) {
			if e[i].Revision != int64(before-1-i) {
				rt.Fatalf("history before %d: %v", before, e)
			}
		}
	})
}

// The reads of a search grow with the logarithm of the history.
func TestSearchIsShort(t *testing.T) {
	w := &writer{world: newWorld(t), keep: statemachine.HistoryPersistent, revisions: map[string][]oldRevision{}}
	for i := range 1001 {
		w.wallMS++
		w.set(w.line("k", i, ""))
	}
	for number := range int64(1000) {
		r := &countingReader{Reader: w.store}
		a := statemachine.Read(r, w.request(fmt.Sprintf("get key=k revision=%d", number)))
		if a.Code != replication.Code_CODE_OK || r.gets > 60 {
			t.Fatalf("revision %d: %v after %d reads", number, a.Code, r.gets)
		}
	}
}

type countingReader struct {
	statemachine.Reader
	gets int
}

func (r *countingReader) Get(key []byte) ([]byte, bool) {
	r.gets++
	return r.Reader.Get(key)
}

// A snapshot hold keeps what reads as of its time or later need, also through
// passes that clean up, and no longer than it lives.
func TestHoldsKeepHistory(t *testing.T) {
	for level, rounds := range map[uint32]int{2: 12_000, statemachine.CurrentLevel: 1_500} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) { holdsKeepHistory(t, level, rounds) })
	}
}

func holdsKeepHistory(t *testing.T, level uint32, rounds int) {
	w := &writer{world: newWorld(t), durability: " ephemeral", keep: statemachine.HistoryEphemeral, revisions: map[string][]oldRevision{}}
	w.do(fmt.Sprint("set_level level=", level))
	for i := range 100 {
		w.wallMS++
		w.set(w.line("k", i, ""))
	}
	held := w.revisions["k"][60].at
	hold := w.do(fmt.Sprintf("snapshot_hold_acquire holder=me timestamp=%d lease_ms=1000s", held.PhysicalMs))[0].GetSnapshotHold()
	for i := range rounds {
		w.wallMS++
		w.set(w.line("k", i, ""), w.line("l", i, ""))
	}
	kept := &writer{world: w.world, durability: w.durability, keep: 20_000, revisions: w.revisions}
	for _, at := range []int{90, 95, 99, 100, 101, 1000, 5000, 12_000} {
		kept.check("k", min(at, rounds)) // since the 84th: when the hold came, those before had fallen out
	}
	if _, n := w.records(); n < 2*rounds {
		t.Errorf("%d records are left", n)
	}
	w.wantCode(w.read("get key=k ephemeral as_of=70"), replication.Code_CODE_TOO_OLD)
	w.do("snapshot_hold_release id=" + hold.GetId())
	w.check("k", 1000)
	for i := range 300 {
		lines := make([]string, 100)
		for j := range lines {
			lines[j] = w.line("l", i, "")
		}
		w.set(lines...)
	}
	if _, n := w.records(); n > 12_000 {
		t.Errorf("%d records are left after the hold", n)
	}
}
