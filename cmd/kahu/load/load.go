// Package load puts a function under load and measures it.
//
// Run calls one operation from many callers, either as fast as answers come
// (closed loop) or at a fixed rate (open loop). At a fixed rate an operation's
// latency counts from the instant at which it was due, not from when a caller
// was free to send it, so that a stall of the service is seen by every
// operation it delayed (no coordinated omission). Result has the percentiles.
//
// What the operation does is left to the caller: kahu bench measures kahu with
// it, and test/bench/etcd measures etcd with the same.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Spec says how much load, and for how long.
type Spec struct {
	Callers  int           // at most so many operations at once; > 0
	Rate     float64       // operations per second over all callers; 0: closed loop
	Warmup   time.Duration // at first, not measured
	Duration time.Duration // measured; > 0
}

// MaxCallers bounds Spec.Callers: each is a goroutine with a histogram of its own.
const MaxCallers = 65_536

// MaxScheduled bounds Rate times the whole duration: the schedule is kept in memory.
const MaxScheduled = 50_000_000

// Check returns what is wrong with the numbers, in words for whoever gave them.
func (s Spec) Check() error {
	switch {
	case s.Callers < 1 || s.Callers > MaxCallers:
		return fmt.Errorf("callers is %d; it must be 1 to %d", s.Callers, MaxCallers)
	case s.Duration <= 0:
		return fmt.Errorf("duration is %s; it must be longer than nothing", s.Duration)
	case s.Warmup < 0:
		return fmt.Errorf("warm-up is %s; it cannot be negative", s.Warmup)
	case s.Rate < 0:
		return fmt.Errorf("rate is %g; it cannot be negative", s.Rate)
	case s.Rate*(s.Warmup+s.Duration).Seconds() > MaxScheduled:
		return fmt.Errorf("a rate of %g over %s is more than %d operations; lower one of them", s.Rate, s.Warmup+s.Duration, MaxScheduled)
	}
	return nil
}

// Op is one operation. caller is the number of the caller, from 0; n counts the
// operations of that caller. An error is counted and its latency is not.
type Op func(ctx context.Context, caller int, n uint64) error

// Run puts op under load and blocks until the measured time is over and the
// operations in flight have ended. When ctx ends earlier, what was measured
// until then is the result, together with ctx's cause. The only other error is
// a bad Spec.
func Run(ctx context.Context, spec Spec, op Op) (*Result, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	begin := time.Now()
	r := &run{
		spec:   spec,
		op:     op,
		begin:  begin,
		opened: begin.Add(spec.Warmup),
		ends:   begin.Add(spec.Warmup + spec.Duration),
	}
	measures := make([]*measure, spec.Callers)
	next := r.closedLoop
	var group sync.WaitGroup
	if spec.Rate > 0 {
		due := make(chan time.Time, int(spec.Rate*(spec.Warmup+spec.Duration).Seconds())+1)
		next = func(context.Context) (time.Time, bool) { t, ok := <-due; return t, ok }
		group.Go(func() { r.pace(ctx, due) })
	}
	for caller := range measures {
		m := newMeasure()
		measures[caller] = m
		group.Go(func() { r.call(ctx, caller, m, next) })
	}
	group.Wait()
	return r.result(measures), context.Cause(ctx)
}

// run is one Run.
type run struct {
	spec                Spec
	op                  Op
	begin, opened, ends time.Time
	unsent              atomic.Uint64
}

// closedLoop is due at once, until the end.
func (r *run) closedLoop(ctx context.Context) (time.Time, bool) {
	now := time.Now()
	return now, now.Before(r.ends) && ctx.Err() == nil
}

// pace sends the instants at which operations are due, each when it is due, and
// closes the channel. It never blocks on it: the channel has room for all.
func (r *run) pace(ctx context.Context, due chan<- time.Time) {
	defer close(due)
	interval := float64(time.Second) / r.spec.Rate
	for k := 0; ; k++ {
		at := r.begin.Add(time.Duration(float64(k) * interval))
		if !at.Before(r.ends) || ctx.Err() != nil {
			return
		}
		sleepUntil(at)
		due <- at
	}
}

// call is one caller: it carries out what next says is due.
func (r *run) call(ctx context.Context, caller int, m *measure, next func(context.Context) (time.Time, bool)) {
	for n := uint64(0); ; n++ {
		due, ok := next(ctx)
		if !ok {
			return
		}
		if r.spec.Rate > 0 && time.Now().After(r.ends) {
			// The service could not keep up. The wait so far is the least
			// that the operation would have taken.
			r.unsent.Add(1)
			m.wait(r.ends.Sub(due))
			continue
		}
		err := r.op(ctx, caller, n)
		done := time.Now()
		if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return
		}
		if !due.Before(r.opened) {
			m.add(done.Sub(due), done, err)
		}
	}
}
