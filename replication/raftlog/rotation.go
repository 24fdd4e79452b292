package raftlog

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// settledWAL is raft-wal whose deletions wait for a rotation that is under way.
//
// raft-wal 0.4.0 seals a full segment in the background. Its StoreLogs waits for
// that, and its DeleteRange does not: when it comes first it begins a new tail,
// which the rotation then takes for the full segment and seals, and the next
// append is refused ("non-monotonic append to segment"). A follower whose log is
// cut back by a new leader just as a segment is full would end for good.
type settledWAL struct {
	*wal.WAL
	mu sync.Mutex // held over each append and each deletion: Raft compacts beside the goroutine that appends
}

// StoreLog implements raft.LogStore.
func (s *settledWAL) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *settledWAL) StoreLogs(logs []*raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.WAL.StoreLogs(logs)
}

// DeleteRange implements raft.LogStore.
func (s *settledWAL) DeleteRange(lo, hi uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitRotation(); err != nil {
		return err
	}
	return s.WAL.DeleteRange(lo, hi)
}

// awaitRotation blocks until no rotation is under way; mu keeps the next one from
// beginning. raft-wal has no call that only waits, but an append that leaves a gap
// waits before it is refused, and changes nothing.
func (s *settledWAL) awaitRotation() error {
	last, err := s.LastIndex()
	if err != nil || last == 0 {
		return err // an empty log has no full segment
	}
	switch err := s.WAL.StoreLogs([]*raft.Log{{Index: last + 2}}); {
	case err == nil:
		return fmt.Errorf("raft-wal took entry %d after entry %d", last+2, last)
	case errors.Is(err, wal.ErrClosed):
		return err
	}
	return nil
}
