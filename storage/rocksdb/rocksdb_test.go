//go:build rocksdb

package rocksdb_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/enginetest"
	"github.com/kahu-sh/kahu/storage/rocksdb"
)

func TestEngine(t *testing.T) { enginetest.Run(t, rocksdb.Open) }

func BenchmarkEngine(b *testing.B) { enginetest.Benchmark(b, rocksdb.Open) }

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		format string
		want   error
	}{
		"newer":   {"kahu.rocksdb 2\n", storage.ErrNewerFormat},
		"foreign": {"something else\n", storage.ErrCorrupt},
		"cut":     {"kahu.rock", storage.ErrCorrupt},
		"empty":   {"", storage.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "format"), []byte(c.format), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := rocksdb.Open(dir); !errors.Is(err, c.want) {
				t.Errorf("Open = %v, want %v", err, c.want)
			}
		})
	}
}

func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	e, err := rocksdb.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	manifests, _ := filepath.Glob(filepath.Join(dir, "db", "MANIFEST-*"))
	if len(manifests) != 1 {
		t.Fatalf("manifests: %v", manifests)
	}
	b, err := os.ReadFile(manifests[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 0xff
	if err := os.WriteFile(manifests[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := rocksdb.Open(dir); !errors.Is(err, storage.ErrCorrupt) {
		if err == nil {
			e.Close()
		}
		t.Errorf("Open of a damaged database = %v; want ErrCorrupt", err)
	}
}
