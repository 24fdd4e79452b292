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

// appendRecord encodes r with its value. The number is in the row's key.
func (r *revision) appendRecord(b, value []byte) []byte {
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
	b = append(b, rowFormat, flags)
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
	return append(b, value...)
}

// decodeRevision reads a record; value aliases b.
func decodeRevision(b []byte, number int64) (r revision, value []byte, ok bool) {
	d := decode(b)
	flags := d.byte()
	r.number = number
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
	if d.bad || flags >= flagArmed<<1 || number < 0 || !r.hasValue && len(d.b) > 0 {
		return r, nil, false
	}
	if r.hasValue {
		value = d.b
		if value == nil {
			value = []byte{}
		}
	}
	return r, value, true
}

// alive reports whether a head can be read at L.
func (r *revision) alive(s *state) bool {
	return r.number >= 0 && !r.tombstone && (r.end == 0 || s.live(r.end))
}

// head is a key's newest revision as the machine has it in memory.
type head struct {
	revision
	name string // own memory
}

// headCache remembers the heads used last. What is in it never changes an
// outcome: a head not found is read from its row. It keeps two generations and
// drops the older one when the younger is full.
type headCache struct {
	limit      int // entries of a generation
	young, old map[string]*head
	youngBytes int
}

// headCacheBytes bounds the names of one generation.
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
	c.youngBytes += len(h.name)
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
	h := &head{revision: neverWritten, name: strings.Clone(name)}
	prefix := nameKey(tableRevision, d, name, 0)
	for key, value := range m.store.Scan(prefix, passed(nameKey(tableRevision, d, name, 0))) {
		h.revision, _ = mustDecode(key, value)
		m.heads[d].add(h)
		break
	}
	return h
}

// mustDecode reads a row of tableRevision.
func mustDecode(key, row []byte) (revision, []byte) {
	number, ok := revisionOf(key)
	r, value, ok2 := decodeRevision(row, number)
	if !ok || !ok2 {
		panic(damaged(key, "a revision"))
	}
	return r, value
}

// revisionOf is the revision's number in a row key.
func revisionOf(key []byte) (int64, bool) {
	if len(key) < 2+2+8 {
		return 0, false
	}
	return int64(^binary.BigEndian.Uint64(key[len(key)-8:])), true
}
