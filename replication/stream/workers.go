package stream

import (
	"context"
	"sync"
	"time"
)

// workerIdle is how long a goroutine waits for another request before it ends.
const workerIdle = 5 * time.Second

// workers run the handlers of one connection. A goroutine that has served a
// request stays a while for the next: its stack has grown to what handlers need,
// and growing a new one costs more than many requests do themselves.
type workers struct {
	next chan *Incoming // unbuffered: a request goes to a goroutine that waits, or to a new one
}

// run starts in's handler and does not block. The goroutine belongs to running,
// and ends when it has been idle for workerIdle, or when ctx has ended.
func (w *workers) run(ctx context.Context, running *sync.WaitGroup, in *Incoming) {
	select {
	case w.next <- in:
	default:
		running.Go(func() { w.serve(ctx, in) })
	}
}

// serve is one goroutine's life.
func (w *workers) serve(ctx context.Context, in *Incoming) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		in.serve()
		idle.Reset(workerIdle)
		select {
		case in = <-w.next:
		case <-idle.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
