package statemachine

import (
	"bytes"

	"github.com/kahu-sh/kahu/replication"
)

// settle is the rule for the end of a lock's lease: a lock whose holder has
// ended is free, and goes to the next in line at once. Everybody who touches a
// lock settles it first, so that it makes no difference whether a sweep has
// passed. Without waiters a lease of its own leaves the lock lapsed (rule L15).
func (m *Machine) settle(l *lock) {
	switch {
	case l.stage != lockHeld:
	case l.hangs:
		s := m.sessions.byID[l.session]
		if s != nil && s.stage == sessionLive {
			return
		}
		if (s == nil || !s.closed) && m.live(l.end) {
			m.unhang(l) // extended by hand beyond its session's end
			return
		}
		m.vacate(l)
	case m.live(l.end):
		return
	default:
		l.stage, l.idle, l.dirty = lockLapsed, m.leaseClock, true
		m.locksHeld--
	}
	if l.stage != lockHeld && l.queued > 0 {
		m.grantNext(l)
	}
}

// holderEnd is when the holder's lease ends.
func (m *Machine) holderEnd(l *lock) int64 {
	if l.hangs {
		if s := m.sessions.byID[l.session]; s != nil {
			return max(l.end, s.end)
		}
	}
	return l.end
}

// vacate takes the lock from whoever holds it.
func (m *Machine) vacate(l *lock) {
	if l.hangs {
		m.dropHold(l.session, l, l.owner)
	}
	if l.stage == lockHeld {
		m.locksHeld--
	}
	l.stage, l.hangs, l.owner, l.info = lockFree, false, nil, nil
	l.end, l.since, l.idle, l.dirty = 0, 0, m.leaseClock, true
}

// unhang takes the lock out of its session; it keeps its own end.
func (m *Machine) unhang(l *lock) {
	m.dropHold(l.session, l, l.owner)
	l.hangs, l.dirty = false, true
}

// addHold and dropHold keep the rows by which a session knows what it has.
func (m *Machine) addHold(s *session, l *lock, owner []byte) {
	s.holds++
	s.holdHash ^= replication.HoldHash(owner)
	m.touch(s)
	m.put(holdKey(s.id, l.durability, l.name, owner), []byte{rowFormat})
}

func (m *Machine) dropHold(id sessionID, l *lock, owner []byte) {
	if s := m.sessions.byID[id]; s != nil {
		s.holds--
		s.holdHash ^= replication.HoldHash(owner)
		m.touch(s)
	}
	m.del(holdKey(id, l.durability, l.name, owner))
}

// hold is who a lock is granted to.
type hold struct {
	owner   []byte
	session *session // nil: a lease of its own
	end     int64    // of that
	info    []byte
}

// grant gives a lock that nobody holds, with the next token: one above its own
// last one and above the floor of a restore.
func (m *Machine) grant(l *lock, h hold) {
	l.stage, l.owner, l.info = lockHeld, h.owner, h.info
	l.token = max(l.token, m.tokenFloor) + 1
	l.since, l.end, l.idle, l.dirty = m.label.ms, h.end, 0, true
	l.hangs = h.session != nil
	if h.session != nil {
		l.session = h.session.id
	}
	m.locksHeld++
}

// granted answers with a grant.
func (m *Machine) granted(c *command, l *lock) {
	c.answer.Result = &replication.Answer_LockGrant{LockGrant: &replication.LockGrant{
		Granted: true, Token: l.token, RemainingMs: m.remainingMS(m.holderEnd(l)),
	}}
}

// ownerHolds reports whether owner holds a settled lock.
func (l *lock) ownerHolds(owner []byte) bool {
	return l.stage == lockHeld && bytes.Equal(l.owner, owner)
}

const (
	textFree  = "nobody holds the lock"
	textOwner = "another owner holds the lock"
)

