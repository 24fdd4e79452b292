package memory_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/enginetest"
	"github.com/kahu-sh/kahu/storage/memory"
)

func open(dir string) (storage.Engine, error) { return memory.Open(dir) }

func TestEngine(t *testing.T) { enginetest.Run(t, open) }

func BenchmarkEngine(b *testing.B) { enginetest.Benchmark(b, open) }

func TestOpenRefuses(t *testing.T) {
	good := t.TempDir()
	e, err := memory.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	var b storage.Batch
	for i := range 50 {
		b.Put(fmt.Appendf(nil, "key %02d", i), []byte("value"))
	}
	if err := errors.Join(e.Write(&b), e.Sync(), e.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(good, "rows"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	check := func(name string, contents []byte, want error) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "rows"), contents, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := memory.Open(dir)
		if !errors.Is(err, want) || e != nil {
			t.Errorf("%s: Open = %v, %v; want %v", name, e, err, want)
		}
	}
	flip := func(at int) []byte {
		c := bytes.Clone(whole)
		c[at] ^= 0x40
		return c
	}
	for n := range whole {
		check(fmt.Sprintf("cut at %d", n), whole[:n], storage.ErrCorrupt)
	}
	for at := range whole {
		if at >= 8 && at < 12 {
			continue // the version, below
		}
		check(fmt.Sprintf("bit of byte %d", at), flip(at), storage.ErrCorrupt)
	}
	check("newer", flip(8), storage.ErrNewerFormat)
	check("longer", append(bytes.Clone(whole), 0), storage.ErrCorrupt)
	check("foreign", []byte("SQLite format 3\x00, or so"), storage.ErrCorrupt)
}

func TestSyncWritesOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	e, err := memory.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	file := filepath.Join(dir, "rows")
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("Sync of an empty engine wrote a file: %v", err)
	}
	var b storage.Batch
	b.Put([]byte("a"), []byte("1"))
	if err := errors.Join(e.Write(&b), e.Sync()); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	second, err := os.Stat(file)
	if err != nil || !os.SameFile(first, second) {
		t.Errorf("Sync without a change wrote the file anew: %v", err)
	}
	// What a killed Sync left is removed.
	if err := os.WriteFile(filepath.Join(dir, "rows.tmp-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := memory.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("files after opening: %v", names)
	}
}

func TestVolatileEngineForgets(t *testing.T) {
	e, err := memory.Open("")
	if err != nil {
		t.Fatal(err)
	}
	var b storage.Batch
	b.Put([]byte("a"), []byte("1"))
	if err := errors.Join(e.Write(&b), e.Sync()); err != nil {
		t.Fatal(err)
	}
	copyDir := filepath.Join(t.TempDir(), "copy")
	if err := errors.Join(e.Checkpoint(copyDir), e.Close()); err != nil {
		t.Fatal(err)
	}
	c, err := memory.Open(copyDir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v, err := c.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Errorf("Get from the checkpoint = %q, %v", v, err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("kahu.mem\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01a\x01b"))
	f.Add([]byte("kahu.mem\x02\x00\x00\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "rows"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := memory.Open(dir)
		if err == nil {
			e.Close()
		} else if !errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, storage.ErrNewerFormat) {
			t.Errorf("an error that is not typed: %v", err)
		}
	})
}
