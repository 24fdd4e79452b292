package voter

import (
	"context"
	"errors"
	"sync"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage/memtable"
)

// watchBuffer is how many events a watcher may be behind. Beyond, its watch
// breaks: the next one begins with a list, which is shorter.
const watchBuffer = 1024

// errSlowWatcher ends the watch of somebody who does not keep up.
var errSlowWatcher = errors.New("the watcher is too far behind: watch again")

type sessionID = [replication.SessionIDBytes]byte

// watchers are told what happens to sessions, in the order of the log.
type watchers struct {
	mu        sync.Mutex
	bySession map[sessionID]map[*watcher]struct{}
	count     int
}

// watcher is one watch of one session.
type watcher struct {
	session sessionID
	events  chan *replication.Event
	slow    chan struct{} // closed when an event did not fit
}

func newWatchers() *watchers {
	return &watchers{bySession: map[sessionID]map[*watcher]struct{}{}}
}

func (ws *watchers) add(session sessionID) *watcher {
	w := &watcher{
		session: session,
		events:  make(chan *replication.Event, watchBuffer),
		slow:    make(chan struct{}),
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.bySession[session] == nil {
		ws.bySession[session] = map[*watcher]struct{}{}
	}
	ws.bySession[session][w] = struct{}{}
	ws.count++
	return w
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.removeLocked(w)
}

func (ws *watchers) removeLocked(w *watcher) {
	of := ws.bySession[w.session]
	if _, ok := of[w]; !ok {
		return
	}
	delete(of, w)
	ws.count--
	if len(of) == 0 {
		delete(ws.bySession, w.session)
	}
}

func (ws *watchers) len() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.count
}

// tell hands events over. It never blocks: it runs inside of apply.
func (ws *watchers) tell(events []statemachine.SessionEvent) {
	if len(events) == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, e := range events {
		for w := range ws.bySession[e.Session] {
			select {
			case w.events <- e.Event:
			default:
				ws.removeLocked(w)
				close(w.slow)
			}
		}
	}
}

// WatchLocal tells fn what happens to the holds and queue places of a session,
// as this voter applies it, until ctx ends or the watch breaks, and returns why.
// The first event is LISTED with everything that the session has; for a session
// that does not live, SESSION_ENDED follows. fn is called from one goroutine and
// must not block for long. A *replication.NotLeaderError means that this voter
// does not lead, or no longer.
func (v *Voter) WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	if len(session) != replication.SessionIDBytes {
		return errors.New("a session id has 16 bytes")
	}
	r, err := v.awaitReign(ctx)
	if err != nil {
		return err
	}
	// The list must not be that of a leader which was deposed without knowing.
	if err := v.barrier(ctx); err != nil {
		return err
	}
	w, first, err := v.fsm.watch(sessionID(session))
	if err != nil {
		return err
	}
	defer v.fsm.watchers.remove(w)
	for _, e := range first {
		fn(e)
	}
	for {
		select {
		case e := <-w.events:
			fn(e)
		case <-w.slow:
			return errSlowWatcher
		case <-r.ctx.Done():
			return v.notLeader()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watch registers a watcher and lists the session as of the same index.
func (f *fsm) watch(session sessionID) (*watcher, []*replication.Event, error) {
	var w *watcher
	var first []*replication.Event
	f.swap.RLock()
	defer f.swap.RUnlock()
	f.apply.Lock()
	view, err := f.viewLocked()
	if err == nil {
		w = f.watchers.add(session)
	}
	f.apply.Unlock()
	if err != nil {
		return nil, nil, err
	}
	defer view.Release()
	holds, lives := statemachine.SessionHolds(view, session[:])
	if err := view.Err(); err != nil {
		f.watchers.remove(w)
		return nil, nil, err
	}
	first = append(first, &replication.Event{Kind: replication.Event_KIND_LISTED, Holds: holds, Index: view.Index()})
	if !lives {
		first = append(first, &replication.Event{Kind: replication.Event_KIND_SESSION_ENDED, Index: view.Index()})
	}
	return w, first, nil
}

// viewLocked returns a view of exactly the machine's position. The caller holds
// swap for reading, and apply.
func (f *fsm) viewLocked() (*memtable.View, error) {
	if f.dead {
		return nil, replication.ErrStopped
	}
	return f.store.View()
}
