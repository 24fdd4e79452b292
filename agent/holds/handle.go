package holds

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// errTakenUp is Next's error on a connection that another one has replaced.
var errTakenUp = errors.New("the hold was taken up by another connection")

// handle is one connection's view of a hold: which part of the story it was
// told. It starts anew with each Attach. Guarded by Holds.mu.
type handle struct {
	o        *hold
	closed   bool   // its connection is gone
	position uint32 // last one told
	held     bool   // told of the grant
	renewals uint64 // session.renewals when a deadline was told last
	atRisk   bool   // told so, and not of a renewal since
	hurried  bool   // the grant waits for a renewal that was asked for
	ackTaken bool   // an ack is to be answered
	ended    bool   // told the last event
}

// ID implements localapi.Hold.
func (c *handle) ID() string { return c.o.id }

// Next implements localapi.Hold. Besides ctx's cause and io.EOF its errors are
// replication.ErrStopped, and one that says that another connection took over.
func (c *handle) Next(ctx context.Context) (localapi.HoldEvent, error) {
	h := c.o.h
	for {
		h.mu.Lock()
		e, ready, err := c.step()
		var mine, all chan struct{}
		if !ready && err == nil {
			if c.o.awake == nil {
				c.o.awake = make(chan struct{})
			}
			mine = c.o.awake
			if c.o.state == granted {
				all = c.o.s.changed // nil blocks for ever, which is meant
			}
		}
		h.mu.Unlock()
		if ready || err != nil {
			return e, err
		}
		select {
		case <-mine:
		case <-all:
		case <-ctx.Done():
			return localapi.HoldEvent{}, context.Cause(ctx)
		case <-h.ctx.Done():
			return localapi.HoldEvent{}, replication.ErrStopped
		}
	}
}

// step finds what has to be told next. mu is held.
func (c *handle) step() (e localapi.HoldEvent, ready bool, err error) {
	o := c.o
	switch {
	case o.handle != c:
		return e, false, errTakenUp
	case c.ended:
		return e, false, io.EOF
	case o.story == nil && o.runs() && o.h.glance().lease >= o.stopAt():
		o.deadlinePassed() // the session's own look is late, after a suspend
	}
	switch {
	case o.story != nil:
		c.ended = true
		return *o.story, true, nil
	case o.intent != keep:
		return e, false, nil // until the quorum has confirmed
	case o.state == queued && o.position != c.position:
		c.position = o.position
		e = o.event(localapi.HoldQueued)
		e.Position = o.position
		return e, true, nil
	case o.state != granted:
		return e, false, nil
	case !c.held:
		return c.grant()
	case o.needAck && !o.acked:
		return e, false, nil // the next event answers the ack
	case c.ackTaken || o.s.renewals != c.renewals && !o.s.atRisk:
		c.ackTaken, c.atRisk, c.renewals = false, false, o.s.renewals
		e = o.event(localapi.HoldRenewed)
		o.addDeadline(&e)
		return e, true, nil
	case o.s.atRisk && !c.atRisk:
		c.atRisk = true
		e = o.event(localapi.HoldAtRisk)
		o.addDeadline(&e)
		return e, true, nil
	}
	return e, false, nil
}

// grant tells of the lock, once there is enough lease to run under it: a grant
// is no renewal, and the session's last one may be old. mu is held.
func (c *handle) grant() (e localapi.HoldEvent, ready bool, err error) {
	o := c.o
	s, now := o.s, o.h.cfg.LeaseNow()
	age := now - (s.leaseEnd - s.ttl)
	// An ample TTL has electionTime to spare after an interval.
	fresh := age <= interval(s.ttl)+overdueAfter || s.atRisk && now+electionTime < o.stopAt()
	if !ample(s.ttl, o.grace) {
		fresh = age <= interval(s.ttl)/4
	}
	if c.hurried && s.renewals != c.renewals {
		fresh = now < o.stopAt() // as good as it gets with this TTL and this quorum
	}
	if !fresh {
		if !c.hurried || s.renewals != c.renewals {
			c.hurried, c.renewals = true, s.renewals
			s.hurry()
		}
		return e, false, nil
	}
	c.held, c.renewals, c.atRisk = true, s.renewals, false
	o.told = true
	if at := o.stopAt(); at < s.expireAt {
		s.expireAt = at
		s.kick()
	}
	e = o.event(localapi.HoldHeld)
	e.Reason = shortTTLWarning(s.ttl, o.grace)
	o.addDeadline(&e)
	return e, true, nil
}

