package holds

import (
	"context"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// state is what the quorum is known to have of a hold. It only moves forward.
type state uint8

const (
	asked   state = iota // LockWait is in flight
	queued               // stands in line
	granted              // has the lock
	gone                 // the quorum has nothing of it, or never had
)

// intent is what this agent wants of a hold.
type intent uint8

const (
	keep   intent = iota
	detach        // let it end by its lease: see release.go
	unlock        // give it back
)

// hold is one lock for one local process. Three things are kept apart: what the
// quorum has (state), what this agent wants (intent), and what the process was
// told (story). Guarded by Holds.mu.
type hold struct {
	h          *Holds
	s          *session // changes when the session was lost while in line
	id         string
	lock       string
	durability replication.Durability
	witness    localapi.Witness
	grace      time.Duration
	treeEnds   bool
	lastEnds   bool // the end of the last pidfd is the tree's, see localapi.HoldRequest
	pidfds     int  // how many were passed
	needAck    bool
	noQueue    bool
	info       *replication.HolderInfo

	state     state
	known     bool   // counted in the session's count and hash
	knownAt   uint64 // lowest index at which the quorum is known to have known it
	position  uint32
	token     int64
	intent    intent
	reason    string // of the intent
	releasing bool   // a release goroutine runs
	acked     bool
	asks      int           // how often it was asked for; outcomes of older ones are ignored
	restarted bool          // its place was lost, and it is asked for anew
	told      bool          // somebody was shown the grant, and may be running under it
	resume    bool          // its client takes it up again after a restart of the agent
	recorded  *session      // under which the table has it; nil: not at all
	processes []process     // of its pidfds
	group     groupID       // of the control group that its processes are in
	waitUntil time.Duration // boot time at which the place in line is given up; 0: never
	// Of a hold that the agent before this one kept, see resume.go.
	restored   bool   // the quorum has not said yet whether it has it
	orphan     bool   // nobody proves that its holder lives; it has a lease to come back
	bootID     string // under which its processes were started
	deadOnes   bool   // all of its witnesses had ended
	orphanTime *time.Timer
	// detachedUntil is the lease time at which a detached hold ends; 0: not detached.
	detachedUntil time.Duration

	story  *localapi.HoldEvent // last event: lost or released; nil while it goes on
	handle *handle             // the connection attached last, never nil
	awake  chan struct{}       // closed by wake; nil when nobody listens
	over   chan struct{}       // closed when gone

	giveUp     context.CancelFunc // ends the LockWait in flight
	waitTimer  *time.Timer        // until the place in line is given up
	ackTimer   *time.Timer        // until an unacknowledged grant is given back
	afterTimer *time.Timer        // after a deadline or a detach; see there
	witnesses  *witnesses
}

func newHold(h *Holds, id string, req localapi.HoldRequest) *hold {
	return &hold{
		h: h, id: id, lock: req.Lock, durability: req.Durability, witness: req.Witness, grace: req.Grace,
		treeEnds: req.TreeEnds, lastEnds: req.LastEndsTree, pidfds: len(req.Pidfds), needAck: req.NeedAck, noQueue: req.Wait == 0, info: req.Info,
		resume: req.Resume, bootID: h.cfg.BootID, over: make(chan struct{}),
	}
}

// margin is of the session that the hold is in: a hold may live under a shorter
// TTL than it asked for.
func (o *hold) margin() time.Duration { return margin(o.s.ttl, o.grace) }

// leaseEnd is the lease time at which the quorum may give the lock to another.
func (o *hold) leaseEnd() time.Duration {
	if o.detachedUntil != 0 {
		return o.detachedUntil
	}
	return o.s.leaseEnd
}

// stopAt is the lease time at which the holder is told to stop, one grace before
// it must have stopped.
func (o *hold) stopAt() time.Duration { return o.leaseEnd() - o.margin() }

// runs reports whether a process may be running under this hold, as far as this
// agent has told. mu is held.
func (o *hold) runs() bool {
	return o.state == granted && o.told && o.story == nil && o.intent != unlock
}

// after runs f under mu when d has passed, unless the timer was stopped.
func (o *hold) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() {
		o.h.mu.Lock()
		defer o.h.mu.Unlock()
		if o.state != gone {
			f()
		}
	})
}

// limitWait bounds the time in line. Somebody who does not want to queue still
// waits for a quorum for a while. mu is held.
func (o *hold) limitWait(wait time.Duration) {
	if wait < 0 {
		return
	}
	if wait == 0 {
		wait = o.h.cfg.AskTimeout
	}
	o.waitUntil = o.h.cfg.Boottime() + wait
	o.startWaiting(wait)
}

// startWaiting gives the place in line up after wait. mu is held.
func (o *hold) startWaiting(wait time.Duration) {
	o.waitTimer = o.after(wait, func() {
		if o.state >= granted {
			return
		}
		reason := ReasonTimeout
		if o.state == asked {
			reason = ReasonUnavailable
		}
		// Nobody was told of a grant, and from here on nobody will be: the
		// story can end before the quorum confirms.
		o.endStory(false, reason)
		o.end(unlock, reason)
	})
}

