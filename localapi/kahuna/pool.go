package kahuna

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// job is what a pool does once.
type job interface{ work() }

// pool runs the requests of all batch streams, at most MaxServing at a time. A
// goroutine that has served one stays a while for the next: its stack has grown to
// what handlers need, and growing a new one costs more than many requests do
// themselves.
type pool struct {
	next    chan job      // unbuffered: a job goes to a goroutine that waits, or to a new one
	slots   chan struct{} // one for each job
	stop    <-chan struct{}
	running sync.WaitGroup
}

func newPool(stop <-chan struct{}) *pool {
	return &pool{next: make(chan job), slots: make(chan struct{}, MaxServing), stop: stop}
}

// run has j done and does not wait for it, but for a slot until ctx ends. It
// reports whether j will be done.
func (p *pool) run(ctx context.Context, j job) bool {
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case p.next <- j:
	default:
		p.running.Go(func() { p.serve(j) })
	}
	return true
}

// serve is one goroutine's life. It ends when it has been idle for a while, or
// when the Service stops.
func (p *pool) serve(j job) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		j.work()
		<-p.slots
		idle.Reset(workerIdle)
		select {
		case j = <-p.next:
		case <-idle.C:
			return
		case <-p.stop:
			return
		}
	}
}

// budget bounds what large answers take of the memory before they are written.
// Small ones are bounded by their number.
type budget struct {
	limit int64
	taken atomic.Int64
}

// take reserves n bytes, or reports that there is no room.
func (b *budget) take(n int) bool {
	if n == 0 {
		return true
	}
	if b.taken.Add(int64(n)) > b.limit {
		b.taken.Add(-int64(n))
		return false
	}
	return true
}

// give returns what take reserved.
func (b *budget) give(n int) {
	if n != 0 {
		b.taken.Add(-int64(n))
	}
}

// coarseDeadline gives the requests of one stream contexts that end after d. One
// context serves all requests within a twentieth of d, since making one for each
// costs more than reading it. All end with parent, which must end. It belongs to one
// goroutine.
type coarseDeadline struct {
	parent  context.Context
	d       time.Duration
	current context.Context // bounded
	until   time.Time       // when current is too old for new requests
	cancels []cancelAt
}

type cancelAt struct {
	at     time.Time
	cancel context.CancelFunc
}

// now returns a context that ends between d and d + d/20 from now.
func (c *coarseDeadline) now() context.Context {
	t := time.Now()
	if t.Before(c.until) {
		return c.current
	}
	end := t.Add(c.d + c.d/20)
	ctx, cancel := context.WithDeadline(c.parent, end)
	c.current, c.until = bounded{ctx, c.parent}, t.Add(c.d/20)
	for len(c.cancels) > 0 && c.cancels[0].at.Before(t) {
		c.cancels[0].cancel()
		c.cancels = c.cancels[1:]
	}
	c.cancels = append(c.cancels, cancelAt{end, cancel})
	return c.current
}
