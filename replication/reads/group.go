package reads

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed is returned by Group.Do after Close.
var ErrClosed = errors.New("reads are closed")

// Group runs a function for many callers at once. A caller gets the result of a
// run that started after it called. At most one run is in flight; everybody who
// comes meanwhile shares the next one.
type Group[T any] struct {
	run func(context.Context) (T, error)

	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	running bool
	next    *flight[T] // collecting; nil when nobody waits for the next run
}

// flight is one run and those who wait for it.
type flight[T any] struct {
	done  chan struct{} // closed when the two below are set
	value T
	err   error
}

// NewGroup returns a Group around run, which gets a context that ends with the
// Group alone, not with its callers.
func NewGroup[T any](run func(context.Context) (T, error)) *Group[T] {
	ctx, cancel := context.WithCancel(context.Background())
	return &Group[T]{run: run, ctx: ctx, cancel: cancel}
}

// Close ends a run in flight through its context and blocks until it is over.
// Callers get what it returned, or ErrClosed.
func (g *Group[T]) Close() {
	g.mu.Lock() // or a Do that has not seen it yet would start a worker beside Wait
	g.cancel()
	g.mu.Unlock()
	g.workers.Wait()
}

// Do returns the result of a run that starts after this call. It blocks until
// then or until ctx ends, and returns ctx's cause in that case.
func (g *Group[T]) Do(ctx context.Context) (T, error) {
	g.mu.Lock()
	if g.ctx.Err() != nil {
		g.mu.Unlock()
		var zero T
		return zero, ErrClosed
	}
	f := g.next
	if f == nil {
		f = &flight[T]{done: make(chan struct{})}
		g.next = f
	}
	if !g.running {
		g.running = true
		// Ends when nobody waits any more, or soon after Close.
		g.workers.Go(g.loop)
	}
	g.mu.Unlock()

	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// loop runs as long as somebody waits.
func (g *Group[T]) loop() {
	for {
		g.mu.Lock()
		f := g.next
		g.next = nil
		if f == nil {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()

		if g.ctx.Err() != nil {
			f.err = ErrClosed
		} else {
			f.value, f.err = g.run(g.ctx)
		}

		close(f.done)
	}
}
