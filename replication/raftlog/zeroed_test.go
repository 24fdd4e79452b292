package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/raftlog"
)

// A file that is filled ahead has what was written, zeros behind it, and the size
// that was allocated, also after it was opened again.
func TestFileFilledAheadHasWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "raftlog")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		vfs := raftlog.Zeroed{VFS: fs.New()}
		size := rapid.SampledFrom([]int{1, 4096, 100_000, 256 << 10, 600_000, 1 << 20}).Draw(t, "size")
		f, err := vfs.Create(dir, "log", uint64(size))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		var want []byte
		for range rapid.IntRange(1, 30).Draw(t, "writes") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				if f, err = vfs.OpenWriter(dir, "log"); err != nil {
					t.Fatal(err)
				}
			case 1: // a write that a crash tore, and that is done again
				want = want[:rapid.IntRange(0, len(want)).Draw(t, "back to")]
			}
			off := len(want)
			p := bytes.Repeat([]byte{'x'}, rapid.SampledFrom([]int{1, 100, 4096, 16 << 10, 100_000, 256 << 10}).Draw(t, "bytes"))
			if n, err := f.WriteAt(p, int64(off)); err != nil || n != len(p) {
				t.Fatal(n, err)
			}
			want = append(want, p...)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) < size || !bytes.HasPrefix(got, want) {
			t.Fatalf("the file of %d bytes has %d, and not what was written", size, len(got))
		}
	})
}

// counted counts the bytes that reach a file.
type counted struct {
	types.VFS
	bytes *int
	fails *error
}

func (c counted) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := c.VFS.Create(dir, name, size)
	return countedFile{f, c}, err
}

type countedFile struct {
	types.WritableFile
	c counted
}

func (f countedFile) WriteAt(p []byte, off int64) (int, error) {
	*f.c.bytes += len(p)
	if err := *f.c.fails; err != nil && p[0] == 0 {
		return 0, err
	}
	return f.WritableFile.WriteAt(p, off)
}

// The zeros are as many bytes as the log, not more, and an error of theirs is one.
func TestFillingAheadIsBounded(t *testing.T) {
	var bytes int
	var fails error
	f, err := raftlog.Zeroed{VFS: counted{fs.New(), &bytes, &fails}}.Create(t.TempDir(), "log", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const entry = 10_000
	for off := int64(0); off+entry < 1<<20; off += entry {
		if _, err := f.WriteAt([]byte(fmt.Sprintf("%-*s", entry, "x")), off); err != nil {
			t.Fatal(err)
		}
		if at := int(off) + entry; bytes > 2*at+512<<10 {
			t.Fatalf("%d bytes were written for a log of %d", bytes, at)
		}
	}
	if bytes < 1_900_000 || bytes > 2<<20 {
		t.Errorf("%d bytes were written for a log of 1 MiB", bytes)
	}
	fails = errors.New("input/output error")
	g, err := raftlog.Zeroed{VFS: counted{fs.New(), &bytes, &fails}}.Create(t.TempDir(), "log", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := g.WriteAt([]byte("x"), 0); !errors.Is(err, fails) {
		t.Errorf("a disk that refuses zeros: %v", err)
	}
}
