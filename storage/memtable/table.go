package memtable

import (
	"bytes"
	"time"
	"unsafe"

	"github.com/tidwall/btree"
)

// rowOverheadBytes is what a row costs in memory beside key and value: tree
// entry, headers, allocator rounding. It is an estimate, for the limit only.
const rowOverheadBytes = 96

// kind says what a cell means for the levels below it.
type kind uint8

const (
	kindPut     kind = iota // replaces whatever is below
	kindFresh               // nothing is below: may be forgotten without a trace
	kindDeleted             // hides what is below
)

// cell is what a table knows about one key. A cell is immutable from the Commit
// on that publishes it: copies of the tree share it.
type cell struct {
	value []byte
	kind  kind
}

// deleted is shared by all tables: a deletion carries nothing else.
var deleted = &cell{kind: kindDeleted}

// table is one level in memory. The tree copies on write: a copy of it, taken
// under the apply lock, is read by any number of goroutines while the original
// goes on changing.
type table struct {
	tree  *btree.Map[string, *cell]
	bytes int64
	index uint64    // of the last Commit that is in it
	since time.Time // when its first change was committed; zero while empty
}

func newTable() *table { return &table{tree: new(btree.Map[string, *cell])} }

func sizeBytes(key string, c *cell) int64 {
	return int64(len(key) + len(c.value) + rowOverheadBytes)
}

func (t *table) put(key, value []byte, k kind) {
	c := &cell{value: bytes.Clone(value), kind: k}
	if c.value == nil {
		c.value = []byte{}
	}
	name := string(key)
	t.bytes += sizeBytes(name, c)
	old, replaced := t.tree.Set(name, c)
	if !replaced {
		return
	}
	t.bytes -= sizeBytes(name, old)
	// Fresh means that the engine holds no such key once the tables below are
	// written. A cell that is not fresh cannot vouch for that; one that is keeps
	// vouching whatever replaces it.
	c.kind = kindPut
	if old.kind == kindFresh {
		c.kind = kindFresh
	}
}

func (t *table) delete(key []byte) {
	old, ok := t.tree.Get(view(key))
	if ok && old.kind == kindFresh {
		t.tree.Delete(view(key))
		t.bytes -= sizeBytes(view(key), old)
		return
	}
	name := string(key)
	t.tree.Set(name, deleted)
	t.bytes += sizeBytes(name, deleted)
	if ok {
		t.bytes -= sizeBytes(name, old)
	}
}

// view reads b as a string without copying, for lookups only: the string must
// not outlive the call.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// raw is the bytes of a key that a tree owns. Nobody may write to them.
func raw(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
