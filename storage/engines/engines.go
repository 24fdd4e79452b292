// Package engines opens a storage engine by the name that --storage has.
package engines

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/memory"
	"github.com/kahu-sh/kahu/storage/rocksdb"
	"github.com/kahu-sh/kahu/storage/sqlite"
)

// The kinds of engines, as the flag, the configuration and the data directory
// spell them.
const (
	Memory  = "memory"
	SQLite  = "sqlite"
	RocksDB = "rocksdb"
)

// Default is the kind when nobody asks for another.
const Default = SQLite

// ErrUnknown wraps the error for a kind that does not exist.
var ErrUnknown = errors.New("unknown storage engine")

// Kinds are the names that Open takes, whether or not this binary has them.
func Kinds() []string { return []string{Memory, SQLite, RocksDB} }

// Check returns nil when this binary can open kind, else ErrUnknown with the
// names of those that exist, or rocksdb.ErrNotBuilt. It touches no disk: ask it
// before a data directory is made for an engine that cannot be had.
func Check(kind string) error {
	if !slices.Contains(Kinds(), kind) {
		return fmt.Errorf("%w %q: use one of %s", ErrUnknown, kind, strings.Join(Kinds(), ", "))
	}
	if kind == RocksDB {
		return rocksdb.Built()
	}
	return nil
}

// Open opens the engine of that kind in dir, which must exist. The memory engine
// also takes an empty dir, and then forgets everything on Close. Errors wrap
// ErrUnknown, rocksdb.ErrNotBuilt, storage.ErrCorrupt or storage.ErrNewerFormat
// where they apply.
func Open(kind, dir string) (storage.Engine, error) {
	if err := Check(kind); err != nil {
		return nil, err
	}
	if dir == "" && kind != Memory {
		return nil, fmt.Errorf("storage engine %q needs a directory", kind)
	}
	switch kind {
	case Memory:
		// Not returned directly: a nil *Engine is not a nil interface.
		e, err := memory.Open(dir)
		if err != nil {
			return nil, err
		}
		return e, nil
	case SQLite:
		e, err := sqlite.Open(dir)
		if err != nil {
			return nil, err
		}
		return e, nil
	default:
		return rocksdb.Open(dir)
	}
}
