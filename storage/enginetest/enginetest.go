// Package enginetest is the conformance suite of storage.Engine. An engine's own
// tests call Run with a constructor; a new rule for engines goes here first.
//
// What the suite decides where the interface is silent:
//
//   - The empty key is a key like any other, and the least one.
//   - An empty value is a value: Get returns it, not nil, and no error.
//   - A scan shows the state of one moment, even when rows change under it.
//   - A range whose from is not below its to is empty.
//   - After Close every method returns storage.ErrClosed, but Close nil; a
//     released snapshot returns storage.ErrClosed too.
package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kahu-sh/kahu/storage"
)

// Opener opens the engine that lives in dir, an existing directory. The same
// dir opens the same data again.
type Opener func(dir string) (storage.Engine, error)

// Run runs the whole suite. The kill -9 test starts the test binary again with
// only its caller selected, so Run must be called from a Test function directly.
func Run(t *testing.T, open Opener) {
	if childRequested() {
		child(open) // does not return
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, Opener)
	}{
		{"Get", testGet},
		{"ScanBounds", testScanBounds},
		{"ScanPages", testScanPages},
		{"ScanSeesOneMoment", testScanSeesOneMoment},
		{"BatchLastWriterWins", testBatchLastWriterWins},
		{"BatchIsNotKept", testBatchIsNotKept},
		{"BatchIsAtomicToReaders", testBatchIsAtomicToReaders},
		{"SnapshotStandsStill", testSnapshotStandsStill},
		{"Checkpoint", testCheckpoint},
		{"BigValues", testBigValues},
		{"Sizes", testSizes},
		{"Close", testClose},
		{"Reopen", testReopen},
		{"Model", testModel},
		{"Kill", testKill},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

// start opens an engine in a new directory and closes it when the test ends.
func start(t testing.TB, open Opener) storage.Engine {
	t.Helper()
	e, err := open(t.TempDir())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func write(t testing.TB, e storage.Engine, ops ...storage.Op) {
	t.Helper()
	var b storage.Batch
	for _, op := range ops {
		if op.Delete {
			b.Delete(op.Key)
		} else {
			b.Put(op.Key, op.Value)
		}
	}
	if err := e.Write(&b); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func put(key, value string) storage.Op {
	return storage.Op{Key: []byte(key), Value: []byte(value)}
}
func del(key string) storage.Op { return storage.Op{Key: []byte(key), Delete: true} }

// collect reads a scan as "key=value" strings.
func collect(t testing.TB, rows iter.Seq2[storage.Row, error]) []string {
	t.Helper()
	out := []string{}
	for row, err := range rows {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		out = append(out, string(row.Key)+"="+string(row.Value))
	}
	return out
}

func mustEqual(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func testGet(t *testing.T, open Opener) {
	e := start(t, open)
	binary := string([]byte{0, 0xff, 0x80, 0, 'x'})
	write(t, e, put("", "of the empty key"), put("a", ""), put("b", "2"), put(binary, binary))
	for key, want := range map[string]string{"": "of the empty key", "a": "", "b": "2", binary: binary} {
		got, err := e.Get([]byte(key))
		if err != nil || string(got) != want || got == nil {
			t.Errorf("Get(%q) = %#v, %v; want %q", key, got, err, want)
		}
	}
	if got, err := e.Get(nil); err != nil || string(got) != "of the empty key" {
		t.Errorf("Get(nil) = %q, %v; want the value of the empty key", got, err)
	}
	for _, key := range []string{"c", "aa", "\x00", binary + "\x00"} {
		if got, err := e.Get([]byte(key)); !errors.Is(err, storage.ErrNotFound) || got != nil {
			t.Errorf("Get(%q) = %q, %v; want ErrNotFound", key, got, err)
		}
	}
	write(t, e, del("b"), del("never there"))
	if _, err := e.Get([]byte("b")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of a deleted key: %v; want ErrNotFound", err)
	}
	got, _ := e.Get([]byte(binary))
	got[0] = 'z'
	if again, _ := e.Get([]byte(binary)); string(again) != binary {
		t.Errorf("Get returned the engine's own bytes: they changed to %q", again)
	}
}

func testScanBounds(t *testing.T, open Opener) {
	e := start(t, open)
	keys := []string{"", "\x00", "a", "a\x00", "b", "ba", "\xfe", "\xff", "\xff\xff"}
	for _, k := range keys {
		write(t, e, put(k, "v"))
	}
	snap, err := e.Snapshot()
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	defer snap.Release()
	bounds := [][]byte{nil}
	for _, k := range append(keys, "aa", "c", "\xff\xff\xff") {
		bounds = append(bounds, []byte(k))
	}
	for _, from := range bounds {
		for _, to := range bounds {
			want := []string{}
			for _, k := range keys {
				if bytes.Compare([]byte(k), from) >= 0 && (to == nil || k < string(to)) {
					want = append(want, k+"=v")
				}
			}
			name := fmt.Sprintf("[%q, %q)", from, to)
			if to == nil {
				name = fmt.Sprintf("[%q, end)", from)
			}
			for reader, r := range map[string]storage.Reader{"engine": e, "snapshot": snap} {
				mustEqual(t, reader+" Scan "+name, collect(t, r.Scan(from, to)), want)
				reversed := slices.Clone(want)
				slices.Reverse(reversed)
				mustEqual(t, reader+" ScanReverse "+name, collect(t, r.ScanReverse(from, to)), reversed)
			}
		}
	}
}

// testScanPages reads more rows than an engine would fetch at once, stops early,
// and reads others between two steps.
func testScanPages(t *testing.T, open Opener) {
	e := start(t, open)
	const n = 1000
	var b storage.Batch
	want := []string{}
	for i := range n {
		key := fmt.Sprintf("k%05d", i)
		b.Put([]byte(key), []byte("v"))
		want = append(want, key+"=v")
	}
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "Scan", collect(t, e.Scan(nil, nil)), want)
	slices.Reverse(want)
	mustEqual(t, "ScanReverse", collect(t, e.ScanReverse(nil, nil)), want)

	rows := 0
	for row, err := range e.Scan(nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Get(row.Key); err != nil || string(got) != "v" {
			t.Fatalf("Get(%q) inside a scan = %q, %v", row.Key, got, err)
		}
		for inner, err := range e.ScanReverse(nil, row.Key) {
			if err != nil || bytes.Compare(inner.Key, row.Key) >= 0 {
				t.Fatalf("scan below %q inside a scan yields %q, %v", row.Key, inner.Key, err)
			}
			break
		}
		if rows++; rows == n/2 {
			break
		}
	}
	// Whatever a scan holds must be given back, however it ended.
	for range 200 {
		for range e.Scan(nil, nil) {
			break
		}
	}
}

func testScanSeesOneMoment(t *testing.T, open Opener) {
	e := start(t, open)
	const n = 600
	for i := range n {
		write(t, e, put(fmt.Sprintf("k%05d", i), "old"))
	}
	seen := 0
	for row, err := range e.Scan(nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if seen == 0 {
			ops := []storage.Op{put("k00000a", "new")}
			for i := range n {
				ops = append(ops, put(fmt.Sprintf("k%05d", i), "new"))
			}
			write(t, e, ops...)
		}
		if string(row.Value) != "old" {
			t.Fatalf("row %d, %q, was written after the scan had begun", seen, row.Key)
		}
		seen++
	}
	if seen != n {
		t.Fatalf("%d rows, want %d", seen, n)
	}
}

func testBatchLastWriterWins(t *testing.T, open Opener) {
	e := start(t, open)
	write(t, e, put("gone", "0"), put("back", "0"))
	write(t, e,
		put("a", "1"), put("a", "2"), put("a", "3"),
		put("gone", "1"), del("gone"),
		del("back"), put("back", "1"),
		put("never", "1"), del("never"), del("never"))
	mustEqual(t, "rows", collect(t, e.Scan(nil, nil)), []string{"a=3", "back=1"})
	write(t, e) // an empty batch is no error
}

func testBatchIsNotKept(t *testing.T, open Opener) {
	e := start(t, open)
	var b storage.Batch
	key, value := []byte("key"), []byte("value")
	b.Put(key, value)
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	copy(key, "xxx")
	copy(value, "xxxxx")
	mustEqual(t, "rows after the caller reused its memory", collect(t, e.Scan(nil, nil)), []string{"key=value"})
}

// testBatchIsAtomicToReaders writes batches that set all rows to one number
// while others read: every scan must show one number.
func testBatchIsAtomicToReaders(t *testing.T, open Opener) {
	e := start(t, open)
	const rows, batches = 300, 40 // more rows than a page of any engine
	batch := func(n int) *storage.Batch {
		var b storage.Batch
		for i := range rows {
			b.Put(fmt.Appendf(nil, "k%03d", i), fmt.Append(nil, n))
		}
		return &b
	}
	if err := e.Write(batch(0)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	check := func(r storage.Reader, last int) (int, error) {
		value, n := "", 0
		for row, err := range r.Scan(nil, nil) {
			if err != nil {
				return 0, err
			}
			if n++; n == 1 {
				value = string(row.Value)
			} else if value != string(row.Value) {
				return 0, fmt.Errorf("one scan shows batches %s and %s", value, row.Value)
			}
		}
		var now int
		fmt.Sscan(value, &now)
		if n != rows || now < last {
			return 0, fmt.Errorf("%d rows of batch %d, want %d rows of batch %d or later", n, now, rows, last)
		}
		return now, nil
	}
	for range 3 {
		wg.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if last, err = check(e, last); err != nil {
					t.Error(err)
					return
				}
				snap, err := e.Snapshot()
				if err != nil {
					t.Errorf("snapshot: %v", err)
					return
				}
				last, err = check(snap, last)
				snap.Release()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range batches {
		if err := e.Write(batch(n)); err != nil {
			t.Errorf("write: %v", err)
		}
	}
	close(stop)
	wg.Wait()
}

func testSnapshotStandsStill(t *testing.T, open Opener) {
	e := start(t, open)
	write(t, e, put("a", "1"), put("b", "1"), put("c", "1"))
	snap, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	before := collect(t, e.Scan(nil, nil))
	// The first read comes after the change: a snapshot must not be lazy.
	write(t, e, put("a", "2"), del("b"), put("d", "2"))
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	second, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	write(t, e, del("a"), del("c"))
	mustEqual(t, "first snapshot", collect(t, snap.Scan(nil, nil)), before)
	mustEqual(t, "second snapshot", collect(t, second.Scan(nil, nil)), []string{"a=2", "c=1", "d=2"})
	if v, err := snap.Get([]byte("b")); err != nil || string(v) != "1" {
		t.Errorf("Get of a deleted row in the snapshot = %q, %v", v, err)
	}
	if _, err := snap.Get([]byte("d")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of a later row in the snapshot: %v; want ErrNotFound", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if _, err := snap.Get([]byte("a")); err != nil {
					t.Errorf("concurrent Get: %v", err)
				}
				for _, err := range snap.Scan(nil, nil) {
					if err != nil {
						t.Errorf("concurrent Scan: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	snap.Release()
	snap.Release()
	if _, err := snap.Get([]byte("a")); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Get after Release: %v; want ErrClosed", err)
	}
	mustEqual(t, "engine", collect(t, e.Scan(nil, nil)), []string{"d=2"})
}

func testCheckpoint(t *testing.T, open Opener) {
	e := start(t, open)
	want := []string{}
	for i := range 500 {
		key := fmt.Sprintf("k%05d", i)
		write(t, e, put(key, strings.Repeat("v", i)))
		want = append(want, key+"="+strings.Repeat("v", i))
	}
	dir := filepath.Join(t.TempDir(), "copy")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				// Rows above the old ones, two in each batch.
				write(t, e, put("later1", "x"), put("later2", "x"))
			}
		}
	})
	err := e.Checkpoint(dir)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	if err := e.Checkpoint(dir); err == nil {
		t.Error("Checkpoint into a directory that exists: no error")
	}
	c, err := open(dir)
	if err != nil {
		t.Fatalf("open the checkpoint: %v", err)
	}
	defer c.Close()
	got := collect(t, c.Scan(nil, []byte("later")))
	mustEqual(t, "rows of the checkpoint", got, want)
	if n := len(collect(t, c.Scan([]byte("later"), nil))); n == 1 {
		t.Error("the checkpoint has half of a batch")
	}
	write(t, c, put("own", "row"))
	if _, err := e.Get([]byte("own")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a write to the copy is seen in the original: %v", err)
	}
}

func testBigValues(t *testing.T, open Opener) {
	dir := t.TempDir()
	e, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{0, 1, 100, 1000, 1024, 2000, 2100, 4096, 8192, 100_000, 8 << 20}
	value := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*i>>3 + n)
		}
		return b
	}
	var b storage.Batch
	for _, n := range sizes {
		b.Put(fmt.Appendf(nil, "size %08d", n), value(n))
	}
	long := bytes.Repeat([]byte("k"), 3000)
	b.Put(long, []byte("of a long key"))
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if e, err = open(dir); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, n := range sizes {
		got, err := e.Get(fmt.Appendf(nil, "size %08d", n))
		if err != nil || !bytes.Equal(got, value(n)) {
			t.Errorf("value of %d bytes: got %d bytes, %v", n, len(got), err)
		}
	}
	if got, err := e.Get(long); err != nil || string(got) != "of a long key" {
		t.Errorf("key of %d bytes: %q, %v", len(long), got, err)
	}
}

