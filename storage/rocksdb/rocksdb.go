//go:build rocksdb

package rocksdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/kahu-sh/kahu/storage"
	"github.com/linxGnu/grocksdb"
)

const (
	blockCacheBytes       = 64 << 20
	writeBufferBytes      = 16 << 20
	writeBufferCount      = 3
	maxLogBytes           = 64 << 20 // of RocksDB's write-ahead log
	maxOpenFiles          = 256
	bloomBitsPerKey       = 10
	infoLogBytes          = 1 << 20
	infoLogCount          = 2
	backgroundJobs        = 2
	maxBatchOps           = math.MaxUint32
	batchHeaderBytes      = 12
	recordPut        byte = 1
	recordDelete     byte = 0
)

// Engine is a sorted map in RocksDB. See storage.Engine.
type Engine struct {
	dir   string
	db    *grocksdb.DB
	opts  *grocksdb.Options
	table *grocksdb.BlockBasedTableOptions
	cache *grocksdb.Cache
	read  *grocksdb.ReadOptions
	write *grocksdb.WriteOptions

	writing sync.Mutex // one Write or Sync at a time
	encoded []byte     // the batch being written, under writing

	// RocksDB is C++: a call into a closed database would crash the process. So
	// Close waits until nobody is inside, and later calls are turned away.
	mu        sync.Mutex
	left      *sync.Cond
	inside    int
	closed    bool
	snapshots map[*snapshot]struct{}
}

var _ storage.Engine = (*Engine)(nil)

// Built returns nil: this binary has RocksDB.
func Built() error { return nil }

// Open opens or makes the database in dir, which must exist. RocksDB refuses a
// second process by itself.
func Open(dir string) (storage.Engine, error) {
	fewArenas()
	if err := checkFormat(dir); err != nil {
		return nil, err
	}
	e := &Engine{dir: dir, snapshots: map[*snapshot]struct{}{}}
	e.left = sync.NewCond(&e.mu)
	e.makeOptions()
	db, err := grocksdb.OpenDb(e.opts, filepath.Join(dir, dbDir))
	if err != nil {
		e.destroy()
		return nil, fmt.Errorf("open the RocksDB database in %s: %w", dir, typed(err))
	}
	e.db = db
	return e, nil
}

func (e *Engine) makeOptions() {
	e.cache = grocksdb.NewLRUCache(blockCacheBytes)
	e.table = grocksdb.NewDefaultBlockBasedTableOptions()
	e.table.SetBlockCache(e.cache)
	e.table.SetCacheIndexAndFilterBlocks(true) // or they grow with the data
	e.table.SetPinL0FilterAndIndexBlocksInCache(true)
	e.table.SetFilterPolicy(grocksdb.NewBloomFilter(bloomBitsPerKey))
	o := grocksdb.NewDefaultOptions()
	o.SetCreateIfMissing(true)
	o.SetParanoidChecks(true)
	o.SetBlockBasedTableFactory(e.table)
	o.SetWriteBufferSize(writeBufferBytes)
	o.SetMaxWriteBufferNumber(writeBufferCount)
	o.SetMaxTotalWalSize(maxLogBytes)
	o.SetMaxOpenFiles(maxOpenFiles)
	o.SetMaxBackgroundJobs(backgroundJobs)
	o.SetCompression(grocksdb.LZ4Compression)
	o.SetLevelCompactionDynamicLevelBytes(true)
	// Whole batches up to some moment: what storage.Engine promises.
	o.SetWALRecoveryMode(grocksdb.PointInTimeRecovery)
	o.SetInfoLogLevel(grocksdb.WarnInfoLogLevel)
	o.SetMaxLogFileSize(infoLogBytes)
	o.SetKeepLogFileNum(infoLogCount)
	o.SetStatsDumpPeriodSec(0)
	e.opts = o
	e.read = grocksdb.NewDefaultReadOptions()
	e.write = grocksdb.NewDefaultWriteOptions()
}

func (e *Engine) destroy() {
	e.read.Destroy()
	e.write.Destroy()
	e.opts.Destroy()
	e.table.Destroy()
	e.cache.Destroy()
}