// Ack implements localapi.Hold.
func (c *handle) Ack() {
	h, o := c.o.h, c.o
	h.mu.Lock()
	wanted := c.acceptable()
	h.mu.Unlock()
	if !wanted {
		return // too late, or for nothing: the last event says so
	}
	// Before the answer, with which the holder starts to run: the agent's
	// successor must not take it for one that never answered.
	if err := h.rememberAck(o); err != nil {
		h.cfg.Logger.Warn("a grant is given back", "lock", o.lock, "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.acceptable() {
		return
	}
	o.acked, c.ackTaken = true, true
	stopTimer(o.ackTimer)
	o.wake()
}

// acceptable reports whether an ack counts now. mu is held.
func (c *handle) acceptable() bool {
	o := c.o
	return o.handle == c && c.held && o.story == nil && o.intent == keep && o.state == granted
}

// Release implements localapi.Hold. The error is ctx's cause, or
// replication.ErrStopped.
func (c *handle) Release(ctx context.Context) error {
	h := c.o.h
	h.mu.Lock()
	c.o.end(unlock, "")
	h.mu.Unlock()
	select {
	case <-c.o.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-h.ctx.Done():
		return replication.ErrStopped
	}
}

// Disconnect implements localapi.Hold. A connection that was replaced by another
// one ends nothing.
func (c *handle) Disconnect() {
	h := c.o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	o := c.o
	c.closed = true
	switch {
	case o.handle != c:
	case o.orphan:
		o.orphaned() // what it was told last may be a whole lease ahead
	case h.closing && h.table != nil && o.outlives():
		// It is this agent that ends the connection.
	case o.witness == localapi.WitnessConnection:
		o.end(unlock, ReasonDisconnected)
	}
}

func (o *hold) event(t localapi.HoldEventType) localapi.HoldEvent {
	e := localapi.HoldEvent{Type: t, Hold: o.id, Lock: o.lock}
	if o.state == granted {
		token := o.token
		e.Token = &token
	}
	return e
}

// deadline says when the holder must have stopped: as absolute boot time, early
// enough if that clock is slewed from now on, and what is left of it. Boot time
// is read first, so that a pause between the two makes it earlier. mu is held.
func (o *hold) deadline() (boot, left time.Duration) {
	g := o.h.glance()
	left = o.leaseEnd() - tail(o.s.ttl) - g.lease
	return g.boot + left - slew(max(left, 0)), max(left, 0)
}

// glance is one look at both clocks.
type glance struct {
	boot, lease time.Duration
	at          time.Time // with the process's own clock, which costs no call of the kernel
}

// glanceFor is how long a look counts for those that come after it. A renewal wakes
// everybody who holds under a session at once, and each would read four clocks. What
// is told is absolute, so that an older look never makes a deadline later; and what
// is looked for is late by no more than this, of time in which the process runs.
const glanceFor = 5 * time.Millisecond

// glance looks at the clocks, unless somebody just has. mu is held.
func (h *Holds) glance() glance {
	now := time.Now()
	if g := h.glanced; !g.at.IsZero() && now.Sub(g.at) < glanceFor {
		return g
	}
	h.glanced = glance{boot: h.cfg.Boottime(), lease: h.cfg.LeaseNow(), at: now}
	return h.glanced
}

func (o *hold) addDeadline(e *localapi.HoldEvent) {
	boot, left := o.deadline()
	e.DeadlineBoottimeNS, e.SafeMS, e.BootID = boot.Nanoseconds(), left.Milliseconds(), o.h.cfg.BootID
}

// List implements localapi.Holder.
func (h *Holds) List() []localapi.HoldInfo {
	h.mu.Lock()
	out := make([]localapi.HoldInfo, 0, len(h.byID)+len(h.ended))
	for _, o := range h.byID {
		out = append(out, o.describe())
	}
	for _, o := range h.ended {
		out = append(out, o.describe())
	}
	h.mu.Unlock()
	slices.SortFunc(out, func(a, b localapi.HoldInfo) int {
		return cmp.Or(cmp.Compare(a.Lock, b.Lock), cmp.Compare(a.Hold, b.Hold))
	})
	return out
}

// Find implements localapi.Holder.
func (h *Holds) Find(id string) (localapi.HoldInfo, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.byID[id]
	if o == nil {
		o = h.ended[id]
	}
	if o == nil {
		return localapi.HoldInfo{}, false
	}
	return o.describe(), true
}

// Counts sums up what List shows. It does not block.
func (h *Holds) Counts() (n wire.HoldCounts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, all := range []map[string]*hold{h.byID, h.ended} {
		for _, o := range all {
			switch o.shown() {
			case localapi.HoldQueued:
				n.Queued++
			case localapi.HoldAtRisk:
				n.AtRisk++
			default:
				n.Held++
			}
			if c := o.info.GetContain(); c != "" {
				if n.Contain == nil {
					n.Contain = map[string]int{}
				}
				n.Contain[c]++
			}
		}
	}
	return n
}

func (o *hold) describe() localapi.HoldInfo {
	info := localapi.HoldInfo{
		Hold: o.id, Lock: o.lock, Durability: wire.Persistent, State: string(o.shown()), Position: o.position,
		TTLMS: o.s.ttl.Milliseconds(), Witness: o.witness, Connected: !o.handle.closed,
		Holder: wire.Holder{Host: o.info.GetHost(), PID: o.info.GetPid(), UID: o.info.GetUid(),
			Command: o.info.GetCommand(), Reason: o.info.GetReason(), Contain: o.info.GetContain(), Node: o.info.GetNode()},
	}
	if o.durability == replication.Durability_DURABILITY_EPHEMERAL {
		info.Durability = wire.Ephemeral
	}
	if o.state == granted {
		token := o.token
		boot, left := o.deadline()
		info.Token, info.DeadlineBoottimeNS, info.SafeMS = &token, boot.Nanoseconds(), left.Milliseconds()
	}
	return info
}

// shown is the hold's state in one word. mu is held.
func (o *hold) shown() localapi.HoldEventType {
	switch {
	case o.story != nil:
		return o.story.Type
	case o.state != granted:
		return localapi.HoldQueued
	case o.s.atRisk:
		return localapi.HoldAtRisk
	}
	return localapi.HoldHeld
}
