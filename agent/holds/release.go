package holds

import (
	"context"
	"errors"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// sendTimeout bounds one request: whatever it hangs in, another one may get
	// through, and both LockWait and LockUnlock are safe to repeat.
	sendTimeout = 10 * time.Second
	// minPause and maxPause bound the wait before the next one.
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// Reasons of a hold's last event, besides those that the quorum gives.
const (
	// ReasonTimeout: the wait was over, or somebody else has the lock and the
	// caller did not want to queue.
	ReasonTimeout = "timeout"
	// ReasonUnavailable: the wait was over before a quorum answered.
	ReasonUnavailable = "unavailable: no quorum of voters could be reached in time"
	// ReasonNotAcknowledged: the grant was not accepted in time.
	ReasonNotAcknowledged = "not acknowledged: the grant was not accepted in time"
	// ReasonDeadline: no renewal was acknowledged before the deadline.
	ReasonDeadline = "deadline: no renewal was acknowledged in time"
	// ReasonStopping: the agent stops.
	ReasonStopping = "the agent is stopping"
	// ReasonDisconnected: the connection that was the witness is closed.
	ReasonDisconnected = "the connection was closed"
	// ReasonNotTakenUp: after a restart of the agent the holder did not come back.
	ReasonNotTakenUp = "the agent was restarted and the holder did not take its hold up again"
	// ReasonProcessesEnded: every witness process has ended.
	ReasonProcessesEnded = "every process of the holder has ended"

	reasonSessionEnded = "the quorum has ended the session of this agent"
	reasonNotThere     = "the quorum does not have it any more"
)

// ask sends LockWait once the session is open. mu is held.
func (o *hold) ask() {
	ctx, cancel := context.WithCancel(o.s.ctx)
	o.giveUp = cancel
	o.asks++
	n, s, restarted := o.asks, o.s, o.restarted
	o.h.wg.Go(func() { o.asking(ctx, n, s, restarted) })
}

// asking sends LockWait until its outcome is known. An unknown outcome is asked
// again under the same owner: the quorum answers with the place or the grant
// that the owner has.
func (o *hold) asking(ctx context.Context, n int, s *session, restarted bool) {
	select {
	case <-s.openedCh:
	case <-ctx.Done():
		o.outcome(n, nil, replication.ErrUnavailable, true) // nothing was sent
		return
	}
	if err := o.h.remember(o, s); err != nil {
		// Its holder could not be told from nobody after a restart of this agent.
		o.refused(n, refuse(replication.Code_CODE_LIMIT, "no new holds on this host: %v; free space on that disk, or have it repaired", err))
		return
	}
	pause, maybe := minPause, false // maybe: one attempt may have been applied
	for {
		ans, err := o.h.send(ctx, &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
			Durability: o.durability, Name: o.lock, Session: s.id, Owner: []byte(o.id), NoQueue: o.noQueue, Info: o.info}}})
		switch {
		case err != nil:
			maybe = maybe || !certainlyNotApplied(err)
		case ans.GetCode() == replication.Code_CODE_UNKNOWN_OUTCOME:
			maybe, err = true, replication.ErrUnknownOutcome
		case ans.GetCode() == replication.Code_CODE_PROPOSE_AGAIN:
			err = replication.ErrUnavailable
		case ans.GetCode() == replication.Code_CODE_INVALID_OWNER && restarted:
			// The session that it stood in line with is not cleared away yet.
			err = replication.ErrUnavailable
		}
		if maybe && err != nil {
			err = replication.ErrUnknownOutcome
		}
		if o.outcome(n, ans, err, ctx.Err() != nil) {
			return
		}
		if !sleep(ctx, pause) {
			o.outcome(n, nil, err, true)
			return
		}
		pause = min(2*pause, maxPause)
	}
}

func (h *Holds) send(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return h.cfg.Coordinator.Do(ctx, req)
}

// certainlyNotApplied tells the two kinds of errors apart (replication.Coordinator).
func certainlyNotApplied(err error) bool {
	return errors.Is(err, replication.ErrUnavailable) || errors.Is(err, replication.ErrStopped)
}

// outcome takes one outcome of a LockWait, and says whether it was the last.
// stopped says that nobody wants the lock any more.
func (o *hold) outcome(n int, ans *replication.Answer, err error, stopped bool) (done bool) {
	o.h.mu.Lock()
	defer o.h.mu.Unlock()
	if o.asks != n || o.state == gone {
		return true // the place was lost meanwhile, and the hold asks anew
	}
	if err != nil {
		if stopped || errors.Is(err, replication.ErrStopped) {
			o.gaveUp(err)
			return true
		}
		return false
	}
	switch ans.GetCode() {
	case replication.Code_CODE_OK:
		g := ans.GetLockGrant()
		o.learn(g.GetGranted(), g.GetToken(), g.GetPosition(), ans.GetIndex())
	case replication.Code_CODE_SESSION_LOST:
		o.s.lose(reasonSessionEnded)
	case replication.Code_CODE_BUSY:
		o.endStory(false, ReasonTimeout)
		o.gone("")
	default:
		o.endStory(false, ans.Refused().Error())
		o.gone("")
	}
	return true
}

