//go:build !rocksdb

package rocksdb_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/storage/rocksdb"
)

func TestOpenWithoutRocksDBNamesTheFix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "engine")
	e, err := rocksdb.Open(dir)
	if e != nil || !errors.Is(err, rocksdb.ErrNotBuilt) {
		t.Fatalf("Open = %v, %v; want ErrNotBuilt", e, err)
	}
	if text := err.Error(); strings.Contains(text, "\n") || !strings.Contains(text, "-tags rocksdb") {
		t.Errorf("the error is not one line that names the fix: %q", text)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("Open left something at %s: %v", dir, err)
	}
}
