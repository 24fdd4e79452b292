package memtable

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/kahu-sh/kahu/storage"
)

// assumedBytesPerSecond is the flusher's pace before its first table, and maxPace
// the longest that one section is held back for it.
const (
	assumedBytesPerSecond = 8 << 20
	maxPace               = 250 * time.Millisecond
)

// Begin opens a section of changes. When the flusher falls behind it holds the
// section back a little, and it waits while Options.LimitBytes is reached (Stats
// counts both). After a lasting error or Close it does not wait; the caller
// looks at Err.
func (s *Store) Begin() {
	s.mu.Lock()
	s.pace()
	if s.full() {
		s.stall()
	}
	s.begunBytes = s.active.bytes
}

// pace slows changes down to half of the flusher's speed while a full table
// waits behind the one that is being written. Without it the waiting table would
// grow to the limit, its write would take seconds, and so would the next wait
// for room: long enough for others to think that this voter's disk is sick. With
// it no table grows much beyond twice SealBytes. Called with mu, which it gives
// up meanwhile.
func (s *Store) pace() {
	if s.sealed == nil || s.active.bytes < s.o.SealBytes || s.closed || s.failed.Load() != nil {
		return
	}
	speed := s.n.bytesPerSecond.Load()
	if speed == 0 {
		speed = assumedBytesPerSecond
	}
	wait := min(maxPace, time.Duration(float64(2*s.lastBytes)/float64(speed)*float64(time.Second)))
	if wait <= 0 {
		return
	}
	s.n.paced.Add(1)
	s.n.pacedNS.Add(int64(wait))
	s.mu.Unlock()
	timer := time.NewTimer(wait)
	select {
	case <-timer.C:
	case <-s.stop:
		timer.Stop()
	}
	s.mu.Lock()
}

// stall waits until there is room. Called with mu.
func (s *Store) stall() {
	begun := time.Now()
	s.n.stalls.Add(1)
	s.n.stalledSince.Store(s.since(begun))
	for s.full() {
		s.room.Wait()
	}
	s.n.stalledSince.Store(0)
	s.n.stalledNS.Add(int64(time.Since(begun)))
}

func (s *Store) full() bool {
	if s.closed || s.failed.Load() != nil {
		return false
	}
	bytes := s.active.bytes
	if s.sealed != nil {
		bytes += s.sealed.bytes
	} else if bytes >= s.o.LimitBytes {
		s.seal() // otherwise nobody would ever make room
	}
	return bytes >= s.o.LimitBytes
}

// Commit closes the section, and makes its changes visible to views taken from
// now on, as the state after index. Index must not go back; a section may keep
// it. It panics when it does. After a lasting error nothing becomes visible.
func (s *Store) Commit(index uint64) {
	defer s.mu.Unlock()
	if index < s.index {
		panic(fmt.Sprintf("memtable: Commit(%d) after Commit(%d)", index, s.index))
	}
	if s.failed.Load() != nil {
		return
	}
	s.lastBytes = max(0, s.active.bytes-s.begunBytes)
	s.index, s.active.index = index, index
	s.n.committed.Store(index)
	first := s.active.since.IsZero() && s.active.tree.Len() > 0
	if first {
		s.active.since = time.Now()
	}
	if s.sealed == nil && s.active.bytes >= s.o.SealBytes {
		s.seal()
	} else if first {
		s.wake() // the flusher arms its timer
	}
	s.count()
	s.republish()
}

// seal makes the active table the sealed one. Called with mu, sealed being nil.
func (s *Store) seal() {
	if s.sealed != nil {
		panic(fmt.Sprintf("memtable: sealed a table at index %d while that of index %d is being written",
			s.active.index, s.sealed.index))
	}
	s.sealed, s.active = s.active, newTable()
	s.active.index = s.sealed.index
	s.count()
	s.wake()
}

func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Get reads a key inside a section, the section's own changes included. The
// value must not be modified, and is valid until the next change of that key.
// It may wait for the engine. When the engine fails it returns false and Err is
// set: the caller looks at Err before it acts upon what the section decided.
func (s *Store) Get(key []byte) (value []byte, ok bool) {
	if c, ok := s.active.tree.Get(view(key)); ok {
		return c.value(), c.kind() != kindDeleted
	}
	if s.sealed != nil {
		if c, ok := s.sealed.tree.Get(view(key)); ok {
			return c.value(), c.kind() != kindDeleted
		}
	}
	v, err := s.engine.Get(key)
	switch {
	case err == nil:
		return v, true
	case !errors.Is(err, storage.ErrNotFound):
		s.fail(fmt.Errorf("read from the storage engine: %w", err))
	}
	return nil, false
}

// Scan yields the rows with from <= key < to in ascending order inside a
// section; a nil to means to the end. Slices are valid until the next step and
// must not be modified. Nothing may be changed while it runs: collect first.
// Errors of the engine end it early, as Get says.
func (s *Store) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return s.levels().scan(from, to, s.failRead)
}

// ScanReverse is Scan in descending order over the same rows.
func (s *Store) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return s.levels().scanReverse(from, to, s.failRead)
}

func (s *Store) levels() levels {
	l := levels{active: s.active.tree, engine: s.engine}
	if s.sealed != nil {
		l.sealed = s.sealed.tree
	}
	return l
}

func (s *Store) failRead(err error) {
	s.fail(fmt.Errorf("scan the storage engine: %w", err))
}

// Put sets key to value inside a section. Both are copied.
func (s *Store) Put(key, value []byte) { s.active.put(key, value, kindPut) }

// PutFresh is Put of a key that the caller knows to be absent. When the key is
// deleted again before the active table is sealed, it leaves no trace: neither
// row nor deletion reaches the engine. A key that was present after all would
// come back with its old value, so the caller must be sure.
func (s *Store) PutFresh(key, value []byte) {
	if s.o.CheckFresh {
		if old, ok := s.Get(key); ok {
			panic(fmt.Sprintf("memtable: PutFresh of %q, which holds %q", key, old))
		}
	}
	s.active.put(key, value, kindFresh)
}

// Delete removes key inside a section. Removing what is not there is no error.
func (s *Store) Delete(key []byte) { s.active.delete(key) }
