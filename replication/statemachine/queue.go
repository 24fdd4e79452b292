package statemachine

import (
	"bytes"
	"encoding/binary"

	"github.com/kahu-sh/kahu/replication"
)

func (m *Machine) lockWait(c *command, op *replication.LockWait) {
	id, problem := parseID(op.GetSession())
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problem, problemOfHold(op.GetOwner()),
		problemOfInfo(op.GetInfo())); p != "" {
		c.invalid(p)
		return
	}
	s := m.liveSession(id)
	if s == nil {
		c.refuse(replication.Code_CODE_SESSION_LOST, "the session is unknown or has ended")
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	m.stand(c, &l, s, op)
	m.saveLock(&l)
}

// stand grants a settled lock to a session's hold, or puts it in line. An owner
// that stands or holds already keeps what it has, so that asking again is safe.
func (m *Machine) stand(c *command, l *lock, s *session, op *replication.LockWait) {
	if l.ownerHolds(op.Owner) {
		if !l.hangs || l.session != s.id {
			// Its lease is not the one that this session renews.
			c.refuse(replication.Code_CODE_INVALID_OWNER, "this owner holds the lock, but not by this session")
			return
		}
		m.granted(c, l)
		return
	}
	if place, of, ok := loadPlace(m.store, l.durability, l.name, op.Owner); ok {
		if of != s.id {
			c.refuse(replication.Code_CODE_INVALID_OWNER, "this owner waits for the lock, but not by this session")
			return
		}
		m.inLine(c, positionOf(m.store, l, place))
		return
	}
	switch {
	case s.holds >= MaxSessionHolds:
		c.refuse(replication.Code_CODE_LIMIT, "the session has %d holds and queue places", s.holds)
	case l.stage != lockHeld && l.queued == 0:
		m.grant(l, hold{owner: op.Owner, session: s, info: encodeInfo(op.Info)})
		m.addHold(s, l, op.Owner)
		m.granted(c, l)
	case op.NoQueue:
		c.refuse(replication.Code_CODE_BUSY, textOwner)
	case l.queued >= MaxQueue:
		c.refuse(replication.Code_CODE_LIMIT, "%d are waiting for the lock", l.queued)
	default:
		m.joinQueue(l, s, op)
		m.inLine(c, l.queued)
	}
}

func (m *Machine) inLine(c *command, position uint32) {
	c.answer.Result = &replication.Answer_LockGrant{LockGrant: &replication.LockGrant{Position: position}}
}

func (m *Machine) joinQueue(l *lock, s *session, op *replication.LockWait) {
	w := waiter{place: l.next, owner: op.Owner, session: s.id, info: encodeInfo(op.Info)}
	if l.queued == 0 {
		l.head = l.next
	}
	l.next++
	l.queued++
	l.dirty = true
	m.waiters++
	m.put(queueKey(l.durability, l.name, w.place), w.append(make([]byte, 0, 64+len(w.info))))
	at := binary.AppendUvarint(append(make([]byte, 0, 32), rowFormat), w.place)
	m.put(placeKey(l.durability, l.name, w.owner), append(at, s.id[:]...))
	m.addHold(s, l, w.owner)
}

// leaveQueue removes one place. The rows of the hold go too: who is granted the
// lock gets them anew.
func (m *Machine) leaveQueue(l *lock, place uint64, owner []byte, id sessionID) {
	m.del(queueKey(l.durability, l.name, place))
	m.del(placeKey(l.durability, l.name, owner))
	m.dropHold(id, l, owner)
	l.queued--
	l.dirty = true
	m.waiters--
	if place == l.head {
		l.head++
	}
}

// grantNext gives a lock that nobody holds to the first waiter whose session
// lives, and drops those before it.
func (m *Machine) grantNext(l *lock) {
	for dead := 0; l.queued > 0 && dead < deadWaitersPerGrant; {
		ws := readQueue(m.store, l, 1+PositionsTold)
		if len(ws) == 0 {
			panic(damaged(lockKey(l.durability, l.name), "the queue of a lock"))
		}
		for _, w := range ws {
			l.head = w.place
			m.leaveQueueFor(l, w)
			s := m.liveSession(w.session)
			if s == nil {
				dead++
				continue
			}
			m.grant(l, hold{owner: w.owner, session: s, info: w.info})
			m.addHold(s, l, w.owner)
			m.emit(s.id, &replication.Event{
				Kind: replication.Event_KIND_GRANTED,
				Hold: &replication.SessionHold{Owner: bytes.Clone(w.owner), Name: string([]byte(l.name)),
					Durability: l.durability, Granted: true, Token: l.token},
			})
			m.tellPositions(l, 0)
			return
		}
	}
}

func (m *Machine) leaveQueueFor(l *lock, w waiter) { m.leaveQueue(l, w.place, w.owner, w.session) }

// tellPositions tells the waiters near the head, and behind a place that was
// given up, where they stand now.
func (m *Machine) tellPositions(l *lock, behind uint64) {
	for i, w := range readQueue(m.store, l, PositionsTold) {
		if w.place < behind || m.liveSession(w.session) == nil {
			continue
		}
		m.emit(w.session, &replication.Event{
			Kind: replication.Event_KIND_POSITION,
			Hold: &replication.SessionHold{Owner: w.owner, Name: string([]byte(l.name)),
				Durability: l.durability, Position: uint32(i + 1)},
		})
	}
}

// giveUp removes an owner from the queue, and reports whether it was there.
func (m *Machine) giveUp(l *lock, owner []byte) bool {
	place, id, ok := loadPlace(m.store, l.durability, l.name, owner)
	if !ok {
		return false
	}
	m.leaveQueue(l, place, owner, id)
	m.tellPositions(l, place)
	return true
}

func (m *Machine) lockCancel(c *command, op *replication.LockCancel) {
	if p := first(problemOfLock(op.GetDurability(), op.GetName()), problemOfOwner(op.GetOwner())); p != "" {
		c.invalid(p)
		return
	}
	l := m.loadLock(op.Durability, op.Name)
	m.settle(&l)
	switch {
	case m.giveUp(&l, op.Owner):
	case l.ownerHolds(op.Owner):
		c.refuse(replication.Code_CODE_NOT_FOUND, "the lock was granted meanwhile")
	default:
		c.refuse(replication.Code_CODE_NOT_FOUND, "this owner does not wait for the lock")
	}
	m.saveLock(&l)
}
