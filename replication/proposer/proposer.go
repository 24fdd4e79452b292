package proposer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
)

// Limits and times of a Proposer.
const (
	// MaxInFlight is how many entries are proposed and not yet decided. A second
	// one goes only when it is full: with 64 and 256 callers on 2 cores, two small
	// entries at a time made half the batch and two thirds of the throughput.
	MaxInFlight = 2
	// MaxLinger is how long a batch waits for callers that were just answered and
	// are likely to ask again. It waits once more, up to lingerRounds times, when
	// one in lingerShare of them has come meanwhile: an entry costs as much as some
	// dozens of requests, and many callers take a while to come back.
	MaxLinger    = 150 * time.Microsecond
	lingerRounds = 4
	lingerShare  = 16
	// MaxEntryRequests bounds the requests in one entry, so that applying it stays
	// under about 10 ms whatever their size (DESIGN.md §3).
	MaxEntryRequests = 1024
	// MaxQueued and MaxQueuedBytes bound what waits. Beyond, a request is answered
	// with CODE_LIMIT at once. What is urgent has as much room again: writes that
	// come faster than they are decided must not cost a lease (HAZARDS.md 20).
	MaxQueued      = 16 << 10
	MaxQueuedBytes = 64 << 20
	// enqueueTimeout bounds the wait for Raft's loop to take an entry. It passes
	// only when that loop hangs in the disk.
	enqueueTimeout = 2 * time.Second
)

// Raft is what a Proposer needs of *raft.Raft. The Response of the future is
// the []*replication.Answer of the entry, one for each request.
type Raft interface {
	Apply(entry []byte, enqueueTimeout time.Duration) raft.ApplyFuture
}

// Reign is the time in which this voter leads, from the moment its opening
// entry was applied. Its functions are called under the proposer's lock.
type Reign struct {
	Term uint64
	// LeaseClock returns τ, in nanoseconds (DESIGN.md: lease time).
	LeaseClock func() int64
	// Level returns the feature level in force.
	Level func() uint32
}

// Proposer batches requests into log entries. Its methods may be called
// concurrently.
type Proposer struct {
	raft Raft
	wall func() time.Time

	turn    chan struct{} // held by the one worker that collects
	arrived chan struct{} // tells the collector that what it wants is there
	stop    chan struct{}
	workers sync.WaitGroup
	waiters sync.Pool // of *waiter: those of Do whose token was consumed

	mu     sync.Mutex
	lanes  lanes
	reign  *Reign // nil: not leading
	leader string // presumed leader while not leading
	// suspended: the last entry came back as stamped in an older term. Nothing is
	// proposed until the voter says who leads.
	suspended bool
	want      int // the collector sleeps until so many are queued; 0: it does not sleep
	inFlight  int // entries
	expected  int // see landed
	stopped   bool
	abandon   chan struct{} // closed and replaced by Abandon
}

// New starts a Proposer that does not lead yet. Close must be called.
func New(r Raft, wall func() time.Time) *Proposer {
	p := &Proposer{
		raft:    r,
		wall:    wall,
		turn:    make(chan struct{}, 1),
		arrived: make(chan struct{}, 1),
		stop:    make(chan struct{}),
		abandon: make(chan struct{}),
	}
	// The workers end when Close closes stop and Raft has answered what they propose.
	for range MaxInFlight {
		p.workers.Go(p.work)
	}
	return p
}

// Lead starts proposing under r. It may be called again with a newer reign.
func (p *Proposer) Lead(r Reign) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reign, p.leader, p.suspended = &r, "", false
	p.wakeLocked()
}

// Resign refuses everything queued and everything to come with a
// *replication.NotLeaderError that names leader, which may be empty. Entries in
// flight still get their answers from Raft.
func (p *Proposer) Resign(leader string) {
	p.mu.Lock()
	p.reign, p.leader, p.suspended = nil, leader, false
	refused := p.lanes.takeAll()
	p.mu.Unlock()
	for _, w := range refused {
		w.finish(nil, &replication.NotLeaderError{Leader: leader})
	}
}

// Abandon lets everybody who waits in Do go, as if their ctx had ended: the log
// hangs, and another voter may decide sooner. What was proposed stays proposed.
func (p *Proposer) Abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.abandon)
	p.abandon = make(chan struct{})
}

// errAbandoned is why Do returned although its ctx had not ended.
var errAbandoned = errors.New("this voter's log hangs")