// enter keeps the database open until leave.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return storage.ErrClosed
	}
	e.inside++
	return nil
}

func (e *Engine) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inside--; e.inside == 0 {
		e.left.Broadcast()
	}
}

// Get implements storage.Reader.
func (e *Engine) Get(key []byte) ([]byte, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.leave()
	return e.get(e.read, key)
}

func (e *Engine) get(o *grocksdb.ReadOptions, key []byte) ([]byte, error) {
	s, err := e.db.Get(o, key)
	if err != nil {
		return nil, typed(err)
	}
	defer s.Free()
	if !s.Exists() {
		return nil, storage.ErrNotFound
	}
	return append([]byte{}, s.Data()...), nil
}

// Scan implements storage.Reader. Close waits for it.
func (e *Engine) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.scan(nil, from, to, false)
}

// ScanReverse implements storage.Reader.
func (e *Engine) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.scan(nil, from, to, true)
}

// scan walks an iterator, which stands still by itself. The bounds are given to
// RocksDB, so that it does not walk through deleted rows outside of them.
func (e *Engine) scan(s *snapshot, from, to []byte, reverse bool) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		if to != nil && bytes.Compare(from, to) >= 0 {
			to = []byte{} // nothing is below the empty key
		}
		if err := e.enter(); err != nil {
			yield(storage.Row{}, err)
			return
		}
		defer e.leave()
		if to != nil && len(to) == 0 {
			return
		}
		o := grocksdb.NewDefaultReadOptions()
		defer o.Destroy()
		var pin runtime.Pinner // RocksDB keeps pointers to the bounds
		defer pin.Unpin()
		if len(to) > 0 {
			pin.Pin(&to[0])
			o.SetIterateUpperBound(to)
		}
		if len(from) > 0 {
			pin.Pin(&from[0])
			o.SetIterateLowerBound(from)
		}
		it := e.iterator(s, o)
		if it == nil {
			yield(storage.Row{}, storage.ErrClosed)
			return
		}
		defer it.Close()
		if reverse {
			it.SeekToLast()
		} else {
			it.SeekToFirst()
		}
		for it.Valid() {
			row := storage.Row{Key: notNil(it.Key().Data()), Value: notNil(it.Value().Data())}
			if !yield(row, nil) {
				return
			}
			if reverse {
				it.Prev()
			} else {
				it.Next()
			}
		}
		if err := it.Err(); err != nil {
			yield(storage.Row{}, typed(err))
		}
	}
}

// iterator makes one over s, or over the present state when s is nil. It is nil
// when s is released. An iterator keeps what it needs of a snapshot, so that a
// Release while it walks does no harm.
func (e *Engine) iterator(s *snapshot, o *grocksdb.ReadOptions) *grocksdb.Iterator {
	if s == nil {
		return e.db.NewIterator(o)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.snap == nil {
		return nil
	}
	o.SetSnapshot(s.snap)
	return e.db.NewIterator(o)
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Write implements storage.Engine.
func (e *Engine) Write(b *storage.Batch) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if err := e.enter(); err != nil {
		return err
	}
	defer e.leave()
	if b.Len() == 0 {
		return nil
	}
	if b.Len() > maxBatchOps {
		return fmt.Errorf("a batch of %d changes; RocksDB takes %d", b.Len(), maxBatchOps)
	}
	e.encoded = encodeBatch(e.encoded[:0], b)
	wb := grocksdb.WriteBatchFrom(e.encoded)
	defer wb.Destroy()
	if err := e.db.Write(e.write, wb); err != nil {
		return fmt.Errorf("write %d rows: %w", b.Len(), typed(err))
	}
	const keepBytes = 8 << 20
	if cap(e.encoded) > keepBytes {
		e.encoded = nil
	}
	return nil
}

// encodeBatch writes the form in which RocksDB keeps batches in its log, so that
// one call into C takes them all: sequence (8 bytes, zero), count (4 bytes,
// little-endian), then a tag, and key and value with their lengths as varints.
func encodeBatch(dst []byte, b *storage.Batch) []byte {
	dst = append(dst, make([]byte, batchHeaderBytes)...)
	binary.LittleEndian.PutUint32(dst[8:], uint32(b.Len()))
	for _, op := range b.Ops() {
		if op.Delete {
			dst = append(dst, recordDelete)
			dst = binary.AppendUvarint(dst, uint64(len(op.Key)))
			dst = append(dst, op.Key...)
			continue
		}
		dst = append(dst, recordPut)
		dst = binary.AppendUvarint(dst, uint64(len(op.Key)))
		dst = append(dst, op.Key...)
		dst = binary.AppendUvarint(dst, uint64(len(op.Value)))
		dst = append(dst, op.Value...)
	}
	return dst
}

// Sync implements storage.Engine.
func (e *Engine) Sync() error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if err := e.enter(); err != nil {
		return err
	}
	defer e.leave()
	if err := e.db.FlushWAL(true); err != nil {
		return fmt.Errorf("sync RocksDB's log: %w", typed(err))
	}
	return nil
}

