// Package storage declares the ordered engine under the replicated state
// machine, and what an engine promises.
//
// An engine is a sorted map from bytes to bytes with atomic batches. It is the
// snapshot, not the log: Raft's log makes decisions durable, and the engine may
// lag behind it. Therefore a Write need not survive a crash before Sync has
// returned, but whatever survives is the state after some prefix of the
// acknowledged writes, never half of a batch.
//
// Engines live in sub-packages (memory, sqlite, rocksdb) and pass one
// conformance suite (enginetest). Package memtable lays the write-behind layer
// over an engine; package datadir owns the directory it lives in.
package storage

import (
	"errors"
	"iter"
)

var (
	// ErrNotFound is returned by Get for a key that is not there.
	ErrNotFound = errors.New("key not found")
	// ErrClosed is returned by every call on a closed engine or snapshot.
	ErrClosed = errors.New("storage engine is closed")
	// ErrCorrupt wraps damage found in stored bytes. It is not ErrNewerFormat.
	ErrCorrupt = errors.New("stored data is damaged")
	// ErrNewerFormat wraps data written by a newer version of kahu.
	ErrNewerFormat = errors.New("stored data has a newer format")
)

// Reader reads an ordered map. Keys compare as unsigned bytes.
type Reader interface {
	// Get returns a copy of the value of key, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Scan yields the rows with from <= key < to in ascending order; a nil to
	// means to the end. The slices are valid only until the next step. An error
	// is yielded once, as the last step, with nil Row.
	Scan(from, to []byte) iter.Seq2[Row, error]
	// ScanReverse is Scan in descending order over the same rows.
	ScanReverse(from, to []byte) iter.Seq2[Row, error]
}

// Row is one key with its value.
type Row struct {
	Key, Value []byte
}

// Engine is a sorted map on disk or in memory. All methods may be called
// concurrently; Write calls are serialised by the engine.
type Engine interface {
	Reader
	// Write applies all of b or nothing, and is visible to readers on return.
	// It is durable only after a later Sync. b is not kept.
	Write(b *Batch) error
	// Sync makes every acknowledged Write durable. It blocks for the disk.
	Sync() error
	// Snapshot returns a consistent view of all acknowledged writes. It costs
	// little, may be held for minutes, and must be released.
	Snapshot() (Snapshot, error)
	// Checkpoint writes a consistent, synced copy into dir, which must not exist,
	// such that the same engine kind opens it. Writes go on meanwhile.
	Checkpoint(dir string) error
	// Sizes reports what the engine uses now.
	Sizes() (Sizes, error)
	// Close releases everything without a Sync. Snapshots must be released before.
	Close() error
}

// Snapshot is a frozen Reader.
type Snapshot interface {
	Reader
	// Release frees the snapshot. A second call does nothing.
	Release()
}

// Sizes is what an engine uses, in bytes.
type Sizes struct {
	DiskBytes   int64 // files, logs of the engine included
	MemoryBytes int64 // caches and buffers, as far as the engine knows
}

// Batch is an ordered list of changes. When a key is named twice the later
// change wins. The zero Batch is empty and ready. Not for concurrent use.
type Batch struct {
	ops   []Op
	bytes int
}

// Op is one change of a Batch.
type Op struct {
	Key    []byte
	Value  []byte // nil with Delete
	Delete bool
}

// Put sets key to value. Both are kept until the batch is written: the caller
// must not change them.
func (b *Batch) Put(key, value []byte) {
	b.ops = append(b.ops, Op{Key: key, Value: value})
	b.bytes += len(key) + len(value)
}

// Delete removes key. Removing what is not there is no error.
func (b *Batch) Delete(key []byte) {
	b.ops = append(b.ops, Op{Key: key, Delete: true})
	b.bytes += len(key)
}

// Ops returns the changes in the order they were added. Read only.
func (b *Batch) Ops() []Op { return b.ops }

// Len is the number of changes.
func (b *Batch) Len() int { return len(b.ops) }

// Bytes is the sum of the lengths of keys and values.
func (b *Batch) Bytes() int { return b.bytes }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops, b.bytes = b.ops[:0], 0
}
