package statemachine

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

// The stages of a session.
const (
	sessionLive   byte = 1
	sessionEnding byte = 2 // ended; its holds, places and receipts are being cleared away
	sessionEnded  byte = 3 // remembered, so that it cannot come back
)

// session is one agent's session. All that are live or ending are in memory:
// there is one per agent and TTL.
type session struct {
	id        sessionID
	stage     byte
	closed    bool   // by the agent, not by the clock
	serial    uint64 // names its receipts
	host      string
	node      string
	ttlMS     int64
	end       int64 // when live: the lease's; else: when it ended
	order     uint64
	watermark uint64 // receipts below are gone
	holds     uint32 // holds and queue places
	holdHash  uint64 // XOR of HoldHash over them

	receipts
	dirty bool
}

func (s *session) append(b []byte) []byte {
	b = append(b, rowFormat, s.stage, boolByte(s.closed))
	b = binary.AppendUvarint(b, s.serial)
	b = binary.AppendUvarint(b, s.order)
	b = binary.AppendVarint(b, s.ttlMS)
	b = binary.AppendVarint(b, s.end)
	b = binary.AppendUvarint(b, s.watermark)
	b = binary.AppendUvarint(b, uint64(s.holds))
	b = appendUint64(b, s.holdHash)
	b = appendBytes(b, []byte(s.host))
	return appendBytes(b, []byte(s.node))
}

