package statemachine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// spanStory plays transactions that take locks and read ranges by the dozen.
type spanStory struct {
	t      testing.TB
	store  *mapStore
	m      *statemachine.Machine
	rnd    *rand.Rand
	index  uint64
	number uint64
	clock  int64
	open   []*replication.Timestamp
	taken  []*replication.TxLock // the last few that were asked for
}

func newSpanStory(t testing.TB, seed uint64) *spanStory {
	s := &spanStory{t: t, store: newMapStore(), rnd: rand.New(rand.NewPCG(seed, 1)), clock: modelMS}
	s.m = newMachine(t, s.store)
	s.apply(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: sid("client"), TtlMs: 1e12}}},
		&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: 3}}})
	return s
}

func (s *spanStory) apply(reqs ...*replication.Request) []*replication.Answer {
	s.t.Helper()
	for _, r := range reqs {
		if r.TakesReceipt() {
			s.number++
			r.Session, r.Number, r.DoneBelow = sid("client"), s.number, s.number
		}
	}
	entry, err := statemachine.EncodeEntry(&replication.LogEntry{Level: 3, Term: 1, LeaseClockNs: s.clock, WallMs: s.clock / modelMS, Requests: reqs})
	if err != nil {
		s.t.Fatal(err)
	}
	s.index++
	res := s.m.Apply(s.index, 1, entry)
	if res.Diverged != nil {
		s.t.Fatal(res.Diverged)
	}
	return res.Answers
}

func (s *spanStory) durability() replication.Durability {
	return replication.Durability(min(s.rnd.IntN(4), 1))
}

// name is one of few names, so that bounds, keys and buckets meet.
func (s *spanStory) name() string {
	name := fmt.Sprintf("p/%02d", s.rnd.IntN(30))
	switch s.rnd.IntN(8) {
	case 0:
		return "p"
	case 1:
		return "p/"
	case 2, 3:
		name += fmt.Sprintf("/%d", s.rnd.IntN(3))
	case 4:
		name += "\x00"
	}
	return name
}

func (s *spanStory) bounds() (from, to *string) {
	if s.rnd.IntN(8) > 0 {
		name := s.name()
		from = &name
	}
	if s.rnd.IntN(8) > 0 {
		name := s.name()
		to = &name
	}
	if from != nil && to != nil && *from > *to && s.rnd.IntN(8) > 0 {
		from, to = to, from
	}
	return from, to
}

func (s *spanStory) lock() *replication.TxLockItem {
	l := &replication.TxLockItem{Durability: s.durability(), TtlMs: []int64{0, 0, 1_000, 3_000}[s.rnd.IntN(4)], Key: s.name()}
	switch s.rnd.IntN(8) {
	case 0:
	case 1, 2:
		l.Kind = replication.TxLockKind_TX_LOCK_KIND_PREFIX
	default:
		l.Kind, l.Key, l.Shared = replication.TxLockKind_TX_LOCK_KIND_RANGE, "p", s.rnd.IntN(20) > 0
		l.Start, l.End = s.bounds()
		l.EndInclusive, l.StartExclusive = s.rnd.IntN(4) == 0, s.rnd.IntN(4) == 0
	}
	return l
}

func (s *spanStory) readRange() *replication.Range {
	r := &replication.Range{Durability: s.durability(), Prefix: s.name(), Bucket: s.rnd.IntN(4) == 0,
		Limit: int64(s.rnd.IntN(4)), Descending: s.rnd.IntN(3) == 0}
	if !r.Bucket {
		r.Prefix = "p"
	}
	r.Start, r.End = s.bounds()
	return r
}

// step is one entry of many commands.
func (s *spanStory) step() {
	if s.rnd.IntN(4) == 0 {
		s.clock += int64(s.rnd.IntN(3_000)) * modelMS
	}
	var reqs []*replication.Request
	for range 1 + s.rnd.IntN(30) {
		reqs = append(reqs, s.command())
	}
	for i, a := range s.apply(reqs...) {
		if id := a.GetTxStarted().GetId(); id != nil {
			s.open = append(s.open, id)
		}
		if end := reqs[i].GetTxEnd(); end != nil && a.Code != replication.Code_CODE_PROPOSE_AGAIN {
			s.open = slices.DeleteFunc(s.open, func(id *replication.Timestamp) bool { return id == end.Tx.Id })
		}
	}
}

