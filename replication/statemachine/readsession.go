package statemachine

import (
	"bytes"
	"math"

	"github.com/kahu-sh/kahu/replication"
)

// queueRowsPerPage ends a page of a session's holds: when so many waiters were looked
// through to count places in line, no further queue is.
const queueRowsPerPage = 10_000

func (v *view) sessionGet(c *command, op *replication.SessionGet) {
	id, problem := parseID(op.GetId())
	if a := op.GetAfter(); a != nil {
		problem = first(problem, problemOfLock(a.Durability, a.Name), problemOfOwner(a.Owner))
	}
	if problem != "" {
		c.invalid(problem)
		return
	}
	s, ok := loadSession(v, id)
	if !ok || s.stage != sessionLive || !v.live(s.end) {
		c.refuse(replication.Code_CODE_SESSION_LOST, "the session is unknown or has ended")
		return
	}
	d := s.describe(&v.state)
	l := holdList{r: v, session: id, page: page{math.MaxInt, math.MaxInt}, queueRows: math.MaxInt}
	if op.Limit > 0 {
		l.page, l.queueRows = newPage(int64(op.Limit)), queueRowsPerPage
	}
	d.HoldsListed = true
	d.Holds, d.More = l.list(op.GetAfter())
	c.answer.Result = &replication.Answer_Session{Session: d}
}

// SessionHolds lists what a live session has, in order of durability, name and
// owner. ok is false when the session is unknown or has ended.
func SessionHolds(r Reader, session []byte) (holds []*replication.SessionHold, ok bool) {
	a := Read(r, &replication.Request{Op: &replication.Request_SessionGet{SessionGet: &replication.SessionGet{Id: session}}})
	return a.GetSession().GetHolds(), a.GetCode() == replication.Code_CODE_OK
}

// listHolds lists all that a session has.
func listHolds(r Reader, id sessionID) []*replication.SessionHold {
	l := holdList{r: r, session: id, page: page{math.MaxInt, math.MaxInt}, queueRows: math.MaxInt}
	out, _ := l.list(nil)
	return out
}

// holdList reads holds and places of a session.
type holdList struct {
	r         Reader
	session   sessionID
	page      page
	queueRows int // that may be looked through

	// The lock of the last hold. Waiters of one lock are neighbours, so each queue is
	// counted once.
	lock      lock
	positions map[string]uint32 // of the session's waiters; nil: not counted yet
}

// list returns those behind one, nil for all, and whether there are more.
func (l *holdList) list(after *replication.SessionHold) (out []*replication.SessionHold, more bool) {
	from := holdPrefix(l.session, 0)
	if after != nil {
		from = append(holdKey(l.session, after.Durability, after.Name, after.Owner), 0)
	}
	for key := range l.r.Scan(from, successor(holdPrefix(l.session, 0))) {
		d, name, owner, ok := cutHoldKey(key)
		if !ok {
			panic(damaged(key, "a hold"))
		}
		if l.queueRows <= 0 && !l.reads(d, name) {
			return out, true
		}
		h := l.describe(d, name, owner)
		if !l.page.take(h.SizeVT(), len(out) == 0) {
			return out, true
		}
		out = append(out, h)
	}
	return out, false
}

// reads reports whether the lock is that of the last hold.
func (l *holdList) reads(d replication.Durability, name string) bool {
	return l.lock.known && l.lock.durability == d && l.lock.name == name
}

func (l *holdList) describe(d replication.Durability, name string, owner []byte) *replication.SessionHold {
	if !l.reads(d, name) {
		l.lock, l.positions = readLock(l.r, d, name), nil
	}
	h := &replication.SessionHold{Owner: bytes.Clone(owner), Name: name, Durability: d}
	if l.lock.hangs && l.lock.session == l.session && l.lock.ownerHolds(owner) {
		h.Granted, h.Token = true, l.lock.token
		return h
	}
	if l.positions == nil {
		l.countPlaces()
	}
	h.Position = l.positions[string(owner)]
	return h
}

// countPlaces finds the session's places in the queue of the lock. It copies nothing
// of the others: there may be many, and each may have a long description.
func (l *holdList) countPlaces() {
	l.positions = make(map[string]uint32)
	if l.lock.queued == 0 {
		return
	}
	n := uint32(0)
	from := queueKey(l.lock.durability, l.lock.name, l.lock.head)
	for key, value := range l.r.Scan(from, passed(nameKey(tableQueue, l.lock.durability, l.lock.name, 0))) {
		w, ok := decodeWaiter(value)
		if !ok || len(key) != len(from) {
			panic(damaged(key, "a waiter"))
		}
		if n++; w.session == l.session {
			l.positions[string(w.owner)] = n
		}
		if n == l.lock.queued {
			break
		}
	}
	l.queueRows -= int(n)
}
