package statemachine_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage/engines"
	"github.com/kahu-sh/kahu/storage/memtable"
)

// seqState is the committed state in the simplest form: what a sequential
// execution of the committed transactions would see. It holds one durability.
type seqState map[string]seqKey

type seqKey struct {
	number int64
	value  string
	tomb   bool
}

func (s seqState) get(key string) seqKey {
	if k, ok := s[key]; ok {
		return k
	}
	return seqKey{number: -1, tomb: true}
}

// write carries out one item and returns its code.
func (s seqState) write(i *replication.WriteItem) replication.Code {
	k := s.get(i.Key)
	switch {
	case i.IfNotExists && !k.tomb, i.IfExists && k.tomb:
		return replication.Code_CODE_CONDITION_FAILED
	case i.Kind == replication.WriteKind_WRITE_KIND_DELETE && k.tomb:
		return replication.Code_CODE_NOT_FOUND
	}
	s[i.Key] = seqKey{k.number + 1, string(i.Value), i.Kind == replication.WriteKind_WRITE_KIND_DELETE}
	return replication.Code_CODE_OK
}

// read renders what a read shows.
func (s seqState) read(op *replication.TxRead) string {
	var out []string
	for _, k := range op.Keys {
		v := s.get(k.Key)
		out = append(out, fmt.Sprint(k.Key, "=", !v.tomb, " ", v.value))
	}
	if r := op.Range; r != nil {
		var names []string
		for name, v := range s {
			in := strings.HasPrefix(name, r.Prefix)
			if r.Bucket {
				var rest string
				rest, in = strings.CutPrefix(name, r.Prefix+"/")
				in = in && !strings.Contains(rest, "/")
			}
			if in && !v.tomb && (r.Start == nil || name >= *r.Start) && (r.End == nil || name < *r.End) {
				names = append(names, name)
			}
		}
		sort.Strings(names)
		if r.Descending {
			slices.Reverse(names)
		}
		if r.Limit > 0 && len(names) > int(r.Limit) {
			names = names[:r.Limit]
		}
		for _, name := range names {
			out = append(out, fmt.Sprint(name, "=true ", s[name].value))
		}
	}
	return strings.Join(out, ", ")
}

func shownRead(a *replication.Answer) string {
	var out []string
	for _, e := range a.GetEntries().GetEntries() {
		out = append(out, fmt.Sprint(e.Key, "=", e.Found, " ", string(e.Value)))
	}
	return strings.Join(out, ", ")
}

// seqTx is what one transaction was told, to be told again by the sequential
// execution at the moment of its commit.
type seqTx struct {
	id    *replication.Timestamp
	reads []*replication.TxRead // in order with writes: one of the two is nil
	items []*replication.WriteItem
	told  []string
	base  map[string]int64 // numbers of the keys that it looked at, at first sight
}

// replay carries out the transaction on s, and says where it differs.
func (x *seqTx) replay(s seqState) (differs string) {
	for i, told := range x.told {
		var now string
		if x.reads[i] != nil {
			now = s.read(x.reads[i])
		} else {
			now = s.write(x.items[i]).String()
		}
		if now != told && differs == "" {
			differs = fmt.Sprintf("operation %d was told %q, and is told %q when it runs at the commit", i+1, told, now)
		}
	}
	return differs
}

var seqKeys = []string{"p/1", "p/2", "p/3", "p/2/x", "q"}

func seqRead(t *rapid.T, ref *replication.TxRef) *replication.TxRead {
	op := &replication.TxRead{Tx: ref}
	switch rapid.IntRange(0, 4).Draw(t, "read") {
	case 0:
		op.Range = &replication.Range{Durability: 1, Prefix: "p", Bucket: true}
	case 1:
		from, to := rapid.SampledFrom(seqKeys).Draw(t, "from"), rapid.SampledFrom(seqKeys).Draw(t, "to")
		op.Range = &replication.Range{Durability: 1, Start: &from, End: &to}
	case 2:
		op.Range = &replication.Range{Durability: 1, Prefix: "p/", Limit: rapid.Int64Range(1, 3).Draw(t, "limit"),
			Descending: rapid.Bool().Draw(t, "descending")}
	default:
		op.Keys = []*replication.GetKey{{Durability: 1, Key: rapid.SampledFrom(seqKeys).Draw(t, "key")}}
	}
	return op
}