// learn takes what the quorum has as of index. mu is held.
func (o *hold) learn(isGranted bool, token int64, position uint32, index uint64) {
	if o.state == gone || o.detachedUntil != 0 {
		return
	}
	if !o.known {
		o.known, o.knownAt = true, index
		o.s.count++
		o.s.hash ^= replication.HoldHash([]byte(o.id))
	}
	o.knownAt = min(o.knownAt, index)
	if o.state == asked {
		o.state = queued
	}
	if o.state == queued && !isGranted && position != o.position {
		o.position = position
		o.wake()
	}
	if o.state == queued && isGranted {
		o.state, o.token, o.position = granted, token, 0
		stopTimer(o.waitTimer)
		if o.intent == keep && o.needAck && !o.acked {
			o.ackTimer = o.after(o.h.cfg.AckTimeout, func() {
				if !o.acked {
					// Lost, not released: the waiter may stand in line anew.
					o.endStory(true, ReasonNotAcknowledged)
					o.end(unlock, ReasonNotAcknowledged)
				}
			})
		}
		o.wake()
	}
	if o.intent != keep {
		o.release()
	}
}

// end changes the intent, towards unlock only, and sees to it. mu is held.
func (o *hold) end(to intent, reason string) {
	if o.state == gone || o.intent >= to {
		return
	}
	o.intent, o.reason = to, reason
	stopTimer(o.waitTimer)
	stopTimer(o.ackTimer)
	o.wake()
	if o.state == asked && o.giveUp != nil {
		// Two requests in flight may be applied in either order: the release
		// waits until the outcome of the LockWait is there (see asking).
		o.giveUp()
		return
	}
	o.release()
}

// gone takes note that the quorum has nothing of the hold any more. mu is held.
func (o *hold) gone(reason string) {
	if o.state == gone {
		return
	}
	o.uncount()
	delete(o.s.holds, o.id)
	delete(o.h.byID, o.id)
	o.h.discharge(o)
	if len(o.s.holds) == 0 {
		o.s.idleSince = o.h.cfg.LeaseNow()
	}
	switch {
	case o.story != nil:
	case o.intent == unlock:
		o.endStory(false, o.reason)
	default:
		o.endStory(true, reason) // the lock, or the place in line
	}
	o.state = gone
	for _, t := range []*time.Timer{o.waitTimer, o.ackTimer, o.afterTimer, o.orphanTime} {
		stopTimer(t)
	}
	if o.giveUp != nil {
		o.giveUp()
	}
	o.h.unwatch(o)
	o.h.forget(o)
	close(o.over)
	o.wake()
	o.h.maybeDrained()
}

// uncount takes the hold out of what renewals claim to know. mu is held.
func (o *hold) uncount() {
	if o.known {
		o.known = false
		o.s.count--
		o.s.hash ^= replication.HoldHash([]byte(o.id))
	}
}

// startOver forgets a place in line that was lost, with its session or alone. mu is held.
func (o *hold) startOver() {
	o.uncount()
	if o.giveUp != nil {
		o.giveUp()
	}
	stopTimer(o.ackTimer)
	o.state, o.position, o.restarted = asked, 0, true
}

// deadlinePassed tells the holder to stop, since the quorum could not be
// reached in time. The lock may still be kept by the quorum, and is not given
// back before the holder is gone: a process hold by its witnesses, the other
// when it disconnects, or after the margin in which it promised to stop. mu is held.
func (o *hold) deadlinePassed() {
	if o.story != nil {
		return
	}
	o.h.metrics.lost.Inc()
	o.endStory(true, ReasonDeadline)
	stopTimer(o.ackTimer)
	if o.witnesses != nil && o.witnesses.group != nil {
		_, left := o.deadline()
		o.after(left, o.endGroup)
	}
	if o.witness == localapi.WitnessConnection {
		o.afterTimer = o.after(o.margin(), func() { o.end(unlock, ReasonDeadline) })
	}
}

// agentStops ends what does not outlive the agent. mu is held.
func (o *hold) agentStops() {
	switch {
	case o.h.table != nil && o.outlives():
		// The next agent takes it up; its connection breaks, and that says it.
	case o.state != granted:
		o.endStory(false, ReasonStopping)
		o.end(unlock, ReasonStopping)
	case o.witness == localapi.WitnessConnection:
		// Released once it has disconnected: told is not stopped.
		o.endStory(true, ReasonStopping)
		if o.handle.closed || !o.told {
			o.end(unlock, ReasonStopping)
		}
	}
}

// endStory sets the last event. The first one stays. mu is held.
func (o *hold) endStory(lost bool, reason string) {
	if o.story != nil {
		return
	}
	e := localapi.HoldEvent{Type: localapi.HoldReleased, Hold: o.id, Lock: o.lock, Reason: reason}
	if lost {
		e.Type = localapi.HoldLost
	}
	if o.state == granted && o.told {
		token := o.token
		e.Token = &token
	}
	o.story = &e
	o.wake()
}

// wake makes Next look again. mu is held.
func (o *hold) wake() {
	if o.awake != nil {
		close(o.awake)
		o.awake = nil
	}
}

func stopTimer(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}
