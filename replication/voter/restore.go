package voter

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage"
)

// sink takes a snapshot into a new generation of the data directory. Nothing is
// visible of it until fsm.install switches to it.
type sink struct {
	store *snapshots
	meta  raft.SnapshotMeta

	generation Generation // nil until the first byte
	decoder    snapshotDecoder
	batch      storage.Batch
	bytes      int64
}

var _ raft.SnapshotSink = (*sink)(nil)

// ID implements raft.SnapshotSink. Raft's own snapshots are what List names.
func (s *sink) ID() string {
	if s.generation == nil {
		return engineID
	}
	return s.meta.ID
}

// Write implements io.Writer. It checks each chunk before its rows go anywhere.
func (s *sink) Write(p []byte) (int, error) {
	if s.generation == nil {
		g, err := s.store.cfg.Storage.NewGeneration()
		if err != nil {
			return 0, fmt.Errorf("making room for a snapshot: %w", err)
		}
		s.generation = g
		s.decoder.known = statemachine.KnownLevel(s.store.cfg.MaxLevel)
		s.decoder.rows = func(rows []storage.Row) error {
			return g.Engine().Write(batchRows(&s.batch, rows))
		}
	}
	n, err := s.decoder.Write(p)
	s.bytes += int64(n)
	if err != nil {
		return n, fmt.Errorf("receiving a snapshot after %d bytes: %w", s.bytes, err)
	}
	return n, nil
}

// Close implements io.Closer: the stream must be complete, and is made durable.
func (s *sink) Close() error {
	if s.generation == nil {
		return nil // Raft's own snapshot: the engine is up to date
	}
	if err := s.decoder.close(); err != nil {
		return errors.Join(err, s.Cancel())
	}
	if err := s.generation.Engine().Sync(); err != nil {
		return errors.Join(fmt.Errorf("syncing a received snapshot: %w", err), s.Cancel())
	}
	s.meta.Size = s.bytes
	return s.store.fsm.received.put(s)
}

// Cancel implements raft.SnapshotSink.
func (s *sink) Cancel() error {
	if s.generation == nil {
		return nil
	}
	return s.generation.Discard()
}

// received is the one complete snapshot that waits for fsm.install.
type received struct {
	mu   sync.Mutex
	sink *sink
}

// put keeps s, and discards one that was never installed.
func (r *received) put(s *sink) error {
	r.mu.Lock()
	old := r.sink
	r.sink = s
	r.mu.Unlock()
	if old != nil {
		return old.Cancel()
	}
	return nil
}

func (r *received) take() *sink {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sink
	r.sink = nil
	return s
}

func (r *received) meta(id string) (*raft.SnapshotMeta, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sink == nil || r.sink.meta.ID != id {
		return nil, false
	}
	m := r.sink.meta
	return &m, true
}

// install replaces the state by what was received, atomically: a crash leaves
// either the old generation or the new one. Raft calls it through Restore, on
// the goroutine that applies.
func (f *fsm) install() error {
	s := f.received.take()
	if s == nil {
		return errors.New("no snapshot was received")
	}
	// Everything that can be wrong with the rows shows here, while the old state
	// still stands.
	store, machine, err := f.load(s.generation.Engine())
	if err != nil {
		return errors.Join(fmt.Errorf("loading a received snapshot: %w", err), s.Cancel())
	}
	abandon := func(err error) error { return errors.Join(err, store.Close(), s.Cancel()) }
	p := machine.Position()
	if h := s.decoder.header; p.Index != h.index || p.Term != h.term {
		return abandon(fmt.Errorf("%w: its rows are of index %d and term %d, its header says %d and %d",
			errSnapshotDamaged, p.Index, p.Term, h.index, h.term))
	}
	if p.Index > s.meta.Index {
		return abandon(fmt.Errorf("a snapshot of index %d was announced as of index %d", p.Index, s.meta.Index))
	}
	if p.Index < s.meta.Index {
		// A restore by an operator: Raft gives the old state a new index (raft.Restore).
		store.Begin()
		machine.ApplyOther(s.meta.Index, s.meta.Term, raft.EncodeConfiguration(s.meta.Configuration))
		store.Commit(s.meta.Index)
		if err := store.Flush(context.Background()); err != nil {
			return abandon(fmt.Errorf("giving restored state the index %d: %w", s.meta.Index, err))
		}
	}
	if err := f.switchTo(s.generation, func() {
		f.store, f.machine = store, machine
		f.prepared.Store(nil)
	}); err != nil {
		// The old store is closed: there is no way back in this process.
		f.fail(fmt.Errorf("switching to a received snapshot: %w", err))
		return abandon(err)
	}
	s.store.durable.Store(f.position.Load())
	f.restores.Add(1)
	f.applied.advance(s.meta.Index)
	select {
	case f.restored <- struct{}{}:
	default:
	}
	return nil
}

// switchTo makes g the current generation once nobody uses the old one.
func (f *fsm) switchTo(g Generation, replace func()) error {
	f.swap.Lock()
	defer f.swap.Unlock()
	f.apply.Lock()
	defer f.apply.Unlock()
	f.abortStreams()
	if err := f.store.Close(); err != nil {
		return err
	}
	if err := g.Activate(); err != nil {
		return err
	}
	replace()
	f.publish()
	return nil
}
