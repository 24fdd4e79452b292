package raftlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// Defaults of Options.
const (
	// DefaultSegmentBytes is the size of one log file. The log is cut in whole
	// files, so smaller ones keep less; each new one costs a few milliseconds.
	DefaultSegmentBytes = 32 << 20
	// DefaultCacheBytes bounds the newest entries kept in memory.
	DefaultCacheBytes = 8 << 20
)

// Options say where a Log lives and whom it tells.
type Options struct {
	Dir          string // must exist
	SegmentBytes int    // 0: DefaultSegmentBytes
	CacheBytes   int64  // 0: DefaultCacheBytes
	// Fatal is told the first failure of a write, or of reading something that
	// must be there. It runs on the goroutine that failed; in production it ends
	// the process and does not return.
	Fatal  func(error)
	Logger *slog.Logger

	// WrapFiles stands between the log and its files. Optional, for tests that
	// break the disk.
	WrapFiles func(types.SegmentFiler) types.SegmentFiler
}

func (o Options) files(f types.SegmentFiler) types.SegmentFiler {
	if o.WrapFiles != nil {
		return o.WrapFiles(f)
	}
	return f
}

// backend is what Log decorates: raft-wal, or raft's store in memory.
type backend interface {
	raft.LogStore
	raft.StableStore
}

// Log is Raft's log and stable store. Its methods may be called concurrently, as
// far as Raft does so: one writer of entries at a time.
type Log struct {
	backend backend
	closers []func() error
	fatal   func(error)
	cache   cache
	ahead   ahead

	inMemory bool

	start    time.Time    // base of running
	running  atomic.Int64 // when the write that runs began, ns since start + 1; 0: none
	appended atomic.Int64 // bytes written since Open

	mu     sync.Mutex // guards the fields below
	sizes  sizes
	first  uint64 // 0: empty
	last   uint64
	term   uint64 // of last; 0: not known
	failed error  // first failure; every later write returns it
	closed bool
	grown  chan struct{} // closed when last has grown; nil: nobody waits

	record recorder
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.StableStore       = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

// Open opens or creates the log in o.Dir. It repairs what a crash may leave: an
// unfinished last write, which was never acknowledged, is gone.
func Open(o Options) (*Log, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	meta := &namedMeta{}
	w, err := wal.Open(o.Dir,
		wal.WithCodec(codec{}),
		wal.WithSegmentSize(o.SegmentBytes),
		wal.WithLogger(HCLog(o.Logger)),
		wal.WithMetaStore(meta), // handed over, because raft-wal does not close its own
		wal.WithSegmentFiler(namedSegments{o.files(segment.NewFiler(o.Dir, zeroed{fs.New()}))}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the raft log in %s: %w", o.Dir, err), meta.Close())
	}
	l, err := newLog(&settledWAL{WAL: w}, o, dirBytes(o.Dir), w.Close, meta.Close)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the raft log in %s: %w", o.Dir, err), w.Close(), meta.Close())
	}
	return l, nil
}

// OpenMemory returns a Log that leaves nothing behind. o.Dir is not used.
func OpenMemory(o Options) (*Log, error) {
	l, err := newLog(raft.NewInmemStore(), o, 0)
	if err != nil {
		return nil, err
	}
	l.inMemory = true
	return l, nil
}

func newLog(b backend, o Options, knownBytes int64, closers ...func() error) (*Log, error) {
	l := &Log{backend: b, closers: closers, fatal: o.Fatal, start: time.Now()}
	l.cache.limitBytes = o.CacheBytes
	if o.CacheBytes == 0 {
		l.cache.limitBytes = DefaultCacheBytes
	}
	var err error
	if l.first, err = b.FirstIndex(); err != nil {
		return nil, err
	}
	if l.last, err = b.LastIndex(); err != nil {
		return nil, err
	}
	if l.last > 0 {
		var e raft.Log
		if err := l.readEntry(l.last, &e); err != nil {
			return nil, fmt.Errorf("reading the last entry %d: %w", l.last, err)
		}
		l.term = e.Term
		l.sizes.blocks = []sizeBlock{{first: l.first, last: l.last, bytes: knownBytes}}
	}
	if err := l.record.load(b); err != nil {
		return nil, err
	}
	l.record.start(l)
	return l, nil
}

// Close records the last fsynced index and closes the files. Raft must have stopped.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.closeAhead()
	err := l.record.close(l)
	for _, c := range l.closers {
		err = errors.Join(err, c())
	}
	return err
}

