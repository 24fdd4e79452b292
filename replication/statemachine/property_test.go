package statemachine_test

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// history draws entries. Names are few, so that everything meets everything.
type history struct {
	level       uint32 // of a history with transactions
	clock, wall int64
	numbers     map[string]uint64
	sent        []*replication.Request
	holds       int
}

func (h *history) entry(t *rapid.T, sweepAll bool) (*replication.LogEntry, uint64) {
	step := rapid.SampledFrom([]int64{0, 0, 1, 500, 500, 2_000, 2_000, 7_000, 26 * 3600 * 1000}).Draw(t, "step ms")
	h.clock += step * modelMS
	h.wall += step
	e := &replication.LogEntry{Level: 1, Term: 1, LeaseClockNs: h.clock, WallMs: h.wall}
	if sweepAll {
		e.Requests = append(e.Requests, &replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: 10_000}}})
	}
	for range rapid.IntRange(0, 6).Draw(t, "requests") {
		e.Requests = append(e.Requests, h.request(t))
	}
	return e, 1
}

func pick(t *rapid.T, what string, from ...string) string {
	return rapid.SampledFrom(from).Draw(t, what)
}

func (h *history) request(t *rapid.T) *replication.Request {
	if len(h.sent) > 0 && rapid.IntRange(0, 9).Draw(t, "again") == 0 {
		return rapid.SampledFrom(h.sent).Draw(t, "which")
	}
	r := h.command(t)
	if r.TakesReceipt() {
		s := pick(t, "asker", "A", "B", "C", "D")
		h.numbers[s]++
		r.Session, r.Number = sid(s), h.numbers[s]
		r.DoneBelow = uint64(max(0, int64(r.Number)-rapid.Int64Range(-1, 6).Draw(t, "in flight")))
		h.sent = append(h.sent, r)
	}
	return r
}

func (h *history) command(t *rapid.T) *replication.Request {
	session := sid(pick(t, "session", "A", "B", "C", "D"))
	name := pick(t, "lock", "x", "x", "x", "y\x00")
	ttl := rapid.SampledFrom([]int64{1_000, 5_000, 20_000}).Draw(t, "ttl")
	owner := []byte(pick(t, "owner", "ann", "bob"))
	mine := hold(fmt.Sprint(max(1, h.holds-rapid.IntRange(0, 4).Draw(t, "hold"))))
	r := new(replication.Request)
	switch rapid.IntRange(-4, 13).Draw(t, "command") {
	case 0, 1:
		r.Op = &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: session, TtlMs: ttl}}
	case 2:
		r.Op = &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: session, CheckHolds: true}}
	case 3:
		if rapid.IntRange(0, 3).Draw(t, "close") > 0 {
			r.Op = &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: session, CheckHolds: true}}
		} else {
			r.Op = &replication.Request_SessionClose{SessionClose: &replication.SessionClose{Id: session}}
		}
	case 4:
		r.Op = &replication.Request_LockTry{LockTry: &replication.LockTry{Durability: 1, Name: name, Owner: owner, TtlMs: ttl}}
	case 5, 6, -1, -2, -3:
		if rapid.Bool().Draw(t, "new hold") {
			h.holds++
			mine = hold(fmt.Sprint(h.holds))
		}
		r.Op = &replication.Request_LockWait{LockWait: &replication.LockWait{Durability: 1, Name: name, Session: session, Owner: mine,
			NoQueue: rapid.IntRange(0, 5).Draw(t, "no queue") == 0}}
	case 7, -4:
		r.Op = &replication.Request_LockCancel{LockCancel: &replication.LockCancel{Durability: 1, Name: name, Owner: mine}}
	case 8:
		r.Op = &replication.Request_LockExtend{LockExtend: &replication.LockExtend{Durability: 1, Name: name, Owner: owner, TtlMs: ttl}}
	case 9:
		if rapid.Bool().Draw(t, "hold's") {
			owner = mine
		}
		r.Op = &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{Durability: 1, Name: name, Owner: owner}}
	case 10:
		r.Op = &replication.Request_LockBreak{LockBreak: &replication.LockBreak{Durability: 1, Name: name}}
	case 11:
		h.sequence(t, r)
	default:
		h.write(t, r)
	}
	return r
}

