// Package wallclock keeps a wild wall clock out of the labels that a leader
// gives to log entries (contract/decisions.md 4).
//
// Labels follow the wall clock of the leader, and never go back. So one step of
// that clock into the next year would stay in them, and hlc() of scripts, which
// rate limiters count by, would stand still for as long. Clock takes a wall clock
// that has moved by more than Tolerance beyond the time elapsed (CLOCK_BOOTTIME)
// only when the wall clocks of a majority of voters agree with it. Otherwise it
// goes on by the time elapsed alone, and says so.
//
// What it promises, between Begin and End:
//
//   - Now moves with the time elapsed, to within Tolerance, unless a majority
//     agrees to more. Within that it is the wall clock itself.
//   - It does not stand still for longer than Tolerance either. Where the labels
//     given before are ahead of a wall clock that a majority agrees on, it goes on
//     a tenth slower until the two meet.
//   - A voter that is alone has nobody to ask. It takes a jump when its wall clock
//     has stayed where it is for AloneAfter: long enough for a step that is put
//     right at once, by a person or by NTP after a boot. When it begins to lead, and
//     nobody can know how long it was down or how old a backup is, it takes up to
//     AloneAtStart at once.
//
// A leader looks at the beginning of its term, where it compares its wall clock
// with the labels replicated, once a second while there is a difference, and every
// CheckEvery otherwise: a clock that is led astray slowly is found as well.
//
// Left to others: the labels themselves (statemachine), who leads (voter), and how
// another voter's clock is asked (link).
package wallclock

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication/pace"
)

const (
	// Tolerance is how far a wall clock may move beyond the time elapsed, and how
	// far those of two voters may be apart that agree.
	Tolerance = 10 * time.Second
	// CheckEvery is how often the other voters are asked when all seems well.
	CheckEvery = time.Minute
	// AloneAfter is how long the clock of a voter that is alone must have stayed.
	AloneAfter = time.Minute
	// AloneAtStart is what such a voter takes at once when it begins to lead.
	AloneAtStart = 30 * 24 * time.Hour
	// doubtEvery is how often they are asked otherwise.
	doubtEvery = time.Second
	// askTimeout bounds one question.
	askTimeout = time.Second
	// beginTimeout bounds how long the first label of a term waits for the answers.
	beginTimeout = 500 * time.Millisecond
	// slowBy is the part of the time elapsed that Now leaves out where the labels
	// are ahead: rates that are counted by them are a tenth lower meanwhile.
	slowBy = 10
)

// Config is what a Clock is built from. All but Ask are required.
type Config struct {
	// Wall is the wall clock of this host, Elapsed a clock that nobody steps and
	// that counts suspend (boottime.Boottime). Both are called often.
	Wall    func() time.Time
	Elapsed func() time.Duration
	Self    string
	// Voters are the node ids of the voters, this one included.
	Voters func() []string
	// Ask asks another voter for its wall clock. Nil: none answers.
	Ask    func(ctx context.Context, node string) (time.Time, error)
	Logger *slog.Logger
}

// mode says how Now goes on.
type mode int

const (
	idle   mode = iota // not leading: Now is the wall clock
	follow             // Now is the wall clock
	apart              // by the time elapsed
	ahead              // by nine tenths of it, until the wall clock is there
)

// Clock gives out the wall time of log entries. Its methods may be called
// concurrently; Begin, Watch and End by one goroutine.
type Clock struct {
	cfg Config

	mu   sync.Mutex
	mode mode
	// Offsets are milliseconds between a wall clock and the time elapsed.
	agreed int64 // of the wall clock when it was taken last
	run    int64 // what Now goes by where it does not follow
	slowed int64 // time elapsed, in ms, since when it is ahead
	// doubted is the offset of a wall clock that was not taken, and since when it
	// is about the same: of a voter that is alone.
	doubted      int64
	doubtedSince int64
	checkedAt    int64 // time elapsed, in ms, of the last check
	said         string
}