// Close refuses everything queued with replication.ErrStopped and blocks until
// Raft has answered the entries in flight: shut Raft down before or meanwhile.
func (p *Proposer) Close() {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		p.workers.Wait()
		return
	}
	p.stopped = true
	refused := p.lanes.takeAll()
	p.mu.Unlock()
	close(p.stop)
	for _, w := range refused {
		w.finish(nil, replication.ErrStopped)
	}
	p.workers.Wait()
}

// Queued returns how many requests wait for an entry.
func (p *Proposer) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lanes.count
}

// Do proposes req and blocks until its answer is there or ctx ends. req must not
// be changed any more, not even after Do has returned. See the package comment
// for the errors; when ctx ends, its cause is joined to the one that applies.
func (p *Proposer) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	w := p.waiter(req)
	abandon, answer, err := p.enqueue(w)
	if answer != nil || err != nil {
		p.recycle(w)
		return answer, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return p.leave(w, context.Cause(ctx))
	case <-abandon:
		return p.leave(w, errAbandoned)
	}
	answer, err = w.answer, w.err
	p.recycle(w)
	return answer, err
}

// leave stops waiting for w because of cause.
func (p *Proposer) leave(w *waiter, cause error) (*replication.Answer, error) {
	if p.withdraw(w) {
		p.recycle(w)
		return nil, fmt.Errorf("%w: %w", replication.ErrUnavailable, cause)
	}
	select {
	case <-w.done: // decided in this very moment
		answer, err := w.answer, w.err
		p.recycle(w)
		return answer, err
	default:
		// A worker still holds w: it is left to the garbage collector.
		return nil, fmt.Errorf("%w: %w", replication.ErrUnknownOutcome, cause)
	}
}

// waiter returns a waiter with a channel, for Do.
func (p *Proposer) waiter(req *replication.Request) *waiter {
	w, ok := p.waiters.Get().(*waiter)
	if !ok {
		w = &waiter{done: make(chan struct{}, 1)}
	}
	w.req, w.size = req, req.SizeVT()
	return w
}

// recycle takes back w, which nobody else holds.
func (p *Proposer) recycle(w *waiter) {
	*w = waiter{done: w.done}
	p.waiters.Put(w)
}

// Submit is Do without waiting: fn is called exactly once, possibly before
// Submit returns, from a goroutine that many others wait for. It must not block.
func (p *Proposer) Submit(req *replication.Request, fn func(*replication.Answer, error)) {
	w := &waiter{req: req, size: req.SizeVT(), fn: fn}
	if _, answer, err := p.enqueue(w); answer != nil || err != nil {
		fn(answer, err)
	}
}

// enqueue appends w to its lane and returns what Abandon closes, or why not.
func (p *Proposer) enqueue(w *waiter) (<-chan struct{}, *replication.Answer, error) {
	count, bytes := MaxQueued, MaxQueuedBytes
	if w.req.IsUrgent() {
		count, bytes = 2*count, 2*bytes
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped:
		return nil, nil, replication.ErrStopped
	case p.reign == nil:
		return nil, nil, &replication.NotLeaderError{Leader: p.leader}
	case p.lanes.count >= count || p.lanes.bytes+w.size > bytes && p.lanes.count > 0:
		return nil, &replication.Answer{
			Code:   replication.Code_CODE_LIMIT,
			Detail: fmt.Sprintf("%d requests with %d bytes already wait at the leader; try again later", p.lanes.count, p.lanes.bytes),
		}, nil
	}
	p.lanes.push(w)
	p.wakeLocked()
	return p.abandon, nil, nil
}

// withdraw takes w out of its lane. It returns false when w is in an entry
// already, or was finished.
func (p *Proposer) withdraw(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lanes.remove(w)
}

// wakeLocked tells a sleeping collector that what it waits for is there.
func (p *Proposer) wakeLocked() {
	if p.want == 0 || p.reign == nil || p.suspended {
		return
	}
	if p.lanes.count >= p.want && p.inFlight == 0 || p.lanes.full() {
		p.want = 0
		p.arrived <- struct{}{} // never blocks: want was set, so the buffer is empty
	}
}

// notApplied reports whether err, from an ApplyFuture, proves that the entry is
// not in the log. Only these three are answered before the entry is appended;
// everything else may have happened (HAZARDS.md 25).
func notApplied(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) ||
		errors.Is(err, raft.ErrEnqueueTimeout) ||
		errors.Is(err, raft.ErrLeadershipTransferInProgress)
}
