package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/raftlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var discard = slog.New(slog.DiscardHandler)

func open(t *testing.T, dir string, tune ...func(*raftlog.Options)) *raftlog.Log {
	t.Helper()
	o := raftlog.Options{Dir: dir, Logger: discard, SegmentBytes: 64 << 10, Fatal: func(err error) { t.Errorf("fatal: %v", err) }}
	for _, f := range tune {
		f(&o)
	}
	l, err := raftlog.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func entry(index, term uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(data), AppendedAt: time.Unix(0, 42)}
}

func mustStore(t *testing.T, l *raftlog.Log, from, to uint64) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := l.StoreLog(entry(i, 1, fmt.Sprint("data-", i))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReopenedLogHasEverything(t *testing.T) {
	dir := t.TempDir()
	small := func(o *raftlog.Options) { o.CacheBytes = 1 } // reads past the cache
	l := open(t, dir, small)
	mustStore(t, l, 1, 2000) // several segments
	if err := l.Set([]byte("vote"), []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, small)
	for i := uint64(1); i <= 2000; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil || string(e.Data) != fmt.Sprint("data-", i) || e.Index != i || !e.AppendedAt.Equal(time.Unix(0, 42)) {
			t.Fatalf("entry %d: %+v, %v", i, e, err)
		}
	}
	if v, err := l.Get([]byte("vote")); err != nil || string(v) != "a" {
		t.Fatalf("vote: %q, %v", v, err)
	}
	if got := l.RecordedIndex(); got != 2000 {
		t.Fatalf("recorded index after a clean stop: %d", got)
	}
	if err := l.GetLog(2001, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("beyond the end: %v", err)
	}
}

func TestCutEntriesAreNotFound(t *testing.T) {
	l := open(t, t.TempDir())
	mustStore(t, l, 1, 100)
	if err := l.DeleteRange(1, 60); err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint64{0, 1, 60, 101} {
		if err := l.GetLog(i, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("entry %d of 61 to 100: %v", i, err)
		}
	}
	if err := l.DeleteRange(81, 100); err != nil {
		t.Fatal(err)
	}
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first != 61 || last != 80 {
		t.Fatalf("the log has %d to %d", first, last)
	}
	// Another leader's entries take the place of the suffix.
	if err := l.StoreLog(entry(81, 2, "other")); err != nil {
		t.Fatal(err)
	}
	var e raft.Log
	if err := l.GetLog(81, &e); err != nil || string(e.Data) != "other" {
		t.Fatalf("%+v, %v", e, err)
	}
}

