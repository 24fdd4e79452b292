package statemachine

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kahu-sh/kahu/replication"
)

// rowFormat is the first byte of every value. A record with other rules of
// reading gets the next number in its own decoder.
const rowFormat byte = 1

// ErrDamaged wraps Result.Diverged and New's error when a stored row cannot be read.
var ErrDamaged = errors.New("a stored row is damaged")

// damage is what a decoder of rows panics with; Apply, New and Read turn it
// into an error. A damaged row is found deep inside a rule, where nothing can
// be decided any more.
type damage struct{ err error }

func damaged(key []byte, what string) damage {
	if len(key) > 64 {
		key = key[:64]
	}
	return damage{fmt.Errorf("%w: %s at %x: restore this voter from the others", ErrDamaged, what, key)}
}

// rescue is deferred; it turns damage into an error and lets every other panic pass.
func rescue(err *error) {
	switch r := recover().(type) {
	case nil:
	case damage:
		*err = r.err
	default:
		panic(r)
	}
}

// hlc is a hybrid logical clock reading: it labels, it never decides a lease.
type hlc struct {
	ms      int64
	counter uint32
}

func (a hlc) after(b hlc) bool {
	return a.ms > b.ms || a.ms == b.ms && a.counter > b.counter
}

func (a hlc) timestamp() *replication.Timestamp {
	return &replication.Timestamp{PhysicalMs: a.ms, Counter: a.counter}
}

// fill writes a into a timestamp that is there already.
func (a hlc) fill(t *replication.Timestamp) { t.PhysicalMs, t.Counter = a.ms, a.counter }

func toHLC(t *replication.Timestamp) hlc { return hlc{t.GetPhysicalMs(), t.GetCounter()} }

func appendHLC(b []byte, t hlc) []byte {
	b = binary.AppendVarint(b, t.ms)
	return binary.AppendUvarint(b, uint64(t.counter))
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// decoder reads a record. After the first mistake every call returns zero and
// ok stays false. Slices alias the record.
type decoder struct {
	b   []byte
	bad bool
}

// decode begins to read a record of the present format.
func decode(b []byte) decoder {
	d := decoder{b: b}
	if d.byte() != rowFormat {
		d.bad = true
	}
	return d
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) hlc() hlc {
	ms := d.varint()
	counter := d.uvarint()
	if counter > 1<<32-1 {
		d.fail()
	}
	return hlc{ms, uint32(counter)}
}

func (d *decoder) id() (id sessionID) {
	copy(id[:], d.take(uint64(len(id))))
	return id
}

// done reports whether the record was read without a mistake and to its end.
func (d *decoder) done() bool { return !d.bad && len(d.b) == 0 }