func seqItem(t *rapid.T) *replication.WriteItem {
	i := &replication.WriteItem{Durability: 1, Key: rapid.SampledFrom(seqKeys).Draw(t, "key"),
		Value: []byte(fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "value")))}
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0:
		i.Kind, i.Value = replication.WriteKind_WRITE_KIND_DELETE, nil
	case 1:
		i.IfNotExists = true
	case 2:
		i.IfExists = true
	}
	return i
}

func seqLock(t *rapid.T) *replication.TxLockItem {
	l := &replication.TxLockItem{Durability: 1, TtlMs: rapid.SampledFrom([]int64{0, 1_000, 5_000}).Draw(t, "lease")}
	switch rapid.IntRange(0, 3).Draw(t, "lock") {
	case 0:
		l.Kind, l.Key = replication.TxLockKind_TX_LOCK_KIND_PREFIX, "p"
	case 1:
		l.Kind, l.Key, l.Shared = replication.TxLockKind_TX_LOCK_KIND_RANGE, "p", rapid.Bool().Draw(t, "shared")
	default:
		l.Key = rapid.SampledFrom(seqKeys).Draw(t, "key")
	}
	return l
}

// TestTransactionsAreSerializable runs transactions and plain writes through
// each other. Whatever a committed transaction was told must be what it would be
// told if it ran alone at its commit, and the state must be what it would leave:
// no lost update, no write skew, no phantom. And none is aborted without a reason.
func TestTransactionsAreSerializable(t *testing.T) {
	var committed, aborted int
	rapid.Check(t, func(t *rapid.T) { c, a := serializable(t); committed += c; aborted += a })
	if committed < 20 || aborted < 20 {
		t.Errorf("%d committed and %d aborted: that shows nothing", committed, aborted)
	}
}

func serializable(t *rapid.T) (committed, aborted int) {
	store := newMapStore()
	m, err := statemachine.New(store)
	if err != nil {
		t.Fatal(err)
	}
	level := rapid.SampledFrom([]uint32{2, statemachine.CurrentLevel}).Draw(t, "level")
	state := seqState{}
	open := map[int]*seqTx{}
	var index, number uint64
	clock := int64(0)
	apply := func(req *replication.Request) *replication.Answer {
		if req.TakesReceipt() {
			number++
			req.Session, req.Number, req.DoneBelow = sid("client"), number, number
		}
		index++
		res := m.Apply(index, 1, encode(t, &replication.LogEntry{Level: level, Term: 1, LeaseClockNs: clock, WallMs: clock / modelMS, Requests: []*replication.Request{req}}))
		if res.Diverged != nil {
			t.Fatal(res.Diverged)
		}
		return res.Answers[0]
	}
	apply(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: sid("client"), TtlMs: 1e12}}})
	apply(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: level}}})
	for range rapid.IntRange(5, 150).Draw(t, "steps") {
		clock += rapid.SampledFrom([]int64{0, 0, 0, 0, 100, 1_500, 8_000}).Draw(t, "step ms") * modelMS
		if rapid.IntRange(0, 15).Draw(t, "restart") == 0 {
			if m, err = statemachine.New(store); err != nil {
				t.Fatal(err)
			}
		}
		n := rapid.IntRange(0, 3).Draw(t, "transaction")
		x := open[n]
		if x == nil {
			a := apply(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{TimeoutMs: 10_000,
				Yield: rapid.IntRange(0, 3).Draw(t, "yield") == 0}}})
			open[n] = &seqTx{id: a.GetTxStarted().GetId(), base: map[string]int64{}}
			continue
		}
		ref := &replication.TxRef{Id: x.id}
		switch rapid.IntRange(0, 9).Draw(t, "operation") {
		case 0, 1: // a plain write
			i := seqItem(t)
			a := apply(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{i}}}})
			if a.Code == replication.Code_CODE_LOCKED {
				continue
			}
			if want := state.write(i); a.Code != want {
				t.Fatalf("plain write %v: %v, want %v", i, a, want)
			}
		case 2:
			apply(&replication.Request{Op: &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: ref, Locks: []*replication.TxLockItem{seqLock(t)}}}})
		case 3, 4, 5:
			op := seqRead(t, ref)
			a := apply(&replication.Request{Op: &replication.Request_TxRead{TxRead: op}})
			if a.Code == replication.Code_CODE_ABORTED {
				continue
			}
			x.reads, x.items, x.told = append(x.reads, op), append(x.items, nil), append(x.told, shownRead(a))
			x.look(state, op)
		case 6, 7:
			i := seqItem(t)
			a := apply(&replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: ref, Items: []*replication.WriteItem{i}}}})
			if a.Code == replication.Code_CODE_ABORTED || a.Code == replication.Code_CODE_LOCKED {
				continue
			}
			x.reads, x.items, x.told = append(x.reads, nil), append(x.items, i), append(x.told, a.Code.String())
			x.look(state, &replication.TxRead{Keys: []*replication.GetKey{{Key: i.Key}}})
		default:
			delete(open, n)
			commit := rapid.IntRange(0, 3).Draw(t, "commit") > 0
			a := apply(&replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: ref, Commit: commit}}})
			after := seqState{}
			for k, v := range state {
				after[k] = v
			}
			differs := x.replay(after)
			switch a.GetTxEnded().GetOutcome() {
			case replication.TxOutcome_TX_OUTCOME_COMMITTED:
				committed++
				if differs != "" {
					t.Fatalf("committed, but %s", differs)
				}
				state = after
			case replication.TxOutcome_TX_OUTCOME_ABORTED:
				aborted++
				if !strings.Contains(a.Detail, "holds a lock") && !strings.Contains(a.Detail, "yielded") && !x.moved(state) {
					t.Fatalf("aborted (%s), and nothing that it looked at has changed", a.Detail)
				}
			}
		}
		compareState(t, store, state)
	}
	return committed, aborted
}

