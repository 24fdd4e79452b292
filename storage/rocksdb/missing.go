//go:build !rocksdb

package rocksdb

import "github.com/kahu-sh/kahu/storage"

// Open returns ErrNotBuilt.
func Open(dir string) (storage.Engine, error) { return nil, ErrNotBuilt }