func testSizes(t *testing.T, open Opener) {
	e := start(t, open)
	var b storage.Batch
	for i := range 4096 {
		// Not compressible, so that the size on disk says something.
		v := make([]byte, 1024)
		x := uint64(i)*0x9e3779b97f4a7c15 + 1
		for j := range v {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			v[j] = byte(x)
		}
		b.Put(fmt.Appendf(nil, "%d", i), v)
	}
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	s, err := e.Sizes()
	if err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	if s.DiskBytes < 3*mib || s.DiskBytes > 64*mib {
		t.Errorf("4 MiB were synced, the engine says it uses %d bytes of disk", s.DiskBytes)
	}
	if s.MemoryBytes <= 0 || s.MemoryBytes > 512*mib {
		t.Errorf("memory: %d bytes", s.MemoryBytes)
	}
}

func testClose(t *testing.T, open Opener) {
	e, err := open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(t, e, put("a", "1"))
	if err := e.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	var b storage.Batch
	b.Put([]byte("b"), nil)
	for name, call := range map[string]func() error{
		"Get":         func() error { _, err := e.Get([]byte("a")); return err },
		"Write":       func() error { return e.Write(&b) },
		"Sync":        e.Sync,
		"Snapshot":    func() error { _, err := e.Snapshot(); return err },
		"Checkpoint":  func() error { return e.Checkpoint(filepath.Join(t.TempDir(), "x")) },
		"Sizes":       func() error { _, err := e.Sizes(); return err },
		"Scan":        func() error { return firstError(e.Scan(nil, nil)) },
		"ScanReverse": func() error { return firstError(e.ScanReverse(nil, nil)) },
	} {
		if err := call(); !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s after Close: %v; want ErrClosed", name, err)
		}
	}
}

func firstError(rows iter.Seq2[storage.Row, error]) error {
	for _, err := range rows {
		return err
	}
	return nil
}

func testReopen(t *testing.T, open Opener) {
	dir := t.TempDir()
	for round := range 3 {
		e, err := open(dir)
		if err != nil {
			t.Fatalf("round %d: open: %v", round, err)
		}
		want := []string{}
		for i := range round {
			want = append(want, fmt.Sprintf("k%d=v", i))
		}
		mustEqual(t, fmt.Sprintf("rows in round %d", round), collect(t, e.Scan(nil, nil)), want)
		write(t, e, put(fmt.Sprintf("k%d", round), "v"))
		if err := e.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