// look notes the numbers of all keys that a read may depend on.
func (x *seqTx) look(s seqState, op *replication.TxRead) {
	for _, key := range seqKeys {
		if _, seen := x.base[key]; !seen && (op.Range != nil || op.Keys[0].Key == key) {
			x.base[key] = s.get(key).number
		}
	}
}

func (x *seqTx) moved(s seqState) bool {
	for key, number := range x.base {
		if s.get(key).number != number {
			return true
		}
	}
	return false
}

func compareState(t *rapid.T, store *mapStore, want seqState) {
	for _, key := range seqKeys {
		e := read(store, &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: []*replication.GetKey{{Durability: 1, Key: key}}}}}).GetEntries().Entries[0]
		w := want.get(key)
		if e.Found == w.tomb || e.Found && (string(e.Value) != w.value || e.Revision != w.number) {
			t.Fatalf("key %s: machine %v, sequential execution %+v", key, e, w)
		}
	}
}

// transactions draws the commands of level 2 for history.
type transactions struct {
	ids []*replication.Timestamp // of all that were ever started, the last few
}

func (x *transactions) heard(answers []*replication.Answer) {
	for _, a := range answers {
		if id := a.GetTxStarted().GetId(); id != nil {
			x.ids = append(x.ids[max(0, len(x.ids)-5):], &replication.Timestamp{PhysicalMs: id.PhysicalMs, Counter: id.Counter})
		}
	}
}

