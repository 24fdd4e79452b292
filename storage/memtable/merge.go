package memtable

import (
	"iter"

	"github.com/kahu-sh/kahu/storage"
	"github.com/tidwall/btree"
)

// levels reads two trees over an engine as one map. None of the three may
// change while a scan runs, except that the engine may take over what sealed
// holds: sealed hides those rows either way.
type levels struct {
	active, sealed *btree.Map[string, cell] // either may be nil
	engine         storage.Reader
}

// cursor walks the keys of one tree within bounds, in one direction.
type cursor struct {
	it      btree.MapIter[string, cell]
	bound   string
	bounded bool
	reverse bool
	ok      bool
	key     string
	cell    cell
}

func newCursor(t *btree.Map[string, cell], from, to []byte, reverse bool) cursor {
	c := cursor{reverse: reverse}
	if t == nil || t.Len() == 0 {
		return c
	}
	c.it = t.Iter()
	if !reverse {
		c.bound, c.bounded = string(to), to != nil
		c.set(c.it.Seek(view(from)))
		return c
	}
	c.bound, c.bounded = string(from), len(from) > 0
	switch {
	case to == nil:
		c.set(c.it.Last())
	case c.it.Seek(view(to)):
		c.set(c.it.Prev())
	default:
		// A fresh iterator: one that ran off the end steps back over the last row.
		c.it = t.Iter()
		c.set(c.it.Last())
	}
	return c
}

func (c *cursor) set(ok bool) {
	c.ok = ok
	if !ok {
		return
	}
	c.key, c.cell = c.it.Key(), c.it.Value()
	if c.bounded && (c.reverse && c.key < c.bound || !c.reverse && c.key >= c.bound) {
		c.ok = false
	}
}

func (c *cursor) next() {
	if c.reverse {
		c.set(c.it.Prev())
		return
	}
	c.set(c.it.Next())
}

// before says whether a comes before b in the direction of the cursor.
func (c *cursor) before(a, b string) bool {
	if c.reverse {
		return a > b
	}
	return a < b
}

// overlay merges two cursors; of equal keys the upper one wins.
type overlay struct{ upper, lower cursor }

func (o *overlay) peek() (key string, c cell, ok bool) {
	switch {
	case o.upper.ok && (!o.lower.ok || !o.upper.before(o.lower.key, o.upper.key)):
		return o.upper.key, o.upper.cell, true
	case o.lower.ok:
		return o.lower.key, o.lower.cell, true
	}
	return "", "", false
}

// skip moves past key in both cursors.
func (o *overlay) skip(key string) {
	if o.upper.ok && o.upper.key == key {
		o.upper.next()
	}
	if o.lower.ok && o.lower.key == key {
		o.lower.next()
	}
}

func (l levels) scan(from, to []byte, fail func(error)) iter.Seq2[[]byte, []byte] {
	return l.merge(from, to, false, fail)
}

func (l levels) scanReverse(from, to []byte, fail func(error)) iter.Seq2[[]byte, []byte] {
	return l.merge(from, to, true, fail)
}

// merge lets the engine drive: before each of its rows come the rows of the
// overlay that sort before it. This needs no goroutine or coroutine.
func (l levels) merge(from, to []byte, reverse bool, fail func(error)) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		o := overlay{
			upper: newCursor(l.active, from, to, reverse),
			lower: newCursor(l.sealed, from, to, reverse),
		}
		rows := l.engine.Scan
		if reverse {
			rows = l.engine.ScanReverse
		}
		for row, err := range rows(from, to) {
			if err != nil {
				fail(err)
				return
			}
			below := view(row.Key)
			hidden := false
			for {
				key, c, ok := o.peek()
				if !ok || o.upper.before(below, key) || o.lower.before(below, key) {
					break
				}
				o.skip(key)
				hidden = key == below
				if c.kind() != kindDeleted && !yield(raw(key), c.value()) {
					return
				}
				if hidden {
					break
				}
			}
			if !hidden && !yield(row.Key, row.Value) {
				return
			}
		}
		for {
			key, c, ok := o.peek()
			if !ok {
				return
			}
			o.skip(key)
			if c.kind() != kindDeleted && !yield(raw(key), c.value()) {
				return
			}
		}
	}
}
