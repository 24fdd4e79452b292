package memtable_test

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/memory"
	"github.com/kahu-sh/kahu/storage/memtable"
	"pgregory.net/rapid"
)

type model map[string]string

func (m model) rows(from, to []byte) []string {
	out := []string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= string(from) && (to == nil || k < string(to)) {
			out = append(out, k+"="+m[k])
		}
	}
	return out
}

// reader is what the Store inside a section and a View have in common.
type reader interface {
	Get([]byte) ([]byte, bool)
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
	ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte]
}

type heldView struct {
	v     *memtable.View
	want  model
	index uint64
}

// machine plays applying, flushing and viewing in any order, one step at a time.
type machine struct {
	t      *rapid.T
	engine *memory.Engine
	store  *memtable.Store
	steps  memtable.Steps

	now      model            // after the last Commit
	index    uint64           // of the last Commit
	history  map[uint64]model // by index
	phase    int              // 0 idle, 1 frozen, 2 written
	views    []heldView
	sealedAt uint64 // index of the sealed table
}

var (
	keys   = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 0xff}), 0, 2)
	bounds = rapid.OneOf(rapid.Just([]byte(nil)), keys)
	values = rapid.SliceOfN(rapid.Byte(), 0, 4)
)

func (m *machine) compare(what string, r reader, want model) {
	from, to := bounds.Draw(m.t, "from"), bounds.Draw(m.t, "to")
	rows := want.rows(from, to)
	collect := func(seq iter.Seq2[[]byte, []byte]) []string {
		out := []string{}
		for k, v := range seq {
			out = append(out, string(k)+"="+string(v))
		}
		return out
	}
	if got := collect(r.Scan(from, to)); !slices.Equal(got, rows) {
		m.t.Fatalf("%s: Scan [%q, %q):\n got %q\nwant %q", what, from, to, got, rows)
	}
	slices.Reverse(rows)
	if got := collect(r.ScanReverse(from, to)); !slices.Equal(got, rows) {
		m.t.Fatalf("%s: ScanReverse [%q, %q):\n got %q\nwant %q", what, from, to, got, rows)
	}
	k := keys.Draw(m.t, "key")
	got, ok := r.Get(k)
	if v, want := want[string(k)]; ok != want || string(got) != v {
		m.t.Fatalf("%s: Get(%q) = %q, %v; want %q, %v", what, k, got, ok, v, want)
	}
}

// section applies random changes, and reads its own.
func (m *machine) section(t *rapid.T) {
	next := maps.Clone(m.now)
	m.store.Begin()
	for range rapid.IntRange(0, 6).Draw(t, "ops") {
		k, v := keys.Draw(t, "key"), values.Draw(t, "value")
		switch rapid.IntRange(0, 3).Draw(t, "op") {
		case 0:
			m.store.Delete(k)
			delete(next, string(k))
		case 1:
			m.compare("inside the section", m.store, next)
		default:
			if _, ok := next[string(k)]; ok {
				m.store.Put(k, v)
			} else {
				m.store.PutFresh(k, v)
			}
			next[string(k)] = string(v)
		}
	}
	m.compare("at the end of the section", m.store, next)
	m.index++
	m.store.Commit(m.index)
	m.now = next
	m.history[m.index] = maps.Clone(next)
}

