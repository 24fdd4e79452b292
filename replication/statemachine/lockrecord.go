package statemachine

import (
	"bytes"
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"github.com/kahu-sh/kahu/replication"
)

// The stages of a lock.
const (
	lockFree   byte = 1
	lockHeld   byte = 2
	lockLapsed byte = 3 // its own lease ended and nobody waited: the last owner is still known
)

// lock is the record of one lock. It outlives its holders, since it has the
// last token.
type lock struct {
	durability replication.Durability
	name       string
	known      bool // has a row

	stage   byte
	token   int64 // last given, -1: none yet
	owner   []byte
	hangs   bool // from session, whose end is then its end
	session sessionID
	end     int64  // of its own lease; with a session: an extension beyond the session's end, or 0
	since   int64  // wall clock of the grant, ms
	info    []byte // encoded HolderInfo
	idle    int64  // when free or lapsed: since when, on the lease clock
	armed   int64  // its due row, 0: none

	queued uint32 // waiters
	head   uint64 // no place is below
	next   uint64 // next place to give

	dirty bool
}

func (l *lock) append(b []byte) []byte {
	b = append(b, rowFormat, l.stage, boolByte(l.hangs))
	b = binary.AppendVarint(b, l.token)
	b = binary.AppendVarint(b, l.armed)
	b = binary.AppendUvarint(b, uint64(l.queued))
	b = binary.AppendUvarint(b, l.head)
	b = binary.AppendUvarint(b, l.next)
	if l.hangs {
		b = append(b, l.session[:]...)
	}
	b = binary.AppendVarint(b, l.end)
	b = binary.AppendVarint(b, l.since)
	b = binary.AppendVarint(b, l.idle)
	b = appendBytes(b, l.owner)
	return appendBytes(b, l.info)
}

func decodeLock(b []byte) (l lock, ok bool) {
	d := decode(b)
	l.stage = d.byte()
	l.hangs = d.byte() != 0
	l.token = d.varint()
	l.armed = d.varint()
	l.queued = uint32(d.uvarint())
	l.head = d.uvarint()
	l.next = d.uvarint()
	if l.hangs {
		l.session = d.id()
	}
	l.end = d.varint()
	l.since = d.varint()
	l.idle = d.varint()
	l.owner = d.bytes()
	l.info = d.bytes()
	return l, d.done() && l.stage >= lockFree && l.stage <= lockLapsed
}

// readLock reads a lock's row; known is false when there is none.
func readLock(r Reader, d replication.Durability, name string) lock {
	key := lockKey(d, name)
	b, ok := r.Get(key)
	if !ok {
		return lock{durability: d, name: name, stage: lockFree, token: -1}
	}
	l, ok := decodeLock(b)
	if !ok {
		panic(damaged(key, "a lock"))
	}
	l.durability, l.name, l.known = d, name, true
	return l
}

// loadLock reads a lock to change it. A lock never seen starts above the floor of
// its hash: a token never goes back, also when the record was dropped.
func (m *Machine) loadLock(d replication.Durability, name string) lock {
	l := readLock(m.store, d, name)
	if !l.known {
		l.token = max(l.token, m.hashedFloor(d, name))
	}
	return l
}

// saveLock writes the record if it was changed, and keeps its due row.
func (m *Machine) saveLock(l *lock) {
	if !l.dirty {
		return
	}
	l.dirty = false
	want := never
	switch {
	case l.stage == lockHeld && !l.hangs:
		want = l.end
	case l.stage == lockHeld:
		// The session's end is its end.
	case l.queued > 0:
		want = m.leaseClock // more waiters of ended sessions than one grant steps over
	default:
		want = saturating(l.idle, LockIdleNS)
	}
	if want != never {
		l.armed = m.arm(dueLock, nameRef(l.durability, l.name), l.armed, want)
	}
	m.row = l.append(m.row[:0])
	m.put(lockKey(l.durability, l.name), m.row)
	l.known = true
}

// fireLock looks at a lock whose due row came up, and is gone.
func (m *Machine) fireLock(d replication.Durability, name string, end int64) int {
	l := m.loadLock(d, name)
	if !l.known || l.armed != end {
		return 1
	}
	l.armed, l.dirty = 0, true
	m.settle(&l)
	if l.stage != lockHeld && l.queued == 0 && !m.live(saturating(l.idle, LockIdleNS)) {
		m.dropLock(&l)
		return 2
	}
	m.saveLock(&l)
	return 2
}