// Raft compacts on a goroutine of its own, beside the one that appends.
func TestCutWhileAppending(t *testing.T) {
	const entries = 20_000
	l, err := raftlog.OpenMemory(raftlog.Options{Logger: discard, Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	mustStore(t, l, 1, 10)
	appended := make(chan struct{})
	go func() {
		defer close(appended)
		for i := uint64(11); i <= entries && l.Err() == nil; i++ {
			_ = l.StoreLog(entry(i, 1, "data")) // Fatal is told
		}
	}()
	for running := true; running; {
		select {
		case <-appended:
			running = false
		default:
		}
		first, _ := l.FirstIndex() // never fails
		last, _ := l.LastIndex()   // never fails
		if last < first+2 {
			continue
		}
		if err := l.DeleteRange(first, last-2); err != nil {
			t.Fatal(err)
		}
		if now, _ := l.FirstIndex(); now != last-1 {
			t.Fatalf("the log begins at %d after the entries up to %d were deleted", now, last-2)
		}
	}
	if last, _ := l.LastIndex(); last != entries {
		t.Fatalf("the log ends at %d, and %d entries were stored", last, entries)
	}
}

// A conflict with a new leader cuts off the end of the log. What stays must be
// there after a restart as well, and so must damage to it.
func TestLogWithItsEndCutOffOpensAgain(t *testing.T) {
	dir := t.TempDir()
	past := func(o *raftlog.Options) { o.CacheBytes = 1 } // reads past the cache
	check := func(l *raftlog.Log, last uint64) {
		t.Helper()
		for i := uint64(1); i <= last; i++ {
			var e raft.Log
			if err := l.GetLog(i, &e); err != nil || e.Index != i || string(e.Data) != fmt.Sprint("data-", i) {
				t.Fatalf("entry %d: %+v, %v", i, e, err)
			}
		}
		if got, _ := l.LastIndex(); got != last {
			t.Fatalf("the log ends at %d, want %d", got, last)
		}
	}
	l := open(t, dir, past)
	mustStore(t, l, 1, 200)
	for _, cut := range []uint64{150, 150, 120} {
		last, _ := l.LastIndex()
		if err := l.DeleteRange(cut, last); err != nil {
			t.Fatal(err)
		}
		check(l, cut-1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, past)
		check(l, cut-1)
		mustStore(t, l, cut, cut+10)
		check(l, cut+10)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 2000); err != nil {
		t.Fatal(err)
	}
	if l, err := raftlog.Open(raftlog.Options{Dir: dir, Logger: discard, SegmentBytes: 64 << 10}); !errors.Is(err, raftlog.ErrCorrupt) {
		if err == nil {
			_ = l.Close()
		}
		t.Fatalf("a log whose first file is torn was opened: %v", err)
	}
}

// What was recorded must not outlive entries that were removed with intent.
func TestRecordedIndexFollowsTheEndDown(t *testing.T) {
	for name, remove := range map[string]struct {
		lo, hi, want uint64
	}{
		"suffix": {150, 200, 149},
		"all":    {1, 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			mustStore(t, l, 1, 200)
			deadline := time.After(5 * time.Second)
			for l.RecordedIndex() == 0 {
				select {
				case <-deadline:
					t.Fatal("nothing was recorded after 200 entries")
				default:
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir)
			if got := l.RecordedIndex(); got != 200 {
				t.Fatalf("recorded %d", got)
			}
			if err := l.DeleteRange(remove.lo, remove.hi); err != nil {
				t.Fatal(err)
			}
			if got := l.RecordedIndex(); got != remove.want {
				t.Fatalf("recorded %d after removing %d to %d", got, remove.lo, remove.hi)
			}
		})
	}
}

func TestDamageIsFatalWhenRead(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	mustStore(t, l, 1, 50)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("data-7"))
	b[at] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	var fatal error
	l = open(t, dir, func(o *raftlog.Options) { o.Fatal = func(err error) { fatal = err } })
	if err := l.GetLog(7, new(raft.Log)); !errors.Is(err, raftlog.ErrCorrupt) {
		t.Fatalf("a flipped bit was read as %v", err)
	}
	if !errors.Is(fatal, raftlog.ErrCorrupt) || !strings.Contains(fatal.Error(), "7") {
		t.Fatalf("fatal: %v", fatal)
	}
	if err := l.StoreLog(entry(51, 1, "x")); err == nil {
		t.Fatal("a damaged log takes new entries")
	}
}

func TestGapsAndOldTermsAreRefused(t *testing.T) {
	for name, e := range map[string]*raft.Log{
		"gap":      entry(12, 1, ""),
		"again":    entry(10, 1, ""),
		"old term": entry(11, 0, ""),
	} {
		t.Run(name, func(t *testing.T) {
			fatal := 0
			l := open(t, t.TempDir(), func(o *raftlog.Options) { o.Fatal = func(error) { fatal++ } })
			mustStore(t, l, 1, 10)
			if err := l.StoreLog(e); err == nil || fatal != 1 {
				t.Fatalf("appending entry %d of term %d: %v, fatal %d times", e.Index, e.Term, err, fatal)
			}
			if err := l.StoreLog(entry(11, 1, "")); err == nil || fatal != 1 {
				t.Fatalf("after a failure: %v, fatal %d times", err, fatal)
			}
		})
	}
}

// brokenDisk fails or hangs when an entry is appended.
type brokenDisk struct {
	types.SegmentFiler
	before func() error
}

func (d brokenDisk) Create(i types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := d.SegmentFiler.Create(i)
	return brokenSegment{w, d.before}, err
}

type brokenSegment struct {
	types.SegmentWriter
	before func() error
}

func (s brokenSegment) Append(e []types.LogEntry) error {
	if err := s.before(); err != nil {
		return err
	}
	return s.SegmentWriter.Append(e)
}

func TestFailedWriteIsFatalOnceAndForGood(t *testing.T) {
	disk := errors.New("input/output error")
	var fail error
	var fatal []error
	l := open(t, t.TempDir(), func(o *raftlog.Options) {
		o.Fatal = func(err error) { fatal = append(fatal, err) }
		o.WrapFiles = func(f types.SegmentFiler) types.SegmentFiler {
			return brokenDisk{f, func() error { return fail }}
		}
	})
	mustStore(t, l, 1, 3)
	fail = disk
	if err := l.StoreLog(entry(4, 1, "")); !errors.Is(err, disk) {
		t.Fatal(err)
	}
	fail = nil // a disk that recovers may still lie
	if err := l.StoreLog(entry(4, 1, "")); !errors.Is(err, disk) {
		t.Fatalf("a write after a failed one: %v", err)
	}
	if err := l.SetUint64([]byte("term"), 5); !errors.Is(err, disk) {
		t.Fatalf("a vote after a failed write: %v", err)
	}
	if len(fatal) != 1 || !errors.Is(fatal[0], disk) {
		t.Fatalf("fatal: %v", fatal)
	}
}

func TestHangingWriteHasAnAge(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	l := open(t, t.TempDir(), func(o *raftlog.Options) {
		o.WrapFiles = func(f types.SegmentFiler) types.SegmentFiler {
			return brokenDisk{f, func() error { close(entered); <-leave; return nil }}
		}
	})
	done := make(chan error)
	go func() { done <- l.StoreLog(entry(1, 1, "")) }()
	<-entered
	deadline := time.After(5 * time.Second)
	for l.WriteAge() < 20*time.Millisecond {
		select {
		case <-deadline:
			t.Fatal("a hanging write does not grow old")
		default:
		}
	}
	close(leave)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if age := l.WriteAge(); age != 0 {
		t.Fatalf("age %v when nothing runs", age)
	}
}

func TestNewestCountsBytes(t *testing.T) {
	l := open(t, t.TempDir())
	for i := uint64(1); i <= 1000; i++ {
		if err := l.StoreLog(entry(i, 1, strings.Repeat("x", 959))); err != nil { // 1,000 bytes encoded
			t.Fatal(err)
		}
	}
	if got := l.AppendedBytes(); got != 1000*1000 {
		t.Fatalf("%d bytes were appended", got)
	}
	for limit, want := range map[int64]uint64{0: 0, 100_000: 100, 10_000_000: 1000} {
		if got := l.Newest(limit); got != want {
			t.Errorf("%d entries fit into %d bytes, not %d", want, limit, got)
		}
	}
	for _, span := range []struct {
		after, last uint64
		want        int64
	}{{0, 1000, 1_000_000}, {1, 1, 0}, {10, 11, 1000}, {100, 250, 150_000}, {990, 5000, 10_000}, {5000, 6000, 0}, {10, 5, 0}} {
		if got := l.BytesBetween(span.after, span.last); got != span.want {
			t.Errorf("the entries behind %d up to %d take %d bytes, not %d", span.after, span.last, got, span.want)
		}
	}
	if err := l.DeleteRange(1, 900); err != nil {
		t.Fatal(err)
	}
	if got := l.Newest(1 << 40); got != 100 {
		t.Errorf("%d entries are left", got)
	}
}

// Log and memory log against a slice, with a cache that holds some of it.
func TestAgainstModel(t *testing.T) {
	for _, kind := range []string{"disk", "memory"} {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				dir, err := os.MkdirTemp("", "raftlog")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				o := raftlog.Options{Dir: dir, Logger: discard, SegmentBytes: 4 << 10, CacheBytes: 500,
					Fatal: func(err error) { t.Fatalf("fatal: %v", err) }}
				start := raftlog.Open
				if kind == "memory" {
					start = raftlog.OpenMemory
				}
				l, err := start(o)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = l.Close() }()
				model := map[uint64]string{}
				first, last, term := uint64(0), uint64(0), uint64(1)
				for range rapid.IntRange(1, 12).Draw(t, "steps") {
					switch rapid.IntRange(0, 3).Draw(t, "what") {
					case 0, 1:
						if last == 0 {
							last = rapid.Uint64Range(0, 5).Draw(t, "skip")
							first = last + 1
						}
						var batch []*raft.Log
						for range rapid.IntRange(1, 20).Draw(t, "entries") {
							last++
							data := rapid.StringN(0, 50, 50).Draw(t, "data")
							model[last] = data
							batch = append(batch, entry(last, term, data))
						}
						if err := l.StoreLogs(batch); err != nil {
							t.Fatal(err)
						}
					case 2: // compaction
						if last == 0 {
							continue
						}
						hi := rapid.Uint64Range(first, last).Draw(t, "hi")
						if err := l.DeleteRange(first, hi); err != nil {
							t.Fatal(err)
						}
						for i := first; i <= hi; i++ {
							delete(model, i)
						}
						if first = hi + 1; first > last {
							first, last = 0, 0
						}
					case 3: // conflict
						if last <= first {
							continue
						}
						lo := rapid.Uint64Range(first+1, last).Draw(t, "lo")
						if err := l.DeleteRange(lo, last); err != nil {
							t.Fatal(err)
						}
						for i := lo; i <= last; i++ {
							delete(model, i)
						}
						last = lo - 1
						term++
					}
					gotFirst, _ := l.FirstIndex()
					gotLast, _ := l.LastIndex()
					if gotFirst != first || gotLast != last {
						t.Fatalf("the log has %d to %d, not %d to %d", gotFirst, gotLast, first, last)
					}
					for i := uint64(0); i <= last+2; i++ {
						var e raft.Log
						err := l.GetLog(i, &e)
						want, ok := model[i]
						if ok && (err != nil || string(e.Data) != want) || !ok && !errors.Is(err, raft.ErrLogNotFound) {
							t.Fatalf("entry %d: %q, %v; want %q, %t", i, e.Data, err, want, ok)
						}
					}
				}
			})
		})
	}
}

func FuzzCodec(f *testing.F) {
	var buf bytes.Buffer
	if err := (raftlog.Codec{}).Encode(entry(3, 2, "data"), &buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e raft.Log
		if err := (raftlog.Codec{}).Decode(b, &e); err != nil {
			if !errors.Is(err, raftlog.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		var again bytes.Buffer
		if err := (raftlog.Codec{}).Encode(&e, &again); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("%x became %x, %v", b, again.Bytes(), err)
		}
	})
}