// New returns a Clock that does not lead.
func New(cfg Config) *Clock { return &Clock{cfg: cfg} }

// Begin is called by a voter that begins to lead, before it labels anything.
// labelMS is the last label there is, 0 for none, and at when it was applied here,
// in the time of Config.Elapsed. It blocks for the answers of the other voters if
// the wall clock is not where it should be, for beginTimeout at most.
func (c *Clock) Begin(ctx context.Context, labelMS int64, at time.Duration) {
	c.mu.Lock()
	elapsed, offset := c.read()
	c.checkedAt, c.mode = elapsed, follow
	c.run = labelMS - at.Milliseconds()
	if labelMS == 0 {
		c.run = offset
	}
	c.agreed = c.run
	if labelMS != 0 && !near(offset, c.run) {
		c.doubt(elapsed, offset)
		if jump := offset - c.run; c.alone() && jump > 0 && jump <= AloneAtStart.Milliseconds() {
			c.take(elapsed, offset)
		}
	}
	quick := labelMS != 0 && c.mode == follow
	c.mu.Unlock()
	if quick {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	c.check(ctx, labelMS == 0)
}

// End is called when the voter does not lead any more.
func (c *Clock) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode, c.said = idle, ""
}

// Now is the wall time of an entry that is made now.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(c.now(c.read()))
}

// read returns the time elapsed and the offset of the wall clock.
func (c *Clock) read() (elapsed, offset int64) {
	elapsed = c.cfg.Elapsed().Milliseconds()
	return elapsed, c.cfg.Wall().UnixMilli() - elapsed
}

// now is Now in milliseconds. It needs mu.
func (c *Clock) now(elapsed, offset int64) int64 {
	switch c.mode {
	case follow:
		if near(offset, c.agreed) {
			c.run = offset
		} else {
			c.doubt(elapsed, offset)
		}
	case ahead:
		slow := c.run - (elapsed-c.slowed)/slowBy
		switch {
		case !near(offset, c.agreed):
			c.run = slow
			c.doubt(elapsed, offset)
		case offset >= slow:
			c.mode, c.run = follow, offset
		default:
			return elapsed + slow
		}
	case idle:
		return elapsed + offset
	}
	return elapsed + c.run
}

func near(a, b int64) bool {
	return max(a, b)-min(a, b) <= Tolerance.Milliseconds()
}

// doubt goes on without the wall clock. It needs mu.
func (c *Clock) doubt(elapsed, offset int64) {
	c.mode, c.doubted, c.doubtedSince = apart, offset, elapsed
}

// take takes the wall clock, which is to be trusted. It needs mu.
func (c *Clock) take(elapsed, offset int64) {
	c.agreed = offset
	run := c.now(elapsed, offset) - elapsed
	switch {
	case offset >= run-Tolerance.Milliseconds():
		c.mode, c.run = follow, offset
	case c.mode != ahead:
		c.mode, c.run, c.slowed = ahead, run, elapsed
	}
}

// alone reports whether there is no other voter to ask.
func (c *Clock) alone() bool {
	voters := c.cfg.Voters()
	return len(voters) == 0 || len(voters) == 1 && voters[0] == c.cfg.Self
}

// Watch asks the other voters as often as it has to, and logs what comes of it,
// until ctx ends. It is to be called between Begin and End.
func (c *Clock) Watch(ctx context.Context) {
	tick := time.NewTimer(pace.Next(doubtEvery))
	defer tick.Stop()
	for {
		c.tell()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tick.Reset(pace.Next(doubtEvery))
		}
		c.mu.Lock()
		elapsed, offset := c.read()
		c.now(elapsed, offset) // sees a jump, also when nothing is labelled
		due := c.mode == apart || elapsed-c.checkedAt >= CheckEvery.Milliseconds()
		c.mu.Unlock()
		if due {
			bounded, cancel := context.WithTimeout(ctx, askTimeout)
			c.check(bounded, false)
			cancel()
		}
	}
}

