package statemachine

import (
	"encoding/binary"
	"math/bits"

	"github.com/kahu-sh/kahu/replication"
)

// The history of keys lies apart from their heads. What was the newest revision
// of a key goes, when the next one is written, into a chunk: a row of table 31
// that holds what one entry of the log superseded, of any key, up to about
// chunkBytes. Chunks are numbered in the order they are made, so an engine
// appends them, however many keys are hot and wherever their names sort: kept
// beside its head, each old revision would make the engine rewrite another page.
//
// A key's old revisions are a list. The head knows the place of the latest one,
// each record that of the one before it, and some know one further back: the
// record of depth k (the k-th that this key put into history) has the place of
// depth k with its lowest bit cleared. A search goes back over n revisions with
// at most about 5·log n reads. For that the head keeps the places of the depths that
// its own depth's binary form is made of, at most 11 of them.
//
// Old revisions are counted by number: a read ignores what has fallen out of
// history at once, while its bytes are cleaned away later. When half of the
// records may have fallen out, a pass goes over all chunks, four records for each
// one that comes in, and writes those anew that hold some. So at most about 1.7
// times as many records wait for it as are kept, and no write ever searches for
// the record that it pushes out.

const (
	// chunkBytes is where a chunk is closed: what SQLite keeps within a page of
	// 8 KiB, without a chain of further pages.
	chunkBytes = 1900
	// slotBits is how much of a place counts the record within its chunk.
	slotBits = 8
	// cleanFrom is how many records may have fallen out before it is worth a pass,
	// and cleanPerRecord how many are looked at for each one that comes in.
	cleanFrom      = 4096
	cleanPerRecord = 4
	// wrapDepth is where depths begin again at half of it, which has as many bits:
	// no search goes back further than HistoryPersistent records.
	wrapDepth = 2048
)

// place is where an old revision is: number of the chunk and record in it. 0 is nowhere.
type place uint64

func (p place) chunk() uint64 { return uint64(p >> slotBits) }
func (p place) slot() int     { return int(p & (1<<slotBits - 1)) }

// trail is what a head knows of its history.
type trail struct {
	// born is the first chunk that can hold revisions of this key since it was
	// made; those before are of one with the same name that was dropped.
	born   uint64
	depth  uint64  // records put into history, see wrapDepth
	before int64   // number of the latest, -1: none
	path   []place // of the depths that depth's binary form is made of; the latest is the last
}

// latest is the place of the newest old revision.
func (t *trail) latest() place {
	if len(t.path) == 0 {
		return 0
	}
	return t.path[len(t.path)-1]
}

// jump is where the record of the next depth points beside the one before it.
func (t *trail) jump() place {
	if n := len(t.path) - bits.TrailingZeros64(t.depth+1); n > 0 {
		return t.path[n-1]
	}
	return 0
}

// push makes the record of a number at p the latest.
func (t *trail) push(number int64, p place) {
	t.before = number
	t.path = append(t.path[:len(t.path)-bits.TrailingZeros64(t.depth+1)], p)
	if t.depth++; t.depth == wrapDepth {
		t.depth /= 2
	}
}

// append encodes the trail of a head with this number.
func (t *trail) append(b []byte, number int64) []byte {
	b = binary.AppendUvarint(b, t.born)
	b = binary.AppendUvarint(b, t.depth)
	b = binary.AppendUvarint(b, uint64(number-t.before))
	last := place(0)
	for _, p := range t.path {
		b = binary.AppendUvarint(b, uint64(p-last)) // they rise
		last = p
	}
	return b
}

// trail reads what append has written.
func (d *decoder) trail(number int64) (t trail) {
	t.born, t.depth = d.uvarint(), d.uvarint()
	t.before = number - int64(d.uvarint())
	if t.depth >= wrapDepth || t.before < -1 || t.before >= number || (t.before < 0) != (t.depth == 0) {
		d.fail()
		return t
	}
	last := place(0)
	for range bits.OnesCount64(t.depth) {
		step := place(d.uvarint())
		if step == 0 {
			d.fail()
			return t
		}
		last += step
		t.path = append(t.path, last)
	}
	return t
}

// record is an old revision.
type record struct {
	revision
	name   string
	before int64 // number of the record before it, -1: none
	prev   place // of the record before it
	jump   place
	value  []byte // aliases the chunk
}

func appendRecord(b []byte, at place, r *record) []byte {
	b = appendBytes(b, []byte(r.name))
	b = r.append(b)
	b = binary.AppendUvarint(b, uint64(r.number-r.before))
	b = binary.AppendUvarint(b, back(at, r.prev))
	b = binary.AppendUvarint(b, back(at, r.jump))
	return append(b, r.value...)
}

// back is how far p lies before at, 0 for nowhere: small for hot keys.
func back(at, p place) uint64 {
	if p == 0 {
		return 0
	}
	return uint64(at - p)
}

