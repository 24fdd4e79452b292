package memtable

import (
	"sync/atomic"
	"time"
)

// counters are written by the applying goroutine and the flusher, and read
// without a lock: whoever looks whether the disk hangs must not hang behind it.
// Times are nanoseconds since Store.start, zero for none.
type counters struct {
	committed, flushed, durable atomic.Uint64
	activeBytes, sealedBytes    atomic.Int64
	activeRows, sealedRows      atomic.Int64
	activeSince, sealedSince    atomic.Int64
	engineSince                 atomic.Int64
	stalledSince, stalledNS     atomic.Int64
	stalls, flushCount, retries atomic.Uint64
	lastFlushNS, lastSyncNS     atomic.Int64
	flushedBytes                atomic.Uint64
	bytesPerSecond              atomic.Int64 // of the last write of a table
	paced                       atomic.Uint64
	pacedNS                     atomic.Int64
}

// Stats is a reading of a Store. It may be some microseconds out of step with
// itself.
type Stats struct {
	CommittedIndex uint64 // last Commit
	FlushedIndex   uint64 // written to the engine
	DurableIndex   uint64 // synced in the engine

	UnflushedBytes  int64 // active and sealed, overhead included
	UnflushedRows   int64
	SealedBytes     int64         // of these, being written
	OldestUnflushed time.Duration // age of the oldest Commit that is not written

	FlushCount    uint64        // tables written
	FlushedBytes  uint64        // of keys and values written
	RetryCount    uint64        // engine calls that failed and were tried again
	LastFlush     time.Duration // how long the last write of a table took
	LastSync      time.Duration // how long the last sync took
	EngineBusyFor time.Duration // age of the flusher's engine call under way; zero if none

	PacedCount uint64        // how often Begin held a section back, the flusher being behind
	PacedTotal time.Duration // how long in all
	StallCount uint64        // how often Begin had to wait for room
	StallTotal time.Duration // how long in all
	StalledFor time.Duration // age of the wait under way; zero if none
}

// Stats reads the counters. It never blocks.
func (s *Store) Stats() Stats {
	n := &s.n
	oldest := n.sealedSince.Load()
	if oldest == 0 {
		oldest = n.activeSince.Load()
	}
	return Stats{
		CommittedIndex:  n.committed.Load(),
		FlushedIndex:    n.flushed.Load(),
		DurableIndex:    n.durable.Load(),
		UnflushedBytes:  n.activeBytes.Load() + n.sealedBytes.Load(),
		UnflushedRows:   n.activeRows.Load() + n.sealedRows.Load(),
		SealedBytes:     n.sealedBytes.Load(),
		OldestUnflushed: s.age(oldest),
		FlushCount:      n.flushCount.Load(),
		FlushedBytes:    n.flushedBytes.Load(),
		RetryCount:      n.retries.Load(),
		LastFlush:       time.Duration(n.lastFlushNS.Load()),
		LastSync:        time.Duration(n.lastSyncNS.Load()),
		EngineBusyFor:   s.age(n.engineSince.Load()),
		PacedCount:      n.paced.Load(),
		PacedTotal:      time.Duration(n.pacedNS.Load()),
		StallCount:      n.stalls.Load(),
		StallTotal:      time.Duration(n.stalledNS.Load()),
		StalledFor:      s.age(n.stalledSince.Load()),
	}
}

// since is t as counters hold it; never zero for a real time.
func (s *Store) since(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return int64(t.Sub(s.start))
}

func (s *Store) age(since int64) time.Duration {
	if since == 0 {
		return 0
	}
	return max(0, time.Since(s.start)-time.Duration(since))
}

// count copies the sizes of the tables into the counters. Called with mu.
func (s *Store) count() {
	n := &s.n
	n.activeBytes.Store(s.active.bytes)
	n.activeRows.Store(int64(s.active.tree.Len()))
	n.activeSince.Store(s.since(s.active.since))
	var bytes, rows, since int64
	if s.sealed != nil {
		bytes, rows, since = s.sealed.bytes, int64(s.sealed.tree.Len()), s.since(s.sealed.since)
	}
	n.sealedBytes.Store(bytes)
	n.sealedRows.Store(rows)
	n.sealedSince.Store(since)
}
