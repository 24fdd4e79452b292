package upstream

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// Reasons of a lost lock.
const (
	reasonTaken = "the Kahuna cluster says that this owner does not have the lock any more: it was broken, or its lease has ended"
	reasonAlone = "the Kahuna cluster did not extend this lock's lease for half its ttl, though it did others'"
)

// clockAllowance is what leases are asked for beyond the TTL that holders are told.
// Kahuna keeps the end of a lease as a wall time, and judges it by the clock of
// whichever server leads: one that is ahead of the one before ends it early.
const clockAllowance = time.Second

// sessions are this host's sessions. Kahuna knows only the locks that hang from
// them, each with its owner and a lease of its own; what a session is, and who
// stands in line, lives here.
//
// Two rules make a renewal safe. A renewal that began at s is acknowledged when
// every lock of the session was extended by an attempt whose first byte was sent
// at s or later. And a grant is told when its lock's lease counts from the
// acknowledged s at least. So the holder's deadline, s + TTL − margin, comes before
// the end of each lease, whichever way these two overlap.
type sessions struct {
	c *Client

	mu      sync.Mutex // guards everything below, and is never held while the cluster is asked
	index   uint64     // of the last change: news is ordered by it (agent/holds/news.go)
	byID    map[string]*session
	lines   map[lockKey]*line
	holders map[lockKey]*hold // granted to this host
	// before are owners that the agent before this one has asked for: their leases
	// may have begun then.
	before map[string]bool
}

// session is one host session. Guarded by sessions.mu but for the first two.
type session struct {
	ttl      time.Duration
	renewing chan struct{} // holds one element: whoever takes it may extend

	id    string
	host  string
	node  string
	holds map[string]*hold // by owner: granted, and in line
	// acked is the s of the newest renewal that was acknowledged.
	acked    time.Duration
	adopted  bool // from the agent before this one, and not renewed yet
	bereft   bool // something was lost since the last renewal was acknowledged
	over     bool
	watchers map[*watcher]bool
}

// hold is one lock of a session, or a place in line. Guarded by sessions.mu.
type hold struct {
	s     *session
	key   lockKey
	owner string
	info  *replication.HolderInfo

	granted bool
	token   int64
	leased  time.Duration // the lease at the cluster ends at this + TTL or later
	adopted bool          // whether it is granted is not known yet
	ending  bool          // is given back: neither extended nor asked for any more

	// Of a place in line.
	noQueue bool
	maybe   bool          // an attempt may have taken the lock: its lease began who knows when
	locked  bool          // the cluster has said Locked, and it was not told yet
	attempt chan struct{} // closed when the attempt under way has ended; nil: none
	decided chan struct{} // closed when the first answer is there
	refused error         // that it was refused for good
}

func newSessions(c *Client) *sessions {
	return &sessions{c: c, byID: map[string]*session{}, lines: map[lockKey]*line{}, holders: map[lockKey]*hold{}, before: map[string]bool{}}
}

// close ends every line; sessions are left to their leases.
func (x *sessions) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.c.cancel() // under mu: lines look at it before they start
}

func (x *sessions) add(id []byte, ttl time.Duration) *session {
	s := &session{id: string(id), ttl: ttl, renewing: make(chan struct{}, 1), holds: map[string]*hold{}, watchers: map[*watcher]bool{}}
	s.renewing <- struct{}{}
	x.byID[s.id] = s
	return s
}

// open carries out SessionOpen: opening one twice is opening it once.
func (x *sessions) open(op *replication.SessionOpen) (*replication.Answer, error) {
	ttl := time.Duration(op.GetTtlMs()) * time.Millisecond
	if _, err := milliseconds(op.GetTtlMs()); err != nil || len(op.GetId()) != replication.SessionIDBytes {
		return nil, cmp.Or(err, refuse(replication.Code_CODE_INVALID, "a session's id has %d bytes", replication.SessionIDBytes))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.byID[string(op.GetId())]
	if s == nil {
		s = x.add(op.GetId(), ttl)
		s.host, s.node = op.GetHost(), op.GetNode()
		// Nothing hangs from it, so there is nothing to extend.
		s.acked = x.c.cfg.LeaseNow()
	}
	x.index++
	return x.answer(s, 0, false), nil
}

// adopt makes a session of the agent before this one known. What it held and what
// it waited for, the cluster has to say.
func (x *sessions) adopt(id []byte, ttl time.Duration, holds []*replication.SessionHold) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.add(id, ttl)
	s.adopted, s.acked = true, x.c.cfg.LeaseNow()
	for _, sh := range holds {
		h := &hold{s: s, key: lockKey{sh.GetDurability(), sh.GetName()}, owner: string(sh.GetOwner()), adopted: true, maybe: true,
			decided: make(chan struct{}), info: &replication.HolderInfo{}}
		s.holds[h.owner] = h
		x.before[h.owner] = true
	}
}

