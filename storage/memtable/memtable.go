// Package memtable is the write-behind layer between the state machine and a
// storage.Engine.
//
// Raft's log makes decisions durable, so an applied entry need not reach the
// engine at once. Changes collect in a table in memory (active), which is sealed
// when it is large or old enough and then written to the engine in one batch by
// a goroutine of the Store. Readers see three levels as one map:
//
//	active   changes since the last seal          newest
//	sealed   the table that is being written
//	engine   everything before it                 oldest
//
// The main type is Store. It promises:
//
//   - What one Begin and Commit pair changed becomes visible to views at once,
//     and reaches the engine in one batch, whole or not at all. The engine is
//     therefore always the state after some committed index, provided that the
//     caller keeps that index in a row which it writes in every section.
//   - A View is the state after one Commit, and never a mixture: it is taken
//     with both tables and the engine's generation together.
//   - Memory is bounded: at Options.LimitBytes Begin waits for the flusher.
//   - After an error of the engine that lasts, nothing is written any more and
//     Err says why. The log has everything that was lost here.
//
// Why reads beside the flusher are exact. The engine changes only by the
// flusher's one Write at a time, of the sealed table S. A generation is the
// time between two of these writes, during which the engine stands still. S is
// dropped from the levels only after its write has returned. So:
//
//   - The applying goroutine may read the engine while S is being written: a key
//     in S is answered by S, any other key is the same before and after.
//   - A view of generation g may read the engine directly if g is not frozen
//     after the read: the flusher freezes g before it writes. Otherwise it reads
//     the engine snapshot of g, which the flusher opens before it freezes g.
//
// Left to others: which rows there are (statemachine), the engine's files
// (storage/*), where they live (datadir), and what to do on a lasting error.
package memtable

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/storage"
)

// The defaults of Options.
const (
	DefaultLimitBytes   = 64 << 20
	DefaultSealBytes    = 16 << 20
	DefaultSealInterval = 10 * time.Second
	DefaultSyncBytes    = 32 << 20
	DefaultSyncInterval = 10 * time.Second
	DefaultRetryFor     = 5 * time.Second
)

// ErrClosed is returned by calls on a closed Store.
var ErrClosed = errors.New("memtable is closed")

