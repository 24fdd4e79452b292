package raftlog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/raftlog"
)

// valve stands before each append to the disk.
type valve struct {
	mu      sync.Mutex
	hanging chan struct{} // not nil: appends wait until it is closed
	failing error
}

// pass is what an append does first.
func (v *valve) pass() error {
	v.mu.Lock()
	hanging := v.hanging
	v.mu.Unlock()
	if hanging != nil {
		<-hanging
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failing
}

// hang stops appends until open or fail.
func (v *valve) hang() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.hanging == nil {
		v.hanging = make(chan struct{})
	}
}

func (v *valve) open() { v.fail(nil) }

// fail lets appends go on, and fail with err.
func (v *valve) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failing = err
	if v.hanging != nil {
		close(v.hanging)
		v.hanging = nil
	}
}

// before makes a disk whose appends go through v.
func (v *valve) before(o *raftlog.Options) {
	o.WrapFiles = func(f types.SegmentFiler) types.SegmentFiler { return brokenDisk{f, v.pass} }
}

// A leader's log has at once what is stored, and the disk has it later.
func TestLogRunsAheadOfAHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v valve
		dir := t.TempDir()
		l := open(t, dir, v.before, func(o *raftlog.Options) { o.CacheBytes = 1 })
		l.RunAhead(func() bool { return true })
		mustStore(t, l, 1, 3)
		if err := l.Settle(); err != nil {
			t.Fatal(err)
		}
		v.hang()
		mustStore(t, l, 4, 100)
		time.Sleep(2 * time.Second) // virtual: in a synctest bubble
		if first, _ := l.FirstIndex(); first != 1 {
			t.Errorf("the log begins at %d", first)
		}
		if last, _ := l.LastIndex(); last != 100 {
			t.Errorf("the log ends at %d", last)
		}
		for i := uint64(1); i <= 100; i++ {
			var e raft.Log
			if err := l.GetLog(i, &e); err != nil || string(e.Data) != fmt.Sprint("data-", i) {
				t.Errorf("entry %d: %q, %v", i, e.Data, err)
			}
		}
		if err := l.GetLog(101, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("beyond the end: %v", err)
		}
		if age := l.WriteAge(); age != 2*time.Second {
			t.Errorf("the hanging write is %v old", age)
		}
		if n := l.RecordedIndex(); n > 3 {
			t.Errorf("index %d is recorded as durable", n)
		}
		if err := l.AwaitDurable(t.Context(), 3); err != nil {
			t.Errorf("what is durable: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.AwaitDurable(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("what the disk does not have: %v", err)
		}
		v.open()
		if err := l.AwaitDurable(t.Context(), 100); err != nil {
			t.Error(err)
		}
		if age := l.WriteAge(); age != 0 {
			t.Errorf("age %v when nothing runs", age)
		}
	})
}

// Whatever may not run ahead waits for the disk to have what is pending.
func TestWhoWaitsForWhatIsPending(t *testing.T) {
	configuration := entry(5, 1, "")
	configuration.Type = raft.LogConfiguration
	for name, tc := range map[string]struct {
		leads bool // still
		do    func(l *raftlog.Log) error
	}{
		"an entry of another leader": {false, func(l *raftlog.Log) error { return l.StoreLog(entry(5, 2, "")) }},
		"a configuration":            {true, func(l *raftlog.Log) error { return l.StoreLog(configuration) }},
		"a configuration behind an entry": {true, func(l *raftlog.Log) error {
			return l.StoreLogs([]*raft.Log{entry(5, 1, ""), {Index: 6, Term: 1, Type: raft.LogConfiguration}})
		}},
		"removing the end":                   {false, func(l *raftlog.Log) error { return l.DeleteRange(4, 4) }},
		"removing all before the last entry": {true, func(l *raftlog.Log) error { return l.DeleteRange(1, 3) }},
		"removing everything":                {true, (*raftlog.Log).Clear},
		"a term":                             {false, func(l *raftlog.Log) error { return l.SetUint64([]byte("CurrentTerm"), 2) }},
		"a vote":                             {false, func(l *raftlog.Log) error { return l.Set([]byte("LastVoteCand"), []byte("b")) }},
		"an entry that another leader has":   {false, func(l *raftlog.Log) error { return l.GetLog(4, new(raft.Log)) }},
		"Settle":                             {true, (*raftlog.Log).Settle},
		"AwaitDurable":                       {true, func(l *raftlog.Log) error { return l.AwaitDurable(context.Background(), 4) }},
		"Close":                              {true, (*raftlog.Log).Close},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var v valve
				leads := true
				l := open(t, t.TempDir(), v.before)
				l.RunAhead(func() bool { return leads })
				mustStore(t, l, 1, 3)
				if err := l.Settle(); err != nil {
					t.Fatal(err)
				}
				v.hang()
				mustStore(t, l, 4, 4)
				leads = tc.leads
				done := make(chan error, 1)
				go func() { done <- tc.do(l) }()
				synctest.Wait()
				select {
				case err := <-done:
					t.Errorf("it did not wait (%v)", err)
					v.open()
				default:
					v.open()
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// What does not depend on what is pending does not wait for it.
func TestWhoDoesNotWaitForWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v valve
		leads := true
		l := open(t, t.TempDir(), v.before)
		l.RunAhead(func() bool { return leads })
		mustStore(t, l, 1, 3)
		if err := l.Settle(); err != nil {
			t.Fatal(err)
		}
		v.hang()
		mustStore(t, l, 4, 4)
		leads = false
		if err := l.GetLog(3, new(raft.Log)); err != nil {
			t.Error(err)
		}
		if err := l.DeleteRange(1, 2); err != nil { // a snapshot
			t.Error(err)
		}
		v.open()
	})
}

