//go:build !rocksdb

package rocksdb

import "github.com/kahu-sh/kahu/storage"

// Built returns ErrNotBuilt.
func Built() error { return ErrNotBuilt }

// Open returns ErrNotBuilt.
func Open(dir string) (storage.Engine, error) { return nil, ErrNotBuilt }