// decodeRecord reads a record. The name is copied only when named is set.
func decodeRecord(b []byte, at place, named bool) (r record, ok bool) {
	d := decoder{b: b}
	if name := d.bytes(); named {
		r.name = string(name)
	}
	r.revision = d.revision()
	r.before = r.number - int64(d.uvarint())
	r.prev, r.jump = d.place(at), d.place(at)
	if d.bad || r.before >= r.number || r.before < -1 || (r.before < 0) != (r.prev == 0) || !r.hasValue && len(d.b) > 0 {
		return r, false
	}
	if r.hasValue {
		r.value = notNil(d.b)
	}
	return r, true
}

func (d *decoder) place(at place) place {
	n := place(d.uvarint())
	switch {
	case n > at:
		d.fail()
		return 0
	case n == 0:
		return 0
	}
	return at - n
}

// notNil tells an empty value from none.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// chunk walks the records of a chunk's row.
type chunk struct {
	label hlc // not before the time at which any of its records was superseded
	d     decoder
}

func openChunk(row []byte) (c chunk, ok bool) {
	c.d = decode(row)
	c.label = c.d.hlc()
	return c, !c.d.bad
}

// next returns the next record's slot and bytes. At the end ok is false, and
// c.d.bad tells damage.
func (c *chunk) next() (slot int, b []byte, ok bool) {
	if len(c.d.b) == 0 {
		return 0, nil, false
	}
	slot, b = int(c.d.uvarint()), c.d.bytes()
	return slot, b, !c.d.bad
}

func chunkKey(d replication.Durability, number uint64) []byte {
	return appendUint64([]byte{tableHistory, byte(d)}, number)
}

// chunkCounts is what the machine knows of all chunks of one durability.
type chunkCounts struct {
	chunks  uint64 // made so far: the last one's number
	records uint64 // in them
	overdue uint64 // at most so many of them have fallen out since the last pass began
	cursor  uint64 // chunk at which the pass goes on, 0: none under way
}

