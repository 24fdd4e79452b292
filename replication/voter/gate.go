package voter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// admissionWait and maxAdmissionWait bound how long the start of a transaction
	// waits for a slot (Kahuna.Core/Configuration/KahunaConfiguration.cs).
	admissionWait    = 5 * time.Second
	maxAdmissionWait = 30 * time.Second
	// agingStep is how long a wait raises a start by one priority, so that none starves.
	agingStep = time.Second
	// maxGateQueue bounds those who wait; beyond, a start is refused at once. All
	// may come from one agent, whose connection must have room for more.
	maxGateQueue = 1024
	// gateMemory is how long a start that went away keeps its place: an agent whose
	// attempt ran out of time asks again under the same id.
	gateMemory = 3 * time.Second
	// gateAdmitted is how many of the starts admitted last are let in at once when
	// they ask again: most have begun, and only their answers were lost.
	gateAdmitted = 1024
)

// gate admits transactions while a voter leads: at most limit are open or being
// started, the others stand in line by priority. The queue is at the leader,
// where the slots are counted; a new leader begins with an empty one, and those
// who wait come to it with their next attempt.
type gate struct {
	limit int
	open  func() int // transactions that are open now
	now   func() time.Time

	mu       sync.Mutex
	starting int // admitted, and not decided yet
	queue    []*gateWaiter
	resigned chan struct{} // closed and replaced when this voter ceases to lead
	known    map[gateKey]gatePlace
	admitted map[gateKey]bool      // those of last
	last     [gateAdmitted]gateKey // ring of the starts admitted last
	lastAt   int                   // the oldest of them
}

// gateKey is the request id of a start.
type gateKey struct {
	session string
	number  uint64
}

// gatePlace remembers since when a start has been waiting.
type gatePlace struct{ since, seen time.Time }

type gateWaiter struct {
	priority replication.TxPriority
	since    time.Time
	admitted chan struct{} // closed by whoever admits it, who takes it out of the queue
	resigned <-chan struct{}
}

func newGate(limit int, open func() int, now func() time.Time) *gate {
	return &gate{limit: limit, open: open, now: now, known: map[gateKey]gatePlace{}, admitted: map[gateKey]bool{}, resigned: make(chan struct{})}
}

// resign sends everybody in line away: another voter leads, or none.
func (g *gate) resign() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.resigned)
	g.resigned = make(chan struct{})
}

// enter blocks until the start is admitted: then leave must be called once it
// was decided. Otherwise it returns the refusal, or an error that says that
// nothing was applied.
func (g *gate) enter(ctx context.Context, req *replication.Request, op *replication.TxStart) (in bool, refused *replication.Answer, err error) {
	key := gateKey{string(req.GetSession()), req.GetNumber()}
	w, answer := g.stand(key, op)
	if answer != nil {
		return false, answer, nil
	}
	defer func() {
		if in {
			g.remember(key)
		}
	}()
	if w == nil {
		return true, nil, nil
	}
	wait := time.Duration(op.GetAdmissionWaitMs()) * time.Millisecond
	if wait <= 0 {
		wait = admissionWait
	}
	timer := time.NewTimer(min(wait, maxAdmissionWait) - g.now().Sub(w.since))
	defer timer.Stop()
	var ended, resigned bool
	select {
	case <-w.admitted:
		return true, nil, nil
	case <-timer.C:
		ended = true
	case <-w.resigned:
		resigned = true
	case <-ctx.Done():
	}
	if !g.stepOut(key, w, ended) { // admitted in this very moment
		return true, nil, nil
	}
	if ended {
		return false, refusedAtGate("no slot for another transaction became free within %v", min(wait, maxAdmissionWait)), nil
	}
	if resigned {
		return false, nil, &replication.NotLeaderError{}
	}
	return false, nil, fmt.Errorf("%w: %w", replication.ErrUnavailable, context.Cause(ctx))
}

func refusedAtGate(format string, args ...any) *replication.Answer {
	return &replication.Answer{Code: replication.Code_CODE_ADMISSION_REFUSED, Detail: fmt.Sprintf(format, args...)}
}

// stand admits a start at once, or puts it in line. It returns neither a waiter
// nor an answer when it is admitted; so it is again when it was before.
func (g *gate) stand(key gateKey, op *replication.TxStart) (*gateWaiter, *replication.Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	place, again := g.known[key]
	delete(g.known, key)
	if g.admitted[key] || len(g.queue) == 0 && g.free() > 0 {
		g.starting++
		return nil, nil
	}
	if len(g.queue) >= maxGateQueue {
		return nil, refusedAtGate("%d transactions wait for a slot already", len(g.queue))
	}
	w := &gateWaiter{priority: op.GetPriority(), since: now, admitted: make(chan struct{}), resigned: g.resigned}
	if again && now.Sub(place.seen) < gateMemory {
		w.since = place.since
	}
	if w.priority < replication.TxPriority_TX_PRIORITY_BACKGROUND || w.priority > replication.TxPriority_TX_PRIORITY_CRITICAL {
		w.priority = replication.TxPriority_TX_PRIORITY_NORMAL
	}
	g.queue = append(g.queue, w)
	return w, nil
}

// remember keeps in mind that a start was admitted.
func (g *gate) remember(key gateKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.admitted[key] {
		return
	}
	delete(g.admitted, g.last[g.lastAt])
	g.last[g.lastAt], g.admitted[key] = key, true
	g.lastAt = (g.lastAt + 1) % gateAdmitted
}

// waiting is how many starts stand in line.
func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue)
}

func (g *gate) free() int { return g.limit - g.open() - g.starting }

// stepOut takes w out of the queue, and reports whether it was in it. One whose
// wait is not over keeps its place for a moment.
func (g *gate) stepOut(key gateKey, w *gateWaiter, ended bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.queue {
		if o != w {
			continue
		}
		g.queue = append(g.queue[:i], g.queue[i+1:]...)
		if now := g.now(); !ended {
			for k, p := range g.known {
				if now.Sub(p.seen) >= gateMemory {
					delete(g.known, k)
				}
			}
			g.known[key] = gatePlace{since: w.since, seen: now}
		}
		return true
	}
	return false
}

// leave is called when an admitted start was decided: if it went through, it
// counts among those that are open.
func (g *gate) leave() {
	g.mu.Lock()
	g.starting--
	g.mu.Unlock()
	g.admit()
}

// admit lets in as many as there are slots. It is called when some became free.
func (g *gate) admit() {
	if g.limit <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for free := g.free(); free > 0 && len(g.queue) > 0; free-- {
		i := g.next(g.now())
		w := g.queue[i]
		g.queue = append(g.queue[:i], g.queue[i+1:]...)
		g.starting++
		close(w.admitted)
	}
}

// next is the position of who is let in next: the highest priority, raised by
// one for each agingStep of waiting, and of those the one that waits longest.
func (g *gate) next(now time.Time) int {
	best, rank := 0, -1
	for i, w := range g.queue {
		r := int(w.priority) + int(now.Sub(w.since)/agingStep)
		if r > rank || r == rank && w.since.Before(g.queue[best].since) {
			best, rank = i, r
		}
	}
	return best
}

// watchSlots admits whoever waits when transactions have ended, until the voter stops.
func (v *Voter) watchSlots() {
	for {
		released := v.fsm.released.wait()
		v.gate.admit()
		select {
		case <-released:
		case <-v.stopping:
			return
		}
	}
}
