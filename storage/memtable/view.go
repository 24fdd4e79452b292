package memtable

import (
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/kahu-sh/kahu/storage"
	"github.com/tidwall/btree"
)

// generation is the time between two writes of the flusher, in which the engine
// stands still. It counts who may still read the engine as of then: the Store
// while it is the current one, and every View of it.
type generation struct {
	engine storage.Engine
	rows   *rowCache
	refs   atomic.Int64
	// frozen is set by the flusher before it writes. From then on only snap shows
	// the engine as of this generation.
	frozen atomic.Bool

	mu   sync.Mutex       // guards snap
	snap storage.Snapshot // opened by the first scan, or by the flusher in freeze
}

func newGeneration(e storage.Engine) *generation {
	g := &generation{engine: e, rows: newRowCache()}
	g.refs.Store(1)
	return g
}

// acquire takes a reference, unless the last one is gone.
func (g *generation) acquire() bool {
	for {
		n := g.refs.Load()
		if n == 0 {
			return false
		}
		if g.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *generation) release() {
	switch n := g.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic(fmt.Sprintf("memtable: generation released once too often: %d references", n))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.snap != nil {
		g.snap.Release()
		g.snap = nil
	}
}

// snapshot returns the engine as of this generation. The caller holds a
// reference, or is the flusher before its write.
func (g *generation) snapshot() (storage.Snapshot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.snap != nil {
		return g.snap, nil
	}
	if g.frozen.Load() {
		panic("memtable: a frozen generation has no snapshot")
	}
	snap, err := g.engine.Snapshot()
	if err != nil {
		return nil, err
	}
	g.snap = snap
	return snap, nil
}

// freeze is called by the flusher before it changes the engine.
func (g *generation) freeze() error {
	if _, err := g.snapshot(); err != nil {
		return err
	}
	g.frozen.Store(true)
	return nil
}

// get reads one key as of this generation. The direct read is exact when the
// generation was not frozen after it: the engine had not begun to change then.
// Many goroutines read side by side this way, on the engine's own connections.
func (g *generation) get(key []byte) ([]byte, error) {
	if !g.frozen.Load() {
		v, err := g.engine.Get(key)
		if !g.frozen.Load() {
			return v, err
		}
	}
	snap, err := g.snapshot()
	if err != nil {
		return nil, err
	}
	return snap.Get(key)
}

// version is the state after one Commit: both tables and the generation, taken
// together under the apply lock. It is immutable and shared by views.
type version struct {
	index  uint64
	active *btree.Map[string, cell]
	sealed *btree.Map[string, cell]
	gen    *generation
}

// republish replaces what View hands out. Called with mu after every change of
// a level. Copying the tree is cheap but makes the following changes copy nodes,
// so it is done here only when somebody asks for views; else the next View does.
func (s *Store) republish() {
	if s.wanted.Swap(false) {
		s.publish()
		return
	}
	s.published.Store(nil)
}

func (s *Store) publish() *version {
	v := &version{index: s.index, active: s.active.tree.Copy(), gen: s.gen}
	if s.sealed != nil {
		v.sealed = s.sealed.tree
	}
	s.published.Store(v)
	return v
}

// View returns the state after the last Commit. Take it, read, release it: while
// it is held the engine keeps a snapshot once the flusher has gone on. It costs
// two atomic operations as a rule; it waits for a section under way when no view
// was asked for since the last Commit. It fails after a lasting error and after
// Close. A View is for one goroutine; take one for each.
func (s *Store) View() (*View, error) {
	for {
		if err := s.Err(); err != nil {
			return nil, err
		}
		if !s.wanted.Load() {
			s.wanted.Store(true)
		}
		if v := s.published.Load(); v != nil {
			// Acquiring fails when the flusher has just replaced the version.
			if v.gen.acquire() {
				return &View{v: v}, nil
			}
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		if s.failed.Load() == nil && s.published.Load() == nil {
			s.publish()
		}
		s.mu.Unlock()
	}
}

// View is a frozen state of the Store.
type View struct {
	v        *version
	err      error
	released bool
}

// Index is that of the Commit whose state this is.
func (w *View) Index() uint64 { return w.v.index }

// Get reads a key. The value must not be modified. When the engine fails it
// returns false, and Err is set.
func (w *View) Get(key []byte) (value []byte, ok bool) {
	w.mustBeHeld()
	if c, ok := w.v.active.Get(view(key)); ok {
		return c.value(), c.kind() != kindDeleted
	}
	if w.v.sealed != nil {
		if c, ok := w.v.sealed.Get(view(key)); ok {
			return c.value(), c.kind() != kindDeleted
		}
	}
	v, err := w.v.gen.cachedGet(key)
	switch {
	case err == nil:
		return v, true
	case !errors.Is(err, storage.ErrNotFound):
		w.fail(err)
	}
	return nil, false
}

// Scan yields the rows with from <= key < to in ascending order; a nil to means
// to the end. Slices are valid until the next step and must not be modified.
// When the engine fails it ends early, and Err is set.
func (w *View) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return w.scan(from, to, false)
}

// ScanReverse is Scan in descending order over the same rows.
func (w *View) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return w.scan(from, to, true)
}

func (w *View) scan(from, to []byte, reverse bool) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		w.mustBeHeld()
		snap, err := w.v.gen.snapshot()
		if err != nil {
			w.fail(err)
			return
		}
		l := levels{active: w.v.active, sealed: w.v.sealed, engine: cachedEngine{gen: w.v.gen, snap: snap}}
		l.merge(from, to, reverse, w.fail)(yield)
	}
}

// Err is the first error of the engine that a read of this View met. Whoever
// acts upon what was read looks here first.
func (w *View) Err() error { return w.err }

func (w *View) fail(err error) {
	if w.err == nil {
		w.err = fmt.Errorf("read from the storage engine: %w", err)
	}
}

// Release gives the View back. A second call does nothing.
func (w *View) Release() {
	if w.released {
		return
	}
	w.released = true
	w.v.gen.release()
}

func (w *View) mustBeHeld() {
	if w.released {
		panic(fmt.Sprintf("memtable: View of index %d used after Release", w.v.index))
	}
}
