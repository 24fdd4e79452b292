package statemachine

import (
	"bytes"
	"encoding/binary"

	"github.com/kahu-sh/kahu/replication"
)

// allocation is a run of values remembered for an idempotency key.
type allocation struct {
	start, end, count int64
	revision          int64 // of the sequence before
	at                int64 // lease clock
	order             uint64
}

func (a *allocation) append(b []byte) []byte {
	b = append(b, rowFormat)
	for _, v := range [...]int64{a.start, a.end, a.count, a.revision, a.at} {
		b = binary.AppendVarint(b, v)
	}
	return binary.AppendUvarint(b, a.order)
}

func decodeAllocation(b []byte) (a allocation, ok bool) {
	d := decode(b)
	for _, v := range [...]*int64{&a.start, &a.end, &a.count, &a.revision, &a.at} {
		*v = d.varint()
	}
	a.order = d.uvarint()
	return a, d.done()
}

func readAllocation(r Reader, name, key string) (a allocation, ok bool) {
	row := allocationKey(name, key)
	b, ok := r.Get(row)
	if !ok {
		return allocation{}, false
	}
	if a, ok = decodeAllocation(b); !ok {
		panic(damaged(row, "an allocation"))
	}
	return a, true
}

func (a *allocation) answer(name string, replayed bool) *replication.Answer_Allocation {
	return &replication.Answer_Allocation{Allocation: &replication.Allocation{
		Name: string([]byte(name)), Start: a.start, End: a.end, Count: a.count,
		Revision: a.revision, Replayed: replayed,
	}}
}

// rememberAllocation keeps the newest IdempotencyKeys for IdempotencyNS. The old
// are dropped only here, when the sequence is written anyway (S22).
func (m *Machine) rememberAllocation(s *sequence, key string, a allocation) {
	m.put(allocationKey(s.name, key), a.append(nil))
	m.put(allocAgeKey(s.name, a.order), appendBytes(binary.AppendVarint([]byte{rowFormat}, a.at), []byte(key)))
	s.next++
	for s.oldest < s.next {
		_, at := m.oldestKey(s)
		if s.next-s.oldest <= IdempotencyKeys && m.live(saturating(at, IdempotencyNS)) {
			return
		}
		m.forgetOldest(s)
	}
}

// oldestKey reads the idempotency key remembered longest.
func (m *Machine) oldestKey(s *sequence) (key []byte, at int64) {
	row := allocAgeKey(s.name, s.oldest)
	b, ok := m.store.Get(row)
	d := decode(b)
	at, key = d.varint(), d.bytes()
	if !ok || !d.done() {
		panic(damaged(row, "an idempotency key"))
	}
	return bytes.Clone(key), at
}

func (m *Machine) forgetOldest(s *sequence) {
	key, _ := m.oldestKey(s)
	m.del(allocationKey(s.name, string(key)))
	m.del(allocAgeKey(s.name, s.oldest))
	s.oldest++
}
