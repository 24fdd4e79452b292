package statemachine

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// txSpan is a set of keys in one interval of names: a prefix or range lock, or
// what a transaction has read of a bucket or range.
type txSpan struct {
	tx     *transaction
	number uint64 // of its row

	d      replication.Durability
	prefix string // all keys begin with it; of a bucket it ends in "/"
	bucket bool   // no further slash
	from   []byte // bounds of the rows in tableKey
	to     []byte

	shared bool  // a lock that stands other shared ones
	at     hlc   // a lock: held without a gap since; a read: when
	end    int64 // a lock: of its lease; a read: the earliest end among what was seen, 0: none

	// Of the index, none of it in the row.
	place int    // among all
	added uint64 // as the how many-th
	gone  bool   // removed, and perhaps still in a tree
}

func (s *txSpan) append(b []byte) []byte {
	b = append(b, rowFormat, byte(s.d), boolByte(s.bucket), boolByte(s.shared))
	b = appendBytes(b, []byte(s.prefix))
	b = appendBytes(b, s.from)
	b = appendBytes(b, s.to)
	return binary.AppendVarint(appendHLC(b, s.at), s.end)
}

func decodeSpan(b []byte) (s txSpan, ok bool) {
	d := decode(b)
	s.d = replication.Durability(d.byte())
	s.bucket, s.shared = d.byte() != 0, d.byte() != 0
	s.prefix = d.string()
	s.from, s.to = bytes.Clone(d.bytes()), bytes.Clone(d.bytes())
	s.at, s.end = d.hlc(), d.varint()
	return s, d.done()
}

// size is what it takes of memory.
func (s *txSpan) size() int { return len(s.prefix) + len(s.from) + len(s.to) + txSpanBytes }

// spanOf makes a span of what a Range asks for.
func spanOf(op rangeOp) *txSpan {
	s := &txSpan{d: op.Durability, prefix: string([]byte(op.Prefix)), bucket: op.Bucket}
	if op.Bucket {
		s.prefix += "/"
	}
	s.from, s.to = op.bounds()
	return s
}

// covers reports whether a key is in s. row is a key of tableKey with the name.
func (s *txSpan) covers(name string, row []byte) bool {
	return s.within(row) && (!s.bucket || strings.IndexByte(name[len(s.prefix):], '/') < 0)
}

// within reports whether the row of a key is between the bounds.
func (s *txSpan) within(row []byte) bool {
	return bytes.Compare(row, s.from) >= 0 && below(row, s.to)
}

// overlaps reports whether a key could be in both. Of two buckets it is exact;
// of a bucket and a range it looks at the intervals only.
func (s *txSpan) overlaps(o *txSpan) bool {
	if s.d != o.d || s.bucket && o.bucket && s.prefix != o.prefix {
		return false
	}
	return below(s.from, o.to) && below(o.from, s.to)
}

// contains reports whether every key of o is in s.
func (s *txSpan) contains(o *txSpan) bool {
	if s.d != o.d || s.bucket && (!o.bucket || s.prefix != o.prefix) {
		return false
	}
	return bytes.Compare(s.from, o.from) <= 0 && (s.to == nil || o.to != nil && bytes.Compare(o.to, s.to) <= 0)
}

// spanRow is the place of a key among the bounds of spans.
func spanRow(k keyRef) []byte { return headKey(k.d, k.name) }

// below compares with an upper bound, which may be open.
func below(a, to []byte) bool { return to == nil || bytes.Compare(a, to) < 0 }

func (s *txSpan) same(o *txSpan) bool {
	return s.d == o.d && s.bucket == o.bucket && s.prefix == o.prefix &&
		bytes.Equal(s.from, o.from) && bytes.Equal(s.to, o.to) && (s.to == nil) == (o.to == nil)
}
