package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// minPoll and maxPoll bound the pause before the first in line asks again while
	// another holds the lock; it is drawn between half and all of a growing value,
	// so that hosts do not ask together.
	minPoll = 25 * time.Millisecond
	maxPoll = time.Second
	// tryTimeout bounds one look of the first in line.
	tryTimeout = 5 * time.Second
)

// line is everybody on this host who waits for one lock, first come first served.
// It exists as long as somebody waits, and has one goroutine. Guarded by
// sessions.mu.
type line struct {
	key     lockKey
	waiting []*hold
	hurried chan struct{} // capacity 1: ask now
}

// hurry makes the first in line ask now. It never blocks.
func (l *line) hurry() {
	select {
	case l.hurried <- struct{}{}:
	default:
	}
}

// waiters is how many on this host wait for a lock.
func (x *sessions) waiters(key lockKey) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l := x.lines[key]; l != nil {
		return len(l.waiting)
	}
	return 0
}

// wait carries out LockWait. Who is first in line is answered when the cluster has
// decided once; asked again, it is told how things stand.
func (x *sessions) wait(ctx context.Context, op *replication.LockWait) (*replication.Answer, error) {
	key, owner := lockKey{op.GetDurability(), op.GetName()}, string(op.GetOwner())
	x.mu.Lock()
	s := x.byID[string(op.GetSession())]
	if s == nil {
		x.mu.Unlock()
		return nil, refuse(replication.Code_CODE_SESSION_LOST, "")
	}
	h := s.holds[owner]
	if h == nil {
		h = &hold{s: s, key: key, owner: owner, info: op.GetInfo(), noQueue: op.GetNoQueue(), maybe: x.before[owner], decided: make(chan struct{})}
		if l := x.lines[key]; l != nil && len(l.waiting) > 0 && h.noQueue {
			x.mu.Unlock()
			return nil, refuse(replication.Code_CODE_BUSY, "")
		}
		x.stand(h)
	}
	first := x.first(h)
	x.mu.Unlock()
	if first {
		select {
		case <-h.decided:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", replication.ErrUnknownOutcome, context.Cause(ctx))
		case <-x.c.ctx.Done():
			return nil, replication.ErrUnknownOutcome
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if h.refused != nil {
		return nil, h.refused
	}
	if s.holds[owner] != h {
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "it was given up meanwhile")
	}
	sh := x.describeHold(h)
	grant := &replication.LockGrant{Granted: sh.Granted, Token: sh.Token, Position: sh.Position}
	if h.granted {
		grant.RemainingMs = max((h.leased + s.ttl - x.c.cfg.LeaseNow()).Milliseconds(), 0)
	}
	return &replication.Answer{Index: x.index, Result: &replication.Answer_LockGrant{LockGrant: grant}}, nil
}

// stand puts a hold at the end of its line. mu is held.
func (x *sessions) stand(h *hold) {
	x.index++
	h.s.holds[h.owner] = h
	l := x.lines[h.key]
	if l == nil {
		l = &line{key: h.key, hurried: make(chan struct{}, 1)}
		x.lines[h.key] = l
		if x.c.ctx.Err() == nil {
			x.c.wg.Go(func() { x.run(l) })
		}
	}
	l.waiting = append(l.waiting, h)
}

// first reports whether a hold is the first of its line. mu is held.
func (x *sessions) first(h *hold) bool {
	l := x.lines[h.key]
	return l != nil && len(l.waiting) > 0 && l.waiting[0] == h
}

// leave takes a hold out of its line, and tells those behind it. mu is held.
func (x *sessions) leave(h *hold) {
	l := x.lines[h.key]
	if l == nil {
		return
	}
	i := slices.Index(l.waiting, h)
	if i < 0 {
		return
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	x.index++
	for _, behind := range l.waiting[i:] {
		x.tell(behind.s, &replication.Event{Kind: replication.Event_KIND_POSITION, Hold: x.describeHold(behind), Index: x.index})
	}
	l.hurry()
}

// run asks for the first in line until nobody waits any more, or the client is
// closed.
func (x *sessions) run(l *line) {
	pause := minPoll
	var last *hold
	for {
		x.mu.Lock()
		if len(l.waiting) == 0 || x.c.ctx.Err() != nil {
			if x.lines[l.key] == l {
				delete(x.lines, l.key)
			}
			x.mu.Unlock()
			return
		}
		h := l.waiting[0]
		h.attempt = make(chan struct{})
		x.mu.Unlock()
		if h != last {
			pause, last = minPoll, h
		}
		done := x.tryFor(h)
		x.mu.Lock()
		close(h.attempt)
		h.attempt = nil
		here := x.holders[l.key] != nil
		x.mu.Unlock()
		if done {
			continue
		}
		if here {
			pause = maxPoll // it is given back here, and that hurries
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
			pause = min(pause*3/2, maxPoll)
		case <-l.hurried:
			pause = minPoll
		case <-x.c.ctx.Done():
		}
		timer.Stop()
	}
}

// tryFor asks for the lock of the first in line, and says whether that is settled.
func (x *sessions) tryFor(h *hold) (done bool) {
	ctx, cancel := context.WithTimeout(x.c.ctx, tryTimeout)
	defer cancel()
	got, err := x.c.tryLock(ctx, h.key, []byte(h.owner), h.s.lease())
	var refused *replication.RefusedError
	x.mu.Lock()
	h.maybe = h.maybe || got.maybe || err != nil && errors.Is(err, replication.ErrUnknownOutcome)
	switch {
	case h.ending: // who ends it waits for this attempt
		h.locked = h.locked || got.locked
		x.mu.Unlock()
		return true
	case errors.As(err, &refused):
		x.refuse(h, err)
		x.mu.Unlock()
		return true
	case err != nil:
		x.mu.Unlock()
		x.c.cfg.Logger.Debug("a lock was not asked for", "lock", h.key.name, "error", err)
		return false
	case !got.locked:
		x.busy(h)
		x.mu.Unlock()
		return false
	}
	h.locked, h.token, h.leased = true, got.token, got.sent
	unsure := h.maybe // the lease may have begun with an attempt before
	x.mu.Unlock()
	return x.hand(ctx, h, unsure)
}

// hand tells a hold of its lock, once the lease counts from what its session was
// told last at least.
func (x *sessions) hand(ctx context.Context, h *hold, unsure bool) (done bool) {
	for {
		x.mu.Lock()
		if h.ending {
			x.mu.Unlock()
			return true
		}
		if !unsure && h.leased >= h.s.acked {
			x.grant(h)
			x.mu.Unlock()
			return true
		}
		x.mu.Unlock()
		token, sent, err := x.c.extendLock(ctx, h.key, []byte(h.owner), h.s.lease())
		if err != nil {
			// Not to be told of. The next look finds out whether it is still there.
			x.mu.Lock()
			h.maybe = true
			x.mu.Unlock()
			return false
		}
		unsure = false
		x.mu.Lock()
		h.token, h.leased = token, sent
		x.mu.Unlock()
	}
}

// grant makes the first in line the holder. mu is held.
func (x *sessions) grant(h *hold) {
	h.granted, h.locked = true, false
	delete(x.before, h.owner)
	x.holders[h.key] = h
	x.leave(h)
	x.index++
	x.tell(h.s, &replication.Event{Kind: replication.Event_KIND_GRANTED, Hold: x.describeHold(h), Index: x.index})
	h.decide()
}

// busy notes that another has the lock. mu is held.
func (x *sessions) busy(h *hold) {
	h.locked = false
	if h.noQueue {
		x.refuse(h, refuse(replication.Code_CODE_BUSY, ""))
		return
	}
	h.decide()
}

// refuse ends a place in line for good. mu is held.
func (x *sessions) refuse(h *hold, err error) {
	asked := h.isDecided()
	h.refused = err
	if asked {
		x.lose(h, err.Error())
	} else {
		x.drop(h)
	}
	h.decide()
}

func (h *hold) isDecided() bool {
	select {
	case <-h.decided:
		return true
	default:
		return false
	}
}

// decide says that there is a first answer. mu is held.
func (h *hold) decide() {
	if !h.isDecided() {
		close(h.decided)
	}
}

// unlock carries out LockUnlock and LockCancel: it gives up a place in line, or
// gives the lock back, also one that this agent knows nothing of.
func (x *sessions) unlock(ctx context.Context, key lockKey, owner []byte) (*replication.Answer, error) {
	x.mu.Lock()
	h := x.find(key, string(owner))
	if h == nil {
		x.mu.Unlock()
		err := x.c.unlockLock(ctx, key, owner)
		if err == nil {
			x.given(key)
		}
		return &replication.Answer{}, err
	}
	h.ending = true
	x.leave(h)
	attempt := h.attempt
	x.mu.Unlock()
	if attempt != nil {
		select {
		case <-attempt:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", replication.ErrUnknownOutcome, context.Cause(ctx))
		}
	}
	x.mu.Lock()
	there := h.granted || h.locked || h.maybe || h.adopted
	x.mu.Unlock()
	if there {
		err := x.c.unlockLock(ctx, key, owner)
		var refused *replication.RefusedError
		gone := errors.As(err, &refused) && (refused.Code == replication.Code_CODE_NOT_FOUND || refused.Code == replication.Code_CODE_INVALID_OWNER)
		if err != nil && !gone {
			return nil, err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.before, h.owner)
	x.drop(h)
	h.decide()
	return &replication.Answer{Index: x.index}, nil
}

// given has those who wait for a lock ask now.
func (x *sessions) given(key lockKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l := x.lines[key]; l != nil {
		l.hurry()
	}
}

// find looks for a hold by its lock and owner. mu is held.
func (x *sessions) find(key lockKey, owner string) *hold {
	if h := x.holders[key]; h != nil && h.owner == owner {
		return h
	}
	for _, s := range x.byID {
		if h := s.holds[owner]; h != nil && h.key == key {
			return h
		}
	}
	return nil
}