func (h *history) sequence(t *rapid.T, r *replication.Request) {
	name := pick(t, "sequence", "s", "t")
	switch rapid.IntRange(0, 7).Draw(t, "sequence command") {
	case 0, 1:
		c := &replication.SequenceCreate{Name: name, Increment: rapid.Int64Range(1, 3).Draw(t, "increment")}
		if rapid.Bool().Draw(t, "bounded") {
			c.Maximum = new(int64)
			*c.Maximum = 20
		}
		r.Op = &replication.Request_SequenceCreate{SequenceCreate: c}
	case 2:
		r.Op = &replication.Request_SequenceDelete{SequenceDelete: &replication.SequenceDelete{Name: name}}
	default:
		r.Op = &replication.Request_SequenceNext{SequenceNext: &replication.SequenceNext{Name: name,
			Count: rapid.Int64Range(1, 4).Draw(t, "count"), IdempotencyKey: pick(t, "idempotency key", "", "", "k", "l")}}
	}
}

func (h *history) write(t *rapid.T, r *replication.Request) {
	op := &replication.Write{Atomic: rapid.Bool().Draw(t, "atomic")}
	for range rapid.IntRange(1, 3).Draw(t, "items") {
		i := &replication.WriteItem{
			Kind:       replication.WriteKind(rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "kind")),
			Durability: replication.Durability(rapid.IntRange(0, 1).Draw(t, "durability")),
			Key:        pick(t, "key", "a", "a\x00", "a/b", "a/b/c", "b"),
			NoHistory:  rapid.IntRange(0, 4).Draw(t, "no history") == 0,
			ExpiresMs:  rapid.SampledFrom([]int64{0, 0, 1_000, 9_000}).Draw(t, "expires"),
		}
		if v := pick(t, "value", "null", "", "1", "2"); v != "null" && i.Kind == 0 {
			i.Value = []byte(v)
		}
		switch rapid.IntRange(0, 9).Draw(t, "condition") {
		case 0:
			i.IfExists = true
		case 1:
			i.IfNotExists = true
		case 2:
			i.IfRevision, i.CompareRevision = true, rapid.Int64Range(-1, 5).Draw(t, "revision")
		case 3:
			i.IfValue, i.CompareValue = true, []byte(pick(t, "compare", "", "1", "2"))
		}
		op.Items = append(op.Items, i)
	}
	r.Op = &replication.Request_Write{Write: op}
}

func encode(t rapid.TB, e *replication.LogEntry) []byte {
	b, err := statemachine.EncodeEntry(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestModel compares the machine with the model, answer by answer and row by row.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := newMapStore()
		m, err := statemachine.New(store)
		if err != nil {
			t.Fatal(err)
		}
		h, w := &history{wall: 1, numbers: map[string]uint64{}}, newModel()
		for i := range rapid.IntRange(1, 60).Draw(t, "entries") {
			e, term := h.entry(t, true)
			res := m.Apply(uint64(i+1), term, encode(t, e))
			if res.Diverged != nil {
				t.Fatal(res.Diverged)
			}
			want := w.entry(e.LeaseClockNs, e.WallMs, e.Requests)
			for j, a := range res.Answers {
				if got := summary(e.Requests[j], a); got != want[j] {
					t.Fatalf("entry %d, %v:\nmachine %s\nmodel   %s", i+1, e.Requests[j], got, want[j])
				}
			}
			var granted []string
			for _, ev := range res.Events {
				if ev.Event.Kind == replication.Event_KIND_GRANTED {
					granted = append(granted, fmt.Sprintf("%s %d", ev.Event.Hold.Owner, ev.Event.Hold.Token))
				}
			}
			sort.Strings(granted)
			sort.Strings(w.granted)
			if d := cmp.Diff(w.granted, granted); d != "" {
				t.Fatalf("entry %d: grants told (-model +machine):\n%s", i+1, d)
			}
			checkReads(t, store, w)
		}
	})
}

func read(r statemachine.Reader, op *replication.Request) *replication.Answer {
	return statemachine.Read(r, op)
}