// renew carries out SessionRenew. Renewals of one session follow each other: a
// later one finds most of its work done.
func (x *sessions) renew(ctx context.Context, op *replication.SessionRenew) (*replication.Answer, error) {
	began := x.c.cfg.LeaseNow()
	x.mu.Lock()
	s := x.byID[string(op.GetId())]
	x.mu.Unlock()
	if s == nil {
		return nil, refuse(replication.Code_CODE_SESSION_LOST, "")
	}
	select {
	case <-s.renewing:
		defer func() { s.renewing <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w (%w)", replication.ErrUnavailable, context.Cause(ctx))
	}
	var avoid *endpoint
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		x.mu.Lock()
		due := s.due(began)
		bereft := s.bereft
		x.mu.Unlock()
		if len(due) == 0 && bereft {
			x.settle(ctx, s)
		}
		x.mu.Lock()
		if due = s.due(began); len(due) == 0 || s.over {
			defer x.mu.Unlock()
			return x.renewed(s, began, op)
		}
		x.mu.Unlock()
		asked, last := x.c.extendAll(ctx, avoid, s.lease(), due, x.extended)
		avoid = asked
		x.mu.Lock()
		x.sacrifice(s, began)
		left := len(s.due(began))
		x.mu.Unlock()
		if left > 0 && !sleep(ctx, pause) {
			return nil, fmt.Errorf("%w (%w; %d of %d locks were extended; last: %v)", replication.ErrUnavailable, context.Cause(ctx), len(due)-left, len(due), last)
		}
	}
}

// lease is how long a lease of this session is at the cluster.
func (s *session) lease() time.Duration { return s.ttl + clockAllowance }

// due are the holds whose leases do not count from began yet. mu is held.
func (s *session) due(began time.Duration) []*hold {
	var out []*hold
	for _, h := range s.holds {
		if !h.ending && (h.adopted || h.granted && h.leased < began) {
			out = append(out, h)
		}
	}
	return out
}

// renewed acknowledges a renewal that began then. mu is held.
func (x *sessions) renewed(s *session, began time.Duration, op *replication.SessionRenew) (*replication.Answer, error) {
	if s.over {
		return nil, refuse(replication.Code_CODE_SESSION_LOST, "")
	}
	s.acked = max(s.acked, began)
	x.index++
	// What was lost is told before the deadline of the session moves, and by the same
	// answer to those who have not been told: their own must not move with it.
	differs := s.bereft || op.GetCheckHolds() && s.adopted
	s.adopted, s.bereft = false, false
	if op.GetCheckHolds() && !differs {
		count, hash := uint32(0), uint64(0)
		for owner := range s.holds {
			count++
			hash ^= replication.HoldHash([]byte(owner))
		}
		differs = count != op.GetHoldCount() || hash != op.GetHoldHash()
	}
	return x.answer(s, op.GetAttempt(), differs), nil
}

// answer describes a session. mu is held.
func (x *sessions) answer(s *session, attempt uint64, listed bool) *replication.Answer {
	left := s.acked + s.ttl - x.c.cfg.LeaseNow()
	out := &replication.Session{Id: []byte(s.id), Host: s.host, Node: s.node, TtlMs: s.ttl.Milliseconds(),
		RemainingMs: max(left.Milliseconds(), 0), Attempt: attempt, HoldsListed: listed}
	if listed {
		out.Holds = x.list(s)
	}
	return &replication.Answer{Index: x.index, Result: &replication.Answer_Session{Session: out}}
}

// list is everything that a session has. mu is held.
func (x *sessions) list(s *session) []*replication.SessionHold {
	out := make([]*replication.SessionHold, 0, len(s.holds))
	for _, h := range s.holds {
		out = append(out, x.describeHold(h))
	}
	slices.SortFunc(out, func(a, b *replication.SessionHold) int { return bytes.Compare(a.GetOwner(), b.GetOwner()) })
	return out
}

func (x *sessions) describeHold(h *hold) *replication.SessionHold {
	out := &replication.SessionHold{Owner: []byte(h.owner), Name: h.key.name, Durability: h.key.durability, Granted: h.granted, Token: h.token}
	if l := x.lines[h.key]; l != nil && !h.granted {
		out.Position = uint32(slices.Index(l.waiting, h) + 1)
	}
	return out
}