// check compares the wall clock with those of the other voters. Where there is
// no label yet to go on from, and a majority does not agree with this host, the
// middle of the clocks is where labels begin.
func (c *Clock) check(ctx context.Context, founding bool) {
	if c.alone() {
		c.checkAlone()
		return
	}
	v := c.ask(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed, offset := c.read()
	c.checkedAt = elapsed
	if c.mode == idle {
		return
	}
	switch v.verdict(offset) {
	case agrees:
		c.take(elapsed, offset)
	case differs:
		if founding {
			c.run = v.middle(offset)
			c.agreed = c.run
			c.mode = follow
		} else {
			c.run = c.now(elapsed, offset) - elapsed
		}
		if c.mode != apart {
			c.doubt(elapsed, offset)
		}
	}
}

// checkAlone takes a wall clock that has not moved for long enough.
func (c *Clock) checkAlone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed, offset := c.read()
	c.checkedAt = elapsed
	switch {
	case c.mode == idle:
	case c.mode != apart:
		if c.now(elapsed, offset); c.mode != apart {
			c.take(elapsed, offset)
		}
	case near(offset, c.run): // put right
		c.take(elapsed, offset)
	case !near(offset, c.doubted):
		c.doubt(elapsed, offset)
	case elapsed-c.doubtedSince >= AloneAfter.Milliseconds():
		c.take(elapsed, offset)
	}
}

// Status is what there is to say of a wall clock.
type Status struct {
	// Trusted is false on a leader whose labels do not follow its wall clock.
	Trusted bool
	// Offset is how far the wall clock is ahead of the labels, negative: behind.
	// It is 0 while they follow it.
	Offset time.Duration
	// Problem says in one line what is the matter and what to do; empty: nothing.
	Problem string
}

// Status returns how the labels stand to the wall clock. It does not block.
func (c *Clock) Status() Status {
	alone := c.alone()
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed, offset := c.read()
	off := time.Duration(elapsed+offset-c.now(elapsed, offset)) * time.Millisecond
	switch {
	case c.mode == apart && alone:
		return Status{Offset: off, Problem: fmt.Sprintf("the wall clock of this host has moved: it is %s the times that the cluster gives out, which go on without it, "+
			"until it has stayed for %s; if it is wrong, set it (timedatectl, chronyc makestep)", distance(off), AloneAfter)}
	case c.mode == apart:
		return Status{Offset: off, Problem: fmt.Sprintf("the wall clock of this host is %s the times that the cluster gives out, and a majority of the voters does not agree with it: "+
			"times go on without it; set it by NTP (timedatectl, chronyc makestep), or let another voter lead", distance(off))}
	case c.mode == ahead:
		return Status{Offset: off, Problem: fmt.Sprintf("the wall clock of this host is %s the times that the cluster gave out before: "+
			"they go on a tenth slower until it is there; nothing is to be done", distance(off))}
	}
	return Status{Trusted: true}
}

// distance says how far a wall clock is ahead of something, or behind.
func distance(off time.Duration) string {
	if off < 0 {
		return (-off).Round(time.Second).String() + " behind"
	}
	return off.Round(time.Second).String() + " ahead of"
}

// tell logs a change, once.
func (c *Clock) tell() {
	s := c.Status()
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := fmt.Sprint(c.mode)
	if s.Problem == "" {
		kind = ""
	}
	if c.mode == idle || kind == c.said {
		return
	}
	if c.said = kind; kind == "" {
		c.cfg.Logger.Info("the wall clock of this host counts again", "node", c.cfg.Self)
		return
	}
	c.cfg.Logger.Warn("the wall clock of this host does not count", "node", c.cfg.Self, "ahead_by", s.Offset.Round(time.Millisecond), "problem", s.Problem)
}