// checkReads compares all that can be read with the model.
func checkReads(t *rapid.T, store *mapStore, w *model) {
	for name, l := range w.locks {
		a := read(store, &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{Durability: 1, Name: name, QueueLimit: 100}}})
		got, want := "free", "free"
		if a.Code == replication.Code_CODE_OK {
			got = fmt.Sprintf("%s %d", a.GetLock().Owner, a.GetLock().Token)
			for _, q := range a.GetLock().Queue {
				got += " " + string(q.Owner)
			}
		}
		if l.held {
			want = fmt.Sprintf("%s %d", l.owner, l.token)
			for _, q := range l.queue {
				want += " " + q.owner
			}
		}
		if got != want {
			t.Fatalf("lock %q: machine %s, model %s", name, got, want)
		}
	}
	counts := read(store, &replication.Request{Op: &replication.Request_MachineGet{MachineGet: &replication.MachineGet{}}}).GetMachine()
	checkCounts(t, counts, w)
	for id, s := range w.sessions {
		holds, ok := statemachine.SessionHolds(store, []byte(id))
		if ok != (s.ended < 0) || ok && !slices.Equal(holdList(holds), w.holds(id)) {
			t.Fatalf("session %s: machine %v %v, model %v", id, ok, holdList(holds), w.holds(id))
		}
	}
	for d := range 2 {
		for _, descending := range []bool{false, true} {
			for _, r := range []*replication.Range{{}, {Prefix: "a"}, {Prefix: "a", Bucket: true}, {Prefix: "a/b", Bucket: true}} {
				r.Durability, r.Descending = replication.Durability(d), descending
				checkRange(t, store, w, r)
			}
		}
	}
	checkKeys(t, store, w)
}

func checkCounts(t *rapid.T, got *replication.MachineState, w *model) {
	var want replication.MachineState
	for _, s := range w.sessions {
		if s.ended < 0 {
			want.Sessions++
		}
	}
	for _, l := range w.locks {
		if l.held {
			want.LocksHeld++
		}
		want.Waiters += uint64(len(l.queue))
	}
	for _, revs := range w.keys {
		if !revs[len(revs)-1].tomb {
			want.Keys++
		}
	}
	want.Sequences = uint64(len(w.seqs))
	if got.Sessions != want.Sessions || got.LocksHeld != want.LocksHeld || got.Waiters != want.Waiters ||
		got.Keys != want.Keys || got.Sequences != want.Sequences {
		t.Fatalf("counts: machine %v, model %v", got, &want)
	}
}

func checkRange(t *rapid.T, store *mapStore, w *model, r *replication.Range) {
	var want []string
	for key, revs := range w.keys {
		name, ok := strings.CutPrefix(key, fmt.Sprint(int(r.Durability)))
		h := revs[len(revs)-1]
		if !ok || h.tomb || !strings.HasPrefix(name, r.Prefix) {
			continue
		}
		if rest, in := strings.CutPrefix(name, r.Prefix+"/"); r.Bucket && (!in || strings.Contains(rest, "/")) {
			continue
		}
		want = append(want, fmt.Sprintf("%q=%q@%d", name, h.value, h.number))
	}
	sort.Strings(want)
	sort.Slice(want, func(i, j int) bool { return rangeName(want[i]) < rangeName(want[j]) })
	if r.Descending {
		slices.Reverse(want)
	}
	var got []string
	for _, e := range read(store, &replication.Request{Op: &replication.Request_Range{Range: r}}).GetEntries().GetEntries() {
		got = append(got, fmt.Sprintf("%q=%q@%d", e.Key, e.Value, e.Revision))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("range %v (-model +machine):\n%s", r, d)
	}
}

func rangeName(s string) string {
	var name string
	_, _ = fmt.Sscanf(s, "%q=", &name)
	return name
}

