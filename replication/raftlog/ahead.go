package raftlog

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// maxAheadBytes bounds entries that are in the log and not yet written. Beyond,
// StoreLogs waits for the disk.
const maxAheadBytes = 4 << 20

// ahead is the part of the log that runs ahead of the disk: see RunAhead.
//
//	│◄────────── durable ──────────►│◄── pending ──►│
//	first                            oldest          last
//
// Everything but oldest and leads is guarded by Log.mu.
type ahead struct {
	leads  atomic.Pointer[func() bool] // nil: the log never runs ahead
	oldest atomic.Uint64               // index of the first pending entry; 0: none

	pending []*raft.Log // ascending; the writer removes them when they are durable
	bytes   int64
	moved   chan struct{} // closed when pending has shrunk, or err was set; nil: nobody waits
	err     error         // why the writer has ended early

	wake chan struct{} // told when pending has grown
	stop chan struct{}
	done sync.WaitGroup
}

// RunAhead lets StoreLogs return before entries are durable while leads reports
// true, so that a leader's disk works beside those of its followers (Raft thesis,
// section 10.2.1). It is called once, before the log is used by several. A log
// in memory ignores it: there is nothing to wait for.
//
// leads must report true only while, first, this voter leads; second, every
// decision needs another voter; third, the answers of those are held back until
// AwaitDurable returns for what they acknowledge. It runs on the goroutines of
// StoreLogs and GetLog.
//
// Whatever else reaches the log waits for what is pending: an entry stored while
// leads reports false, each change of the configuration, the removal of the end
// of the log, term and vote, and, while leads reports false, GetLog of a pending
// entry. So a voter that does not lead knows and tells nothing that its disk does
// not have. The doc comment of package voter says why that is enough.
func (l *Log) RunAhead(leads func() bool) {
	if l.inMemory {
		return
	}
	a := &l.ahead
	a.wake = make(chan struct{}, 1)
	a.stop = make(chan struct{})
	a.done.Go(l.writePending) // until Close
	a.leads.Store(&leads)
}

// leadsNow reports whether the log may run ahead.
func (a *ahead) leadsNow() bool {
	leads := a.leads.Load()
	return leads != nil && (*leads)()
}

// mayRunAhead reports whether entries need not be durable when StoreLogs returns.
func (l *Log) mayRunAhead(entries []*raft.Log) bool {
	if !l.ahead.leadsNow() {
		return false
	}
	for _, e := range entries {
		switch e.Type {
		case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		default:
			// Raft counts votes by a new configuration from the moment it is stored:
			// by one with a single voter, everything that this voter has.
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ahead.bytes < maxAheadBytes
}

// handOverLocked gives entries, which are in the log already, to the writer.
// The caller holds mu.
func (l *Log) handOverLocked(entries []*raft.Log, bytes int64) {
	a := &l.ahead
	if len(a.pending) == 0 {
		a.oldest.Store(entries[0].Index)
	}
	a.pending = append(a.pending, entries...)
	a.bytes += bytes
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// writePending writes what is handed over, until Close, or until a write fails.
func (l *Log) writePending() {
	a := &l.ahead
	for stopping := false; ; {
		more, err := l.writeBatch()
		switch {
		case err != nil:
			l.mu.Lock()
			a.err = err
			l.movedLocked()
			l.mu.Unlock()
			return
		case more:
			continue
		case stopping:
			return
		}
		select {
		case <-a.wake:
		case <-a.stop:
			stopping = true
		}
	}
}

// writeBatch makes everything durable that is pending now, with one sync, and
// reports whether there was anything. Any error is fatal.
func (l *Log) writeBatch() (wrote bool, err error) {
	a := &l.ahead
	l.mu.Lock()
	batch, err := a.pending, l.failed
	l.mu.Unlock()
	if len(batch) == 0 || err != nil {
		return false, err
	}
	if err := l.write(batch); err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	left := copy(a.pending, a.pending[len(batch):])
	clear(a.pending[left:])
	a.pending, a.bytes = a.pending[:left], 0
	for _, e := range a.pending {
		a.bytes += int64(encodedBytes(e))
	}
	if left == 0 {
		a.oldest.Store(0)
	} else {
		a.oldest.Store(a.pending[0].Index)
	}
	l.movedLocked()
	return true, nil
}

// movedLocked wakes everybody in AwaitDurable. The caller holds mu.
func (l *Log) movedLocked() {
	if l.ahead.moved != nil {
		close(l.ahead.moved)
		l.ahead.moved = nil
	}
}

// pendingEntryLocked copies the entry at index into out if it is pending. The
// caller holds mu.
func (l *Log) pendingEntryLocked(index uint64, out *raft.Log) bool {
	p := l.ahead.pending
	if len(p) == 0 || index < p[0].Index || index > p[len(p)-1].Index {
		return false
	}
	*out = *p[index-p[0].Index]
	return true
}

// AwaitDurable blocks until no entry up to index is pending, and returns nil, or
// until ctx ends or a write has failed. It costs next to nothing when there is
// nothing to wait for.
func (l *Log) AwaitDurable(ctx context.Context, index uint64) error {
	a := &l.ahead
	for {
		oldest := a.oldest.Load()
		if oldest == 0 || index < oldest {
			return nil
		}
		l.mu.Lock()
		if err := a.err; err != nil {
			l.mu.Unlock()
			return err
		}
		if len(a.pending) == 0 || index < a.pending[0].Index {
			l.mu.Unlock()
			return nil
		}
		if a.moved == nil {
			a.moved = make(chan struct{})
		}
		moved := a.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("waiting until log entry %d is durable: %w", index, context.Cause(ctx))
		}
	}
}

// Settle blocks until nothing is pending, or a write has failed.
func (l *Log) Settle() error { return l.AwaitDurable(context.Background(), math.MaxUint64) }

// closeAhead writes what is left, if the disk still works, and ends the writer.
func (l *Log) closeAhead() {
	if l.ahead.stop != nil {
		close(l.ahead.stop)
		l.ahead.done.Wait()
	}
}
