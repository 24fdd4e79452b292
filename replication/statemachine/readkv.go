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

// lookup reads one key, now or as of a label.
func (v *view) lookup(d replication.Durability, key string, asOf *hlc) found {
	h, value := readHead(v, d, key)
	return v.choose(d, &h, value, asOf)
}

// choose finds what a key was, now or as of a label, given its head.
func (v *view) choose(d replication.Durability, h *head, value []byte, asOf *hlc) (f found) {
	if h.number < 0 {
		f.tooOld = asOf != nil && v.droppedAt.after(*asOf)
		f.revision = h.revision
		return f
	}
	if asOf == nil || !h.written.after(*asOf) {
		return v.found(h.revision, value)
	}
	w := v.walkBack(d, h)
	w.seek(func(r *record) bool { return !r.written.after(*asOf) })
	if w.number < 0 {
		// It was not there yet, unless older revisions have gone.
		f.revision = w.revision
		f.tooOld = w.newer > 0 || v.droppedAt.after(*asOf)
		return f
	}
	f = v.found(w.revision, w.value)
	if w.newer != w.number+1 {
		// A gap in the numbers is a revision that was not kept, and it may have
		// been the state then.
		f.tooOld, f.ok, f.value = true, false, nil
	}
	return f
}

func (v *view) found(r revision, value []byte) (f found) {
	f.revision = r
	if f.ok = r.alive(&v.state); f.ok {
		f.value = bytes.Clone(value)
	}
	return f
}

// shown is a revision as history tells it: the head as a tombstone once it has
// expired, swept or not.
func (v *view) shown(r revision, value []byte, head bool) found {
	if head && !r.alive(&v.state) {
		value, r.tombstone = nil, true
	}
	return found{revision: r, value: bytes.Clone(value), ok: true}
}

// lookupRevision reads one revision by number.
func (v *view) lookupRevision(d replication.Durability, key string, number int64) (f found) {
	h, value := readHead(v, d, key)
	switch {
	case number < 0 || number > h.number:
		return f
	case number == h.number:
		return v.shown(h.revision, value, true)
	}
	w := v.walkBack(d, &h)
	w.seek(func(r *record) bool { return r.number <= number })
	if w.number != number {
		f.tooOld = true
		return f
	}
	return v.shown(w.revision, w.value, false)
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
	if op.Before != nil && *op.Before <= 0 {
		return
	}
	h, value := readHead(v, op.Durability, op.Key)
	if h.number < 0 {
		return
	}
	p := newPage(op.Limit)
	take := func(f found) bool {
		e := v.entry(op.Durability, op.Key, &f, false)
		if !p.take(e.SizeVT(), len(out.Entries) == 0) {
			out.More = true
			return false
		}
		out.Entries = append(out.Entries, e)
		return true
	}
	if (op.Before == nil || h.number < *op.Before) && !take(v.shown(h.revision, value, true)) {
		return
	}
	w := v.walkBack(op.Durability, &h)
	if op.Before != nil {
		w.seek(func(r *record) bool { return r.number < *op.Before })
	}
	for ; w.number >= 0 && take(v.shown(w.revision, w.value, false)); w.back() {
	}
}

// bounds are the rows that a Range may look at.
func (op rangeOp) bounds() (from, to []byte) {
	head := []byte{tableKey, byte(op.Durability)}
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

// forward calls yield for each key in ascending order until it returns false.
func (v *view) forward(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) {
	for from != nil && bytes.Compare(from, to) < 0 {
		from = v.forwardRun(op, from, to, asOf, yield)
	}
}

// forwardRun walks up to keys that are to be stepped over, and returns where to
// go on; nil at the end.
func (v *view) forwardRun(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) []byte {
	for key, row := range v.Scan(from, to) {
		name, beyond := op.name(key)
		if beyond != nil {
			return successor(beyond)
		}
		if !yield(name, v.chooseRow(op.Durability, key, row, asOf)) {
			return nil
		}
	}
	return nil
}

// backward is forward in descending order.
func (v *view) backward(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) {
	for to != nil && bytes.Compare(from, to) < 0 {
		to = v.backwardRun(op, from, to, asOf, yield)
	}
}

// backwardRun is forwardRun in descending order: it returns where to go on before.
func (v *view) backwardRun(op rangeOp, from, to []byte, asOf *hlc, yield func(string, found) bool) []byte {
	for key, row := range v.ScanReverse(from, to) {
		name, beyond := op.name(key)
		if beyond != nil {
			return beyond
		}
		if !yield(name, v.chooseRow(op.Durability, key, row, asOf)) {
			return nil
		}
	}
	return nil
}

// name reads the name out of a row key; one outside the bucket gives the first
// bytes of all row keys that are to be stepped over with it.
func (op rangeOp) name(key []byte) (name string, beyond []byte) {
	name, ok := cutHeadKey(key)
	if !ok {
		panic(damaged(key, "the name of a key"))
	}
	if in, outside := op.inside(name); !in {
		return name, appendEscaped([]byte{tableKey, byte(op.Durability)}, outside)
	}
	return name, nil
}

func (v *view) chooseRow(d replication.Durability, key, row []byte, asOf *hlc) found {
	h, value := mustDecodeHead(key, row)
	return v.choose(d, &h, value, asOf)
}