// checkKeys compares every key's state as of every label, and its history.
func checkKeys(t *rapid.T, store *mapStore, w *model) {
	for key, revs := range w.keys {
		d, name := replication.Durability(key[0]-'0'), key[1:]
		var want, got []string
		for _, r := range slices.Backward(revs) {
			if !r.gone {
				want = append(want, fmt.Sprintf("%d %q %v", r.number, r.value, r.tomb))
			}
		}
		for _, e := range read(store, &replication.Request{Op: &replication.Request_History{History: &replication.History{Durability: d, Key: name}}}).GetEntries().GetEntries() {
			got = append(got, fmt.Sprintf("%d %q %v", e.Revision, e.Value, e.Deleted))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("history of %q (-model +machine):\n%s", key, d)
		}
		for i, r := range revs {
			if i+1 < len(revs) && revs[i+1].written == r.written {
				continue // two in one command: the later is the state
			}
			a := read(store, &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{
				Keys: []*replication.GetKey{{Durability: d, Key: name}},
				AsOf: &replication.Timestamp{PhysicalMs: r.written.ms, Counter: r.written.counter}}}})
			alive := !r.tomb && (r.end == 0 || r.end > w.clock)
			switch {
			case a.Code == replication.Code_CODE_TOO_OLD:
				// It may always say so below a gap, or what was dropped, but not at the head.
				if i == len(revs)-1 || !r.gone && !revs[i+1].gone {
					t.Fatalf("key %q as of revision %d is kept, and called too old", key, r.number)
				}
			case r.gone:
				t.Fatalf("key %q as of revision %d, which is gone: %v", key, r.number, a)
			default:
				e := a.GetEntries().Entries[0]
				if e.Found != alive || alive && (e.Revision != r.number || !bytes.Equal(e.Value, r.value)) {
					t.Fatalf("key %q as of revision %d: machine %v, model %+v", key, r.number, e, r)
				}
			}
		}
	}
}

// TestDeterminism applies the same entries to three machines: one as it is, one
// whose cache holds next to nothing, and one that is loaded from its rows again
// and again. All must say and store the same.
func TestDeterminism(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stores [3]*mapStore
		var ms [3]*statemachine.Machine
		tiny := rapid.IntRange(1, 4).Draw(t, "cache of the second machine")
		load := func(i int) {
			var err error
			if ms[i], err = statemachine.NewWith(stores[i], statemachine.Options{HeadCacheEntries: (i % 2) * tiny}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range ms {
			stores[i] = newMapStore()
			load(i)
		}
		h := &history{wall: 1, numbers: map[string]uint64{}}
		for i := range rapid.IntRange(1, 60).Draw(t, "entries") {
			index := uint64(i + 1)
			e, term := h.entry(t, false)
			switch rapid.IntRange(0, 11).Draw(t, "kind") {
			case 0:
				term++ // stamped in an older term
			case 1, 2, 3:
				limit := rapid.Uint32Range(1, 4).Draw(t, "sweep limit")
				e.Requests = append(e.Requests, &replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: limit}}})
			case 4:
				for _, m := range ms {
					m.ApplyOther(index, term, []byte("configuration"))
				}
				continue
			case 5:
				p := ms[0].Position()
				e.Requests = append(e.Requests, &replication.Request{Op: &replication.Request_Digest{Digest: &replication.Digest{Index: p.Index, Hash: p.Hash[:]}}})
			}
			if rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
				load(2)
			}
			var said [3]string
			for j, m := range ms {
				res := m.Apply(index, term, encode(t, e))
				if res.Diverged != nil {
					t.Fatal(res.Diverged)
				}
				for k, a := range res.Answers {
					said[j] += fmt.Sprintf("%v -> %s\n", e.Requests[k], show(a.ProtoReflect()))
				}
				for _, ev := range res.Events {
					said[j] += fmt.Sprintf("to %s: %s\n", ev.Session, show(ev.Event.ProtoReflect()))
				}
			}
			for j := 1; j < len(ms); j++ {
				if d := cmp.Diff(said[0], said[j]); d != "" {
					t.Fatalf("entry %d: machine %d says otherwise:\n%s", index, j, d)
				}
				if d := cmp.Diff(stores[0].dump(), stores[j].dump()); d != "" {
					t.Fatalf("entry %d: machine %d stores otherwise:\n%s", index, j, d)
				}
				if d := cmp.Diff(ms[0].Position(), ms[j].Position()); d != "" {
					t.Fatalf("entry %d: machine %d stands otherwise:\n%s", index, j, d)
				}
			}
		}
	})
}