// dropLock forgets an idle lock; its token goes into the floor that it shares
// with the other names of the same hash.
func (m *Machine) dropLock(l *lock) {
	if l.token > m.hashedFloor(l.durability, l.name) {
		m.put(hashedFloorKey(floorHash(l.durability, l.name)), binary.AppendVarint([]byte{rowFormat}, l.token))
	}
	m.del(lockKey(l.durability, l.name))
}

func floorHash(d replication.Durability, name string) uint16 {
	return uint16(xxh3.Hash(nameRef(d, name)))
}

// hashedFloor is the highest last token of the dropped locks that share this
// lock's hash, -1 when there is none.
func (m *Machine) hashedFloor(d replication.Durability, name string) int64 {
	key := hashedFloorKey(floorHash(d, name))
	b, ok := m.store.Get(key)
	if !ok {
		return -1
	}
	dec := decode(b)
	floor := dec.varint()
	if !dec.done() {
		panic(damaged(key, "a token floor"))
	}
	return floor
}

// waiter is one place in a lock's queue.
type waiter struct {
	place   uint64
	owner   []byte
	session sessionID
	info    []byte // encoded HolderInfo
}

func (w *waiter) append(b []byte) []byte {
	b = append(b, rowFormat)
	b = append(b, w.session[:]...)
	b = appendBytes(b, w.owner)
	return appendBytes(b, w.info)
}

func decodeWaiter(b []byte) (w waiter, ok bool) {
	d := decode(b)
	w.session = d.id()
	w.owner = d.bytes()
	w.info = d.bytes()
	return w, d.done()
}

// readQueue lists the first n waiters of a lock, next in line first. They are
// copies.
func readQueue(r Reader, l *lock, n int) []waiter {
	if l.queued == 0 || n <= 0 {
		return nil
	}
	ws := make([]waiter, 0, min(n, int(l.queued)))
	from := queueKey(l.durability, l.name, l.head)
	for key, value := range r.Scan(from, passed(nameKey(tableQueue, l.durability, l.name, 0))) {
		w, ok := decodeWaiter(bytes.Clone(value))
		if !ok || len(key) != len(from) {
			panic(damaged(key, "a waiter"))
		}
		w.place = binary.BigEndian.Uint64(key[len(key)-8:])
		if ws = append(ws, w); len(ws) == n {
			break
		}
	}
	return ws
}

// loadPlace finds the place of a waiting owner.
func loadPlace(r Reader, d replication.Durability, name string, owner []byte) (place uint64, id sessionID, ok bool) {
	key := placeKey(d, name, owner)
	b, ok := r.Get(key)
	if !ok {
		return 0, id, false
	}
	dec := decode(b)
	place, id = dec.uvarint(), dec.id()
	if !dec.done() {
		panic(damaged(key, "a queue place"))
	}
	return place, id, true
}

// positionOf counts a place's position from the head of the queue, 1 is next.
func positionOf(r Reader, l *lock, place uint64) uint32 {
	n := uint32(1)
	from := queueKey(l.durability, l.name, l.head)
	for range r.Scan(from, queueKey(l.durability, l.name, place)) {
		n++
	}
	return n
}

// describeInfo is what others are shown of a holder or waiter.
func describeInfo(info []byte, since int64) *replication.HolderInfo {
	if len(info) == 0 && since == 0 {
		return nil
	}
	i := new(replication.HolderInfo)
	if err := i.UnmarshalVT(info); err != nil {
		panic(damaged(nil, "a holder's description"))
	}
	i.SinceMs = since
	return i
}

// encodeInfo is the form in which a description is kept.
func encodeInfo(i *replication.HolderInfo) []byte {
	if i == nil {
		return nil
	}
	b, err := i.MarshalVT()
	if err != nil {
		panic(damaged(nil, "a holder's description that cannot be encoded"))
	}
	return b
}

// describe is a lock as LockGet and LockBreak show it.
func (l *lock) describe(remainingMS int64) *replication.Lock {
	out := &replication.Lock{
		Durability: l.durability, Name: string([]byte(l.name)), Owner: bytes.Clone(l.owner), Token: l.token,
		RemainingMs: remainingMS, Info: describeInfo(l.info, l.since), QueueLength: l.queued,
	}
	if l.hangs {
		out.Session = bytes.Clone(l.session[:])
	}
	return out
}