// gaveUp finishes a LockWait that nobody waits for any more. Certainly not
// applied: there is nothing to give back. Otherwise it is given back although it
// may not be there; should the request be applied even later, the next renewal
// finds an owner that nobody here knows (HAZARDS.md 6). mu is held.
func (o *hold) gaveUp(err error) {
	switch {
	case o.known: // an event came before the outcome, and has seen to it
	case certainlyNotApplied(err):
		o.gone(ReasonStopping)
	default:
		o.intent = unlock
		o.release()
	}
}

// release starts giving the hold back, unless that is under way. mu is held.
func (o *hold) release() {
	if o.releasing || o.state == gone || o.h.ctx.Err() != nil {
		return
	}
	o.releasing = true
	o.h.wg.Go(o.releaseLoop)
}

// releaseLoop sends LockUnlock or LockDetach until the quorum has confirmed. It
// ends with the session at the latest, or with the agent. Sending a second
// request after an unknown outcome is safe: the owner is used once.
func (o *hold) releaseLoop() {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		o.h.mu.Lock()
		what := o.intent
		if o.state == gone || what == detach && o.detachedUntil != 0 {
			o.releasing = false
			o.h.mu.Unlock()
			return
		}
		o.h.mu.Unlock()
		req := unlockRequest(o.durability, o.lock, o.id)
		if what == detach {
			req = detachRequest(o.durability, o.lock, o.id)
		}
		ans, err := o.h.send(o.h.ctx, req)
		if err == nil && o.released(what, ans) {
			continue // look again: the intent may have changed meanwhile
		}
		o.h.mu.Lock()
		done := o.state == gone
		o.h.mu.Unlock()
		if done || !sleep(o.h.ctx, pause) {
			return
		}
	}
}

// released takes the answer to LockUnlock or LockDetach, and says whether it is final.
func (o *hold) released(what intent, ans *replication.Answer) bool {
	o.h.mu.Lock()
	defer o.h.mu.Unlock()
	switch ans.GetCode() {
	case replication.Code_CODE_OK:
		if what == detach {
			o.detached()
		} else {
			o.gone("")
		}
	case replication.Code_CODE_NOT_FOUND, replication.Code_CODE_INVALID_OWNER, replication.Code_CODE_SESSION_LOST:
		o.gone(reasonNotThere)
	default:
		o.h.cfg.Logger.Warn("release failed", "lock", o.lock, "owner", o.id, "error", ans.Refused())
		return false
	}
	return true
}

// detached takes note that the lock hangs from the session no more and ends by
// itself, one TTL after it was detached. The deadline stays where it was. mu is held.
func (o *hold) detached() {
	if o.state == gone || o.detachedUntil != 0 {
		return
	}
	now := o.h.cfg.LeaseNow()
	o.uncount()
	delete(o.s.holds, o.id)
	if len(o.s.holds) == 0 {
		o.s.idleSince = now
	}
	o.detachedUntil = o.s.leaseEnd
	// The quorum's end is at most a TTL from now; from then on nothing is there
	// to be given back.
	o.afterTimer = o.after(o.s.ttl, func() { o.gone(ReasonProcessesEnded) })
	if o.runs() {
		o.after(o.stopAt()-now, o.deadlinePassed)
	}
	o.h.maybeDrained()
}

// refused ends a hold that was never asked for.
func (o *hold) refused(n int, err error) {
	o.h.mu.Lock()
	defer o.h.mu.Unlock()
	if o.asks == n && o.state != gone {
		o.h.cfg.Logger.Warn("hold refused", "lock", o.lock, "error", err)
		o.endStory(false, err.Error())
		o.gone("")
	}
}

// witnessesEnded is called when every witness process is gone. mu is held.
func (o *hold) witnessesEnded() {
	if o.restored {
		o.deadOnes = true // what follows depends on what the quorum has
		return
	}
	if o.state == granted && o.told && !o.treeEnds {
		// Others of its tree may live: nobody may have the lock before the lease
		// has run out and their deadline with it.
		o.end(detach, ReasonProcessesEnded)
		return
	}
	o.end(unlock, ReasonProcessesEnded)
}

// treeEnded is called when the one witness is gone that nothing of the tree can
// outlive: the lock is free at once, also one that was detached. mu is held.
func (o *hold) treeEnded() {
	if o.restored {
		o.deadOnes, o.treeEnds = true, true
		return
	}
	o.end(unlock, ReasonProcessesEnded)
}

func unlockRequest(d replication.Durability, name, owner string) *replication.Request {
	return &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
		Durability: d, Name: name, Owner: []byte(owner)}}}
}

func detachRequest(d replication.Durability, name, owner string) *replication.Request {
	return &replication.Request{Op: &replication.Request_LockDetach{LockDetach: &replication.LockDetach{
		Durability: d, Name: name, Owner: []byte(owner)}}}
}