func (m *Machine) lockTry(c *command, op *replication.LockTry) {
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problemOfOwner(op.GetOwner()),
		problemOfTTL(op.GetTtlMs()), problemOfInfo(op.GetInfo())); p != "" {
		c.invalid(p)
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	switch {
	case l.ownerHolds(op.Owner):
		m.granted(c, &l)
	case l.stage == lockHeld:
		c.refuse(replication.Code_CODE_BUSY, textOwner)
	case l.queued > 0:
		c.refuse(replication.Code_CODE_BUSY, "others are waiting for the lock")
	default:
		m.grant(&l, hold{owner: op.Owner, end: m.after(op.TtlMs), info: encodeInfo(op.Info)})
		m.granted(c, &l)
	}
	m.saveLock(&l)
}

func (m *Machine) lockExtend(c *command, op *replication.LockExtend) {
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problemOfOwner(op.GetOwner()),
		problemOfTTL(op.GetTtlMs())); p != "" {
		c.invalid(p)
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	switch {
	case l.stage != lockHeld:
		c.refuse(replication.Code_CODE_NOT_FOUND, textFree)
	case !bytes.Equal(l.owner, op.Owner):
		c.refuse(replication.Code_CODE_INVALID_OWNER, textOwner)
	default:
		// A holder that asks for more never ends up with less.
		if end := m.after(op.TtlMs); end > m.holderEnd(&l) {
			l.end, l.dirty = end, true
		}
		m.granted(c, &l)
	}
	m.saveLock(&l)
}

func (m *Machine) lockUnlock(c *command, op *replication.LockUnlock) {
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problemOfOwner(op.GetOwner())); p != "" {
		c.invalid(p)
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	switch {
	case l.stage != lockFree && bytes.Equal(l.owner, op.Owner):
		m.tellLost(c, &l, "unlocked")
		m.vacate(&l)
		m.grantNext(&l)
	case m.giveUp(&l, op.Owner):
	case l.stage == lockFree:
		c.refuse(replication.Code_CODE_NOT_FOUND, textFree)
	default:
		c.refuse(replication.Code_CODE_INVALID_OWNER, textOwner)
	}
	m.saveLock(&l)
}

func (m *Machine) lockBreak(c *command, op *replication.LockBreak) {
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problemOfText("the reason", op.GetReason())); p != "" {
		c.invalid(p)
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	if l.stage != lockHeld {
		c.refuse(replication.Code_CODE_NOT_FOUND, textFree)
	} else {
		c.answer.Result = &replication.Answer_Lock{Lock: l.describe(m.remainingMS(m.holderEnd(&l)))}
		m.tellLost(nil, &l, "broken: "+op.Reason)
		m.vacate(&l)
		m.grantNext(&l)
	}
	m.saveLock(&l)
}

func (m *Machine) lockDetach(c *command, op *replication.LockDetach) {
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problemOfOwner(op.GetOwner())); p != "" {
		c.invalid(p)
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	switch {
	case l.stage != lockHeld:
		c.refuse(replication.Code_CODE_NOT_FOUND, textFree)
	case !bytes.Equal(l.owner, op.Owner):
		c.refuse(replication.Code_CODE_INVALID_OWNER, textOwner)
	default:
		if s := m.sessions.byID[l.session]; l.hangs && s != nil {
			// L + TTL is never before the session's end, which is what the holder
			// was promised.
			l.end = max(l.end, m.after(s.ttlMS))
			m.unhang(&l)
		}
		m.granted(c, &l)
	}
	m.saveLock(&l)
}

// tellLost tells a hold that it is lost; not when its own session asked for it.
func (m *Machine) tellLost(c *command, l *lock, reason string) {
	if l.stage != lockHeld || !l.hangs || c != nil && string(c.req.Session) == string(l.session[:]) {
		return
	}
	m.emit(l.session, &replication.Event{
		Kind: replication.Event_KIND_LOST, Reason: reason,
		Hold: &replication.SessionHold{Owner: bytes.Clone(l.owner), Name: string([]byte(l.name)),
			Durability: l.durability, Granted: true, Token: l.token},
	})
}
