package voter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/memtable"
)

// fsm is what Raft calls: it wraps each committed entry in a section of the
// memtable, lets the state machine decide, and passes on what came of it. It
// decides nothing itself.
//
// Raft calls Apply, ApplyBatch, Snapshot and Restore from one goroutine. Two
// locks keep others away:
//
//   - apply is held while an entry is applied, so that whoever takes it sees the
//     machine's position and a view of the same index.
//   - swap is held for reading by everybody who uses the store outside of apply,
//     and for writing while Restore replaces it. It is taken before apply.
//
// raft.ConfigurationStore is not implemented: to a BatchingFSM Raft hands
// configuration entries in ApplyBatch, and never calls it (HAZARDS.md 14).
type fsm struct {
	cfg      Config
	fail     func(error)
	diverged func(index uint64, err error) // before fail, when this voter must be seeded anew
	watchers *watchers
	start    time.Time

	swap    sync.RWMutex
	store   *memtable.Store
	streams map[*snapshotStream]struct{} // outgoing snapshots; guarded by swap and apply together

	apply   sync.Mutex
	machine *statemachine.Machine
	dead    bool // failed: nothing is applied any more
	torn    bool // dead, with the section of the memtable left open

	prepared atomic.Pointer[preparedAt] // for the reads of one index
	applied  appliedIndex
	position atomic.Pointer[statemachine.Position] // after the last entry
	// labelledAt is when the last label of position was applied, on Config.Boottime.
	labelledAt atomic.Int64
	due        atomic.Int64 // lease clock at which a sweep is worth proposing; dueNever: none
	dueMoved   chan struct{}
	openTx     atomic.Int64  // transactions
	released   signal        // told when a transaction has given up locks, or has ended
	restored   chan struct{} // told after Restore
	restores   atomic.Uint64

	applying atomic.Int64 // when the entry in work began, ns since start + 1; 0: none
	received received     // by the snapshot store, for Restore
}

// dueNever is fsm.due when nothing will end.
const dueNever = int64(1<<63 - 1)

var (
	_ raft.FSM         = (*fsm)(nil)
	_ raft.BatchingFSM = (*fsm)(nil)
)

// newFSM loads the state machine from the engine.
func newFSM(cfg Config, fail func(error), diverged func(uint64, error)) (*fsm, error) {
	setBoottime(&cfg) // Recover has no other defaults
	f := &fsm{
		cfg:      cfg,
		fail:     fail,
		diverged: diverged,
		watchers: newWatchers(),
		start:    time.Now(),
		streams:  map[*snapshotStream]struct{}{},
		dueMoved: make(chan struct{}, 1),
		released: newSignal(),
		restored: make(chan struct{}, 1),
	}
	store, machine, err := f.load(cfg.Storage.Engine())
	if err != nil {
		return nil, err
	}
	f.store, f.machine = store, machine
	f.publish()
	return f, nil
}

// load lays a store over e, and a machine over that.
func (f *fsm) load(e storage.Engine) (*memtable.Store, *statemachine.Machine, error) {
	store, err := memtable.Open(e, memtable.Options{
		LimitBytes: f.cfg.MemtableBytes,
		OnError:    f.fail,
		Logger:     f.cfg.Logger,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("opening the store over the engine: %w", err)
	}
	machine, err := statemachine.NewWith(store, statemachine.Options{MaxLevel: f.cfg.MaxLevel})
	if err = errors.Join(err, store.Err()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("loading the state machine: %w", err), store.Close())
	}
	store.Loaded(machine.Position().Index)
	return store, machine, nil
}

// close stops the write-behind. The engine may be closed after it.
func (f *fsm) close() error {
	f.swap.Lock()
	defer f.swap.Unlock()
	if f.torn {
		return nil // only the end of the process helps
	}
	f.abortStreams()
	return f.store.Close()
}

// ApplyBatch implements raft.BatchingFSM. Each entry is a section of its own,
// so that views need never wait for a whole batch.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		out[i] = f.Apply(l)
	}
	return out
}

// Apply implements raft.FSM. It returns the []*replication.Answer of the entry,
// or nil when there is none: Raft's own entries, and after a failure.
func (f *fsm) Apply(l *raft.Log) any {
	f.applying.Store(int64(time.Since(f.start)) + 1)
	defer f.applying.Store(0)
	answers, ok := f.applyLocked(l)
	if !ok {
		return nil
	}
	f.applied.advance(l.Index)
	return answers
}