// IsMonotonic implements raft.MonotonicLogStore: entries have no gaps, so Raft
// removes all of them when a snapshot replaces them.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, nil
}

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, nil
}

// Beyond returns a channel that is closed when the log next grows, or already if it
// has an entry above index.
func (l *Log) Beyond(index uint64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last > index {
		return closed
	}
	if l.grown == nil {
		l.grown = make(chan struct{})
	}
	return l.grown
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// GetLog implements raft.LogStore. An index outside of the log is
// raft.ErrLogNotFound. Damage is fatal. The bytes of the entry are shared. On a
// voter that does not lead it waits until an entry that is pending is durable:
// Raft acknowledges to another leader what it finds here (RunAhead).
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	if oldest := l.ahead.oldest.Load(); oldest != 0 && index >= oldest && !l.ahead.leadsNow() {
		if err := l.AwaitDurable(context.Background(), index); err != nil {
			return err
		}
	}
	if l.cache.get(index, out) {
		return nil
	}
	// raft-wal still finds entries that were cut off in the middle of a file.
	l.mu.Lock()
	outside := index < l.first || index > l.last
	found := l.pendingEntryLocked(index, out)
	l.mu.Unlock()
	switch {
	case outside:
		return raft.ErrLogNotFound
	case found:
		return nil
	}
	err := l.readEntry(index, out)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, wal.ErrClosed) {
		return err
	}
	return l.fail(fmt.Errorf("reading raft log entry %d: %w", index, err))
}

// readEntry reads past the cache, and checks that it got what it asked for.
func (l *Log) readEntry(index uint64, out *raft.Log) error {
	if err := l.backend.GetLog(index, out); err != nil {
		return err
	}
	if out.Index != index {
		return fmt.Errorf("%w: it says that its index is %d", ErrCorrupt, out.Index)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore. It blocks for the disk: when it returns
// nil, the entries are durable, unless the log may run ahead of the disk
// (RunAhead). Any error is fatal.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	if err := l.checkAppend(entries); err != nil {
		return l.fail(err)
	}
	if l.mayRunAhead(entries) {
		l.append(entries, true)
		return nil
	}
	if err := l.Settle(); err != nil {
		return err
	}
	if err := l.write(entries); err != nil {
		return err
	}
	l.append(entries, false)
	return nil
}

// write makes entries, which continue what is durable, durable. Any error is fatal.
func (l *Log) write(entries []*raft.Log) error {
	first, last := entries[0].Index, entries[len(entries)-1].Index
	done := l.measure()
	err := l.backend.StoreLogs(entries)
	done()
	if err != nil {
		return l.fail(fmt.Errorf("writing raft log entries %d to %d: %w", first, last, err))
	}
	l.record.fsynced(last)
	return nil
}

// append takes entries into the log as others see it, and with pending hands them
// to the writer.
func (l *Log) append(entries []*raft.Log, pending bool) {
	var bytes int64
	l.mu.Lock()
	if l.first == 0 {
		l.first = entries[0].Index
	}
	for _, e := range entries {
		n := int64(encodedBytes(e))
		bytes += n
		l.sizes.add(e.Index, n)
	}
	last := entries[len(entries)-1]
	l.last, l.term = last.Index, last.Term
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
	if pending {
		l.handOverLocked(entries, bytes)
	}
	l.mu.Unlock()
	l.appended.Add(bytes)
	l.cache.add(entries)
}

// checkAppend asserts that entries continue the log.
func (l *Log) checkAppend(entries []*raft.Log) error {
	l.mu.Lock()
	index, term, err := l.last, l.term, l.failed
	l.mu.Unlock()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if index > 0 && e.Index != index+1 {
			return fmt.Errorf("raft appends entry %d after entry %d", e.Index, index)
		}
		if e.Term < term {
			return fmt.Errorf("raft appends entry %d of term %d after an entry of term %d", e.Index, e.Term, term)
		}
		index, term = e.Index, e.Term
	}
	return nil
}

