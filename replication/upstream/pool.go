package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

const (
	// probeInterval is how often the server in use is asked for a lock when it has
	// not answered anything else, and spareInterval the others: so that a server that
	// is used first is one that answers.
	probeInterval = 5 * time.Second
	spareInterval = 15 * time.Second
	// probeRetry is how often all are asked while none answers.
	probeRetry   = 500 * time.Millisecond
	probeTimeout = 3 * time.Second
	// answeredFor is how long an answer counts: one round of probes may fail.
	answeredFor = 2*(probeInterval+probeTimeout) + time.Second
	// probeLock is a name that nobody locks.
	probeLock = "kahu:probe"
)

// pool knows the servers and which of them to ask.
type pool struct {
	mu      sync.Mutex
	list    []*endpoint
	current int // the one that is asked first
	// failovers counts how often current changed because it failed.
	failovers uint64
}

// pick returns the server to ask: the one in use, else another that answered last,
// else the one that failed longest ago. avoid, if there is another, is not taken.
func (p *pool) pick(avoid *endpoint) *endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	var oldest *endpoint
	for i := range p.list {
		at := (p.current + i) % len(p.list)
		e := p.list[at]
		switch {
		case e == avoid:
		case e.failedAt.IsZero():
			return e
		case oldest == nil || e.failedAt.Before(oldest.failedAt):
			oldest = e
		}
	}
	if oldest == nil {
		return avoid
	}
	return oldest
}

// answered notes that a server has decided something. It is used from now on if
// the one in use does not answer.
func (p *pool) answered(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.failedAt, e.failure, e.answeredAt = time.Time{}, "", time.Now()
	if now := p.list[p.current]; now != e && !now.failedAt.IsZero() {
		for i := range p.list {
			if p.list[i] == e {
				p.current = i
				p.failovers++
			}
		}
	}
}

// failed notes that a server has not.
func (p *pool) failed(e *endpoint, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.failedAt, e.failure = time.Now(), why
}

// An EndpointStatus is what is known of one server.
type EndpointStatus struct {
	URL     string
	Healthy bool          // its last word was an answer, and that not long ago
	InUse   bool          // it is asked first
	Failure string        // of the last call, empty when that was answered
	Latency time.Duration // of the last probe that was answered, 0 without one
}

// status lists the servers in the order configured.
func (p *pool) status() []EndpointStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]EndpointStatus, len(p.list))
	for i, e := range p.list {
		out[i] = EndpointStatus{URL: e.url, InUse: i == p.current, Failure: e.failure, Latency: e.took,
			Healthy: e.failedAt.IsZero() && !e.answeredAt.IsZero() && time.Since(e.answeredAt) < max(answeredFor, 2*spareInterval)}
	}
	return out
}

// lately reports whether any server has answered not long ago.
func (p *pool) lately() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.list {
		if !e.answeredAt.IsZero() && time.Since(e.answeredAt) < answeredFor {
			return true
		}
	}
	return false
}

// due are the servers that should be asked now.
func (p *pool) due() (out []*endpoint, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, next := time.Now(), probeInterval
	up := p.list[p.current].failedAt.IsZero() && !p.list[p.current].answeredAt.IsZero()
	for i, e := range p.list {
		every := spareInterval
		switch {
		case !up:
			every = probeRetry
		case i == p.current:
			every = probeInterval
		}
		last := e.answeredAt
		if e.failedAt.After(last) {
			last = e.failedAt
		}
		if left := every - now.Sub(last); left <= 0 {
			out = append(out, e)
			next = min(next, every)
		} else {
			next = min(next, left)
		}
	}
	return out, next
}

// probe keeps the health of the servers known until ctx ends.
func (c *Client) probe(ctx context.Context) {
	for ctx.Err() == nil {
		due, next := c.pool.due()
		var asking sync.WaitGroup
		for _, e := range due {
			asking.Go(func() { c.probeOne(ctx, e) })
		}
		asking.Wait()
		if !sleep(ctx, next+rand.N(next/8+time.Millisecond)) {
			return
		}
	}
}

// probeOne asks one server for a lock that is not there: it takes a leader to say so.
func (c *Client) probeOne(ctx context.Context, e *endpoint) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	began := time.Now()
	a, err := e.locks.GetLock(ctx, &pb.GrpcGetLockRequest{Resource: probeLock, Durability: lockPersistent})
	switch {
	case status.Code(err) == codes.PermissionDenied: // it knows who asks
	case err != nil:
		c.pool.failed(e, textOf(err))
		return
	case a.GetType() == lockRetry || a.GetType() == lockErrored:
		c.pool.failed(e, fmt.Sprintf("it answers %s: it knows no leader", a.GetType()))
		return
	}
	c.pool.answered(e)
	c.pool.mu.Lock()
	e.took = time.Since(began)
	c.pool.mu.Unlock()
}

// sleep waits for d, and says false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
