package raftlog

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// recordKey holds the last fsynced index, in the stable store beside the vote.
var recordKey = []byte("kahu/fsynced-index")

const (
	// recordEvery is how many entries may be fsynced beyond what is recorded.
	recordEvery = 64
	// recordInterval bounds how often that is: recording costs two fsyncs of its own.
	recordInterval = 250 * time.Millisecond
)

// recorder writes down, now and then, up to where the log was durable. What is
// recorded is never more than what is durable: the log moves first when it
// grows, and last when it shrinks.
type recorder struct {
	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex    // held while recording, and while the log shrinks
	durable  atomic.Uint64 // last fsynced index
	recorded atomic.Uint64 // what the stable store says
}

// load reads what an earlier run recorded.
func (r *recorder) load(b backend) error {
	value, err := b.GetUint64(recordKey)
	if err != nil && err.Error() != "not found" { // as raft reads its own keys
		return fmt.Errorf("reading the last fsynced index: %w", err)
	}
	r.recorded.Store(value)
	return nil
}

// start runs the recorder until close.
func (r *recorder) start(l *Log) {
	r.wake = make(chan struct{}, 1)
	r.stop = make(chan struct{})
	r.done.Go(func() {
		pause := time.NewTicker(recordInterval)
		defer pause.Stop()
		for {
			select {
			case <-r.wake:
			case <-r.stop:
				return
			}
			if err := r.write(l.backend); err != nil {
				_ = l.fail(err)
				return
			}
			select {
			case <-pause.C:
			case <-r.stop:
				return
			}
		}
	})
}

// close records for the last time.
func (r *recorder) close(l *Log) error {
	close(r.stop)
	r.done.Wait()
	if l.Err() != nil {
		return nil // nothing that this log says is worth recording
	}
	return r.write(l.backend)
}

// fsynced notes that everything up to index is durable.
func (r *recorder) fsynced(index uint64) {
	r.durable.Store(index)
	if index >= r.recorded.Load()+recordEvery {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// write records what is durable now.
func (r *recorder) write(b backend) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	durable := r.durable.Load()
	if durable <= r.recorded.Load() {
		return nil
	}
	return r.setLocked(b, durable)
}

// lower makes sure that at most index is recorded, and then runs shrink.
func (r *recorder) lower(b backend, index uint64, shrink func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recorded.Load() > index {
		if err := r.setLocked(b, index); err != nil {
			return err
		}
	}
	r.durable.Store(index)
	return shrink()
}

func (r *recorder) setLocked(b backend, index uint64) error {
	if err := b.SetUint64(recordKey, index); err != nil {
		return fmt.Errorf("recording the last fsynced index %d: %w", index, err)
	}
	r.recorded.Store(index)
	return nil
}

// RecordedIndex is an index up to which the log was once durable. A log that ends
// before it, with an engine that does not reach it either, has lost
// acknowledged entries (HAZARDS.md 16).
func (l *Log) RecordedIndex() uint64 {
	return l.record.recorded.Load()
}