// A hanging disk does not fill memory.
func TestPendingEntriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v valve
		l := open(t, t.TempDir(), v.before)
		l.RunAhead(func() bool { return true })
		v.hang()
		stored := make(chan uint64, 100)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := uint64(1); i <= 10; i++ {
				if err := l.StoreLog(entry(i, 1, string(make([]byte, 1<<20)))); err != nil {
					t.Error(err)
				}
				stored <- i
			}
		}()
		synctest.Wait()
		if n := len(stored); n < 2 || n > 5 {
			t.Errorf("%d entries of 1 MiB were taken while the disk hung", n)
		}
		v.open()
		<-done
	})
}

func TestFailedPendingWriteIsFatalOnceAndForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v valve
		var fatal []error
		dir := t.TempDir()
		l := open(t, dir, v.before, func(o *raftlog.Options) {
			o.Fatal = func(err error) { fatal = append(fatal, err) }
		})
		leads := true
		l.RunAhead(func() bool { return leads })
		mustStore(t, l, 1, 3)
		if err := l.Settle(); err != nil {
			t.Fatal(err)
		}
		v.hang()
		mustStore(t, l, 4, 6)
		disk := errors.New("input/output error")
		waits := make(chan error, 1)
		go func() { waits <- l.AwaitDurable(context.Background(), 4) }()
		synctest.Wait()
		v.fail(disk)
		if err := <-waits; !errors.Is(err, disk) {
			t.Errorf("who waited: %v", err)
		}
		v.open() // a disk that recovers may still lie
		synctest.Wait()
		leads = false
		for what, err := range map[string]error{
			"waiting":                   l.AwaitDurable(context.Background(), 4),
			"settling":                  l.Settle(),
			"the next entry":            l.StoreLog(entry(7, 1, "")),
			"a vote":                    l.SetUint64([]byte("term"), 5),
			"removing the end":          l.DeleteRange(5, 6),
			"what another leader sends": l.GetLog(4, new(raft.Log)),
		} {
			if !errors.Is(err, disk) {
				t.Errorf("%s after a failed write: %v", what, err)
			}
		}
		if err := l.AwaitDurable(context.Background(), 3); err != nil {
			t.Errorf("what was durable before: %v", err)
		}
		if len(fatal) != 1 || !errors.Is(fatal[0], disk) {
			t.Errorf("fatal: %v", fatal)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir)
		if last, _ := l.LastIndex(); last != 3 {
			t.Errorf("after a restart the log ends at %d", last)
		}
	})
}

// crashModel is a log that runs ahead of its disk, loses what is pending in
// crashes, and is compared with a slice.
type crashModel struct {
	dir   string
	valve *valve
	log   *raftlog.Log
	leads bool
	crash error

	data    []string // of entries 1 and up
	terms   []uint64
	term    uint64
	durable uint64 // at least
}

func (m *crashModel) start(t *rapid.T) {
	o := raftlog.Options{Dir: m.dir, Logger: discard, SegmentBytes: 4 << 10, CacheBytes: 300, Fatal: func(err error) {
		if !errors.Is(err, m.crash) {
			t.Errorf("fatal: %v", err)
		}
	}}
	m.valve = &valve{}
	m.valve.before(&o)
	l, err := raftlog.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m.log = l
	l.RunAhead(func() bool { return m.leads })
}

