package statemachine

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

// snapshotHold keeps the history that reads as of a time need, for as long as
// its lease lives.
type snapshotHold struct {
	id     string // 16 bytes
	holder string
	at     hlc
	node   int32 // as the client sent it: shown, and part of who it is
	end    int64
}

// pinTable has all snapshot holds. Those that end at L are dropped before the
// requests of an entry, so all that are in it live.
type pinTable struct {
	holds    map[string]*snapshotHold
	floor    hlc   // the lowest time held
	floorEnd int64 // no hold ends before; never: there are none
	lastEnd  int64 // all have ended then
}

func (h *snapshotHold) append(b []byte) []byte {
	b = appendBytes(append(b, rowFormat), []byte(h.holder))
	b = binary.AppendVarint(appendHLC(b, h.at), int64(h.node))
	return binary.AppendVarint(b, h.end)
}

func decodeSnapshotHold(b []byte) (h snapshotHold, ok bool) {
	d := decode(b)
	h.holder, h.at, h.node = d.string(), d.hlc(), int32(d.varint())
	h.end = d.varint()
	return h, d.done()
}

func snapshotKey(id string) []byte { return append([]byte{tableSnapshot}, id...) }

// readSnapshotHolds reads the live holds of a view in order of id.
func readSnapshotHolds(r Reader, s *state) (out []*snapshotHold) {
	for key, row := range r.Scan([]byte{tableSnapshot}, []byte{tableSnapshot + 1}) {
		h, ok := decodeSnapshotHold(row)
		if !ok {
			panic(damaged(key, "a snapshot hold"))
		}
		h.id = string(key[1:])
		if s.live(h.end) {
			out = append(out, &h)
		}
	}
	return out
}

func (m *Machine) loadSnapshotHolds() {
	m.pins = pinTable{holds: make(map[string]*snapshotHold)}
	// Those that have ended are ended again: their rows are still there.
	all := state{leaseClock: -1}
	for _, h := range readSnapshotHolds(m.store, &all) {
		m.pins.holds[h.id] = h
	}
	m.pins.measure()
}

// measure looks at all holds after one has changed. There are few.
func (p *pinTable) measure() {
	p.floor, p.floorEnd, p.lastEnd = hlc{}, never, 0
	first := true
	for _, h := range p.holds { // in no order that counts
		if first || p.floor.after(h.at) {
			p.floor = h.at
		}
		first = false
		p.floorEnd, p.lastEnd = min(p.floorEnd, h.end), max(p.lastEnd, h.end)
	}
}

// endSnapshotHolds drops those that have ended at L.
func (m *Machine) endSnapshotHolds() {
	if m.live(m.pins.floorEnd) {
		return
	}
	var due []*snapshotHold
	for _, h := range m.pins.holds { // the order is made below
		if !m.live(h.end) {
			due = append(due, h)
		}
	}
	slices.SortFunc(due, func(a, b *snapshotHold) int { return cmp.Compare(a.id, b.id) })
	for _, h := range due {
		m.dropSnapshotHold(h)
	}
	m.pins.measure()
}

func (m *Machine) dropSnapshotHold(h *snapshotHold) {
	delete(m.pins.holds, h.id)
	m.del(snapshotKey(h.id))
}

func (m *Machine) saveSnapshotHold(c *command, h *snapshotHold) {
	m.put(snapshotKey(h.id), h.append(nil))
	m.pins.measure()
	c.answer.Result = &replication.Answer_SnapshotHold{SnapshotHold: h.describe(&m.state)}
}

func (h *snapshotHold) describe(s *state) *replication.SnapshotHold {
	at := h.at.timestamp()
	at.Node = h.node
	return &replication.SnapshotHold{Id: hex.EncodeToString([]byte(h.id)), Holder: h.holder, Timestamp: at, RemainingMs: s.remainingMS(h.end)}
}

func problemOfLease(ms int64) string {
	switch {
	case ms <= 0:
		return "the lease is not above zero"
	case ms > MaxSnapshotLeaseMS:
		return "the lease is longer than 2147483647 ms"
	}
	return ""
}