// DeleteRange implements raft.LogStore: lo to hi is a prefix (compaction, or all
// of it after a snapshot) or a suffix (a conflict with the leader). Any error is fatal.
func (l *Log) DeleteRange(lo, hi uint64) error {
	l.mu.Lock()
	first, last, failed := l.first, l.last, l.failed
	l.mu.Unlock()
	if failed != nil {
		return failed
	}
	if last == 0 || hi < first || lo > last {
		return nil
	}
	// The backend must have what it removes, and, of a prefix, one entry more:
	// whoever removes its last one moves the end of the log.
	if err := l.AwaitDurable(context.Background(), min(hi, last-1)+1); err != nil {
		return err
	}
	remove := func() error {
		l.cache.truncate(lo, hi)
		if err := l.backend.DeleteRange(lo, hi); err != nil {
			return fmt.Errorf("deleting raft log entries %d to %d: %w", lo, hi, err)
		}
		return nil
	}
	var err error
	if hi >= last {
		// The end moves back: what was recorded must not outlive it.
		done := l.measure()
		err = l.record.lower(l.backend, lo-1, func() error {
			if err := remove(); err != nil {
				return err
			}
			return l.movedBack(lo, hi)
		})
		done()
	} else if err = remove(); err == nil {
		l.movedFront(lo, hi)
	}
	if err != nil {
		return l.fail(err)
	}
	return nil
}

// movedFront takes over the bounds after the prefix lo to hi was deleted. It
// leaves the end alone: Raft compacts beside the goroutine that appends, so an
// end that was read here may be old by the time it is set.
func (l *Log) movedFront(lo, hi uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first = hi + 1
	l.sizes.truncate(lo, hi)
}

// movedBack takes over the bounds after lo to hi, and with them the end of the
// log, were deleted: by the goroutine that appends.
func (l *Log) movedBack(lo, hi uint64) error {
	last, err := l.backend.LastIndex()
	if err != nil {
		return err
	}
	var e raft.Log
	if last > 0 {
		if err := l.readEntry(last, &e); err != nil {
			return fmt.Errorf("reading the last entry %d: %w", last, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.term = last, e.Term
	if last == 0 {
		l.first = 0
	}
	l.sizes.truncate(lo, hi)
	return nil
}

// Clear removes all entries. For a log that a snapshot has made worthless.
func (l *Log) Clear() error {
	l.mu.Lock()
	first, last := l.first, l.last
	l.mu.Unlock()
	return l.DeleteRange(first, last)
}

// Set implements raft.StableStore. Any error is fatal.
func (l *Log) Set(key, value []byte) error {
	return l.setStable(func() error { return l.backend.Set(key, value) })
}

// SetUint64 implements raft.StableStore. Any error is fatal.
func (l *Log) SetUint64(key []byte, value uint64) error {
	return l.setStable(func() error { return l.backend.SetUint64(key, value) })
}

func (l *Log) setStable(set func() error) error {
	if err := l.Err(); err != nil {
		return err
	}
	// Not needed by Raft's rules, but then nobody need think about a term or vote
	// that is newer than the log beside it.
	if err := l.Settle(); err != nil {
		return err
	}
	done := l.measure()
	err := set()
	done()
	if err != nil {
		return l.fail(fmt.Errorf("writing raft's term or vote: %w", err))
	}
	return nil
}

// Get implements raft.StableStore.
func (l *Log) Get(key []byte) ([]byte, error) { return l.backend.Get(key) }

// GetUint64 implements raft.StableStore.
func (l *Log) GetUint64(key []byte) (uint64, error) { return l.backend.GetUint64(key) }

// Err returns the failure that ended this log, if any.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// fail keeps the first failure, tells Fatal once, and returns err.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	report := l.failed == nil && !l.closed
	if l.failed == nil {
		l.failed = err
	}
	l.mu.Unlock()
	if report && l.fatal != nil {
		l.fatal(err)
	}
	return err
}

// measure notes that a write runs, until the returned function is called. Of
// several at once the first counts.
func (l *Log) measure() (done func()) {
	if !l.running.CompareAndSwap(0, int64(time.Since(l.start))+1) {
		return func() {}
	}
	return func() { l.running.Store(0) }
}

// WriteAge returns how long the write that runs now has been running; 0: none runs.
func (l *Log) WriteAge() time.Duration {
	began := l.running.Load()
	if began == 0 {
		return 0
	}
	return time.Since(l.start) - time.Duration(began-1)
}

// AppendedBytes is how much was written since Open, headers included.
func (l *Log) AppendedBytes() int64 { return l.appended.Load() }

// Bytes is how much the entries of the log take, about.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sizes.total()
}

// BytesBetween is how much the entries behind after, up to and with last, take,
// about.
func (l *Log) BytesBetween(after, last uint64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sizes.between(after, last)
}

// Newest returns how many of the newest entries take at most limitBytes, about.
func (l *Log) Newest(limitBytes int64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sizes.newest(limitBytes)
}

// dirBytes is the size of the files in dir; what cannot be read counts as nothing.
func dirBytes(dir string) int64 {
	var sum int64
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, f := range files {
		if info, err := os.Stat(filepath.Join(dir, f.Name())); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
