package stream

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// call is a request of this side that has not seen its last frame.
type call struct {
	done      chan result // one slot; filled once, when the call is not abandoned
	costBytes int64
	abandoned bool    // guarded by calls.mu: nobody waits for done
	stream    *Stream // nil for a unary call
}

type result struct {
	payload []byte
	err     error
}

// calls are the requests of this side in flight, within what the peer accepts.
// Before its hello that is nothing.
type calls struct {
	mu       sync.Mutex
	limit    limits
	lastID   uint64
	byID     map[uint64]*call
	bytes    int64
	waiting  list.List     // of *entrant, first come first served
	patience time.Duration // Options.PlaceTimeout
	err      error         // set once: the connection has ended
	pool     sync.Pool     // of *call, unary ones that are nobody's
}

// entrant waits until its call fits.
type entrant struct {
	call *call
	id   uint64
	in   chan struct{} // closed when id or err is decided
	err  error
}

func (t *calls) get(costBytes int) *call {
	cl, _ := t.pool.Get().(*call)
	if cl == nil {
		cl = &call{done: make(chan result, 1)}
	}
	cl.costBytes = int64(costBytes)
	cl.abandoned = false
	return cl
}

// start gives cl an id, when it fits. It blocks until then, or until ctx ends, or
// for as long as a place may be waited for.
func (t *calls) start(ctx context.Context, cl *call) (uint64, error) {
	t.mu.Lock()
	if t.err != nil {
		defer t.mu.Unlock()
		return 0, t.err
	}
	if t.waiting.Len() == 0 && t.fits(cl) {
		defer t.mu.Unlock()
		return t.admit(cl), nil
	}
	e := &entrant{call: cl, in: make(chan struct{})}
	place := t.waiting.PushBack(e)
	t.mu.Unlock()

	var timeout <-chan time.Time
	if t.patience > 0 {
		timer := time.NewTimer(t.patience)
		defer timer.Stop()
		timeout = timer.C
	}
	var why error
	select {
	case <-e.in:
		return e.id, e.err
	case <-ctx.Done():
		why = context.Cause(ctx)
	case <-timeout:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-e.in: // decided meanwhile
		if e.err != nil {
			return 0, e.err
		}
		t.remove(e.id, cl)
	default:
		t.waiting.Remove(place)
		t.admitWaiting() // a large one at the front may have kept smaller ones out
	}
	if why == nil {
		why = fmt.Errorf("%w (%d of %d, with %d of %d bytes); waited for %v", ErrFull, len(t.byID), t.limit.inFlight, t.bytes, t.limit.inFlightBytes, t.patience)
	}
	return 0, why
}

// fits, admit, admitWaiting and remove need mu.

func (t *calls) fits(cl *call) bool {
	if t.limit.inFlight == 0 || len(t.byID) >= int(t.limit.inFlight) {
		return false
	}
	return len(t.byID) == 0 || uint64(t.bytes+cl.costBytes) <= t.limit.inFlightBytes
}

func (t *calls) admit(cl *call) uint64 {
	t.lastID++
	t.byID[t.lastID] = cl
	t.bytes += cl.costBytes
	return t.lastID
}

func (t *calls) admitWaiting() {
	for at := t.waiting.Front(); at != nil; at = t.waiting.Front() {
		e := at.Value.(*entrant)
		if !t.fits(e.call) {
			return
		}
		t.waiting.Remove(at)
		e.id = t.admit(e.call)
		close(e.in)
	}
}

func (t *calls) remove(id uint64, cl *call) {
	delete(t.byID, id)
	t.bytes -= cl.costBytes
	t.admitWaiting()
}

// peerAccepts opens the table with the peer's limits.
func (t *calls) peerAccepts(l limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = l
	t.admitWaiting()
}

// withdraw takes back a call of which nothing was sent.
func (t *calls) withdraw(id uint64, cl *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] == cl {
		t.remove(id, cl)
	}
}

// abandon says that nobody waits for the call any more. It reports whether the
// call is still in flight; if not, its result is in done.
func (t *calls) abandon(id uint64, cl *call) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] != cl {
		return false
	}
	cl.abandoned = true
	return true
}

// abandonOnce is abandon for streams, which may be stopped more than once: it
// reports true only the first time.
func (t *calls) abandonOnce(id uint64, cl *call) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] != cl || cl.abandoned {
		return false
	}
	cl.abandoned = true
	return true
}

// find returns the call for a frame that is not its last.
func (t *calls) find(id uint64) *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// A call's last frame depends on what it is.
func isUnary(cl *call) bool  { return cl.stream == nil }
func isStream(cl *call) bool { return cl.stream != nil }
func isAny(*call) bool       { return true }

// last removes a call on its last frame, and delivers r to whoever waits. It
// reports false when there is no such call, or none that fits the frame.
func (t *calls) last(id uint64, fits func(*call) bool, r result) bool {
	t.mu.Lock()
	cl := t.byID[id]
	if cl == nil || !fits(cl) {
		t.mu.Unlock()
		return false
	}
	t.remove(id, cl)
	abandoned := cl.abandoned
	t.mu.Unlock()
	switch {
	case cl.stream != nil:
		cl.stream.ended(r.err)
	case abandoned:
		t.pool.Put(cl)
	default:
		cl.done <- r
	}
	return true
}

// end fails every call in flight and every one that waits to start with err,
// and all later ones.
func (t *calls) end(err error) {
	t.mu.Lock()
	t.err = err
	byID := t.byID
	t.byID = nil
	for at := t.waiting.Front(); at != nil; at = at.Next() {
		e := at.Value.(*entrant)
		e.err = err
		close(e.in)
	}
	t.waiting.Init()
	t.mu.Unlock()
	for _, cl := range byID {
		switch {
		case cl.stream != nil:
			cl.stream.ended(err)
		default:
			cl.done <- result{err: err} // an abandoned call's slot is empty as well
		}
	}
}
