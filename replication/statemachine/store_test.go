package statemachine_test

import (
	"bytes"
	"fmt"
	"iter"
	"testing"

	"github.com/tidwall/btree"

	"github.com/kahu-sh/kahu/replication/statemachine"
)

// mapStore is the simplest Store there is. It checks what a caller of PutFresh
// promises: that the key has never been there.
type mapStore struct {
	rows btree.Map[string, []byte]
	ever map[string]bool
	puts int
}

func newMapStore() *mapStore { return &mapStore{ever: make(map[string]bool)} }

func (s *mapStore) Get(key []byte) ([]byte, bool) { return s.rows.Get(string(key)) }

func (s *mapStore) Put(key, value []byte) {
	if s.ever != nil {
		s.ever[string(key)] = true
	}
	s.puts++
	s.rows.Set(string(key), bytes.Clone(value))
}

func (s *mapStore) PutFresh(key, value []byte) {
	if s.ever != nil && s.ever[string(key)] {
		panic(fmt.Sprintf("PutFresh of %x, which was in the store before", key))
	}
	s.Put(key, value)
}

func (s *mapStore) Delete(key []byte) { s.rows.Delete(string(key)) }

func (s *mapStore) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		s.rows.Ascend(string(from), func(k string, v []byte) bool {
			return (to == nil || k < string(to)) && yield([]byte(k), v)
		})
	}
}

func (s *mapStore) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		visit := func(k string, v []byte) bool {
			if to != nil && k >= string(to) {
				return true
			}
			return k >= string(from) && yield([]byte(k), v)
		}
		if to == nil {
			s.rows.Reverse(visit)
			return
		}
		s.rows.Descend(string(to), visit)
	}
}

// dump lists all rows in hex.
func (s *mapStore) dump() []string {
	var out []string
	for k, v := range s.Scan(nil, nil) {
		out = append(out, fmt.Sprintf("%x = %x", k, v))
	}
	return out
}

var _ statemachine.Store = (*mapStore)(nil)

func newMachine(t testing.TB, s statemachine.Store) *statemachine.Machine {
	t.Helper()
	m, err := statemachine.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
