package memtable

import "github.com/kahu-sh/kahu/storage"

// Steps drives the flusher of a Store by hand, so that a test can put anything
// between any two of its steps.
type Steps struct{ s *Store }

// OpenSteps is Open without the goroutine.
func OpenSteps(e storage.Engine, o Options) (*Store, Steps, error) {
	s, err := open(e, o)
	if err == nil {
		close(s.done)
	}
	return s, Steps{s}, err
}

// Seal makes the active table the sealed one, if it may.
func (x Steps) Seal() { x.s.sealIf(func(*table) bool { return true }) }

// Sealed says whether a table waits to be written.
func (x Steps) Sealed() bool { return x.s.sealed != nil }

// Freeze is the first step of writing the sealed table.
func (x Steps) Freeze() error { _, err := x.s.beginWrite(); return err }

// Write is the second.
func (x Steps) Write() error { return x.s.writeTable(x.s.sealed) }

// Drop is the third.
func (x Steps) Drop() { x.s.dropSealed() }

// Sync syncs the engine.
func (x Steps) Sync() error { return x.s.syncEngine() }

// FlushAll is Flush.
func (x Steps) FlushAll() error { return x.s.flushAll() }
