package memtable

import (
	"context"
	"fmt"
	"time"
)

const (
	retryFirst = 20 * time.Millisecond
	retryMost  = 500 * time.Millisecond
)

// unsynced is what the flusher has written since the last sync of the engine.
type unsynced struct {
	bytes int64
	index uint64
	since time.Time // of the first write; zero when everything is synced
}

// Flush writes everything committed so far to the engine and syncs it: after it
// Durable is at least the index committed at the call. It blocks for the disk,
// and returns ctx's error when that ends first (the flush goes on), the lasting
// error, or ErrClosed.
func (s *Store) Flush(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.flushes <- answer:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return ErrClosed
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flusher is the only goroutine that writes to the engine. It ends with Close.
func (s *Store) flusher() {
	defer close(s.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if wait, ok := s.untilDue(); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-s.stop:
			return
		case answer := <-s.flushes:
			answer <- s.flushAll()
		case <-s.kick:
			s.flushDue()
		case <-timer.C:
			s.flushDue()
		}
	}
}

// untilDue is how long the flusher may sleep; false when there is nothing to do
// before the next kick.
func (s *Store) untilDue() (time.Duration, bool) {
	if s.Err() != nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed != nil {
		return 0, true
	}
	wait, ok := time.Duration(0), false
	if !s.active.since.IsZero() {
		wait, ok = time.Until(s.active.since.Add(s.o.SealInterval)), true
	}
	if !s.unsynced.since.IsZero() {
		if w := time.Until(s.unsynced.since.Add(s.o.SyncInterval)); !ok || w < wait {
			wait, ok = w, true
		}
	}
	return max(0, wait), ok
}

// flushDue does what is due now: write what is sealed or old, sync what is much
// or old.
func (s *Store) flushDue() {
	if s.Err() != nil {
		return
	}
	s.sealIf(func(t *table) bool { return time.Since(t.since) >= s.o.SealInterval })
	if s.writeSealed() != nil {
		return
	}
	u := &s.unsynced
	if u.since.IsZero() {
		return
	}
	due := u.bytes >= s.o.SyncBytes || time.Since(u.since) >= s.o.SyncInterval
	if e, ok := s.engine.(syncWanter); ok && !due {
		due = e.WantsSync()
	}
	if due {
		_ = s.syncEngine() // fail has kept it
	}
}

// syncWanter is an engine that knows that a Sync would save it room. It is asked
// when a table was dropped: the best moment, because no snapshot is held unless
// a view is.
type syncWanter interface{ WantsSync() bool }

// flushAll is Flush, in the flusher.
func (s *Store) flushAll() error {
	if err := s.Err(); err != nil {
		return err
	}
	// A table that is sealed already stands before the active one.
	if err := s.writeSealed(); err != nil {
		return err
	}
	s.sealIf(func(*table) bool { return true })
	if err := s.writeSealed(); err != nil {
		return err
	}
	s.mu.Lock()
	// A section may have changed the index and no row: nothing to write for it.
	if s.sealed == nil && s.active.tree.Len() == 0 {
		s.unsynced.index = s.index
	}
	s.mu.Unlock()
	return s.syncEngine()
}

func (s *Store) sealIf(due func(*table) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed == nil && !s.active.since.IsZero() && due(s.active) {
		s.seal()
		s.republish()
	}
}

// writeSealed writes the sealed table, if there is one, and drops it.
func (s *Store) writeSealed() error {
	t, err := s.beginWrite()
	if t == nil || err != nil {
		return err
	}
	if err := s.writeTable(t); err != nil {
		return err
	}
	s.dropSealed()
	return nil
}

// beginWrite freezes the generation: from here on views of it read its snapshot.
func (s *Store) beginWrite() (*table, error) {
	s.mu.Lock()
	t, g := s.sealed, s.gen
	s.mu.Unlock()
	if t == nil {
		return nil, nil
	}
	return t, s.retry("take a snapshot of the storage engine", g.freeze)
}

func (s *Store) writeTable(t *table) error {
	begun := time.Now()
	s.batch.Reset()
	t.tree.Scan(func(key string, c cell) bool {
		if c.kind() == kindDeleted {
			s.batch.Delete(raw(key))
		} else {
			s.batch.Put(raw(key), c.value())
		}
		return true
	})
	defer s.batch.Reset() // keep the room, not the rows
	if s.batch.Len() > 0 {
		err := s.retry("write to the storage engine", func() error { return s.engine.Write(&s.batch) })
		if err != nil {
			return err
		}
	}
	took := time.Since(begun)
	s.n.lastFlushNS.Store(int64(took))
	s.n.bytesPerSecond.Store(max(1<<16, int64(float64(t.bytes)/max(took, time.Microsecond).Seconds())))
	s.n.flushedBytes.Add(uint64(s.batch.Bytes()))
	s.n.flushCount.Add(1)
	return nil
}

// dropSealed makes the engine answer for what was sealed, in a new generation.
func (s *Store) dropSealed() {
	s.mu.Lock()
	t, old := s.sealed, s.gen
	s.sealed, s.gen = nil, newGeneration(s.engine)
	s.n.flushed.Store(t.index)
	if s.active.bytes >= s.o.SealBytes && !s.active.since.IsZero() {
		s.seal()
	}
	s.count()
	s.republish()
	s.room.Broadcast()
	s.mu.Unlock()
	// The version of the old generation is not handed out any more: a View that
	// still loads it either gets its reference before this one goes, or tries
	// again.
	old.release()

	u := &s.unsynced
	u.bytes += t.bytes
	u.index = t.index
	if u.since.IsZero() {
		u.since = time.Now()
	}
}

// syncEngine moves Durable to what was written.
func (s *Store) syncEngine() error {
	begun := time.Now()
	if err := s.retry("sync the storage engine", s.engine.Sync); err != nil {
		return err
	}
	s.n.lastSyncNS.Store(int64(time.Since(begun)))
	s.n.durable.Store(max(s.n.durable.Load(), s.unsynced.index))
	s.unsynced = unsynced{index: s.unsynced.index}
	return nil
}

// retry calls f until it succeeds or has failed for Options.RetryFor, which is
// then the lasting error. Writing a batch again is harmless: it sets the same
// rows to the same values, whether or not the failed attempt got through.
func (s *Store) retry(doing string, f func() error) error {
	begun, pause := time.Now(), retryFirst
	s.n.engineSince.Store(s.since(begun))
	defer s.n.engineSince.Store(0)
	for {
		if err := s.Err(); err != nil {
			return err
		}
		err := f()
		if err == nil {
			return nil
		}
		if time.Since(begun) >= s.o.RetryFor {
			err = fmt.Errorf("%s, tried for %s: %w", doing, time.Since(begun).Round(time.Millisecond), err)
			s.fail(err)
			// Under mu, or a Begin between its look and its wait would sleep on.
			s.mu.Lock()
			s.room.Broadcast()
			s.mu.Unlock()
			return err
		}
		s.n.retries.Add(1)
		s.o.Logger.Warn("storage engine failed; trying again", "doing", doing, "error", err)
		select {
		case <-s.stop:
			return ErrClosed
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMost)
	}
}
