package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/pace"
)

// How often a proxy asks the quorum whether it is there. A request costs the
// leader a read, so that a thousand proxies cost it two hundred a second.
const (
	reachInterval = 5 * time.Second
	reachRetry    = 300 * time.Millisecond
	reachTimeout  = 5 * time.Second
	// reachFor is how long an answer counts: one round may fail.
	reachFor = 2*(reachInterval+reachTimeout) + time.Second
)

// reach asks the quorum now and then, so that a proxy that nobody has asked
// anything yet knows whether it would be answered. A voter hears its leader
// anyway, and does not ask.
type reach struct {
	coordinator replication.Coordinator
	needed      func() bool
	answered    atomic.Pointer[time.Time] // last; nil: never
	cancel      context.CancelFunc
	done        chan struct{}
}

// startReach begins to ask; close ends it.
func startReach(c replication.Coordinator, needed func() bool) *reach {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reach{coordinator: c, needed: needed, cancel: cancel, done: make(chan struct{})}
	go r.run(ctx) // ends with close, which waits for it
	return r
}

func (r *reach) run(ctx context.Context) {
	defer close(r.done)
	for ctx.Err() == nil {
		wait := reachRetry
		switch {
		case !r.needed():
			wait = pace.Next(reachRetry) // it costs a voter no wake of its own
		case r.ask(ctx):
			now := time.Now()
			r.answered.Store(&now)
			wait = reachInterval
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// ask reports whether a linearizable read was answered, whatever the answer.
func (r *reach) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	_, err := r.coordinator.Do(ctx, &replication.Request{Op: &replication.Request_MachineGet{MachineGet: &replication.MachineGet{}}})
	return err == nil
}

// lately reports whether the quorum has answered not long ago.
func (r *reach) lately() bool {
	at := r.answered.Load()
	return at != nil && time.Since(*at) < reachFor
}

func (r *reach) close(context.Context) error {
	r.cancel()
	<-r.done
	return nil
}
