// Package sqlite is the default engine: one table in one SQLite database, by a
// SQLite that is translated to Go, so that no C compiler is needed.
//
// The database runs in WAL mode with synchronous=NORMAL: a commit writes to the
// WAL and does not wait for the disk; after a crash SQLite finds the longest
// run of whole commits in it. That is exactly what storage.Engine promises for
// Write. Sync is an fsync of the WAL, followed by a checkpoint when it is long.
//
// The main type is Engine. It holds one connection that writes, and a bounded
// number that read. Every connection has a bounded page cache, and nothing is
// mapped into memory, so the process stays small however large the file is.
//
// The driver is used below database/sql: which connection runs what is the point
// here, and database/sql would choose for us.
package sqlite

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/atomicfile"
)

const (
	fileName = "rows.sqlite"

	// maxPointReaders bounds the connections that Get uses at once; others wait.
	maxPointReaders = 4
	// maxOpenReaders bounds scans and snapshots under way; past it they fail,
	// because their holders may wait for each other.
	maxOpenReaders = 64
	// maxIdleReaders are kept open when nobody uses them.
	maxIdleReaders = maxPointReaders + 2

	// checkpointBytes of WAL make Sync move them into the database.
	checkpointBytes = 64 << 20
)

// ErrTooManyReaders is returned when maxOpenReaders scans and snapshots are
// under way: somebody does not release them.
var ErrTooManyReaders = fmt.Errorf("more than %d scans and snapshots of the sqlite engine are open", maxOpenReaders)

// Engine is a sorted map in a SQLite database. See storage.Engine.
type Engine struct {
	dir, path string
	points    chan struct{} // tokens of Get

	// writing is held while the writer connection is in use. Taken before mu.
	writing sync.Mutex
	writer  *conn
	// unsynced counts writes since the last Sync, so that an idle Sync is free.
	unsynced atomic.Int64
	syncErr  error // sticky, under writing: after a failed fsync a later one may lie

	mu     sync.Mutex // guards what follows
	idle   []*conn
	open   int // readers lent to scans and snapshots
	closed bool
}

var _ storage.Engine = (*Engine)(nil)

// Open opens or makes the database in dir, which must exist. It holds no lock
// against other processes; datadir does. Damage wraps storage.ErrCorrupt, a
// database of a later kahu storage.ErrNewerFormat.
func Open(dir string) (*Engine, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName)
	w, err := openWriter(path)
	if err != nil {
		return nil, fmt.Errorf("open the SQLite database %s: %w", path, err)
	}
	e := &Engine{dir: dir, path: path, writer: w, points: make(chan struct{}, maxPointReaders)}
	// What an earlier process left in the page cache is not known to be durable.
	e.unsynced.Store(1)
	return e, nil
}

// Get implements storage.Reader. At most four run at once; others wait.
func (e *Engine) Get(key []byte) ([]byte, error) {
	e.points <- struct{}{}
	defer func() { <-e.points }()
	c, err := e.reader(false)
	if err != nil {
		return nil, err
	}
	defer e.giveBack(c, false)
	return c.get(key)
}

// Scan implements storage.Reader. All rows are of the moment of its first step.
func (e *Engine) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.scan(from, to, false)
}

// ScanReverse implements storage.Reader.
func (e *Engine) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.scan(from, to, true)
}

func (e *Engine) scan(from, to []byte, reverse bool) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		s, err := e.begin()
		if err != nil {
			yield(storage.Row{}, err)
			return
		}
		defer s.Release()
		s.scan(from, to, reverse)(yield)
	}
}

// Write implements storage.Engine: one transaction.
func (e *Engine) Write(b *storage.Batch) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.writer == nil {
		return storage.ErrClosed
	}
	if b.Len() == 0 {
		return nil
	}
	if err := e.writer.write(b); err != nil {
		return fmt.Errorf("write %d rows: %w", b.Len(), err)
	}
	e.unsynced.Add(1)
	return nil
}

// Sync implements storage.Engine.
func (e *Engine) Sync() error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.writer == nil {
		return storage.ErrClosed
	}
	if e.syncErr != nil {
		return e.syncErr
	}
	if e.unsynced.Load() == 0 {
		return nil
	}
	if err := e.syncFiles(); err != nil {
		e.syncErr = err
		return err
	}
	e.unsynced.Store(0)
	if e.WantsSync() {
		// Readers of older states only make it move less; the next Sync goes on.
		if err := e.writer.exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil && !isBusy(err) {
			return fmt.Errorf("checkpoint the WAL: %w", err)
		}
	}
	return nil
}

