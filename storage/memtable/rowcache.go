package memtable

import (
	"bytes"
	"errors"
	"iter"
	"sync"

	"github.com/kahu-sh/kahu/storage"
)

const (
	// rowCacheBytes bounds the rows that one generation remembers, overhead of
	// cachedOverheadBytes each included. There are two generations at a time as a rule.
	rowCacheBytes       = 8 << 20
	cachedOverheadBytes = 96
	// maxCachedRowBytes keeps a few large rows from taking all the room.
	maxCachedRowBytes = 16 << 10
)

// rowCache remembers what views read from the engine within one generation, in
// which the engine stands still: nothing in it ever becomes wrong, and it goes
// with its generation. Hot keys then cost no read of the engine. When it is full
// it begins anew.
type rowCache struct {
	mu    sync.RWMutex
	bytes int
	exact map[string]cachedRow // by key: the row of that key, or that there is none
	first map[string]cachedRow // by from: the first row at or after it
}

// cachedRow is a row, or the knowledge that there is none. It is shared: nobody
// changes it.
type cachedRow struct {
	row  storage.Row
	none bool
}

func newRowCache() *rowCache {
	return &rowCache{exact: make(map[string]cachedRow), first: make(map[string]cachedRow)}
}

func (c *rowCache) find(m map[string]cachedRow, key []byte) (cachedRow, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r, ok := m[view(key)]
	return r, ok
}

// keep remembers r under key in m, one of the two maps.
func (c *rowCache) keep(m map[string]cachedRow, key []byte, r cachedRow) {
	size := len(key) + len(r.row.Key) + len(r.row.Value) + cachedOverheadBytes
	if size > maxCachedRowBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes+size > rowCacheBytes {
		clear(c.exact)
		clear(c.first)
		c.bytes = 0
	}
	if _, there := m[view(key)]; !there {
		m[string(key)] = r
		c.bytes += size
	}
}

// cachedEngine is the engine as of a generation, behind its rowCache. Scans
// remember their first row only: that is all a look-up of a key reads.
type cachedEngine struct {
	gen  *generation
	snap storage.Snapshot
}

// cachedGet is get behind the cache.
func (g *generation) cachedGet(key []byte) ([]byte, error) {
	if r, ok := g.rows.find(g.rows.exact, key); ok {
		if r.none {
			return nil, storage.ErrNotFound
		}
		return r.row.Value, nil
	}
	v, err := g.get(key)
	switch {
	case err == nil:
		g.rows.keep(g.rows.exact, key, cachedRow{row: storage.Row{Value: v}})
	case errors.Is(err, storage.ErrNotFound):
		g.rows.keep(g.rows.exact, key, cachedRow{none: true})
	}
	return v, err
}

// Get implements storage.Reader.
func (e cachedEngine) Get(key []byte) ([]byte, error) { return e.gen.cachedGet(key) }

// ScanReverse implements storage.Reader.
func (e cachedEngine) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return e.snap.ScanReverse(from, to)
}

// Scan implements storage.Reader.
func (e cachedEngine) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		first, err := e.firstRow(from)
		if err != nil {
			yield(storage.Row{}, err)
			return
		}
		if first.none || to != nil && bytes.Compare(first.row.Key, to) >= 0 {
			return
		}
		if !yield(first.row, nil) {
			return
		}
		rest := append(bytes.Clone(first.row.Key), 0) // the least key above it
		for row, err := range e.snap.Scan(rest, to) {
			if !yield(row, err) {
				return
			}
		}
	}
}

// firstRow is the first row at or after from.
func (e cachedEngine) firstRow(from []byte) (cachedRow, error) {
	rows := e.gen.rows
	if r, ok := rows.find(rows.first, from); ok {
		return r, nil
	}
	r := cachedRow{none: true}
	for row, err := range e.snap.Scan(from, nil) {
		if err != nil {
			return r, err
		}
		// A scan's rows are its own only until the next step.
		r = cachedRow{row: storage.Row{Key: bytes.Clone(row.Key), Value: bytes.Clone(row.Value)}}
		break
	}
	rows.keep(rows.first, from, r)
	return r, nil
}
