package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

var header = backup.Header{ID: "0f0e0d0c-0000-4000-8000-000000000000", Cluster: "c", Node: "n", Host: "h", Version: "v1",
	Created: time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC), Index: 7, Term: 2, Machine: []byte{1, 2, 3}}

// write makes a backup of rows with ascending keys, each value that long.
func write(t testing.TB, rows, valueBytes int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, header)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Row(key(i), bytes.Repeat([]byte{byte(i)}, valueBytes)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(statemachine.BackupSummary{HighestToken: 5, Keys: uint64(rows)}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func key(i int) []byte { return binary.BigEndian.AppendUint32([]byte{'k'}, uint32(i)) }

// read returns how many rows a backup has, or what is wrong with it.
func read(b []byte) (rows int, err error) {
	r, err := backup.NewReader(bytes.NewReader(b))
	if err != nil {
		return 0, err
	}
	for {
		chunk, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		for _, row := range chunk {
			if !bytes.Equal(row.Key, key(rows)) {
				return rows, fmt.Errorf("row %d has the key %x", rows, row.Key)
			}
			rows++
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []struct{ rows, valueBytes int }{{0, 0}, {1, 0}, {3, 10}, {2000, 1000}, {3, 1 << 20}} {
		b := write(t, c.rows, c.valueBytes)
		h, tr, err := backup.Verify(bytes.NewReader(b), nil)
		if err != nil || h.Index != 7 || h.Cluster != "c" || !h.Created.Equal(header.Created) || tr.Rows != uint64(c.rows) || tr.HighestToken != 5 {
			t.Fatalf("%+v: %+v, %+v, %v", c, h, tr, err)
		}
		if n, err := read(b); n != c.rows || err != nil {
			t.Fatalf("%+v: %d rows, %v", c, n, err)
		}
	}
}

// No byte can change, be missing or be too much without being noticed.
func TestDamage(t *testing.T) {
	whole := write(t, 300, 1000) // several chunks
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(whole)
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		case 1:
			b = b[:at]
		case 2:
			b = append(b, b[at:]...)
		}
		_, _, err := backup.Verify(bytes.NewReader(b), nil)
		if err == nil || !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNewer) {
			t.Fatalf("not noticed: %v", err)
		}
	})
}

func TestNewerIsNotDamaged(t *testing.T) {
	b := write(t, 1, 1)
	binary.LittleEndian.PutUint32(b[8:], 2)
	if _, _, err := backup.Verify(bytes.NewReader(b), nil); !errors.Is(err, backup.ErrNewer) || errors.Is(err, backup.ErrDamaged) {
		t.Errorf("version 2: %v", err)
	}
	if _, _, err := backup.Verify(bytes.NewReader([]byte("hello, this is a text and no backup")), nil); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a text: %v", err)
	}
}

// A length is not believed before it was checked.
func TestHugeLengths(t *testing.T) {
	b := write(t, 1, 1)
	for _, at := range []int{12, 16 + int(binary.LittleEndian.Uint32(b[12:])) + 8} { // of the header, of the first chunk
		c := bytes.Clone(b)
		binary.LittleEndian.PutUint32(c[at:], 0xFFFFFFF0)
		if _, _, err := backup.Verify(bytes.NewReader(c), nil); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("a length at %d: %v", at, err)
		}
	}
}