func (m *machine) flushStep(t *rapid.T) {
	switch {
	case m.phase == 0 && !m.steps.Sealed():
		m.steps.Seal()
		m.sealedAt = m.index
	case m.phase == 0:
		if err := m.steps.Freeze(); err != nil {
			t.Fatal(err)
		}
		m.phase = 1
	case m.phase == 1:
		if err := m.steps.Write(); err != nil {
			t.Fatal(err)
		}
		m.phase = 2
	case m.phase == 2:
		m.steps.Drop()
		m.phase = 0
		// Exactly what had been committed when the table was sealed.
		want := m.history[m.sealedAt]
		got := model{}
		for row, err := range m.engine.Scan(nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			got[string(row.Key)] = string(row.Value)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("the engine after a flush:\n got %q\nwant %q, the state after commit %d", got.rows(nil, nil), want.rows(nil, nil), m.sealedAt)
		}
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		engine, err := memory.Open("")
		if err != nil {
			t.Fatal(err)
		}
		// Rows that are there before, which only the engine knows.
		var b storage.Batch
		m := &machine{t: t, engine: engine, now: model{}, history: map[uint64]model{}}
		for range rapid.IntRange(0, 6).Draw(t, "rows before") {
			k, v := keys.Draw(t, "key"), values.Draw(t, "value")
			b.Put(k, v)
			m.now[string(k)] = string(v)
		}
		if err := engine.Write(&b); err != nil {
			t.Fatal(err)
		}
		m.history[0] = maps.Clone(m.now)
		m.store, m.steps, err = memtable.OpenSteps(engine, memtable.Options{CheckFresh: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			for _, h := range m.views {
				h.v.Release()
			}
			m.store.Close()
		}()
		t.Repeat(map[string]func(*rapid.T){
			"apply": m.section,
			"flush": m.flushStep,
			"sync": func(t *rapid.T) {
				if err := m.steps.Sync(); err != nil {
					t.Fatal(err)
				}
				s := m.store.Stats()
				if s.DurableIndex != s.FlushedIndex && s.FlushedIndex > 0 {
					t.Fatalf("synced: durable is %d, flushed %d", s.DurableIndex, s.FlushedIndex)
				}
			},
			"view": func(t *rapid.T) {
				if len(m.views) == 6 {
					t.Skip("enough")
				}
				v, err := m.store.View()
				if err != nil {
					t.Fatal(err)
				}
				if v.Index() != m.index {
					t.Fatalf("a view of index %d after commit %d", v.Index(), m.index)
				}
				m.views = append(m.views, heldView{v, maps.Clone(m.now), m.index})
			},
			"read a view": func(t *rapid.T) {
				if len(m.views) == 0 {
					t.Skip("none")
				}
				h := rapid.SampledFrom(m.views).Draw(t, "view")
				m.compare(fmt.Sprintf("view of %d, now %d, phase %d", h.index, m.index, m.phase), h.v, h.want)
				if err := h.v.Err(); err != nil {
					t.Fatal(err)
				}
			},
			"release": func(t *rapid.T) {
				if len(m.views) == 0 {
					t.Skip("none")
				}
				i := rapid.IntRange(0, len(m.views)-1).Draw(t, "which")
				m.views[i].v.Release()
				m.views = slices.Delete(m.views, i, i+1)
			},
		})
	})
}

// counting is an engine that counts its snapshots and remembers what was written.
type counting struct {
	storage.Engine
	open, taken int
	ops         []storage.Op
}

func (c *counting) Snapshot() (storage.Snapshot, error) {
	s, err := c.Engine.Snapshot()
	if err != nil {
		return nil, err
	}
	c.open++
	c.taken++
	return &countedSnapshot{s, c, false}, nil
}

func (c *counting) Write(b *storage.Batch) error {
	for _, op := range b.Ops() {
		c.ops = append(c.ops, storage.Op{Key: slices.Clone(op.Key), Value: slices.Clone(op.Value), Delete: op.Delete})
	}
	return c.Engine.Write(b)
}

type countedSnapshot struct {
	storage.Snapshot
	c        *counting
	released bool
}

func (s *countedSnapshot) Release() {
	if !s.released {
		s.c.open--
	}
	s.released = true
	s.Snapshot.Release()
}