// snapshotHoldAcquire: the same holder and time give the same hold, with a new lease.
func (m *Machine) snapshotHoldAcquire(c *command, op *replication.SnapshotHoldAcquire) {
	if p := first(problemOfName("the holder", op.GetHolder()), problemOfLease(op.GetLeaseMs())); p != "" {
		c.invalid(p)
		return
	}
	at, node := toHLC(op.Timestamp), op.GetTimestamp().GetNode()
	for _, h := range m.pins.holds { // at most one is it
		if h.holder == op.Holder && h.at == at && h.node == node {
			h.end = m.after(op.LeaseMs)
			m.saveSnapshotHold(c, h)
			return
		}
	}
	if len(m.pins.holds) >= MaxSnapshotHolds {
		c.refuse(replication.Code_CODE_LIMIT, "there are %d snapshot holds", len(m.pins.holds))
		return
	}
	m.serial++
	id := appendUint64(appendUint64(nil, m.serial), uint64(c.label.ms))
	h := &snapshotHold{id: string(id), holder: string([]byte(op.Holder)), at: at, node: node, end: m.after(op.LeaseMs)}
	m.pins.holds[h.id] = h
	m.saveSnapshotHold(c, h)
}

// findSnapshotHold returns a live hold, or refuses c.
func (m *Machine) findSnapshotHold(c *command, id string) *snapshotHold {
	if id == "" {
		c.invalid("the id of the snapshot hold is empty")
		return nil
	}
	raw, err := hex.DecodeString(id)
	h := m.pins.holds[string(raw)]
	if err != nil || h == nil {
		c.refuse(replication.Code_CODE_NOT_FOUND, "the snapshot hold is unknown or has lapsed")
		return nil
	}
	return h
}

func (m *Machine) snapshotHoldRenew(c *command, op *replication.SnapshotHoldRenew) {
	if p := problemOfLease(op.GetLeaseMs()); p != "" {
		c.invalid(p)
		return
	}
	if h := m.findSnapshotHold(c, op.Id); h != nil {
		h.end = m.after(op.LeaseMs)
		m.saveSnapshotHold(c, h)
	}
}

func (m *Machine) snapshotHoldRelease(c *command, op *replication.SnapshotHoldRelease) {
	if h := m.findSnapshotHold(c, op.GetId()); h != nil {
		m.dropSnapshotHold(h)
		m.pins.measure()
		c.answer.Result = &replication.Answer_SnapshotHold{SnapshotHold: h.describe(&m.state)}
	}
}

func (v *view) snapshotFloor(c *command, op *replication.SnapshotFloorGet) {
	holds := readSnapshotHolds(v, &v.state)
	out := &replication.SnapshotFloor{Holds: uint32(len(holds))}
	var lowest *snapshotHold
	for _, h := range holds {
		if lowest == nil || lowest.at.after(h.at) || lowest.at == h.at && lowest.node > h.node {
			lowest = h
		}
		if op.GetList() {
			out.List = append(out.List, h.describe(&v.state))
		}
	}
	if lowest != nil {
		out.Floor = lowest.describe(&v.state).Timestamp
	}
	c.answer.Result = &replication.Answer_SnapshotFloor{SnapshotFloor: out}
}

// heldFrom is the lowest time that a live hold keeps; ok is false when there is none.
func heldFrom(r Reader, s *state) (floor hlc, ok bool) {
	for _, h := range readSnapshotHolds(r, s) {
		if !ok || floor.after(h.at) {
			floor, ok = h.at, true
		}
	}
	return floor, ok
}

// pinned reports whether a hold needs what was the newest revision until a time.
func (m *Machine) pinned(superseded hlc) bool {
	return len(m.pins.holds) > 0 && superseded.after(m.pins.floor)
}

// pinnedUntil is when to look again at what was over at a time, 0 when no hold
// needs what was before it.
func (m *Machine) pinnedUntil(over hlc) int64 {
	if !m.pinned(over) {
		return 0
	}
	return m.pins.lastEnd
}