func (x *transactions) command(t *rapid.T, h *history) *replication.Request {
	r := new(replication.Request)
	durability := replication.Durability(rapid.IntRange(0, 1).Draw(t, "table"))
	kind := rapid.IntRange(0, 15).Draw(t, "transaction command")
	if len(x.ids) == 0 {
		kind %= 6
	}
	ref := &replication.TxRef{}
	if len(x.ids) > 0 {
		ref.Id = rapid.SampledFrom(x.ids).Draw(t, "transaction")
	}
	if rapid.IntRange(0, 2).Draw(t, "operation id") == 0 {
		ref.Operation = sid(pick(t, "operation", "1", "2", "3", "4", "5", "6"))
	}
	switch kind {
	case 0, 1:
		r.Op = &replication.Request_TxStart{TxStart: &replication.TxStart{
			TimeoutMs: rapid.SampledFrom([]int64{1, 5_000}).Draw(t, "timeout"), Yield: rapid.IntRange(0, 3).Draw(t, "yield") == 0,
			Durable: rapid.IntRange(0, 4).Draw(t, "durable") == 0}}
	case 2:
		r.Op = &replication.Request_SnapshotHoldAcquire{SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{
			Holder: pick(t, "holder", "x", "y"), LeaseMs: rapid.SampledFrom([]int64{500, 5_000}).Draw(t, "lease"),
			Timestamp: &replication.Timestamp{PhysicalMs: rapid.Int64Range(0, 4).Draw(t, "held") * h.wall / 4}}}
	case 3:
		r.Op = &replication.Request_KeySpaceSet{KeySpaceSet: &replication.KeySpaceSet{Name: pick(t, "space", "a", "b"), Ranged: rapid.Bool().Draw(t, "ranged")}}
	case 4:
		r.Op = &replication.Request_Script{Script: &replication.Script{Text: []byte(pick(t, "script",
			"SET a 1 SET `a/b` 2", "LET x = GET a IF NOT x THEN SET a 1 ELSE SET b x END", "DELETE a DELETE b RETURN 1",
			"LET x = GET BY BUCKET a SET b count(x)", "SET b hlc() NX"))}}
	case 5:
		r.Op = &replication.Request_Advance{Advance: &replication.Advance{AboveMs: h.wall + 100}}
	case 6, 7, 8:
		op := seqRead(t, ref)
		for _, k := range op.Keys {
			k.Durability, k.Key = durability, pick(t, "key", "a", "a/b", "b")
		}
		if op.Range != nil {
			op.Range.Durability, op.Range.Prefix = durability, pick(t, "prefix", "", "a")
		}
		r.Op = &replication.Request_TxRead{TxRead: op}
	case 9, 10, 11:
		i := seqItem(t)
		i.Durability, i.Key = durability, pick(t, "key", "a", "a/b", "a/b/c", "b")
		i.ExpiresMs = rapid.SampledFrom([]int64{0, 0, 1_000}).Draw(t, "expires")
		r.Op = &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: ref, Items: []*replication.WriteItem{i}}}
	case 12, 13:
		l := seqLock(t)
		l.Durability = durability
		if l.Key = pick(t, "lock", "a", "b"); rapid.IntRange(0, 4).Draw(t, "unlock") == 0 {
			r.Op = &replication.Request_TxUnlock{TxUnlock: &replication.TxUnlock{Tx: ref, Locks: []*replication.TxLockItem{l}}}
			break
		}
		r.Op = &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: ref, Locks: []*replication.TxLockItem{l}}}
	default:
		r.Op = &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: ref, Commit: rapid.IntRange(0, 2).Draw(t, "commit") > 0}}
	}
	return r
}

// TestTransactionsAreDeterministic applies the same entries to a machine as it
// is, to one with next to no cache, and to one that is loaded from its rows again
// and again. All must say and store the same.
func TestTransactionsAreDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stores [3]*mapStore
		var ms [3]*statemachine.Machine
		load := func(i int) {
			var err error
			if ms[i], err = statemachine.NewWith(stores[i], statemachine.Options{HeadCacheEntries: i % 2}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range ms {
			stores[i] = newMapStore()
			load(i)
		}
		h, x := &history{wall: 1, numbers: map[string]uint64{}}, new(transactions)
		for i := range rapid.IntRange(1, 60).Draw(t, "entries") {
			e := x.entry(t, h, i == 0)
			if rapid.IntRange(0, 3).Draw(t, "reload") == 0 {
				load(2)
			}
			var said [3]string
			for j, m := range ms {
				res := m.Apply(uint64(i+1), 1, encode(t, e))
				if res.Diverged != nil {
					t.Fatal(res.Diverged)
				}
				for k, a := range res.Answers {
					said[j] += fmt.Sprintf("%v -> %s\n", e.Requests[k], show(a.ProtoReflect()))
				}
				if j == 0 {
					x.heard(res.Answers)
				}
			}
			for j := 1; j < len(ms); j++ {
				if d := cmp.Diff(said[0], said[j]); d != "" {
					t.Fatalf("entry %d: machine %d says otherwise:\n%s", i+1, j, d)
				}
				if d := cmp.Diff(stores[0].dump(), stores[j].dump()); d != "" {
					t.Fatalf("entry %d: machine %d stores otherwise:\n%s", i+1, j, d)
				}
				if d := cmp.Diff(ms[0].Position(), ms[j].Position()); d != "" {
					t.Fatalf("entry %d: machine %d stands otherwise:\n%s", i+1, j, d)
				}
			}
		}
	})
}

