package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// maxEvents bounds what waits for one watcher. Past it the watch breaks, and the
// next one begins with a list.
const maxEvents = 1 << 17

var errLagging = errors.New("the watcher does not keep up")

// watcher is one Watch. Its fields are guarded by sessions.mu.
type watcher struct {
	more   chan struct{} // capacity 1: there are events
	events []*replication.Event
	busy   bool // fn is being called
	broken error
}

// settle waits a moment until those who watch a session were told everything: they
// have the reasons of what was lost, and a renewal has none.
func (x *sessions) settle(ctx context.Context, s *session) {
	for range 50 {
		x.mu.Lock()
		telling := false
		for w := range s.watchers {
			telling = telling || w.busy || len(w.events) > 0
		}
		x.mu.Unlock()
		if !telling || !sleep(ctx, time.Millisecond) {
			return
		}
	}
}

// tell adds an event for those who watch a session. mu is held.
func (x *sessions) tell(s *session, ev *replication.Event) {
	for w := range s.watchers {
		if len(w.events) >= maxEvents {
			w.broken = errLagging
		}
		if w.broken == nil {
			w.events = append(w.events, ev)
		}
		select {
		case w.more <- struct{}{}:
		default:
		}
	}
}

// watch implements replication.Coordinator's.
func (x *sessions) watch(ctx context.Context, id []byte, fn func(*replication.Event)) error {
	w := &watcher{more: make(chan struct{}, 1)}
	x.mu.Lock()
	s := x.byID[string(id)]
	if s == nil {
		x.mu.Unlock()
		return fmt.Errorf("%w: this agent has no such session", replication.ErrUnavailable)
	}
	w.events = []*replication.Event{{Kind: replication.Event_KIND_LISTED, Holds: x.list(s), Index: x.index}}
	w.more <- struct{}{}
	s.watchers[w] = true
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(s.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-x.c.ctx.Done():
			return replication.ErrStopped
		case <-w.more:
		}
		x.mu.Lock()
		events, broken := w.events, w.broken
		w.events, w.busy = nil, true
		x.mu.Unlock()
		for _, ev := range events {
			fn(ev)
		}
		x.mu.Lock()
		w.busy = false
		x.mu.Unlock()
		if broken != nil {
			return broken
		}
	}
}
