package memtable_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/enginetest"
	"github.com/kahu-sh/kahu/storage/memory"
	"github.com/kahu-sh/kahu/storage/memtable"
	"github.com/kahu-sh/kahu/storage/sqlite"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDisk = errors.New("no space left on device")

func start(t testing.TB, o memtable.Options) (*memtable.Store, *enginetest.Faulty) {
	t.Helper()
	e, err := memory.Open("")
	if err != nil {
		t.Fatal(err)
	}
	f := enginetest.NewFaulty(e)
	s, err := memtable.Open(f, o)
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

func mustClose(t testing.TB, s *memtable.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func putBytes(s *memtable.Store, index uint64, n int) {
	commit(s, index, func() { s.Put(fmt.Appendf(nil, "k%d", index), make([]byte, n)) })
}

func TestFlushMakesDurable(t *testing.T) {
	s, f := start(t, memtable.Options{})
	defer mustClose(t, s)
	s.Loaded(7)
	if got := s.Durable(); got != 7 {
		t.Errorf("Durable after Loaded(7) = %d", got)
	}
	putBytes(s, 8, 10)
	if got := s.Durable(); got != 7 {
		t.Errorf("Durable before the flush = %d, want 7", got)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := s.Durable(); got != 8 {
		t.Errorf("Durable after the flush = %d, want 8", got)
	}
	if _, err := f.Engine.Get([]byte("k8")); err != nil {
		t.Errorf("the engine after Flush: %v", err)
	}
	commit(s, 9, func() {}) // an index without a row
	if err := s.Flush(context.Background()); err != nil || s.Durable() != 9 {
		t.Errorf("Flush = %v, Durable %d; want 9", err, s.Durable())
	}
	mustClose(t, s)
	if err := s.Flush(context.Background()); !errors.Is(err, memtable.ErrClosed) {
		t.Errorf("Flush after Close = %v", err)
	}
	if _, err := s.View(); !errors.Is(err, memtable.ErrClosed) {
		t.Errorf("View after Close = %v", err)
	}
}

func TestFlushEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := start(t, memtable.Options{})
		defer mustClose(t, s)
		release := f.Hang(enginetest.OpWrite)
		putBytes(s, 1, 10)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush of a hanging disk = %v", err)
		}
		// Nobody who looks at the Store hangs with it.
		if st := s.Stats(); st.EngineBusyFor < 2*time.Second || st.CommittedIndex != 1 || st.FlushedIndex != 0 {
			t.Errorf("Stats of a hanging disk: %+v", st)
		}
		release()
		if err := s.Flush(t.Context()); err != nil || s.Durable() != 1 {
			t.Errorf("Flush of a healed disk = %v, Durable %d", err, s.Durable())
		}
	})
}

func TestOldTablesAreWrittenAndSyncedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := start(t, memtable.Options{SealInterval: time.Second, SyncInterval: 10 * time.Second})
		defer mustClose(t, s)
		synced := f.Calls(enginetest.OpSync)
		putBytes(s, 1, 10)
		time.Sleep(999 * time.Millisecond) // of the bubble's clock
		synctest.Wait()
		if n := f.Calls(enginetest.OpWrite); n != 0 {
			t.Errorf("%d writes before the interval", n)
		}
		if age := s.Stats().OldestUnflushed; age != 999*time.Millisecond {
			t.Errorf("oldest unflushed commit: %v", age)
		}
		time.Sleep(2 * time.Millisecond) // virtual: in a synctest bubble
		synctest.Wait()
		if n := f.Calls(enginetest.OpWrite); n != 1 {
			t.Errorf("%d writes after the interval, want 1", n)
		}
		if st := s.Stats(); st.OldestUnflushed != 0 || st.UnflushedBytes != 0 || st.FlushedIndex != 1 || st.DurableIndex != 0 {
			t.Errorf("after the write: %+v", st)
		}
		time.Sleep(10 * time.Second) // virtual: in a synctest bubble
		synctest.Wait()
		if s.Durable() != 1 {
			t.Errorf("Durable = %d after the sync interval", s.Durable())
		}
		// An idle store does nothing.
		time.Sleep(time.Hour)
		synctest.Wait()
		if w, y := f.Calls(enginetest.OpWrite), f.Calls(enginetest.OpSync)-synced; w != 1 || y != 1 {
			t.Errorf("an hour later: %d writes and %d syncs, want 1 and 1", w, y)
		}
	})
}

func TestLargeTablesAreWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := start(t, memtable.Options{SealBytes: 10_000, SealInterval: time.Hour, SyncBytes: 30_000, SyncInterval: time.Hour})
		defer mustClose(t, s)
		for i := range uint64(10) {
			putBytes(s, i+1, 4000)
			synctest.Wait()
		}
		if n := f.Calls(enginetest.OpWrite); n != 3 {
			t.Errorf("%d tables of 3 rows of 4 kB were written for 10 rows, want 3", n)
		}
		if s.Durable() != 9 {
			t.Errorf("Durable = %d; want 9 after 36 kB", s.Durable())
		}
	})
}

func TestBeginWaitsAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := start(t, memtable.Options{LimitBytes: 100_000, SealBytes: 10_000})
		defer mustClose(t, s)
		release := f.Hang(enginetest.OpWrite)
		var applied atomic.Uint64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range uint64(100) {
				putBytes(s, i+1, 5000)
				applied.Store(i + 1)
			}
		}()
		time.Sleep(3 * time.Second) // virtual: in a synctest bubble
		synctest.Wait()
		st := s.Stats()
		if n := applied.Load(); n < 15 || n > 21 || st.UnflushedBytes < 100_000 || st.UnflushedBytes > 106_000 {
			t.Errorf("%d sections of 5 kB were applied, %d bytes wait; want about 20 and 100,000", n, st.UnflushedBytes)
		}
		if st.StallCount != 1 || st.StalledFor < time.Second {
			t.Errorf("the wait does not show: %+v", st)
		}
		// Reading goes on.
		v, err := s.View()
		if err != nil || v.Index() != applied.Load() {
			t.Fatalf("View while Begin waits: %v", err)
		}
		if _, ok := v.Get([]byte("k3")); !ok {
			t.Errorf("a row is missing: %v", v.Err())
		}
		v.Release()
		release()
		<-done
		if err := s.Flush(t.Context()); err != nil || s.Durable() != 100 {
			t.Errorf("Flush = %v, Durable %d", err, s.Durable())
		}
		if st := s.Stats(); st.StalledFor != 0 || st.StallTotal < time.Second {
			t.Errorf("after the wait: %+v", st)
		}
	})
}

// slow is an engine that writes so many bytes a second.
type slow struct {
	storage.Engine
	bytesPerSecond int
	largest        atomic.Int64 // batch, in bytes; only the flusher writes
}

func (e *slow) Write(b *storage.Batch) error {
	e.largest.Store(max(e.largest.Load(), int64(b.Bytes())))
	time.Sleep(time.Duration(b.Bytes()) * time.Second / time.Duration(e.bytesPerSecond)) // of the bubble
	return e.Engine.Write(b)
}

// Changes that come faster than the engine writes are slowed down evenly: no
// table grows to the limit, and no single Begin waits long.
func TestBeginIsPacedWhenTheFlusherIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := memory.Open("")
		if err != nil {
			t.Fatal(err)
		}
		e := &slow{Engine: m, bytesPerSecond: 1 << 20}
		s, err := memtable.Open(e, memtable.Options{LimitBytes: 4 << 20, SealBytes: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, s)
		begun, longest, total := time.Now(), time.Duration(0), 0
		for i := range uint64(4000) {
			before := time.Now()
			putBytes(s, i+1, 5000)
			longest = max(longest, time.Since(before))
			total += 5000
			time.Sleep(time.Millisecond) // 5 MB/s, five times too fast
		}
		speed := float64(total) / time.Since(begun).Seconds()
		if longest > 100*time.Millisecond || e.largest.Load() > 4*256<<10 || s.Stats().StallCount != 0 {
			t.Errorf("longest Begin %v, largest table %d bytes, %d stalls", longest, e.largest.Load(), s.Stats().StallCount)
		}
		if speed < 0.8*(1<<20) {
			t.Errorf("%.0f bytes a second, the engine takes %d", speed, e.bytesPerSecond)
		}
		if s.Stats().PacedTotal == 0 {
			t.Error("the pace does not show in Stats")
		}
	})
}

func TestErrorsAreTriedAgain(t *testing.T) {
	for _, op := range []string{enginetest.OpWrite, enginetest.OpSync, enginetest.OpSnapshot} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f := start(t, memtable.Options{OnError: func(err error) { t.Errorf("OnError(%v)", err) }})
				defer mustClose(t, s)
				if op == enginetest.OpSnapshot {
					f.FailNext(op, 3, errDisk)
				} else {
					f.FailAfter(op, 3, errDisk) // done, and yet an error
				}
				putBytes(s, 1, 10)
				if err := s.Flush(t.Context()); err != nil || s.Err() != nil || s.Durable() != 1 {
					t.Errorf("Flush = %v, Err %v, Durable %d", err, s.Err(), s.Durable())
				}
				if n := s.Stats().RetryCount; n != 3 {
					t.Errorf("%d retries, want 3", n)
				}
			})
		})
	}
}