func (c *chunkCounts) append(b []byte) []byte {
	for _, n := range [...]uint64{c.chunks, c.records, c.overdue, c.cursor} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func (d *decoder) chunkCounts() chunkCounts {
	return chunkCounts{d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()}
}

// openedChunk is the chunk that the entry being applied fills.
type openedChunk struct {
	rows   []byte
	slots  int
	pushed int // records that this entry has put into chunks
}

// supersede puts the head's revision into history: it is about to be replaced.
func (m *Machine) supersede(d replication.Durability, h *head) {
	r := record{revision: h.revision, name: h.name, before: h.before, prev: h.latest(), jump: h.jump(), value: m.value(d, h)}
	r.armed = 0 // the head's alone
	o, counts := &m.opened[d], &m.history[d]
	at := func() place { return place(counts.chunks+1)<<slotBits | place(o.slots) }
	b := appendRecord(m.row[:0], at(), &r)
	if o.slots > 0 && (len(o.rows)+len(b) > chunkBytes || o.slots == 1<<slotBits) {
		m.closeChunk(d)
		b = appendRecord(b[:0], at(), &r)
	}
	m.row = b
	h.push(h.number, at())
	o.rows = appendBytes(binary.AppendUvarint(o.rows, uint64(o.slots)), b)
	o.slots++
	o.pushed++
	counts.records++
	if h.number >= history(d) {
		counts.overdue++
	}
}

// closeChunk writes the opened chunk. Before that its records cannot be read.
func (m *Machine) closeChunk(d replication.Durability) {
	o, counts := &m.opened[d], &m.history[d]
	if o.slots == 0 {
		return
	}
	counts.chunks++
	m.row = append(appendHLC(append(m.row[:0], rowFormat), m.label), o.rows...)
	m.putFresh(chunkKey(d, counts.chunks), m.row)
	o.rows, o.slots = o.rows[:0], 0
	if cap(o.rows) > rowKept {
		o.rows = nil
	}
}

// openChunkRow is the row that is about to be written under a key, nil if none is.
func (m *Machine) openChunkRow(key []byte) []byte {
	if len(key) != 2+8 || key[0] != tableHistory || int(key[1]) >= len(m.opened) {
		return nil
	}
	o, counts := &m.opened[key[1]], &m.history[key[1]]
	if o.slots == 0 || binary.BigEndian.Uint64(key[2:]) != counts.chunks+1 {
		return nil
	}
	return append(appendHLC([]byte{rowFormat}, m.label), o.rows...)
}

// saveHistory ends an entry: it writes what is still open, and goes on with the
// pass that cleans up.
func (m *Machine) saveHistory() {
	for d := range m.opened {
		m.closeChunk(replication.Durability(d))
		m.clean(replication.Durability(d), cleanPerRecord*m.opened[d].pushed)
		m.opened[d].pushed = 0
	}
}

// clean looks at up to about limit records for those that have fallen out.
func (m *Machine) clean(d replication.Durability, limit int) {
	counts := &m.history[d]
	if limit == 0 {
		return
	}
	if counts.cursor == 0 {
		if counts.overdue < max(cleanFrom, counts.records/2) {
			return
		}
		counts.cursor, counts.overdue = 1, 0
	}
	type change struct{ key, row []byte }
	var changes []change
	from, to := chunkKey(d, counts.cursor), chunkKey(d, counts.chunks+1)
	counts.cursor = 0 // unless the limit comes first
	for key, row := range m.store.Scan(from, to) {
		number := binary.BigEndian.Uint64(key[2:])
		if limit <= 0 {
			counts.cursor = number
			break
		}
		kept, looked, dropped := m.cleaned(d, number, key, row)
		limit -= looked
		counts.records -= uint64(dropped)
		switch {
		case dropped == looked:
			changes = append(changes, change{key: append([]byte(nil), key...)})
		case dropped > 0:
			changes = append(changes, change{append([]byte(nil), key...), kept})
		}
	}
	for _, c := range changes {
		if c.row == nil {
			m.del(c.key)
		} else {
			m.put(c.key, c.row)
		}
	}
}

// cleaned returns a chunk's row without what has fallen out of history, how many
// records it had, and how many have fallen out.
func (m *Machine) cleaned(d replication.Durability, number uint64, key, row []byte) (kept []byte, looked, dropped int) {
	c, ok := openChunk(row)
	if !ok {
		panic(damaged(key, "a chunk of history"))
	}
	kept = appendHLC([]byte{rowFormat}, c.label)
	pinned := m.pinned(c.label)
	for {
		slot, b, more := c.next()
		if !more {
			break
		}
		looked++
		r, ok := decodeRecord(b, place(number)<<slotBits|place(slot), true)
		if !ok {
			panic(damaged(key, "a chunk of history"))
		}
		h := m.peek(d, r.name)
		if h.number < 0 || number < h.born || r.number < h.number-history(d) && !pinned {
			dropped++
			continue
		}
		kept = appendBytes(binary.AppendUvarint(kept, uint64(slot)), b)
	}
	if c.d.bad || looked == 0 {
		panic(damaged(key, "a chunk of history"))
	}
	return kept, looked, dropped
}

// walk goes back through the old revisions of a key.
type walk struct {
	v      *view
	d      replication.Durability
	oldest int64 // numbers below have fallen out of history, unless a hold keeps them
	record       // where the walk is; number -1 behind the last one
	newer  int64 // number of the revision that it was at before, the head's at first

	heldSince // of this walk, below heldOnceLevel
}

// walkBack begins at the newest old revision of a key.
func (v *view) walkBack(d replication.Durability, h *head) walk {
	w := walk{v: v, d: d, oldest: h.number - history(d)}
	w.revision, w.before, w.prev = h.revision, h.before, h.latest()
	w.back()
	return w
}

// back goes to the record before this one.
func (w *walk) back() {
	w.newer = w.number
	number, at := w.before, w.prev
	fallen := number < w.oldest
	if number < 0 || fallen && !w.pinned(w.written) {
		w.record = record{revision: neverWritten}
		return
	}
	r, ok := readRecord(w.v, w.d, at)
	switch {
	case ok && r.number == number:
		w.record = r
	case fallen && !ok: // before the hold was made
		w.record = record{revision: neverWritten}
	default:
		panic(damaged(chunkKey(w.d, at.chunk()), "the history of a key"))
	}
}

// heldSince is what snapshot holds keep.
type heldSince struct {
	asked, held bool // whether floor is known; whether there is one
	floor       hlc  // what was superseded after it is kept
}

// heldOnceLevel is the feature level since which that is found out once for a command.
// Before, each key that was read as of a time went through all holds, and each of
// them counted among the rows that a page or a script looked at.
const heldOnceLevel = 4

// pinned reports whether a hold keeps what was superseded at a time.
func (w *walk) pinned(superseded hlc) bool {
	h := &w.heldSince
	if w.v.level >= heldOnceLevel {
		h = w.v.holds
	}
	if !h.asked {
		h.asked = true
		h.floor, h.held = heldFrom(w.v, &w.v.state)
	}
	return h.held && superseded.after(h.floor)
}

// seek goes back to the first record that is old enough, or to the end. What
// lies behind one that is old enough must be so too.
func (w *walk) seek(old func(*record) bool) {
	for w.number >= 0 && !old(&w.record) {
		if w.jump != 0 && w.jump != w.prev {
			// What it points to may have fallen out.
			if r, ok := readRecord(w.v, w.d, w.jump); ok && (r.number >= w.oldest || w.pinned(r.written)) && !old(&r) {
				w.record = r
				continue
			}
		}
		w.back()
	}
}

// readRecord reads one old revision; ok is false when it is not there. The value
// aliases what the reader gave.
func readRecord(rows Reader, d replication.Durability, at place) (r record, ok bool) {
	key := chunkKey(d, at.chunk())
	row, ok := rows.Get(key)
	if !ok {
		return r, false
	}
	c, ok := openChunk(row)
	for ok {
		slot, b, more := c.next()
		if !more {
			break
		}
		if slot == at.slot() {
			if r, ok = decodeRecord(b, at, false); ok {
				return r, true
			}
		}
	}
	if !ok || c.d.bad {
		panic(damaged(key, "a chunk of history"))
	}
	return r, false
}
