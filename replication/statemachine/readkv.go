package statemachine

import (
	"bytes"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// found is what a read of one key came to.
type found struct {
	revision
	value  []byte // a copy
	ok     bool
	tooOld bool // history does not reach back that far
}

// revisions are the bounds of a key's rows, newest first.
func revisions(d replication.Durability, key string) (from, to []byte) {
	return nameKey(tableRevision, d, key, 0), passed(nameKey(tableRevision, d, key, 0))
}

// search looks for a key's state among its rows, newest first, fed one by one.
// It is told when as of, or nothing for now.
type search struct {
	v     *view
	asOf  *hlc
	newer int64 // number of the row before, -1 at the head
	last  int64 // number of the last row seen, -1: none
	done  bool
	found
}

func (v *view) search(asOf *hlc) search { return search{v: v, asOf: asOf, newer: -1, last: -1} }

// feed looks at the next older row, and reports whether it was the one.
func (s *search) feed(key, row []byte) bool {
	r, value := mustDecode(key, row)
	s.newer, s.last = s.last, r.number
	if s.asOf != nil && r.written.after(*s.asOf) {
		return false
	}
	s.done = true
	s.revision = r
	// A gap in the numbers is a revision that was not kept, and it may have been
	// the state then.
	s.tooOld = s.asOf != nil && s.newer >= 0 && s.newer != r.number+1
	if s.ok = !s.tooOld && r.alive(&s.v.state); s.ok {
		s.value = bytes.Clone(value)
	}
	return true
}

// end closes a search that found nothing among all rows: the key was not there
// then, unless older rows have gone.
func (s *search) end() {
	if s.done || s.asOf == nil {
		return
	}
	s.tooOld = s.last > 0 || s.v.droppedAt.after(*s.asOf)
}

// lookup reads one key, now or as of a label.
func (v *view) lookup(d replication.Durability, key string, asOf *hlc) found {
	s := v.search(asOf)
	from, to := revisions(d, key)
	for k, row := range v.Scan(from, to) {
		if s.feed(k, row) {
			break
		}
	}
	s.end()
	return s.found
}

// lookupRevision reads one revision by number.
func (v *view) lookupRevision(d replication.Durability, key string, number int64) (f found) {
	if number < 0 {
		return f
	}
	k := revisionKey(d, key, number)
	if row, ok := v.Get(k); ok {
		r, value := mustDecode(k, row)
		// One that expired as the head has lost its value, swept or not.
		if v.isHead(d, key, number) && !r.alive(&v.state) {
			value, r.tombstone = nil, true
		}
		return found{revision: r, value: bytes.Clone(value), ok: true}
	}
	from, to := revisions(d, key)
	for k := range v.Scan(from, to) {
		head, _ := revisionOf(k)
		f.tooOld = number < head
		break
	}
	return f
}

func (v *view) isHead(d replication.Durability, key string, number int64) bool {
	from, to := revisions(d, key)
	for k := range v.Scan(from, to) {
		head, _ := revisionOf(k)
		return head == number
	}
	return false
}

// entry is a revision as it is shown.
func (v *view) entry(d replication.Durability, key string, f *found, keysOnly bool) *replication.Entry {
	e := &replication.Entry{Key: key, Durability: d}
	if !f.ok {
		return e
	}
	e.Found, e.Revision, e.Deleted = true, f.number, f.tombstone
	e.Modified = f.modified.timestamp()
	if !f.tombstone && f.end != 0 {
		e.ExpiresAtMs, e.RemainingMs = f.expiresMS, v.remainingMS(f.end)
	}
	if !keysOnly {
		e.Value = f.value
	}
	return e
}

func tooOld(c *command, key string) {
	c.refuse(replication.Code_CODE_TOO_OLD, "the history of key %.100q does not reach back that far", key)
}

// label returns the as-of time of a read, nil for now.
func asOfLabel(t *replication.Timestamp) *hlc {
	if t == nil || t.PhysicalMs == 0 && t.Counter == 0 {
		return nil
	}
	at := toHLC(t)
	return &at
}

func (v *view) getKeys(c *command, op *replication.Get) {
	if len(op.GetKeys()) > replication.MaxPageRows {
		c.refuse(replication.Code_CODE_LIMIT, "one read names at most %d keys", replication.MaxPageRows)
		return
	}
	asOf := asOfLabel(op.GetAsOf())
	p := newPage(0)
	out := &replication.Entries{Entries: make([]*replication.Entry, 0, len(op.GetKeys()))}
	for _, k := range op.GetKeys() {
		if problem := first(problemOfDurability(k.GetDurability()), problemOfName("the key", k.GetKey())); problem != "" {
			c.invalid(problem)
			return
		}
		var f found
		if k.Revision != nil {
			f = v.lookupRevision(k.Durability, k.Key, *k.Revision)
		} else {
			f = v.lookup(k.Durability, k.Key, asOf)
		}
		if f.tooOld {
			tooOld(c, k.Key)
			return
		}
		e := v.entry(k.Durability, k.Key, &f, op.KeysOnly)
		if !p.take(e.SizeVT(), len(out.Entries) == 0) {
			c.refuse(replication.Code_CODE_LIMIT, "the values are more than %d bytes: read fewer keys at once", replication.MaxPageBytes)
			return
		}
		out.Entries = append(out.Entries, e)
	}
	c.answer.Result = &replication.Answer_Entries{Entries: out}
}

func (v *view) keyHistory(c *command, op *replication.History) {
	if problem := first(problemOfDurability(op.GetDurability()), problemOfName("the key", op.GetKey())); problem != "" {
		c.invalid(problem)
		return
	}
	out := new(replication.Entries)
	c.answer.Result = &replication.Answer_Entries{Entries: out}
	from, to := revisions(op.Durability, op.Key)
	if op.Before != nil {
		if *op.Before <= 0 {
			return
		}
		from = revisionKey(op.Durability, op.Key, *op.Before-1)
	}
	p := newPage(op.Limit)
	head := op.Before == nil
	for k, row := range v.Scan(from, to) {
		r, value := mustDecode(k, row)
		if (head || v.isHead(op.Durability, op.Key, r.number)) && !r.alive(&v.state) {
			value, r.tombstone = nil, true
		}
		head = false
		e := v.entry(op.Durability, op.Key, &found{revision: r, value: bytes.Clone(value), ok: true}, false)
		if !p.take(e.SizeVT(), len(out.Entries) == 0) {
			out.More = true
			return
		}
		out.Entries = append(out.Entries, e)
	}
}

// bounds are the rows that a Range may look at.
func (op rangeOp) bounds() (from, to []byte) {
	head := []byte{tableRevision, byte(op.Durability)}
	prefix := op.Prefix
	if op.Bucket {
		prefix += "/"
	}
	from, to = nameBounds(head, prefix, "")
	if op.Start != nil {
		start := appendEscaped(bytes.Clone(head), *op.Start)
		if op.StartExclusive {
			start = passed(append(start, escape, closing))
		}
		if bytes.Compare(start, from) > 0 {
			from = start
		}
	}
	if op.End != nil {
		end := appendEscaped(bytes.Clone(head), *op.End)
		if op.EndInclusive {
			end = passed(append(end, escape, closing))
		}
		if bytes.Compare(end, to) < 0 {
			to = end
		}
	}
	return from, to
}

type rangeOp struct{ *replication.Range }

// inside says whether a key under the prefix is in the bucket: exactly
// P/<rest without slash>. beyond is the part of the key that all its neighbours
// outside the bucket share, to be stepped over.
func (op rangeOp) inside(key string) (ok bool, beyond string) {
	if !op.Bucket {
		return true, ""
	}
	at := len(op.Prefix) + 1
	if i := strings.IndexByte(key[at:], '/'); i >= 0 {
		return false, key[:at+i+1]
	}
	return true, ""
}

func (v *view) keyRange(c *command, r *replication.Range) {
	if problem := problemOfDurability(r.GetDurability()); problem != "" {
		c.invalid(problem)
		return
	}
	op := rangeOp{r}
	asOf := asOfLabel(r.AsOf)
	if asOf != nil && v.droppedAt.after(*asOf) {
		c.refuse(replication.Code_CODE_TOO_OLD, "keys that were deleted since then are forgotten")
		return
	}
	out := new(replication.Entries)
	p := newPage(r.Limit)
	walk := v.forward
	if r.Descending {
		walk = v.backward
	}
	from, to := op.bounds()
	refused := false
	walk(op, from, to, asOf, func(key string, f found) bool {
		if f.tooOld {
			tooOld(c, key)
			refused = true
			return false
		}
		if !f.ok {
			return true
		}
		e := v.entry(r.Durability, key, &f, r.KeysOnly)
		if !p.take(e.SizeVT(), len(out.Entries) == 0) {
			out.More = true
			return false
		}
		out.Entries = append(out.Entries, e)
		return true
	})
	if !refused {
		c.answer.Result = &replication.Answer_Entries{Entries: out}
	}
}

// stepsBeforeSeek is how many rows of one key a walk steps over before it seeks
// to the next key: a seek costs some steps.
const stepsBeforeSeek = 8

// forward calls yield for each key in ascending order until it returns false.
func (v *view) forward(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) {
	for from != nil && bytes.Compare(from, to) < 0 {
		from = v.forwardRun(op, from, to, asOf, yield)
	}
}

// forwardRun walks until a seek is worth it, and returns where to go on; nil at the end.
func (v *view) forwardRun(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) []byte {
	var group []byte // D NAME of the key being looked at, with the table in front
	var name string
	var s search
	steps := 0
	flush := func() bool {
		if group == nil || s.done {
			return true
		}
		s.end()
		return yield(name, s.found)
	}
	for key, row := range v.Scan(from, to) {
		if group != nil && bytes.HasPrefix(key, group) && len(key) == len(group)+8 {
			if !s.done {
				if s.feed(key, row) && !yield(name, s.found) {
					return nil
				}
			} else if steps++; steps >= stepsBeforeSeek {
				return passed(group)
			}
			continue
		}
		if !flush() {
			return nil
		}
		var ok bool
		if name, _, ok = cutRevisionKey(key); !ok {
			panic(damaged(key, "a revision"))
		}
		if in, beyond := op.inside(name); !in {
			return successor(appendEscaped([]byte{tableRevision, byte(op.Durability)}, beyond))
		}
		group, s, steps = bytes.Clone(key[:len(key)-8]), v.search(asOf), 0
		if s.feed(key, row) && !yield(name, s.found) {
			return nil
		}
	}
	flush()
	return nil
}

// backward is forward in descending order. The rows of one key come oldest first
// then, so the last of them is the head; a read as of a label, and a key with a
// long history, seek instead.
func (v *view) backward(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) {
	for to != nil && bytes.Compare(from, to) < 0 {
		to = v.backwardRun(op, from, to, asOf, yield)
	}
}

// backwardRun walks until a seek is worth it, and returns where to go on before;
// nil at the end.
func (v *view) backwardRun(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) []byte {
	var group, lastKey, lastRow []byte // of the key being looked at; lastRow is its newest so far
	var name string
	steps := 0
	flush := func() bool {
		if group == nil {
			return true
		}
		s := v.search(nil)
		s.feed(lastKey, lastRow)
		return yield(name, s.found)
	}
	for key, row := range v.ScanReverse(from, to) {
		if group != nil && bytes.HasPrefix(key, group) && len(key) == len(group)+8 {
			if steps++; steps < stepsBeforeSeek {
				lastKey, lastRow = append(lastKey[:0], key...), append(lastRow[:0], row...)
				continue
			}
			if !yield(name, v.lookup(op.Durability, name, nil)) {
				return nil
			}
			return group
		}
		if !flush() {
			return nil
		}
		var ok bool
		if name, _, ok = cutRevisionKey(key); !ok {
			panic(damaged(key, "a revision"))
		}
		if in, beyond := op.inside(name); !in {
			return appendEscaped([]byte{tableRevision, byte(op.Durability)}, beyond)
		}
		group, steps = bytes.Clone(key[:len(key)-8]), 0
		if asOf != nil {
			if !yield(name, v.lookup(op.Durability, name, asOf)) {
				return nil
			}
			return group
		}
		lastKey, lastRow = append(lastKey[:0], key...), append(lastRow[:0], row...)
	}
	flush()
	return nil
}
