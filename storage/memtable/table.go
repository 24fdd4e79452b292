package memtable

import (
	"time"
	"unsafe"

	"github.com/tidwall/btree"
)

// rowOverheadBytes is what a row costs in memory beside key and value: its entry
// in a tree that is two thirds full. It is an estimate, for the limit only.
const rowOverheadBytes = 48

// kind says what a cell means for the levels below it.
type kind byte

const (
	kindPut     kind = iota // replaces whatever is below
	kindFresh               // nothing is below: may be forgotten without a trace
	kindDeleted             // hides what is below
)

// cell is what a table knows about one key: its kind in one byte, then the value.
// A cell is immutable from the Commit on that publishes it: copies of the tree
// share it.
type cell string

func (c cell) kind() kind { return kind(c[0]) }

// value is the row's. Nobody may write to it.
func (c cell) value() []byte { return raw(string(c[1:])) }

// deleted is shared by all tables: a deletion carries nothing else.
var deleted = cell([]byte{byte(kindDeleted)})

// table is one level in memory. The tree copies on write: a copy of it, taken
// under the apply lock, is read by any number of goroutines while the original
// goes on changing.
type table struct {
	tree *btree.Map[string, cell]
	// Keys lie by themselves: a search reads a dozen of them, which then stay in
	// the processor's cache.
	keys  arena
	cells arena
	bytes int64     // of memory: what was replaced or deleted stays until the table goes
	index uint64    // of the last Commit that is in it
	since time.Time // when its first change was committed; zero while empty
}

func newTable() *table { return &table{tree: new(btree.Map[string, cell])} }

func (t *table) put(key, value []byte, k kind) {
	c := t.cells.take(1 + len(value))
	c[0] = byte(k)
	copy(c[1:], value)
	t.bytes += int64(len(key)+len(c)) + rowOverheadBytes
	old, replaced := t.tree.Set(t.keys.keep(key), cell(view(c)))
	if !replaced {
		return
	}
	t.bytes -= rowOverheadBytes
	// Fresh means that the engine holds no such key once the tables below are
	// written. A cell that is not fresh cannot vouch for that; one that is keeps
	// vouching whatever replaces it. Nobody else has seen c yet.
	c[0] = byte(kindPut)
	if old.kind() == kindFresh {
		c[0] = byte(kindFresh)
	}
}

func (t *table) delete(key []byte) {
	old, ok := t.tree.Get(view(key))
	if ok && old.kind() == kindFresh {
		t.tree.Delete(view(key))
		t.bytes -= rowOverheadBytes
		return
	}
	t.tree.Set(t.keys.keep(key), deleted)
	t.bytes += int64(len(key))
	if !ok {
		t.bytes += rowOverheadBytes
	}
}

// arena hands out memory that lives as long as anything in its block does: one
// allocation for many rows, which the garbage collector need not look into.
type arena struct{ block []byte }

const (
	blockBytes = 64 << 10
	// maxShared is the largest piece that shares a block, so that little of one is
	// left over.
	maxShared = blockBytes / 16
)

// take returns n bytes of unknown content.
func (a *arena) take(n int) []byte {
	if n > maxShared {
		return make([]byte, n)
	}
	if n > len(a.block) {
		a.block = make([]byte, blockBytes)
	}
	piece := a.block[:n:n]
	a.block = a.block[n:]
	return piece
}

// keep returns a copy of b.
func (a *arena) keep(b []byte) string {
	piece := a.take(len(b))
	copy(piece, b)
	return view(piece)
}

// view reads b as a string without copying: b must not change as long as the
// string is in use.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// raw is the bytes of a string that a tree owns. Nobody may write to them.
func raw(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