func (s *spanStory) command() *replication.Request {
	if len(s.open) == 0 || len(s.open) < 20 && s.rnd.IntN(6) == 0 {
		return &replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{
			TimeoutMs: []int64{1, 60_000, 300_000}[s.rnd.IntN(3)], Yield: s.rnd.IntN(12) == 0}}}
	}
	ref := &replication.TxRef{Id: s.open[s.rnd.IntN(len(s.open))]}
	locks := make([]*replication.TxLockItem, 1+s.rnd.IntN(10))
	for i := range locks {
		locks[i] = s.lock()
	}
	item := &replication.WriteItem{Durability: s.durability(), Key: s.name(), Value: []byte("v")}
	switch s.rnd.IntN(8) {
	case 0, 1:
		item.Kind = replication.WriteKind_WRITE_KIND_EXTEND
		item.ExpiresMs = []int64{0, 500, 2_000, 20_000}[s.rnd.IntN(4)]
	case 2:
		item.Kind = replication.WriteKind_WRITE_KIND_DELETE
	default:
		item.ExpiresMs = []int64{0, 0, 500, 20_000}[s.rnd.IntN(4)]
	}
	switch s.rnd.IntN(32) {
	case 0:
		return &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: ref, Commit: s.rnd.IntN(2) == 0}}}
	case 1, 2, 3:
		if len(s.taken) > 0 && s.rnd.IntN(8) > 0 {
			taken := s.taken[s.rnd.IntN(len(s.taken))]
			ref, locks = &replication.TxRef{Id: taken.Tx.Id}, taken.Locks
		}
		return &replication.Request{Op: &replication.Request_TxUnlock{TxUnlock: &replication.TxUnlock{Tx: ref, Locks: locks}}}
	case 4, 5, 6, 7, 8:
		return &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: ref, Range: s.readRange()}}}
	case 9, 10, 11, 12, 13:
		return &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: ref,
			Keys: []*replication.GetKey{{Durability: item.Durability, Key: item.Key}}}}}
	case 14:
		return &replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: ref, Items: []*replication.WriteItem{item}}}}
	case 15, 16, 17:
		return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{item}}}}
	default:
		// One of its own conflicts refuses them all.
		op := &replication.TxLock{Tx: ref, Locks: locks[:1+s.rnd.IntN(len(locks))]}
		s.taken = append(s.taken[max(0, len(s.taken)-40):], op)
		return &replication.Request{Op: &replication.Request_TxLock{TxLock: op}}
	}
}

// TestSpansAreFoundAsByWalking holds what the indexes say, of who is in the way of
// whom and of who is told of a change, against walks through everything there is.
func TestSpansAreFoundAsByWalking(t *testing.T) {
	blocked, held, told, most := 0, 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		s := newSpanStory(t, rapid.Uint64().Draw(rt, "seed"))
		for range rapid.IntRange(1, 35).Draw(rt, "entries") {
			s.step()
			if s.rnd.IntN(10) == 0 {
				s.m = newMachine(t, s.store)
			}
			for range 3 {
				n, err := statemachine.CheckBlocker(s.m, s.durability(), s.name())
				if err != nil {
					rt.Fatal(err)
				}
				blocked += n
			}
			n, err := statemachine.CheckHeld(s.m, s.durability(), s.name())
			if err != nil {
				rt.Fatal(err)
			}
			held += n
			if s.rnd.IntN(2) == 0 {
				kind := replication.WriteKind(s.rnd.IntN(3))
				end := []int64{0, s.clock + int64(s.rnd.IntN(20_000))*modelMS}[s.rnd.IntN(2)]
				n, err := statemachine.CheckNotice(s.m, kind, s.durability(), s.name(), end)
				if err != nil {
					rt.Fatal(err)
				}
				told += n
			}
			_, _, spans := statemachine.ListsMet(s.m, 1, "p")
			if kept := statemachine.SpansKept(s.m); kept < spans || kept > 2*spans {
				rt.Fatalf("%d spans are kept for %d", kept, spans)
			}
			most = max(most, spans)
		}
	})
	if blocked < 500 || held < 500 || told < 500 || most < 100 {
		t.Errorf("%d times somebody was in the way, %d locks were held, %d were told, and there were %d spans at most: that shows nothing",
			blocked, held, told, most)
	}
}

// However many spans there are, and however they lie, a write looks at few lists of
// them; and who was told of a key is not looked at again when it changes again.
func TestWritesLookAtFewSpans(t *testing.T) {
	for _, s := range spans {
		t.Run(s.name, func(t *testing.T) {
			d := newDriver(t)
			const n, most = 1_024, 6*12 + 16 // a path in each of 6 trees, and the newest
			d.holdSpans(s, n)
			key := fmt.Sprintf("k/m%06d", n+1)
			locks, reads, spans := statemachine.ListsMet(d.m, 1, key)
			if locks > most || reads > most || spans != n {
				t.Errorf("%d lists of locks and %d of ranges read are looked at, of %d spans", locks, reads, spans)
			}
			if s.read && s.around && reads == 0 {
				t.Error("no range is found")
			}
			d.apply(d.encode(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{
				Items: []*replication.WriteItem{{Durability: 1, Key: key}}}}}))
			if _, again, _ := statemachine.ListsMet(d.m, 1, key); s.read && s.around && again != 0 {
				t.Errorf("%d lists are looked at again", again)
			}
		})
	}
}

// replayedHash is the rolling hash of the story below, as it was when each write
// walked through all spans.
const replayedHash = "0526fc99d98d9657f6c1a01f11061f00"

// An index decides nothing: a history leaves what it left before there was one.
func TestIndexesLeaveReplaysAsTheyWere(t *testing.T) {
	s := newSpanStory(t, 4)
	most := 0
	for range 600 {
		s.step()
		_, _, spans := statemachine.ListsMet(s.m, 1, "p")
		most = max(most, spans)
	}
	if got := fmt.Sprintf("%x", s.m.Position().Hash); got != replayedHash {
		t.Errorf("the hash is %s, and was %s", got, replayedHash)
	}
	if most < 300 {
		t.Errorf("there were %d spans at most: that shows nothing", most)
	}
}
