package enginetest

import (
	"iter"
	"sync"

	"github.com/kahu-sh/kahu/storage"
)

// The operations that a Faulty engine can fail, by name.
const (
	OpGet          = "Get"
	OpScan         = "Scan" // both directions
	OpWrite        = "Write"
	OpSync         = "Sync"
	OpSnapshot     = "Snapshot"
	OpSnapshotGet  = "SnapshotGet"
	OpSnapshotScan = "SnapshotScan"
	OpCheckpoint   = "Checkpoint"
	OpSizes        = "Sizes"
)

// Faulty is an engine that fails or hangs named operations on demand, and
// otherwise is the engine it wraps. All methods may be called concurrently.
type Faulty struct {
	storage.Engine

	mu     sync.Mutex
	faults map[string]fault
	calls  map[string]int
}

type fault struct {
	err   error
	after bool          // do it, then say that it failed
	left  int           // calls left to fail; negative: all
	hang  chan struct{} // closed by the release of Hang
}

var _ storage.Engine = (*Faulty)(nil)

// NewFaulty wraps e, which works until told otherwise.
func NewFaulty(e storage.Engine) *Faulty {
	return &Faulty{Engine: e, faults: map[string]fault{}, calls: map[string]int{}}
}

// Fail makes every call of op return err and do nothing, until Heal.
func (f *Faulty) Fail(op string, err error) { f.set(op, fault{err: err, left: -1}) }

// FailNext makes the next n calls of op return err and do nothing.
func (f *Faulty) FailNext(op string, n int, err error) { f.set(op, fault{err: err, left: n}) }

// FailAfter makes the next n calls of op do their work and return err: the
// caller cannot know that it was done.
func (f *Faulty) FailAfter(op string, n int, err error) {
	f.set(op, fault{err: err, left: n, after: true})
}

// Hang makes every call of op wait until release is called, as a sick disk does.
func (f *Faulty) Hang(op string) (release func()) {
	hang := make(chan struct{})
	f.set(op, fault{hang: hang, left: -1})
	return sync.OnceFunc(func() {
		f.Heal(op)
		close(hang)
	})
}

// Heal ends what was set for op.
func (f *Faulty) Heal(op string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.faults, op)
}

// Calls is how often op was called, failed calls included.
func (f *Faulty) Calls(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Faulty) set(op string, x fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[op] = x
}

// do runs work, unless the fault of op forbids it.
func (f *Faulty) do(op string, work func() error) error {
	f.mu.Lock()
	f.calls[op]++
	x, ok := f.faults[op]
	if ok && x.left > 0 {
		if x.left--; x.left == 0 {
			delete(f.faults, op)
		} else {
			f.faults[op] = x
		}
	}
	f.mu.Unlock()
	if x.hang != nil {
		<-x.hang
	}
	if x.err != nil && !x.after {
		return x.err
	}
	if err := work(); err != nil {
		return err
	}
	return x.err
}

// Get implements storage.Reader.
func (f *Faulty) Get(key []byte) (v []byte, err error) {
	err = f.do(OpGet, func() (err error) { v, err = f.Engine.Get(key); return err })
	return v, err
}

// Scan implements storage.Reader.
func (f *Faulty) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return f.rows(OpScan, f.Engine.Scan(from, to))
}

// ScanReverse implements storage.Reader.
func (f *Faulty) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return f.rows(OpScan, f.Engine.ScanReverse(from, to))
}

// rows fails before the first row, or with after behind the last one.
func (f *Faulty) rows(op string, rows iter.Seq2[storage.Row, error]) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		stopped := false
		err := f.do(op, func() error {
			for row, err := range rows {
				if !yield(row, err) || err != nil {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(storage.Row{}, err)
		}
	}
}

// Write implements storage.Engine.
func (f *Faulty) Write(b *storage.Batch) error {
	return f.do(OpWrite, func() error { return f.Engine.Write(b) })
}

// Sync implements storage.Engine.
func (f *Faulty) Sync() error { return f.do(OpSync, f.Engine.Sync) }

// Checkpoint implements storage.Engine.
func (f *Faulty) Checkpoint(dir string) error {
	return f.do(OpCheckpoint, func() error { return f.Engine.Checkpoint(dir) })
}

// Sizes implements storage.Engine.
func (f *Faulty) Sizes() (s storage.Sizes, err error) {
	err = f.do(OpSizes, func() (err error) { s, err = f.Engine.Sizes(); return err })
	return s, err
}

// Snapshot implements storage.Engine.
func (f *Faulty) Snapshot() (storage.Snapshot, error) {
	var snap storage.Snapshot
	err := f.do(OpSnapshot, func() (err error) { snap, err = f.Engine.Snapshot(); return err })
	if err != nil {
		if snap != nil {
			snap.Release()
		}
		return nil, err
	}
	return &faultySnapshot{f: f, Snapshot: snap}, nil
}

type faultySnapshot struct {
	f *Faulty
	storage.Snapshot
}

func (s *faultySnapshot) Get(key []byte) (v []byte, err error) {
	err = s.f.do(OpSnapshotGet, func() (err error) { v, err = s.Snapshot.Get(key); return err })
	return v, err
}

func (s *faultySnapshot) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.f.rows(OpSnapshotScan, s.Snapshot.Scan(from, to))
}

func (s *faultySnapshot) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.f.rows(OpSnapshotScan, s.Snapshot.ScanReverse(from, to))
}