// syncFiles makes the WAL durable, and that it is there. What a checkpoint moved
// from it into the database was synced by SQLite before it reused the WAL.
func (e *Engine) syncFiles() error {
	err := atomicfile.Sync(e.path + "-wal")
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("sync the WAL: %w", err)
	}
	if err := atomicfile.Sync(e.dir); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

// WantsSync says that the WAL is long, and a Sync would shorten it. The best
// moment is when no snapshot is held. It costs one stat.
func (e *Engine) WantsSync() bool {
	info, err := os.Stat(e.path + "-wal")
	return err == nil && info.Size() >= checkpointBytes
}

// Snapshot implements storage.Engine: a read transaction on a connection of its
// own. While it is held the WAL cannot be reused, and grows.
func (e *Engine) Snapshot() (storage.Snapshot, error) {
	s, err := e.begin()
	if err != nil {
		return nil, err
	}
	// A read transaction takes its state with its first read.
	if _, err := s.c.get(nil); err != nil && !errors.Is(err, storage.ErrNotFound) {
		s.Release()
		return nil, err
	}
	return s, nil
}

func (e *Engine) begin() (*snapshot, error) {
	c, err := e.reader(true)
	if err != nil {
		return nil, err
	}
	if err := c.run(c.begin); err != nil {
		c.broken = true
		e.giveBack(c, true)
		return nil, fmt.Errorf("begin to read: %w", err)
	}
	return &snapshot{e: e, c: c}, nil
}

// Checkpoint implements storage.Engine. The copy is compact, so it may be
// smaller than the original; it takes time in proportion to the data.
func (e *Engine) Checkpoint(dir string) error {
	c, err := e.reader(true)
	if err != nil {
		return err
	}
	defer e.giveBack(c, true)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the checkpoint's directory: %w", err)
	}
	path := filepath.Join(dir, fileName)
	c.broken = true // as a connection that only reads
	if err := c.exec("PRAGMA query_only=OFF"); err != nil {
		return err
	}
	if err := c.exec("VACUUM INTO ?", path); err != nil {
		return fmt.Errorf("copy the database into %s: %w", path, err)
	}
	for _, p := range []string{path, dir, filepath.Dir(dir)} {
		if err := atomicfile.Sync(p); err != nil {
			return fmt.Errorf("sync the checkpoint: %w", err)
		}
	}
	return nil
}

// Sizes implements storage.Engine. MemoryBytes is what the page caches of the
// open connections may grow to.
func (e *Engine) Sizes() (storage.Sizes, error) {
	e.mu.Lock()
	readers, closed := e.open+len(e.idle), e.closed
	e.mu.Unlock()
	if closed {
		return storage.Sizes{}, storage.ErrClosed
	}
	s := storage.Sizes{MemoryBytes: int64(writerCacheBytes + readers*readerCacheBytes)}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(e.path + suffix)
		if err != nil && !os.IsNotExist(err) {
			return s, fmt.Errorf("size of the database: %w", err)
		}
		if err == nil {
			s.DiskBytes += info.Size()
		}
	}
	return s, nil
}

// Close implements storage.Engine. SQLite moves the WAL into the database when
// the last connection goes, which may take a while.
func (e *Engine) Close() error {
	e.writing.Lock()
	defer e.writing.Unlock()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	idle := e.idle
	e.idle = nil
	e.mu.Unlock()
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.close())
	}
	errs = append(errs, e.writer.close())
	e.writer = nil
	return errors.Join(errs...)
}

// reader lends a connection. Held ones (scans, snapshots) are counted.
func (e *Engine) reader(held bool) (*conn, error) {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, storage.ErrClosed
	}
	if held {
		if e.open >= maxOpenReaders {
			e.mu.Unlock()
			return nil, ErrTooManyReaders
		}
		e.open++
	}
	if n := len(e.idle); n > 0 {
		c := e.idle[n-1]
		e.idle = e.idle[:n-1]
		e.mu.Unlock()
		return c, nil
	}
	e.mu.Unlock()
	c, err := openReader(e.path)
	if err != nil {
		if held {
			e.mu.Lock()
			e.open--
			e.mu.Unlock()
		}
		return nil, fmt.Errorf("open a connection to read: %w", err)
	}
	return c, nil
}

func (e *Engine) giveBack(c *conn, held bool) {
	e.mu.Lock()
	if held {
		e.open--
	}
	if !e.closed && !c.broken && len(e.idle) < maxIdleReaders {
		e.idle = append(e.idle, c)
		c = nil
	}
	e.mu.Unlock()
	if c != nil {
		_ = c.close() // it has only read
	}
}
