// Package rocksdb is the engine for data that is large or written hard: RocksDB
// through cgo. It is in the binary only when it was built with the tag rocksdb;
// otherwise Open returns ErrNotBuilt, whose line names the fix.
//
// A Write goes to RocksDB's log without waiting for the disk, Sync flushes and
// fsyncs that log. After a crash RocksDB recovers to a point in time: whole
// batches up to some moment. Block cache and write buffers are bounded and
// shared, and nothing is mapped into memory.
//
// The main type is Engine. Bytes that RocksDB hands out are copied or freed
// before a call returns.
package rocksdb

import "errors"

// ErrNotBuilt is returned by Open of a binary without RocksDB.
var ErrNotBuilt = errors.New("this kahu was built without RocksDB: use --storage sqlite, or build it with `go build -tags rocksdb` and librocksdb-dev installed")