func (m *crashModel) last() uint64 { return uint64(len(m.data)) }

// store appends entries, ahead of the disk when m leads.
func (m *crashModel) store(t *rapid.T) {
	var batch []*raft.Log
	ahead := m.leads
	for range rapid.IntRange(1, 10).Draw(t, "entries") {
		e := entry(m.last()+1, m.term, rapid.StringN(0, 60, 60).Draw(t, "data"))
		if rapid.IntRange(0, 19).Draw(t, "configuration") == 0 {
			e.Type, ahead = raft.LogConfiguration, false
		}
		m.data, m.terms = append(m.data, string(e.Data)), append(m.terms, e.Term)
		batch = append(batch, e)
	}
	if !ahead {
		m.valve.open()
	}
	if err := m.log.StoreLogs(batch); err != nil {
		t.Fatal(err)
	}
	if !ahead {
		m.durable = m.last()
	}
}

// settled runs what waits for the disk.
func (m *crashModel) settled(t *rapid.T, do func() error) {
	m.valve.open()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	m.durable = m.last()
}

// cut removes the end of the log, as a conflict with another leader does.
func (m *crashModel) cut(t *rapid.T) {
	if m.last() < 2 {
		return
	}
	lo := rapid.Uint64Range(2, m.last()).Draw(t, "from")
	m.leads = false
	m.term++
	m.settled(t, func() error { return m.log.DeleteRange(lo, m.last()) })
	m.data, m.terms, m.durable = m.data[:lo-1], m.terms[:lo-1], lo-1
}

// fall crashes, reopens, and checks what is left.
func (m *crashModel) fall(t *rapid.T) {
	m.valve.fail(m.crash)
	if err := m.log.Settle(); err != nil && !errors.Is(err, m.crash) {
		t.Fatal(err)
	}
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	last, _ := m.log.LastIndex()
	if last < m.durable || last > m.last() {
		t.Fatalf("after a crash the log ends at %d; %d entries were durable of %d", last, m.durable, m.last())
	}
	if recorded := m.log.RecordedIndex(); recorded > last {
		t.Fatalf("entry %d was recorded as durable, and the log ends at %d", recorded, last)
	}
	m.data, m.terms, m.durable = m.data[:last], m.terms[:last], last
	m.leads = false
	m.term++
}

// compare reads everything, as a leader does: nothing waits.
func (m *crashModel) compare(t *rapid.T) {
	leads := m.leads
	m.leads = true
	defer func() { m.leads = leads }()
	if last, _ := m.log.LastIndex(); last != m.last() {
		t.Fatalf("the log ends at %d, not at %d", last, m.last())
	}
	for i := uint64(1); i <= m.last(); i++ {
		var e raft.Log
		if err := m.log.GetLog(i, &e); err != nil || e.Index != i || e.Term != m.terms[i-1] || string(e.Data) != m.data[i-1] {
			t.Fatalf("entry %d: %+v, %v; want %q of term %d", i, e, err, m.data[i-1], m.terms[i-1])
		}
	}
	if err := m.log.GetLog(m.last()+1, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("beyond the end: %v", err)
	}
}

// Whatever a log that runs ahead said to be durable is there after a crash, and
// what is there is the beginning of what was stored.
func TestCrashLosesOnlyWhatIsPending(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "raftlog")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &crashModel{dir: dir, crash: errors.New("power cut"), term: 1}
		m.start(t)
		defer func() {
			m.valve.open()
			_ = m.log.Close()
		}()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2:
				m.store(t)
			case 3:
				m.leads = true
			case 4:
				m.leads = false
			case 5:
				m.valve.hang()
			case 6:
				m.valve.open()
			case 7:
				index := rapid.Uint64Range(0, m.last()).Draw(t, "index")
				m.valve.open()
				if err := m.log.AwaitDurable(context.Background(), index); err != nil {
					t.Fatal(err)
				}
				m.durable = max(m.durable, index)
			case 8:
				switch rapid.IntRange(0, 2).Draw(t, "settles") {
				case 0:
					m.settled(t, func() error { return m.log.SetUint64([]byte("CurrentTerm"), m.term) })
				case 1:
					m.leads = false
					m.settled(t, func() error {
						err := m.log.GetLog(m.last(), new(raft.Log))
						if m.last() == 0 && errors.Is(err, raft.ErrLogNotFound) {
							return nil
						}
						return err
					})
				case 2:
					m.cut(t)
				}
			case 9:
				m.fall(t)
			}
			m.compare(t)
		}
	})
}