func (f *fsm) applyLocked(l *raft.Log) (answers []*replication.Answer, ok bool) {
	f.apply.Lock()
	defer f.apply.Unlock()
	if f.dead {
		return nil, false
	}
	f.store.Begin()
	var result statemachine.Result
	if l.Type == raft.LogCommand {
		result = f.machine.Apply(l.Index, l.Term, l.Data)
	} else {
		f.machine.ApplyOther(l.Index, l.Term, l.Data) // the encoded configuration
	}
	if result.Diverged != nil {
		f.dead = true
		if f.torn = errors.Is(result.Diverged, statemachine.ErrDamaged); !f.torn {
			f.store.Commit(f.machine.Position().Index)
		} // else a part of the entry is in the memtable, and must never be flushed
		if seededAnew(result.Diverged) {
			f.diverged(l.Index, result.Diverged)
		}
		f.fail(fmt.Errorf("applying log entry %d of term %d: %w", l.Index, l.Term, result.Diverged))
		return nil, false
	}
	f.store.Commit(l.Index)
	if f.store.Err() != nil {
		f.dead = true // fail was told by the store
		return nil, false
	}
	open := f.openTx.Load()
	f.publish()
	f.watchers.tell(result.Events)
	if result.Released || f.openTx.Load() < open {
		f.released.tell()
	}
	return result.Answers, true
}

// seededAnew reports whether what stopped this voter is wrong with its state, so
// that no restart heals it. An entry that this binary cannot read has changed
// nothing: a newer one goes on from here.
func seededAnew(err error) bool {
	return errors.Is(err, statemachine.ErrDiverged) || errors.Is(err, statemachine.ErrDamaged)
}

// publish makes what others ask for between entries cheap to read. The caller
// holds apply, or nobody else knows f yet.
func (f *fsm) publish() {
	p := f.machine.Position()
	if last := f.position.Load(); last == nil || last.WallMS != p.WallMS {
		f.labelledAt.Store(int64(f.cfg.Boottime()))
	}
	f.position.Store(&p)
	f.openTx.Store(int64(f.machine.OpenTransactions()))
	due, ok := f.machine.Due()
	if !ok {
		due = dueNever
	}
	if before := f.due.Swap(due); due < before {
		select {
		case f.dueMoved <- struct{}{}:
		default:
		}
	}
	f.applied.set(p.Index)
}

// withView runs fn on a view of the state now. The store is not replaced while
// fn runs, so fn must be quick.
func (f *fsm) withView(fn func(*memtable.View) error) error {
	f.swap.RLock()
	defer f.swap.RUnlock()
	view, err := f.store.View()
	if err != nil {
		return err
	}
	defer view.Release()
	if err := fn(view); err != nil {
		return err
	}
	return view.Err()
}

// preparedAt is what reads of views of one index share.
type preparedAt struct {
	index uint64
	*statemachine.Prepared
}

// prepare returns what a read of view looks at first. The caller is withView's fn.
func (f *fsm) prepare(view *memtable.View) (*statemachine.Prepared, error) {
	if p := f.prepared.Load(); p != nil && p.index == view.Index() {
		return p.Prepared, nil
	}
	p, err := statemachine.Prepare(view)
	if err = errors.Join(err, view.Err()); err != nil {
		return nil, err
	}
	f.prepared.Store(&preparedAt{view.Index(), p})
	return p, nil
}

// flush brings the engine up to date, so that the next start has little to replay.
func (f *fsm) flush(ctx context.Context) error {
	f.swap.RLock()
	defer f.swap.RUnlock()
	return f.store.Flush(ctx)
}

// stats reads the store's counters.
func (f *fsm) stats() memtable.Stats {
	f.swap.RLock()
	defer f.swap.RUnlock()
	return f.store.Stats()
}

// flushAge returns how long the engine has been at work for the flusher; 0: it is not.
func (f *fsm) flushAge() time.Duration { return f.stats().EngineBusyFor }

// applyAge returns how long the entry in work has been; 0: none is.
func (f *fsm) applyAge() time.Duration {
	began := f.applying.Load()
	if began == 0 {
		return 0
	}
	return time.Since(f.start) - time.Duration(began-1)
}

// Snapshot implements raft.FSM. The engine is the snapshot: what is written
// when Raft persists it is only what the memtable still owes.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &flushed{fsm: f, store: f.store, position: *f.position.Load()}, nil
}

// Restore implements raft.FSM: see restore.go.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer func() { _ = rc.Close() }()
	return f.install()
}