func TestLastingErrorStopsEverything(t *testing.T) {
	for _, op := range []string{enginetest.OpWrite, enginetest.OpSync, enginetest.OpSnapshot} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var heard []error
				s, f := start(t, memtable.Options{
					LimitBytes: 10_000, RetryFor: 5 * time.Second,
					OnError: func(err error) { heard = append(heard, err) },
				})
				defer mustClose(t, s)
				f.Fail(op, errDisk)
				putBytes(s, 1, 10)
				begun := time.Now()
				if err := s.Flush(t.Context()); !errors.Is(err, errDisk) {
					t.Errorf("Flush = %v", err)
				}
				if d := time.Since(begun); d < 5*time.Second || d > 6*time.Second {
					t.Errorf("gave up after %v, want 5 s", d)
				}
				if len(heard) != 1 || !errors.Is(heard[0], errDisk) || !errors.Is(s.Err(), errDisk) {
					t.Errorf("OnError got %v, Err is %v", heard, s.Err())
				}
				// It lasts, although the disk is well again.
				f.Heal(op)
				writes := f.Calls(enginetest.OpWrite)
				for i := range uint64(5) {
					putBytes(s, 2+i, 5000) // beyond the limit: must not wait for ever
				}
				time.Sleep(time.Minute) // virtual: in a synctest bubble
				synctest.Wait()
				if n := f.Calls(enginetest.OpWrite); n != writes {
					t.Errorf("%d writes after the lasting error", n-writes)
				}
				if err := s.Flush(t.Context()); !errors.Is(err, errDisk) {
					t.Errorf("second Flush = %v", err)
				}
				if _, err := s.View(); !errors.Is(err, errDisk) {
					t.Errorf("View = %v", err)
				}
				if len(heard) != 1 || s.Durable() != 0 {
					t.Errorf("OnError called %d times, Durable %d", len(heard), s.Durable())
				}
			})
		})
	}
}

// A lasting error wakes a Begin that waits for room.
func TestLastingErrorEndsTheWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := start(t, memtable.Options{LimitBytes: 10_000})
		defer mustClose(t, s)
		f.Fail(enginetest.OpWrite, errDisk)
		for i := range uint64(4) {
			putBytes(s, i+1, 6000) // the third Begin waits
		}
		if !errors.Is(s.Err(), errDisk) {
			t.Errorf("Err = %v", s.Err())
		}
	})
}

// What a section decided after a failed read must never be seen or written.
func TestFailedReadPoisonsTheSection(t *testing.T) {
	for name, read := range map[string]func(s *memtable.Store){
		"Get": func(s *memtable.Store) {
			if v, ok := s.Get([]byte("k1")); ok || v != nil {
				panic("a failed read found something")
			}
		},
		"Scan": func(s *memtable.Store) {
			for range s.Scan(nil, nil) {
			}
		},
		"ScanReverse": func(s *memtable.Store) {
			for range s.ScanReverse(nil, nil) {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			heard := 0
			s, f := start(t, memtable.Options{OnError: func(error) { heard++ }})
			defer mustClose(t, s)
			putBytes(s, 1, 10)
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			before, err := s.View()
			if err != nil {
				t.Fatal(err)
			}
			defer before.Release()
			f.Fail(enginetest.OpGet, errDisk)
			f.Fail(enginetest.OpScan, errDisk)
			commit(s, 2, func() { read(s); s.Put([]byte("wrong"), nil) })
			if !errors.Is(s.Err(), errDisk) || heard != 1 {
				t.Errorf("Err = %v, OnError called %d times", s.Err(), heard)
			}
			if _, ok := before.Get([]byte("wrong")); ok {
				t.Error("an older view shows the section")
			}
			f.Heal(enginetest.OpGet)
			if err := s.Flush(t.Context()); !errors.Is(err, errDisk) {
				t.Errorf("Flush = %v", err)
			}
			if _, err := f.Engine.Get([]byte("wrong")); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("the section reached the engine: %v", err)
			}
		})
	}
}

func TestViewSaysThatTheEngineFailed(t *testing.T) {
	s, f := start(t, memtable.Options{})
	defer mustClose(t, s)
	putBytes(s, 1, 10)
	v, err := s.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	f.Fail(enginetest.OpGet, errDisk)
	if _, ok := v.Get([]byte("k1")); !ok || v.Err() != nil {
		t.Errorf("a row in memory: %v, %v", ok, v.Err())
	}
	if _, ok := v.Get([]byte("other")); ok || !errors.Is(v.Err(), errDisk) {
		t.Errorf("a row of the failing engine: %v, %v", ok, v.Err())
	}
	if s.Err() != nil {
		t.Errorf("a failed read of a view ended the store: %v", s.Err())
	}
}