func startCounting(t testing.TB, o memtable.Options) (*memtable.Store, memtable.Steps, *counting) {
	t.Helper()
	e, err := memory.Open("")
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{Engine: e}
	s, steps, err := memtable.OpenSteps(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return s, steps, c
}

func commit(s *memtable.Store, index uint64, change func()) {
	s.Begin()
	change()
	s.Commit(index)
}

func TestFreshRowsThatAreDeletedLeaveNoTrace(t *testing.T) {
	s, steps, c := startCounting(t, memtable.Options{})
	key := []byte("receipt")
	commit(s, 1, func() { s.PutFresh(key, []byte("1")) })
	commit(s, 2, func() { s.Put(key, []byte("2")) }) // still fresh
	commit(s, 3, func() { s.Delete(key); s.Put([]byte("index"), []byte("3")) })
	if rows := s.Stats().UnflushedRows; rows != 1 {
		t.Errorf("%d rows wait to be written, want the index alone", rows)
	}
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if len(c.ops) != 1 || string(c.ops[0].Key) != "index" {
		t.Errorf("the engine was told %v, want the index alone", c.ops)
	}
	// Across a seal the deletion must reach the engine.
	commit(s, 4, func() { s.PutFresh(key, []byte("4")) })
	steps.Seal()
	commit(s, 5, func() { s.Delete(key) })
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(key); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a row deleted after the seal: %v; want ErrNotFound", err)
	}
	// Fresh over a deletion of a row that the engine has is not fresh.
	commit(s, 6, func() { s.Put(key, []byte("6")) })
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	commit(s, 7, func() { s.Delete(key); s.PutFresh(key, []byte("7")); s.Delete(key) })
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Get(key); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a row that was deleted, made and deleted is back: %q, %v", v, err)
	}
}

func TestTablesAreWrittenInOrderOfKeys(t *testing.T) {
	s, steps, c := startCounting(t, memtable.Options{})
	commit(s, 1, func() {
		for _, k := range []string{"m", "a", "z", "", "\xff", "b"} {
			s.Put([]byte(k), nil)
		}
		s.Delete([]byte("c"))
	})
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(c.ops, func(a, b storage.Op) int { return slices.Compare(a.Key, b.Key) }) || len(c.ops) != 7 {
		t.Errorf("written in the order %v", c.ops)
	}
}

// A snapshot is kept only while somebody reads the generation that it is of.
func TestSnapshotsGoWithTheirViews(t *testing.T) {
	s, steps, c := startCounting(t, memtable.Options{})
	commit(s, 1, func() { s.Put([]byte("a"), []byte("1")) })
	views := []*memtable.View{}
	for range 5 {
		v, err := s.View()
		if err != nil {
			t.Fatal(err)
		}
		v.Get([]byte("a"))
		v.Get([]byte("absent")) // reaches the engine, without a snapshot
		views = append(views, v)
	}
	if c.taken != 0 {
		t.Errorf("point reads of a standing engine took %d snapshots", c.taken)
	}
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if c.open != 1 {
		t.Errorf("%d snapshots are open for views of one generation", c.open)
	}
	for _, v := range views {
		if c.open != 1 {
			t.Errorf("the snapshot went before its last view")
		}
		v.Release()
		v.Release()
	}
	if c.open != 0 {
		t.Errorf("%d snapshots are open without a view", c.open)
	}
	commit(s, 2, func() { s.Put([]byte("a"), []byte("2")) })
	if err := steps.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if c.open != 0 {
		t.Errorf("%d snapshots are open after a flush without views", c.open)
	}
	if err := s.Close(); err != nil || c.open != 0 {
		t.Errorf("Close = %v, leaves %d snapshots", err, c.open)
	}
}

func TestMisuseIsABrokenInvariant(t *testing.T) {
	for name, misuse := range map[string]func(*memtable.Store){
		"an index that goes back": func(s *memtable.Store) { s.Begin(); s.Commit(4) },
		"a fresh key that is there": func(s *memtable.Store) {
			s.Begin()
			s.PutFresh([]byte("a"), nil)
		},
		"a view after its release": func(s *memtable.Store) {
			v, _ := s.View()
			v.Release()
			v.Get([]byte("a"))
		},
		"loaded after a commit": func(s *memtable.Store) { s.Loaded(9) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := startCounting(t, memtable.Options{CheckFresh: true})
			commit(s, 5, func() { s.Put([]byte("a"), nil) })
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(s)
		})
	}
}
