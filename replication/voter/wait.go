package voter

import (
	"context"
	"sync"
	"sync/atomic"
)

// appliedIndex is the index that the state machine itself has applied, which is
// neither Raft's commit index nor its AppliedIndex (HAZARDS.md 14), and those
// who wait for it.
type appliedIndex struct {
	index   atomic.Uint64
	waiting atomic.Int32 // how many in waiters, so that apply looks only when there are

	mu      sync.Mutex
	waiters map[*indexWaiter]struct{}
}

type indexWaiter struct {
	index uint64
	done  chan struct{}
}

// set moves the index without telling anybody. advance follows.
func (a *appliedIndex) set(index uint64) { a.index.Store(index) }

// advance moves the index and wakes whoever waited for it.
func (a *appliedIndex) advance(index uint64) {
	a.index.Store(index)
	if a.waiting.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for w := range a.waiters {
		if w.index <= index {
			a.forgetLocked(w)
			close(w.done)
		}
	}
}

func (a *appliedIndex) forgetLocked(w *indexWaiter) {
	if _, ok := a.waiters[w]; ok {
		delete(a.waiters, w)
		a.waiting.Add(-1)
	}
}

// wait blocks until index is applied or ctx ends.
func (a *appliedIndex) wait(ctx context.Context, index uint64) error {
	if a.index.Load() >= index {
		return nil
	}
	w := &indexWaiter{index: index, done: make(chan struct{})}
	a.mu.Lock()
	if a.waiters == nil {
		a.waiters = map[*indexWaiter]struct{}{}
	}
	a.waiters[w] = struct{}{}
	a.waiting.Add(1)
	a.mu.Unlock()
	// The index may have moved before advance could see w.
	if a.index.Load() < index {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
		}
	}
	a.mu.Lock()
	a.forgetLocked(w)
	a.mu.Unlock()
	if a.index.Load() >= index {
		return nil
	}
	return context.Cause(ctx)
}
