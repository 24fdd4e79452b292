package statemachine

import (
	"iter"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// rangeWalk reads one page of a range for a transaction: committed rows and its
// own writes, merged in order.
type rangeWalk struct {
	m    *Machine
	c    *command
	t    *transaction
	v    *view
	op   *replication.TxRead
	asOf *hlc
	span *txSpan
	page page
	own  []keyRef // written by the transaction, in the order of the walk

	out   *replication.Entries
	last  string // everything up to here was looked at
	moved bool   // past the first key
	cut   bool   // there may be more
	stop  bool   // c was refused
}

// run walks until the page is full. It returns false when c was refused.
func (w *rangeWalk) run() bool {
	r := rangeOp{w.op.Range}
	rows := &metered{Reader: w.v.Reader, left: maxTxSteps, seek: w.m.seekRows()}
	v := &view{rows, w.v.state, w.v.holds}
	walk := v.forward
	if r.Descending {
		walk = v.backward
	}
	walk(r, w.span.from, w.span.to, w.asOf, w.committed)
	if rows.spent && !w.cut && !w.stop {
		w.reached(rows.last)
	}
	for len(w.own) > 0 && !w.cut && !w.stop {
		w.ownNext()
	}
	w.m.work += int64(maxTxSteps-rows.left) * readCost
	if w.cut {
		w.out.More, w.out.Resume = true, &w.last
	}
	return !w.stop
}

// reached ends the page at a row, because enough were looked at.
func (w *rangeWalk) reached(row []byte) {
	name, ok := cutHeadKey(row)
	if !ok {
		panic(damaged(row, "the name of a key"))
	}
	for len(w.own) > 0 && !w.before(name, w.own[0].name) {
		if !w.ownNext() {
			return
		}
	}
	w.cut, w.last, w.moved = true, name, true
}

// metered is a Reader whose scans of keys end after so many rows, whatever is made
// of them. Rows that are looked at on the way count too, and end nothing: as of a
// time, each key may take dozens of them from its history and from snapshot holds.
type metered struct {
	Reader
	left  int    // below zero when the last key took more
	seek  int    // so many rows each scan of keys counts for beside those that it gives
	spent bool   // there were more
	last  []byte // row key of the last key given out
}

// seekRows is metered.seek by the rules of a feature level. Stepping over all that
// lies deeper than a bucket is a scan of its own, and engines take 20 µs to begin one;
// before level 4 it was nothing.
func (s *state) seekRows() int {
	if s.level < 4 {
		return 0
	}
	return 6
}

// Get implements Reader.
func (r *metered) Get(key []byte) ([]byte, bool) {
	r.left--
	return r.Reader.Get(key)
}

// Scan implements Reader.
func (r *metered) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	if from[0] != tableKey {
		return r.count(r.Reader.Scan(from, to))
	}
	r.left -= r.seek
	return r.meter(r.Reader.Scan(from, to))
}

// ScanReverse implements Reader.
func (r *metered) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	r.left -= r.seek
	return r.meter(r.Reader.ScanReverse(from, to))
}

func (r *metered) count(rows iter.Seq2[[]byte, []byte]) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for key, value := range rows {
			r.left--
			if !yield(key, value) {
				return
			}
		}
	}
}

func (r *metered) meter(rows iter.Seq2[[]byte, []byte]) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for key, value := range rows {
			if r.left <= 0 {
				r.spent = true
				return
			}
			r.left--
			r.last = append(r.last[:0], key...)
			if !yield(key, value) {
				return
			}
		}
	}
}

// committed takes the next key of the store.
func (w *rangeWalk) committed(key string, f found) bool {
	for len(w.own) > 0 && w.before(w.own[0].name, key) {
		if !w.ownNext() {
			return false
		}
	}
	ref := keyRef{w.span.d, key}
	switch {
	case f.tooOld:
		tooOld(w.c, key)
		w.stop = true
		return false
	case w.asOf == nil && w.m.moved(w.t, ref):
		w.m.refuseMoved(w.c, ref)
		w.stop = true
		return false
	}
	if f.ok && f.end != 0 && (w.span.end == 0 || f.end < w.span.end) {
		w.span.end = f.end
	}
	if len(w.own) > 0 && w.own[0].name == key {
		return w.ownNext()
	}
	return w.show(key, f)
}

func (w *rangeWalk) before(a, b string) bool {
	if w.op.Range.Descending {
		return strings.Compare(a, b) > 0
	}
	return strings.Compare(a, b) < 0
}

// ownNext shows the next of the transaction's own keys.
func (w *rangeWalk) ownNext() bool {
	ref := w.own[0]
	if !w.show(ref.name, w.m.stagedFound(w.t, ref, w.t.staged[ref])) {
		return false
	}
	w.own = w.own[1:]
	return true
}

// show puts a key into the page if it is there, and reports whether it fits.
func (w *rangeWalk) show(key string, f found) bool {
	if f.ok {
		e := w.v.entry(w.span.d, key, &f, w.op.KeysOnly || w.op.Range.KeysOnly)
		if !w.page.take(e.SizeVT(), len(w.out.Entries) == 0) {
			w.cut = true
			return false
		}
		w.out.Entries = append(w.out.Entries, e)
		w.m.work += int64(len(e.Value))
	}
	w.last, w.moved = key, true
	return true
}

// narrow makes the span what was looked at.
func (w *rangeWalk) narrow() {
	if !w.cut || !w.moved {
		return
	}
	at := spanRow(keyRef{w.span.d, w.last})
	if w.op.Range.Descending {
		w.span.from = at
	} else {
		w.span.to = passed(at)
	}
}