// extended takes the cluster's word on one lock. mu is not held.
func (x *sessions) extended(h *hold, v verdict) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h.s.holds[h.owner] != h {
		return // given back or detached meanwhile
	}
	switch {
	case v.extended:
		h.leased = max(h.leased, v.sent)
		if h.adopted {
			h.adopted, h.granted, h.token = false, true, v.token
			delete(x.before, h.owner)
			x.holders[h.key] = h
			x.index++
		}
	case h.adopted:
		// It stood in line, or has lost its lock: the first list says that there is
		// nothing. Whoever still wants it asks again.
		x.drop(h)
	default:
		x.lose(h, reasonTaken)
	}
}

// sacrifice gives up the locks that could not be extended for half a TTL, nor for an
// eighth since others of their session were: their partition is without a leader,
// and the holders of the others need not be stopped for it. Their leases go on
// until they end by themselves. mu is held.
func (x *sessions) sacrifice(s *session, began time.Duration) {
	now := x.c.cfg.LeaseNow()
	if now-s.acked <= s.ttl/2 {
		return
	}
	first := now // when the first of the others was extended
	for _, h := range s.holds {
		if h.granted && !h.ending && h.leased >= began {
			first = min(first, h.leased)
		}
	}
	if now-first <= s.ttl/8 {
		return
	}
	for _, h := range s.due(began) {
		x.c.cfg.Logger.Warn("a lock is given up for the others of its session", "lock", h.key.name, "owner", h.owner, "ttl", s.ttl)
		x.lose(h, reasonAlone)
	}
}

// lose tells that a lock or a place in line is gone. mu is held.
func (x *sessions) lose(h *hold, reason string) {
	sh := x.describeHold(h)
	h.s.bereft = true
	x.drop(h)
	x.tell(h.s, &replication.Event{Kind: replication.Event_KIND_LOST, Hold: sh, Reason: reason, Index: x.index})
}

// drop forgets a hold, and has the next in line ask. mu is held.
func (x *sessions) drop(h *hold) {
	x.index++
	delete(h.s.holds, h.owner)
	if x.holders[h.key] == h {
		delete(x.holders, h.key)
	}
	x.leave(h)
	if l := x.lines[h.key]; l != nil {
		l.hurry()
	}
}

// detach carries out LockDetach: the lock is not extended any more, and its lease,
// which outlasts every deadline that its holder was told, ends by itself.
func (x *sessions) detach(op *replication.LockDetach) (*replication.Answer, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	h := x.holders[lockKey{op.GetDurability(), op.GetName()}]
	if h == nil || h.owner != string(op.GetOwner()) {
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "")
	}
	x.drop(h)
	return &replication.Answer{Index: x.index}, nil
}

// end carries out SessionClose: its locks are given back.
func (x *sessions) end(ctx context.Context, op *replication.SessionClose) (*replication.Answer, error) {
	x.mu.Lock()
	s := x.byID[string(op.GetId())]
	if s == nil {
		x.mu.Unlock()
		return nil, refuse(replication.Code_CODE_SESSION_LOST, "")
	}
	delete(x.byID, s.id)
	s.over = true
	left := slices.Collect(maps.Values(s.holds))
	x.mu.Unlock()
	for _, h := range left {
		if _, err := x.unlock(ctx, h.key, []byte(h.owner)); err != nil {
			x.c.cfg.Logger.Debug("a lock is left to its lease", "lock", h.key.name, "owner", h.owner, "error", err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.index++
	x.tell(s, &replication.Event{Kind: replication.Event_KIND_SESSION_ENDED, Index: x.index})
	return &replication.Answer{Index: x.index}, nil
}

// get carries out SessionGet.
func (x *sessions) get(op *replication.SessionGet) (*replication.Answer, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.byID[string(op.GetId())]
	if s == nil {
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "this agent is in upstream mode, and knows the sessions of its own host only")
	}
	return x.answer(s, 0, true), nil
}

// broken tells a holder on this host that its lock was broken: the others find out
// with their next renewal.
func (x *sessions) broken(key lockKey, owner, reason string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h := x.holders[key]; h != nil && h.owner == owner {
		if reason == "" {
			reason = "by an administrator"
		}
		x.lose(h, "broken: "+reason)
	} else if l := x.lines[key]; l != nil {
		l.hurry()
	}
}

// describe adds what this host knows of a lock.
func (x *sessions) describe(key lockKey, l *replication.Lock, limit int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h := x.holders[key]; h != nil && h.owner == string(l.GetOwner()) {
		l.Info, l.Session = h.info, []byte(h.s.id)
	}
	line := x.lines[key]
	if line == nil {
		return
	}
	l.QueueLength = uint32(len(line.waiting))
	for _, h := range line.waiting[:min(len(line.waiting), limit)] {
		l.Queue = append(l.Queue, &replication.Waiter{Owner: []byte(h.owner), Session: []byte(h.s.id), Info: h.info})
	}
}