// A file written by the first version is read for ever.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "version1.kahubackup")
	if os.Getenv("KAHU_WRITE_GOLDEN") != "" {
		if err := os.WriteFile(path, write(t, 3, 10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := read(b); n != 3 || err != nil {
		t.Errorf("%d rows, %v", n, err)
	}
	if !bytes.Equal(b, write(t, 3, 10)) {
		t.Error("what is written today differs: has the version risen?")
	}
}

func FuzzReader(f *testing.F) {
	f.Add(write(f, 3, 10))
	f.Add(write(f, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = read(b) })
}

func dir(t *testing.T) *backup.Dir {
	d, err := backup.OpenDir(filepath.Join(t.TempDir(), "backups"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// take adds a backup as if it were so old.
func take(t *testing.T, d *backup.Dir, n int, age time.Duration) backup.Entry {
	t.Helper()
	e, err := d.Take(t.Context(), func(_ context.Context, out io.Writer) error {
		h := header
		h.ID, h.Created = fmt.Sprintf("%08d-0000", n), time.Now().Add(-age)
		w, err := backup.NewWriter(out, h)
		if err != nil {
			return err
		}
		_, err = w.Close(statemachine.BackupSummary{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRetention(t *testing.T) {
	d := dir(t)
	for n, age := range []time.Duration{100 * time.Hour, 50 * time.Hour, 10 * time.Hour, time.Hour} {
		take(t, d, n, age)
	}
	damaged := filepath.Join(d.Path(), "kahu-20200101T000000Z-x.kahubackup")
	foreign := filepath.Join(d.Path(), "notes.txt")
	left := filepath.Join(d.Path(), "kahu-1.partial")
	for _, path := range []string{damaged, foreign, left} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-1000 * time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		keep backup.Retention
		gone int // besides the unfinished one
	}{
		{backup.Retention{}, 0}, {backup.Retention{Keep: 3}, 1}, {backup.Retention{Keep: 1}, 3}, {backup.Retention{Keep: 9}, 0},
		{backup.Retention{MaxAge: 20 * time.Hour}, 2}, {backup.Retention{MaxAge: time.Minute}, 3}, {backup.Retention{Keep: 2, MaxAge: 20 * time.Hour}, 2},
	} {
		got, err := d.Collect(c.keep, time.Now(), true)
		if err != nil || len(got) != c.gone+1 {
			t.Errorf("%+v removes %d, %v, want %d", c.keep, len(got), err, c.gone+1)
		}
	}
	if _, err := d.Collect(backup.Retention{Keep: 1}, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	all, err := d.List()
	if err != nil || len(all) != 2 || all[0].Problem == "" || all[1].ID != "00000003-0000" {
		t.Errorf("left: %+v, %v", all, err)
	}
	for _, path := range []string{damaged, foreign} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("retention removed what it cannot read: %v", err)
		}
	}
}

// Backups of a time when the clock was years ahead do not push out those that are
// taken now.
func TestRetentionAfterTheClockWasSetBack(t *testing.T) {
	d := dir(t)
	for n, age := range []time.Duration{-30000 * time.Hour, -20000 * time.Hour, 2 * time.Hour, time.Hour} {
		take(t, d, n, age)
	}
	if _, err := d.Collect(backup.Retention{Keep: 2, MaxAge: 24 * time.Hour}, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	all, err := d.List()
	if err != nil || len(all) != 2 || all[0].ID != "00000002-0000" || all[1].ID != "00000003-0000" {
		t.Errorf("left: %+v, %v", all, err)
	}
}

// A full disk keeps neither what is too many nor what was never finished: nobody else
// would make room.
func TestAFullDiskGivesUpWhatRetentionDoesNotKeep(t *testing.T) {
	d := dir(t)
	for n, age := range []time.Duration{100 * time.Hour, 50 * time.Hour, 10 * time.Hour} {
		take(t, d, n, age)
	}
	left := filepath.Join(d.Path(), "kahu-1.partial")
	if err := os.WriteFile(left, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	keep := backup.Retention{Keep: 2, MaxAge: time.Hour}
	for _, c := range []struct {
		cause error
		gone  int
	}{{io.ErrUnexpectedEOF, 0}, {fmt.Errorf("writing a backup: %w", syscall.ENOSPC), 2}, {syscall.EDQUOT, 0}} {
		if gone, err := d.MakeRoom(c.cause, keep, time.Now()); err != nil || len(gone) != c.gone {
			t.Errorf("after %v: %v goes, %v; want %d", c.cause, gone, err, c.gone)
		}
	}
	if all, err := d.List(); err != nil || len(all) != 2 || all[0].ID != "00000001-0000" {
		t.Errorf("left: %+v, %v", all, err)
	}
}

// What fails leaves nothing, and what comes out damaged does not count.
func TestTakeIsAllOrNothing(t *testing.T) {
	d := dir(t)
	broken := errors.New("broken")
	for _, f := range []func(context.Context, io.Writer) error{
		func(_ context.Context, out io.Writer) error { _, _ = out.Write([]byte("part")); return broken },
		func(_ context.Context, out io.Writer) error { _, err := out.Write(write(t, 3, 3)[:50]); return err },
	} {
		if _, err := d.Take(t.Context(), f); !errors.Is(err, broken) && !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%v", err)
		}
	}
	if names, err := os.ReadDir(d.Path()); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func BenchmarkWriter(b *testing.B) {
	b.ReportAllocs()
	w, err := backup.NewWriter(io.Discard, header)
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 200)
	b.SetBytes(200)
	for i := range b.N {
		if err := w.Row(key(i), value); err != nil {
			b.Fatal(err)
		}
	}
}