// Many goroutines read views while one applies and the flusher runs: each view
// must show the same number in all rows, and indexes must not go back.
func TestViewsAreExactUnderLoad(t *testing.T) {
	for _, kind := range []string{"memory", "sqlite"} {
		t.Run(kind, func(t *testing.T) {
			var e storage.Engine
			var err error
			if kind == "memory" {
				e, err = memory.Open("")
			} else {
				e, err = sqlite.Open(t.TempDir())
			}
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			s, err := memtable.Open(e, memtable.Options{SealBytes: 60_000, LimitBytes: 200_000, SyncBytes: 300_000})
			if err != nil {
				t.Fatal(err)
			}
			defer mustClose(t, s)
			const rows, readers, sections = 40, 4, 1500
			number := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }
			key := func(i int) []byte { return fmt.Appendf(nil, "row %03d", i) }
			// Every section writes two rows anew, in turn, and all carry how many
			// sections wrote them; the sum over the rows is the index times two.
			commit(s, 1, func() {
				for i := range rows {
					s.Put(key(i), number(0))
				}
			})
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range readers {
				wg.Go(func() {
					last := uint64(0)
					for {
						select {
						case <-stop:
							return
						default:
						}
						v, err := s.View()
						if err != nil {
							t.Error(err)
							return
						}
						byGet, byScan := uint64(0), uint64(0)
						for i := range rows {
							b, ok := v.Get(key(i))
							if !ok {
								t.Errorf("row %d is missing: %v", i, v.Err())
								v.Release()
								return
							}
							byGet += binary.BigEndian.Uint64(b)
						}
						if rand.IntN(3) == 0 {
							for _, b := range v.Scan(nil, nil) {
								byScan += binary.BigEndian.Uint64(b)
							}
						} else {
							byScan = byGet
						}
						want := (v.Index() - 1) * 2
						if byGet != want || byScan != want || v.Index() < last || v.Err() != nil {
							t.Errorf("view of index %d (after %d): sums %d and %d, want %d; %v",
								v.Index(), last, byGet, byScan, want, v.Err())
						}
						last = v.Index()
						v.Release()
					}
				})
			}
			for n := uint64(2); n < sections+2; n++ {
				commit(s, n, func() {
					for j := range uint64(2) {
						k := key(int((n*2 + j) % rows))
						old, ok := s.Get(k)
						if !ok {
							t.Errorf("section %d: row is missing: %v", n, s.Err())
							return
						}
						s.Put(k, number(binary.BigEndian.Uint64(old)+1))
						s.Put(fmt.Appendf(nil, "zz filler %d", n%100), nil)
						s.Delete(fmt.Appendf(nil, "zz filler %d", n%100))
						s.PutFresh(fmt.Appendf(nil, "receipt %d %d", n, j), make([]byte, 100))
						s.Delete(fmt.Appendf(nil, "receipt %d %d", n, j))
					}
				})
				if n%250 == 0 {
					if err := s.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
			close(stop)
			wg.Wait()
			if err := s.Err(); err != nil {
				t.Error(err)
			}
			if n := s.Stats().FlushCount; n < 5 {
				t.Errorf("only %d flushes: the test saw little", n)
			}
		})
	}
}

func BenchmarkCommit128(b *testing.B) {
	for _, views := range []bool{false, true} {
		b.Run(fmt.Sprintf("views=%v", views), func(b *testing.B) {
			e, err := memory.Open("")
			if err != nil {
				b.Fatal(err)
			}
			s, err := memtable.Open(e, memtable.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			value, index := make([]byte, 128), uint64(0)
			r := rand.New(rand.NewPCG(1, 2))
			keys := make([][]byte, 100_000)
			for i := range keys {
				keys[i] = fmt.Appendf(nil, "kv/bench/%012d", i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if views {
					v, err := s.View()
					if err != nil {
						b.Fatal(err)
					}
					v.Release()
				}
				s.Begin()
				for range 128 {
					s.Put(keys[r.IntN(len(keys))], value)
				}
				index++
				s.Commit(index)
			}
		})
	}
}

func BenchmarkGetView(b *testing.B) {
	s, _ := start(b, memtable.Options{})
	defer s.Close()
	commit(s, 1, func() {
		for i := range 10_000 {
			s.Put(fmt.Appendf(nil, "kv/%d", i), make([]byte, 128))
		}
	})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := []byte("kv/77")
		for pb.Next() {
			v, err := s.View()
			if err != nil {
				b.Error(err)
				return
			}
			if _, ok := v.Get(key); !ok {
				b.Error("row is missing")
			}
			v.Release()
		}
	})
}
