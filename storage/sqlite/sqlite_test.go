package sqlite_test

import (
	"bytes"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/enginetest"
	"github.com/kahu-sh/kahu/storage/sqlite"
	driver "modernc.org/sqlite"
)

func open(dir string) (storage.Engine, error) { return sqlite.Open(dir) }

func TestEngine(t *testing.T) { enginetest.Run(t, open) }

func BenchmarkEngine(b *testing.B) { enginetest.Benchmark(b, open) }

const file = "rows.sqlite"

// sql runs statements on a database with a connection of the test's own.
func sql(t *testing.T, path string, statements ...string) {
	t.Helper()
	c, err := new(driver.Driver).Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, s := range statements {
		st, err := c.Prepare(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if _, err := st.(sqldriver.StmtExecContext).ExecContext(t.Context(), nil); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  error
	}{
		"newer": {func(t *testing.T, path string) { sql(t, path, "PRAGMA user_version=2") }, storage.ErrNewerFormat},
		"of another program": {func(t *testing.T, path string) {
			sql(t, path, "PRAGMA application_id=7")
		}, storage.ErrCorrupt},
		"without an application": {func(t *testing.T, path string) {
			os.Remove(path)
			sql(t, path, "CREATE TABLE invoices (id INTEGER PRIMARY KEY)")
		}, storage.ErrCorrupt},
		"with another table": {func(t *testing.T, path string) {
			sql(t, path, "CREATE TABLE invoices (id INTEGER PRIMARY KEY)")
		}, storage.ErrCorrupt},
		"without the table": {func(t *testing.T, path string) { sql(t, path, "DROP TABLE rows") }, storage.ErrCorrupt},
		"not a database": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, storage.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e, err := sqlite.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, filepath.Join(dir, file))
			if e, err := sqlite.Open(dir); !errors.Is(err, c.want) || e != nil {
				t.Errorf("Open = %v, %v; want %v", e, err, c.want)
			}
		})
	}
}

func TestDamagedPageIsFound(t *testing.T) {
	dir := t.TempDir()
	e, err := sqlite.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b storage.Batch
	for i := range 2000 {
		b.Put(fmt.Appendf(nil, "%06d", i), make([]byte, 100))
	}
	if err := errors.Join(e.Write(&b), e.Sync(), e.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Pages behind the first: not what Open looks at.
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, 64<<10), 64<<10); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if e, err = sqlite.Open(dir); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var found error
	for _, err := range e.Scan(nil, nil) {
		found = err
	}
	if !errors.Is(found, storage.ErrCorrupt) {
		t.Errorf("a scan over damaged pages ends with %v; want ErrCorrupt", found)
	}
}

// The WAL shrinks with Sync, and a snapshot that is held only delays that.
func TestWALIsBounded(t *testing.T) {
	dir := t.TempDir()
	e, err := sqlite.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	wal := func() int64 {
		info, err := os.Stat(filepath.Join(dir, file+"-wal"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	value, written := make([]byte, 1<<20), 0
	round := func() {
		for range 5 {
			var b storage.Batch
			for range 4 {
				written++
				b.Put(fmt.Appendf(nil, "%04d", written%20), value)
			}
			if err := e.Write(&b); err != nil {
				t.Fatal(err)
			}
		}
	}
	snap, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		round()
	}
	if !e.WantsSync() {
		t.Fatalf("the WAL has %d bytes, and no Sync is wanted", wal())
	}
	if err := e.Sync(); err != nil {
		t.Fatalf("Sync beside a snapshot: %v", err)
	}
	for _, err := range snap.Scan(nil, nil) {
		t.Errorf("the snapshot of an empty engine has rows: %v", err)
	}
	snap.Release()
	round()
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	if e.WantsSync() || wal() > 1<<20 {
		t.Errorf("the WAL has %d bytes after Sync", wal())
	}
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestReadersAreBounded(t *testing.T) {
	e, err := sqlite.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var held []storage.Snapshot
	for {
		s, err := e.Snapshot()
		if errors.Is(err, sqlite.ErrTooManyReaders) {
			break
		}
		if err != nil || len(held) > 1000 {
			t.Fatalf("snapshot %d: %v", len(held), err)
		}
		held = append(held, s)
	}
	// Points have their own connections.
	if _, err := e.Get([]byte("a")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get beside %d snapshots: %v", len(held), err)
	}
	for _, s := range held {
		s.Release()
	}
	s, err := e.Snapshot()
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	s.Release()
}