// Snapshot implements storage.Engine.
func (e *Engine) Snapshot() (storage.Snapshot, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.leave()
	s := &snapshot{e: e, snap: e.db.NewSnapshot()}
	s.read = grocksdb.NewDefaultReadOptions()
	s.read.SetSnapshot(s.snap)
	e.mu.Lock()
	e.snapshots[s] = struct{}{}
	e.mu.Unlock()
	return s, nil
}

// Checkpoint implements storage.Engine. It links RocksDB's files where dir is on
// the same file system, and copies them elsewhere.
func (e *Engine) Checkpoint(dir string) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.leave()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the checkpoint's directory: %w", err)
	}
	c, err := e.db.NewCheckpoint()
	if err != nil {
		return fmt.Errorf("checkpoint RocksDB: %w", typed(err))
	}
	defer c.Destroy()
	// Zero: flush the write buffers first, so that the copy needs no log.
	if err := c.CreateCheckpoint(filepath.Join(dir, dbDir), 0); err != nil {
		return fmt.Errorf("checkpoint RocksDB: %w", typed(err))
	}
	if err := writeFormat(dir); err != nil {
		return err
	}
	return syncTree(dir)
}

// Sizes implements storage.Engine.
func (e *Engine) Sizes() (storage.Sizes, error) {
	if err := e.enter(); err != nil {
		return storage.Sizes{}, err
	}
	defer e.leave()
	s := storage.Sizes{MemoryBytes: int64(e.cache.GetUsage())}
	for _, p := range []string{"rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem"} {
		if n, ok := e.db.GetIntProperty(p); ok {
			s.MemoryBytes += int64(n)
		}
	}
	err := filepath.WalkDir(e.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err) // a compaction removed it
		}
		s.DiskBytes += info.Size()
		return nil
	})
	return s, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close implements storage.Engine. It waits for calls and scans under way, and
// must not be called from inside a scan. Snapshots still held become unusable.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	for e.inside > 0 {
		e.left.Wait()
	}
	held := e.snapshots
	e.snapshots = nil
	e.mu.Unlock()
	for s := range held {
		s.free()
	}
	e.db.Close()
	e.destroy()
	return nil
}

type snapshot struct {
	e *Engine

	mu   sync.RWMutex // read-held by users, so that Release waits for them
	snap *grocksdb.Snapshot
	read *grocksdb.ReadOptions
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	if err := s.e.enter(); err != nil {
		return nil, err
	}
	defer s.e.leave()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.snap == nil {
		return nil, storage.ErrClosed
	}
	return s.e.get(s.read, key)
}

func (s *snapshot) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.e.scan(s, from, to, false)
}

func (s *snapshot) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.e.scan(s, from, to, true)
}

func (s *snapshot) Release() {
	if s.e.enter() != nil {
		return // Close has freed it
	}
	defer s.e.leave()
	s.e.mu.Lock()
	delete(s.e.snapshots, s)
	s.e.mu.Unlock()
	s.free()
}

func (s *snapshot) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snap == nil {
		return
	}
	s.read.Destroy()
	s.e.db.ReleaseSnapshot(s.snap)
	s.snap, s.read = nil, nil
}

// typed gives damage its sentinel. The C interface has only text.
func typed(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "Corruption:") {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return err
}