// entry draws an entry of transactions and of what history draws; the first
// raises the level.
func (x *transactions) entry(t *rapid.T, h *history, first bool) *replication.LogEntry {
	step := rapid.SampledFrom([]int64{0, 0, 1, 500, 500, 7_000, 26 * 3600 * 1000}).Draw(t, "step ms")
	h.clock += step * modelMS
	h.wall += step
	if first {
		h.level = rapid.SampledFrom([]uint32{2, statemachine.CurrentLevel}).Draw(t, "level")
	}
	e := &replication.LogEntry{Level: h.level, Term: 1, LeaseClockNs: h.clock, WallMs: h.wall}
	if first {
		e.Requests = append(e.Requests, &replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: h.level}}},
			&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: sid("client"), TtlMs: 1e13}}})
	}
	for range rapid.IntRange(0, 6).Draw(t, "requests") {
		switch rapid.IntRange(0, 7).Draw(t, "what") {
		case 0:
			e.Requests = append(e.Requests, h.request(t))
		case 1:
			r := new(replication.Request)
			h.write(t, r)
			h.numbers["client"]++
			r.Session, r.Number, r.DoneBelow = sid("client"), h.numbers["client"], h.numbers["client"]
			e.Requests = append(e.Requests, r)
		case 2:
			limit := rapid.Uint32Range(1, 20).Draw(t, "sweep limit")
			e.Requests = append(e.Requests, &replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: limit}}})
		default:
			r := x.command(t, h)
			if r.TakesReceipt() {
				h.numbers["client"]++
				r.Session, r.Number, r.DoneBelow = sid("client"), h.numbers["client"], h.numbers["client"]
			}
			e.Requests = append(e.Requests, r)
		}
	}
	return e
}

// TestEnginesAgree applies one history to machines over each engine of this
// build, flushed now and then: the rolling hash, which has every change in it, must
// be the same, and so must what they answer.
func TestEnginesAgree(t *testing.T) {
	for seed := range 4 {
		var said []string
		var hashes [][16]byte
		var kinds []string
		for _, kind := range engines.Kinds() {
			if engines.Check(kind) != nil {
				continue // not in this build
			}
			var out bytes.Buffer
			hashes = append(hashes, runOnEngine(t, kind, seed+1, &out))
			said, kinds = append(said, out.String()), append(kinds, kind)
		}
		if len(kinds) < 2 {
			t.Fatalf("engines of this build: %v", kinds)
		}
		for i := 1; i < len(kinds); i++ {
			if hashes[0] != hashes[i] {
				t.Errorf("seed %d: hash %x over %s and %x over %s", seed, hashes[0], kinds[0], hashes[i], kinds[i])
			}
			if d := cmp.Diff(said[0], said[i]); d != "" {
				t.Errorf("seed %d: (-%s +%s)\n%s", seed, kinds[0], kinds[i], d)
			}
		}
	}
}

func runOnEngine(t *testing.T, kind string, seed int, said *bytes.Buffer) [16]byte {
	e, err := engines.Open(kind, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	store, err := memtable.Open(e, memtable.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	m, err := statemachine.New(store)
	if err != nil {
		t.Fatal(err)
	}
	flushes := rand.New(rand.NewPCG(uint64(seed), uint64(len(kind)))) // each engine its own: that must make no difference
	h, x := &history{wall: 1, numbers: map[string]uint64{}}, new(transactions)
	draw := rapid.Custom(func(t *rapid.T) *replication.LogEntry {
		return x.entry(t, h, h.clock == 0 && len(x.ids) == 0 && said.Len() == 0)
	})
	for i := range 150 {
		entry := draw.Example(seed*1000 + i)
		b, err := statemachine.EncodeEntry(entry)
		if err != nil {
			t.Fatal(err)
		}
		store.Begin()
		res := m.Apply(uint64(i+1), 1, b)
		if res.Diverged != nil {
			t.Fatal(res.Diverged)
		}
		store.Commit(uint64(i + 1))
		x.heard(res.Answers)
		for _, a := range res.Answers {
			fmt.Fprintln(said, i+1, show(a.ProtoReflect()))
		}
		if flushes.IntN(10) == 0 {
			if err := store.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := store.Err(); err != nil {
		t.Fatal(err)
	}
	return m.Position().Hash
}