func decodeSession(b []byte) (s session, ok bool) {
	d := decode(b)
	s.stage = d.byte()
	s.closed = d.byte() != 0
	s.serial = d.uvarint()
	s.order = d.uvarint()
	s.ttlMS = d.varint()
	s.end = d.varint()
	s.watermark = d.uvarint()
	s.holds = uint32(d.uvarint())
	if h := d.take(8); h != nil {
		s.holdHash = binary.BigEndian.Uint64(h)
	}
	s.host = d.string()
	s.node = d.string()
	return s, d.done() && s.stage >= sessionLive && s.stage <= sessionEnded
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// loadSession reads a session's row, whatever its stage.
func loadSession(r Reader, id sessionID) (s session, ok bool) {
	key := sessionKey(id)
	b, ok := r.Get(key)
	if !ok {
		return session{}, false
	}
	if s, ok = decodeSession(b); !ok {
		panic(damaged(key, "a session"))
	}
	s.id = id
	return s, true
}

// sessionTable has all sessions that are live or ending.
type sessionTable struct {
	byID     map[sessionID]*session
	ending   []*session // in the order in which they ended
	dirty    []*session // rows to write at the end of the entry
	answered []*session // with receipts of this entry
	floor    int64      // no live session ends before this
}

// loadSessions fills the table from the rows.
func (m *Machine) loadSessions() {
	t := &m.sessions
	t.byID, t.floor = make(map[sessionID]*session), never
	for key, value := range m.store.Scan([]byte{tableSession}, []byte{tableSession + 1}) {
		s, ok := decodeSession(value)
		if !ok || len(key) != 1+len(s.id) {
			panic(damaged(key, "a session"))
		}
		copy(s.id[:], key[1:])
		switch s.stage {
		case sessionLive:
			t.floor = min(t.floor, s.end)
		case sessionEnding:
			t.ending = append(t.ending, &s)
		default:
			continue
		}
		t.byID[s.id] = &s
	}
	slices.SortFunc(t.ending, func(a, b *session) int { return cmp.Compare(a.order, b.order) })
	for _, s := range t.byID {
		m.loadReceipts(s)
	}
}

// liveSession returns a session that has not ended at L. Sessions that are due
// are ended before anything else in an entry, so its stage says it.
func (m *Machine) liveSession(id sessionID) *session {
	if s := m.sessions.byID[id]; s != nil && s.stage == sessionLive {
		return s
	}
	return nil
}

// touch makes the session's row be written at the end of the entry, once.
func (m *Machine) touch(s *session) {
	if !s.dirty {
		s.dirty = true
		m.sessions.dirty = append(m.sessions.dirty, s)
	}
}

func (m *Machine) saveSessions() {
	for _, s := range m.sessions.dirty {
		if s.dirty {
			s.dirty = false
			m.row = s.append(m.row[:0])
			m.put(sessionKey(s.id), m.row)
		}
	}
	m.sessions.dirty = m.sessions.dirty[:0]
}

// parseID takes a session id from a request.
func parseID(b []byte) (id sessionID, problem string) {
	if len(b) != len(id) {
		return id, "the session id is not 16 bytes"
	}
	copy(id[:], b)
	return id, ""
}

func (m *Machine) sessionOpen(c *command, op *replication.SessionOpen) {
	id, problem := parseID(op.GetId())
	if p := first(problem, problemOfTTL(op.GetTtlMs()), problemOfText("the host", op.GetHost()),
		problemOfText("the node", op.GetNode())); p != "" {
		c.invalid(p)
		return
	}
	s := m.sessions.byID[id]
	if s == nil {
		// Ids are never given twice: one that ended belongs to a request that was
		// delayed on its way, and must not come back to life.
		if _, remembered := loadSession(m.store, id); remembered {
			c.refuse(replication.Code_CODE_SESSION_LOST, "the session has ended")
			return
		}
		m.serial++
		s = &session{id: id, stage: sessionLive, serial: m.serial}
		m.sessions.byID[id] = s
		m.state.sessions++
	}
	if s.stage != sessionLive {
		c.refuse(replication.Code_CODE_SESSION_LOST, "the session has ended")
		return
	}
	s.host, s.node = string([]byte(op.GetHost())), string([]byte(op.GetNode()))
	s.ttlMS = op.GetTtlMs()
	m.prolong(s)
	c.answer.Result = &replication.Answer_Session{Session: s.describe(&m.state)}
}

// prolong is a renewal: the end moves to L + TTL, and never back.
func (m *Machine) prolong(s *session) {
	s.end = max(s.end, m.after(s.ttlMS))
	m.sessions.floor = min(m.sessions.floor, s.end)
	m.touch(s)
}

// listApartLevel is the feature level since which an agent that asks for it is told
// that the holds differ, and reads them itself: listing 100,000 takes longer than an
// entry may.
const listApartLevel = 4

func (m *Machine) sessionRenew(c *command, op *replication.SessionRenew) {
	id, problem := parseID(op.GetId())
	if problem != "" {
		c.invalid(problem)
		return
	}
	s := m.liveSession(id)
	if s == nil {
		c.refuse(replication.Code_CODE_SESSION_LOST, "the session is unknown or has ended")
		return
	}
	m.prolong(s)
	d := s.describe(&m.state)
	d.Attempt = op.GetAttempt()
	if op.GetCheckHolds() && (op.GetHoldCount() != s.holds || op.GetHoldHash() != s.holdHash) {
		if op.GetListApart() && m.level >= listApartLevel {
			d.HoldsDiffer = true
		} else {
			d.HoldsListed, d.Holds = true, listHolds(m.store, id)
		}
	}
	c.answer.Result = &replication.Answer_Session{Session: d}
}

func (m *Machine) sessionClose(c *command, op *replication.SessionClose) {
	id, problem := parseID(op.GetId())
	if problem != "" {
		c.invalid(problem)
		return
	}
	s := m.liveSession(id)
	if s == nil {
		c.refuse(replication.Code_CODE_SESSION_LOST, "the session is unknown or has ended")
		return
	}
	m.endSession(s, true)
	m.release(releasesPerEntry)
}

func (s *session) describe(st *state) *replication.Session {
	return &replication.Session{
		Id: bytes.Clone(s.id[:]), Host: s.host, Node: s.node, TtlMs: s.ttlMS,
		RemainingMs: st.remainingMS(s.end),
	}
}

// endDueSessions ends every session whose lease is over at L, earliest first.
func (m *Machine) endDueSessions() {
	t := &m.sessions
	if m.live(t.floor) {
		return
	}
	var due []*session
	t.floor = never
	for _, s := range t.byID { // the order is made below
		switch {
		case s.stage != sessionLive:
		case m.live(s.end):
			t.floor = min(t.floor, s.end)
		default:
			due = append(due, s)
		}
	}
	slices.SortFunc(due, func(a, b *session) int {
		return cmp.Or(cmp.Compare(a.end, b.end), bytes.Compare(a.id[:], b.id[:]))
	})
	for _, s := range due {
		m.endSession(s, false)
	}
}

// endSession ends a session: from here on its holds and places count for
// nothing. They are cleared away in portions by release, and by settle when
// somebody touches one before.
func (m *Machine) endSession(s *session, closed bool) {
	m.serial++
	s.stage, s.closed, s.end, s.order = sessionEnding, closed, m.leaseClock, m.serial
	m.sessions.ending = append(m.sessions.ending, s)
	m.state.sessions--
	m.touch(s)
	m.emit(s.id, &replication.Event{Kind: replication.Event_KIND_SESSION_ENDED})
}

// release clears away up to limit holds, places and receipts of ended sessions,
// and returns how many.
func (m *Machine) release(limit int) int {
	done := 0
	t := &m.sessions
	for len(t.ending) > 0 && done < limit {
		s := t.ending[0]
		done += m.releaseHolds(s, limit-done)
		n := min(len(s.numbers), limit-done)
		if n > 0 {
			// So that a restart in between counts what is left alike. The highest
			// number there is has none behind it.
			s.watermark = max(s.watermark, s.numbers[n-1]+1)
			m.touch(s)
			m.dropReceipts(s, n)
		}
		done += n
		if done >= limit {
			// Perhaps all is done: the next portion will see.
			return done
		}
		s.stage = sessionEnded
		s.dirty = false // the row is written here
		m.put(sessionKey(s.id), s.append(nil))
		m.arm(dueSession, s.id[:], 0, saturating(s.end, SessionMemoryNS))
		delete(t.byID, s.id)
		t.ending = t.ending[1:]
		done++
	}
	return done
}

// releaseHolds gives the locks of an ended session to the next in line, and its
// places up.
func (m *Machine) releaseHolds(s *session, limit int) int {
	from := holdPrefix(s.id, 0)
	keys := make([][]byte, 0, min(limit, int(s.holds)))
	for key := range m.store.Scan(from, successor(bytes.Clone(from))) {
		if len(keys) == limit {
			break
		}
		keys = append(keys, bytes.Clone(key))
	}
	for _, key := range keys {
		d, name, owner, ok := cutHoldKey(key)
		if !ok {
			panic(damaged(key, "a hold"))
		}
		l := m.loadLock(d, name)
		m.settle(&l)
		// settle has released it if the session held the lock.
		if place, _, ok := loadPlace(m.store, d, name, owner); ok {
			m.leaveQueue(&l, place, owner, s.id)
			m.tellPositions(&l, place)
		}
		m.saveLock(&l)
	}
	return len(keys)
}

// saturating adds ns to a time on the lease clock; too late is never.
func saturating(at, ns int64) int64 {
	if at > never-ns {
		return never
	}
	return at + ns
}
