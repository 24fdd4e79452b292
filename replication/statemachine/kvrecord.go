package statemachine

import (
	"encoding/binary"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// revision is one stored revision of a key, without its value; of the newest
// one, the head, it is all that a plain write needs to know.
type revision struct {
	number    int64 // -1: the key was never written
	tombstone bool  // deleted or expired
	expired   bool  // a tombstone made by the clock: it has the number of the value that expired
	hasValue  bool  // else null, or a tombstone
	written   hlc   // its place in time
	modified  hlc   // as reported: an extend moves it
	end       int64 // on the lease clock, 0: never; of a tombstone: since when
	expiresMS int64 // wall label of end, 0: never
	armed     int64 // the key's due row, 0: none. Counts in the head only.
}

const (
	flagTombstone byte = 1 << iota
	flagExpired
	flagValue
	flagEnds
	flagModified
	flagArmed
)

var neverWritten = revision{number: -1}

// append encodes r, without its value.
func (r *revision) append(b []byte) []byte {
	var flags byte
	set := func(on bool, f byte) {
		if on {
			flags |= f
		}
	}
	set(r.tombstone, flagTombstone)
	set(r.expired, flagExpired)
	set(r.hasValue, flagValue)
	set(r.end != 0, flagEnds)
	set(r.modified != r.written, flagModified)
	set(r.armed != 0, flagArmed)
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(r.number))
	b = appendHLC(b, r.written)
	if flags&flagModified != 0 {
		b = appendHLC(b, r.modified)
	}
	if flags&flagEnds != 0 {
		b = binary.AppendVarint(b, r.end)
		b = binary.AppendVarint(b, r.expiresMS)
	}
	if flags&flagArmed != 0 {
		b = binary.AppendVarint(b, r.armed)
	}
	return b
}

// revision reads what append has written.
func (d *decoder) revision() (r revision) {
	flags := d.byte()
	r.number = int64(d.uvarint())
	r.tombstone = flags&flagTombstone != 0
	r.expired = flags&flagExpired != 0
	r.hasValue = flags&flagValue != 0
	r.written = d.hlc()
	r.modified = r.written
	if flags&flagModified != 0 {
		r.modified = d.hlc()
	}
	if flags&flagEnds != 0 {
		r.end, r.expiresMS = d.varint(), d.varint()
	}
	if flags&flagArmed != 0 {
		r.armed = d.varint()
	}
	if flags >= flagArmed<<1 || r.number < 0 {
		d.fail()
	}
	return r
}

// alive reports whether a head can be read at L.
func (r *revision) alive(s *state) bool {
	return r.number >= 0 && !r.tombstone && (r.end == 0 || s.live(r.end))
}

// head is a key's newest revision, and the way to those before it.
type head struct {
	revision
	trail
	name string // own memory

	// value is a copy of the value, in own memory, while it is kept in memory.
	value     []byte
	valueKept bool
}

// maxValueKept is how large a value is kept with its head in memory, so that the
// next write need not read what it puts into history.
const maxValueKept = 4 << 10

// append encodes the head's row. The name is in its key.
func (h *head) append(b, value []byte) []byte {
	b = h.revision.append(append(b, rowFormat))
	return append(h.trail.append(b, h.number), value...)
}

// decodeHead reads a head's row; value aliases b.
func decodeHead(b []byte) (r revision, t trail, value []byte, ok bool) {
	d := decode(b)
	r = d.revision()
	t = d.trail(r.number)
	if d.bad || !r.hasValue && len(d.b) > 0 {
		return r, t, nil, false
	}
	if r.hasValue {
		value = notNil(d.b)
	}
	return r, t, value, true
}

// mustDecodeHead reads a row of table 30, without its name.
func mustDecodeHead(key, row []byte) (head, []byte) {
	r, t, value, ok := decodeHead(row)
	if !ok {
		panic(damaged(key, "the head of a key"))
	}
	return head{revision: r, trail: t}, value
}

// readHead reads the head of a key; its number is -1 when there is none. The
// value is valid as long as the reader says.
func readHead(r Reader, d replication.Durability, name string) (head, []byte) {
	key := headKey(d, name)
	row, ok := r.Get(key)
	if !ok {
		return head{revision: neverWritten, trail: trail{before: -1}}, nil
	}
	return mustDecodeHead(key, row)
}

// keep remembers a value with the head.
func (h *head) keep(value []byte) {
	if h.valueKept = len(value) <= maxValueKept; h.valueKept {
		h.value = append(h.value[:0], value...)
	} else {
		h.value = nil
	}
}

// sizeBytes is what the head takes in memory beside the cache's own.
func (h *head) sizeBytes() int { return len(h.name) + cap(h.value) + 8*cap(h.path) }

// headCache remembers the heads used last. What is in it never changes an
// outcome: a head not found is read from its row. It keeps two generations and
// drops the older one when the younger is full.
type headCache struct {
	limit      int // entries of a generation
	young, old map[string]*head
	youngBytes int
}

// headCacheBytes bounds the names and values of one generation.
const headCacheBytes = 8 << 20

func (c *headCache) get(name string) *head {
	if h := c.young[name]; h != nil {
		return h
	}
	h := c.old[name]
	if h != nil {
		c.add(h)
	}
	return h
}

func (c *headCache) add(h *head) {
	if len(c.young) >= c.limit || c.youngBytes >= headCacheBytes {
		c.old, c.young, c.youngBytes = c.young, nil, 0
	}
	if c.young == nil {
		c.young = make(map[string]*head)
	}
	c.young[h.name] = h
	c.youngBytes += h.sizeBytes()
}

func (c *headCache) drop(name string) {
	delete(c.young, name)
	delete(c.old, name)
}

// head returns the newest revision of a key, to be changed in place. One that
// was never written is not remembered before keep.
func (m *Machine) head(d replication.Durability, name string) *head {
	if h := m.heads[d].get(name); h != nil {
		return h
	}
	read, value := readHead(m.store, d, name)
	h := &read
	h.name = strings.Clone(name)
	if h.number >= 0 {
		h.keep(value)
		m.heads[d].add(h)
	}
	return h
}

// peek is head for one look, which is not worth remembering. It must not be changed.
func (m *Machine) peek(d replication.Durability, name string) *head {
	c := &m.heads[d]
	if h := c.young[name]; h != nil {
		return h
	}
	if h := c.old[name]; h != nil {
		return h
	}
	h, _ := readHead(m.store, d, name)
	return &h
}
