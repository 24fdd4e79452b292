package sqlite

import (
	"bytes"
	"iter"
	"sync"

	"github.com/kahu-sh/kahu/storage"
)

// A scan fetches this many rows or bytes at a time, and lets others use the
// snapshot's connection between. It begins with one row and takes eight times as
// many each time: most scans only look for the first row at or after a key.
const (
	firstPageRows = 1
	pageGrowth    = 8
	pageRows      = 128
	pageBytes     = 1 << 20
)

// snapshot is a read transaction. It may be used by several goroutines.
type snapshot struct {
	e  *Engine
	mu sync.Mutex // guards the connection
	c  *conn      // nil once released
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return nil, storage.ErrClosed
	}
	return s.c.get(key)
}

func (s *snapshot) Scan(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.scan(from, to, false)
}

func (s *snapshot) ScanReverse(from, to []byte) iter.Seq2[storage.Row, error] {
	return s.scan(from, to, true)
}

// scan goes page by page. The snapshot stands still, so the pages fit together.
func (s *snapshot) scan(from, to []byte, reverse bool) iter.Seq2[storage.Row, error] {
	return func(yield func(storage.Row, error) bool) {
		from, to := from, to
		for limit := firstPageRows; ; limit = min(limit*pageGrowth, pageRows) {
			rows, more, err := s.page(from, to, reverse, limit)
			if err != nil {
				yield(storage.Row{}, err)
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if !more {
				return
			}
			last := bytes.Clone(rows[len(rows)-1].Key)
			if reverse {
				to = last
			} else {
				from = append(last, 0) // the least key above last
			}
		}
	}
}

func (s *snapshot) page(from, to []byte, reverse bool, limit int) (rows []storage.Row, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return nil, false, storage.ErrClosed
	}
	return s.c.page(from, to, reverse, limit)
}

func (s *snapshot) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return
	}
	if err := s.c.run(s.c.commit); err != nil {
		s.c.broken = true
	}
	s.e.giveBack(s.c, true)
	s.c = nil
}
