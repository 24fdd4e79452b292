package engines_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/storage/engines"
	"github.com/kahu-sh/kahu/storage/rocksdb"
)

func TestOpen(t *testing.T) {
	for _, kind := range engines.Kinds() {
		t.Run(kind, func(t *testing.T) {
			e, err := engines.Open(kind, t.TempDir())
			if kind == engines.RocksDB && errors.Is(err, rocksdb.ErrNotBuilt) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct{ kind, dir, says string }{
		{"leveldb", t.TempDir(), "memory, sqlite, rocksdb"},
		{"", t.TempDir(), "memory, sqlite, rocksdb"},
		{"SQLite", t.TempDir(), "memory, sqlite, rocksdb"},
		{engines.SQLite, "", "needs a directory"},
		{engines.Memory, missing, missing},
		{engines.SQLite, missing, missing},
	} {
		e, err := engines.Open(c.kind, c.dir)
		if err == nil || e != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Open(%q, %q) = %v, %v; want an error that says %q", c.kind, c.dir, e, err, c.says)
		}
	}
	if _, err := os.Stat(missing); !os.IsNotExist(err) {
		t.Errorf("a refused Open made %s", missing)
	}
}