// Options of a Store. The zero value is usable: zero fields get the defaults.
type Options struct {
	// LimitBytes bounds what waits in memory, both tables together, overhead of
	// rows included. Begin waits while it is reached. A single section may
	// overshoot it by what it changes.
	LimitBytes int64
	// SealBytes and SealInterval end the active table: at that size, or when its
	// first change is that old.
	SealBytes    int64
	SealInterval time.Duration
	// SyncBytes and SyncInterval make the flusher sync the engine: when that much
	// was written, or the first unsynced write is that old. Only then does
	// Durable move, so these bound how much of the log must be kept.
	SyncBytes    int64
	SyncInterval time.Duration
	// RetryFor is how long a failing engine is tried again before Err is set.
	RetryFor time.Duration
	// OnError is called once, with the error that Err returns from then on. It
	// must not block and must not call the Store: it may run inside a section.
	OnError func(error)
	// CheckFresh makes PutFresh panic when the key is present below. It costs a
	// read for each call: for tests.
	CheckFresh bool
	// Logger gets retries and the lasting error. Nil discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	for _, f := range []struct {
		name string
		v    *int64
		def  int64
	}{
		{"LimitBytes", &o.LimitBytes, DefaultLimitBytes},
		{"SealBytes", &o.SealBytes, DefaultSealBytes},
		{"SyncBytes", &o.SyncBytes, DefaultSyncBytes},
		{"SealInterval", (*int64)(&o.SealInterval), int64(DefaultSealInterval)},
		{"SyncInterval", (*int64)(&o.SyncInterval), int64(DefaultSyncInterval)},
		{"RetryFor", (*int64)(&o.RetryFor), int64(DefaultRetryFor)},
	} {
		if *f.v < 0 {
			return o, fmt.Errorf("memtable: %s is negative: %d", f.name, *f.v)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	o.SealBytes = min(o.SealBytes, o.LimitBytes)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Store lays active and sealed tables over an engine. One goroutine applies:
// it alone calls Begin, Get, Scan, ScanReverse, Put, PutFresh, Delete, Commit.
// Every other method may be called from any goroutine, but Flush and Close not
// between Begin and Commit by the one who holds the section.
type Store struct {
	engine storage.Engine
	o      Options
	start  time.Time // base of the times in counters

	published atomic.Pointer[version] // what View hands out; nil: View makes it
	wanted    atomic.Bool             // a View was asked for since the last Commit
	failed    atomic.Pointer[error]
	n         counters

	// mu is the apply lock: held from Begin to Commit, and by the flusher when it
	// seals or drops a table. It guards the fields below. Nobody does I/O under
	// it except the applying goroutine when it reads what is only in the engine.
	mu     sync.Mutex
	room   *sync.Cond // on mu: a table was dropped, or the Store failed or closed
	active *table
	sealed *table // nil, or what the flusher is writing; immutable
	gen    *generation
	index  uint64 // of the last Commit
	closed bool

	begunBytes, lastBytes int64 // size of active at Begin; what the last section added

	kick    chan struct{}   // buffered 1: a table was sealed, or a table got its first row
	flushes chan chan error // calls of Flush
	stop    chan struct{}
	done    chan struct{}

	unsynced unsynced // owned by the flusher
	batch    storage.Batch
}

// Open lays a Store over e, syncs e, so that all of its rows are durable, and
// starts the flusher. The engine stays the caller's: it must have no other
// writer, and is closed by the caller after Close. Call Loaded before the first
// Begin when e already holds an index.
func Open(e storage.Engine, o Options) (*Store, error) {
	s, err := open(e, o)
	if err != nil {
		return nil, err
	}
	go s.flusher()
	return s, nil
}

// open is Open without the goroutine, which tests play themselves.
func open(e storage.Engine, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := e.Sync(); err != nil {
		return nil, fmt.Errorf("sync the engine on opening: %w", err)
	}
	s := &Store{
		engine:  e,
		o:       o,
		start:   time.Now().Add(-1), // so that no later time counts as zero
		active:  newTable(),
		gen:     newGeneration(e),
		kick:    make(chan struct{}, 1),
		flushes: make(chan chan error),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	s.room = sync.NewCond(&s.mu)
	return s, nil
}

// Loaded tells the Store which index the engine's rows describe, as the caller
// read it from them. Open has synced them, so Durable is at least this from now
// on. Call it before the first Begin.
func (s *Store) Loaded(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index != 0 {
		panic(fmt.Sprintf("memtable: Loaded(%d) after Commit(%d)", index, s.index))
	}
	s.index, s.active.index = index, index
	s.n.committed.Store(index)
	s.n.flushed.Store(index)
	s.n.durable.Store(index)
	s.published.Store(nil)
}

// Durable is the highest committed index of which everything is synced in the
// engine. The log below it may be cut. It does not block.
func (s *Store) Durable() uint64 { return s.n.durable.Load() }

// Err is the lasting error of the engine, nil while there is none. After it the
// engine is not written any more, and answers read from the Store inside a
// section may be wrong: the caller must not acknowledge them, and ends the
// process. It does not block.
func (s *Store) Err() error {
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes err the lasting error, unless there is one already. It may run with
// mu held, by the applying goroutine; the flusher also wakes a waiting Begin.
func (s *Store) fail(err error) {
	if !s.failed.CompareAndSwap(nil, &err) {
		return
	}
	s.o.Logger.Error("storage engine failed; nothing is written any more", "error", err)
	if s.o.OnError != nil {
		s.o.OnError(err)
	}
}

// Close stops the flusher and waits for it. It writes nothing more: call Flush
// before when a fast restart is wanted. Views that are still held stay readable
// until the engine is closed. A second call does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	close(s.stop)
	s.room.Broadcast()
	s.mu.Unlock()
	<-s.done

	s.mu.Lock()
	defer s.mu.Unlock()
	s.published.Store(nil)
	s.gen.release()
	return nil
}
