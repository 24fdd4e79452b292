// Package memory is the engine for tests, for `kahu agent --dev` and for data
// that fits: a copy-on-write B-tree.
//
// With a directory, Sync writes the whole map to one file when it has changed,
// and Open reads it: durable as the contract of storage.Engine wants, at the
// price of writing everything each time. Without a directory nothing survives
// Close, and Sync promises nothing.
//
// The main type is Engine. Which directory it is, and who else uses it, is left
// to datadir.
package memory

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/atomicfile"
	"github.com/tidwall/btree"
)

// rowOverheadBytes is an estimate of what a row costs beside key and value.
const rowOverheadBytes = 64

// Engine is a sorted map in memory. See storage.Engine for what it promises.
type Engine struct {
	dir string // empty: volatile

	// syncing is held by Sync from its look at the tree to the renamed file, so
	// that an older state never replaces a newer one. Taken before mu.
	syncing sync.Mutex

	mu     sync.RWMutex // guards what follows
	tree   *tree
	bytes  int64
	writes uint64 // counts Write calls that changed something
	synced uint64 // value of writes that the file has
	closed bool
}

type tree = btree.Map[string, []byte]

var _ storage.Engine = (*Engine)(nil)

// Open reads the engine's file in dir, which must exist; a file that is not
// there is an empty engine. An empty dir makes a volatile engine. Errors wrap
// storage.ErrCorrupt or storage.ErrNewerFormat where they apply.
func Open(dir string) (*Engine, error) {
	e := &Engine{dir: dir, tree: new(tree)}
	if dir == "" {
		return e, nil
	}
	if err := removeLeftovers(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName)
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return e, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the memory engine's file: %w", err)
	}
	defer f.Close()
	if e.tree, e.bytes, err = readFile(f); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return e, nil
}

// Get implements storage.Reader.
func (e *Engine) Get(key []byte) ([]byte, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return nil, storage.ErrClosed
	}
	return get(e.tree, key)
}

// Scan implements storage.Reader. It yields the state at its first step.
func (e *Engine) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.scan(from, to, ascend)
}

// ScanReverse implements storage.Reader.
func (e *Engine) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.scan(from, to, descend)
}

func (e *Engine) scan(from, to []byte, walk func(*tree, []byte, []byte, func(storage.Row, error) bool)) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		t, err := e.copy()
		if err != nil {
			yield(storage.Row{}, err)
			return
		}
		walk(t, from, to, yield)
	}
}

// copy is a frozen tree. Both sides copy nodes from here on when they change
// them, which is why the lock must be the writers' one.
func (e *Engine) copy() (*tree, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, storage.ErrClosed
	}
	return e.tree.Copy(), nil
}

// Write implements storage.Engine. Keys and values are copied.
func (e *Engine) Write(b *storage.Batch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return storage.ErrClosed
	}
	if b.Len() == 0 {
		return nil
	}
	for _, op := range b.Ops() {
		if op.Delete {
			if old, ok := e.tree.Delete(lookup(op.Key)); ok {
				e.bytes -= int64(len(op.Key) + len(old) + rowOverheadBytes)
			}
			continue
		}
		value := make([]byte, len(op.Value)) // never nil
		copy(value, op.Value)
		e.bytes += int64(len(op.Key) + len(value) + rowOverheadBytes)
		if old, replaced := e.tree.Set(string(op.Key), value); replaced {
			e.bytes -= int64(len(op.Key) + len(old) + rowOverheadBytes)
		}
	}
	e.writes++
	return nil
}

// Sync implements storage.Engine: it replaces the file when something changed
// since the last time. A volatile engine has nothing to do.
func (e *Engine) Sync() error {
	e.syncing.Lock()
	defer e.syncing.Unlock()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return storage.ErrClosed
	}
	if e.dir == "" || e.writes == e.synced {
		e.mu.Unlock()
		return nil
	}
	t, upTo := e.tree.Copy(), e.writes
	e.mu.Unlock()

	if err := replaceFile(e.dir, t); err != nil {
		return fmt.Errorf("write the memory engine's file: %w", err)
	}
	e.mu.Lock()
	e.synced = upTo
	e.mu.Unlock()
	return nil
}

// Snapshot implements storage.Engine.
func (e *Engine) Snapshot() (storage.Snapshot, error) {
	t, err := e.copy()
	if err != nil {
		return nil, err
	}
	return &snapshot{tree: t}, nil
}

// Checkpoint implements storage.Engine.
func (e *Engine) Checkpoint(dir string) error {
	t, err := e.copy()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the checkpoint's directory: %w", err)
	}
	if err := replaceFile(dir, t); err != nil {
		return fmt.Errorf("write a checkpoint of the memory engine: %w", err)
	}
	return atomicfile.Sync(filepath.Dir(dir))
}

// Sizes implements storage.Engine.
func (e *Engine) Sizes() (storage.Sizes, error) {
	e.mu.RLock()
	closed, bytes := e.closed, e.bytes
	e.mu.RUnlock()
	if closed {
		return storage.Sizes{}, storage.ErrClosed
	}
	s := storage.Sizes{MemoryBytes: bytes}
	if e.dir == "" {
		return s, nil
	}
	info, err := os.Stat(filepath.Join(e.dir, fileName))
	if err != nil && !os.IsNotExist(err) {
		return s, fmt.Errorf("size of the memory engine's file: %w", err)
	}
	if err == nil {
		s.DiskBytes = info.Size()
	}
	return s, nil
}

// Close implements storage.Engine. What was not synced is gone.
func (e *Engine) Close() error {
	e.syncing.Lock() // a Sync under way ends first
	defer e.syncing.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed, e.tree = true, nil
	return nil
}

// snapshot is a frozen tree. The lock only keeps Release apart from reads.
type snapshot struct {
	mu   sync.RWMutex
	tree *tree // nil once released
}

func (s *snapshot) frozen() (*tree, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.tree == nil {
		return nil, storage.ErrClosed
	}
	return s.tree, nil
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	t, err := s.frozen()
	if err != nil {
		return nil, err
	}
	return get(t, key)
}

func (s *snapshot) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.scan(from, to, ascend)
}

func (s *snapshot) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.scan(from, to, descend)
}

func (s *snapshot) scan(from, to []byte, walk func(*tree, []byte, []byte, func(storage.Row, error) bool)) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		t, err := s.frozen()
		if err != nil {
			yield(storage.Row{}, err)
			return
		}
		walk(t, from, to, yield)
	}
}

func (s *snapshot) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree = nil
}

func get(t *tree, key []byte) ([]byte, error) {
	v, ok := t.Get(lookup(key))
	if !ok {
		return nil, storage.ErrNotFound
	}
	return bytes.Clone(v), nil
}

func ascend(t *tree, from, to []byte, yield func(storage.Row, error) bool) {
	end := string(to)
	t.Ascend(string(from), func(key string, value []byte) bool {
		if to != nil && key >= end {
			return false
		}
		return yield(storage.Row{Key: raw(key), Value: value}, nil)
	})
}

func descend(t *tree, from, to []byte, yield func(storage.Row, error) bool) {
	start, end := string(from), string(to)
	step := func(key string, value []byte) bool {
		if to != nil && key >= end {
			return true // Descend starts at end itself, which is outside
		}
		if key < start {
			return false
		}
		return yield(storage.Row{Key: raw(key), Value: value}, nil)
	}
	if to == nil {
		t.Reverse(step)
		return
	}
	t.Descend(end, step)
}

// lookup reads b as a string without copying; it must not outlive the call.
func lookup(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// raw is the bytes of a key that the tree owns; readers must not write to them.
func raw(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
