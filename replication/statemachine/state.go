package statemachine

import (
	"encoding/binary"
	"math"

	"github.com/kahu-sh/kahu/replication"
)

// Times on the lease clock are nanoseconds, lengths in requests milliseconds.
const (
	msNS   int64 = 1_000_000
	hourNS       = 3_600_000 * msNS
	dayNS        = 24 * hourNS
)

// never is an end that does not come.
const never int64 = math.MaxInt64

// state is the machine's own row: all that apply needs beside the tables.
type state struct {
	index, term uint64
	leaseClock  int64 // L, ns
	label       hlc   // of the last command
	level       uint32
	openedTerm  uint64
	serial      uint64   // last one given to a session or to the end of one
	hash        [16]byte // rolling, over everything applied

	sessions, locksHeld, waiters, keys, sequences uint64

	history [2]chunkCounts // by durability

	// droppedAt is the label of the latest tombstone dropped. As-of reads below
	// it cannot tell "never written" from "dropped".
	droppedAt hlc
}

func (s *state) append(b []byte) []byte {
	b = append(b, rowFormat)
	b = binary.AppendUvarint(b, uint64(s.level))
	b = binary.AppendUvarint(b, s.index)
	b = binary.AppendUvarint(b, s.term)
	b = binary.AppendVarint(b, s.leaseClock)
	b = appendHLC(b, s.label)
	b = binary.AppendUvarint(b, s.openedTerm)
	b = binary.AppendUvarint(b, s.serial)
	for _, n := range [...]uint64{s.sessions, s.locksHeld, s.waiters, s.keys, s.sequences} {
		b = binary.AppendUvarint(b, n)
	}
	for i := range s.history {
		b = s.history[i].append(b)
	}
	b = appendHLC(b, s.droppedAt)
	return append(b, s.hash[:]...)
}

func decodeState(b []byte) (s state, ok bool) {
	d := decode(b)
	s.level = uint32(d.uvarint())
	s.index = d.uvarint()
	s.term = d.uvarint()
	s.leaseClock = d.varint()
	s.label = d.hlc()
	s.openedTerm = d.uvarint()
	s.serial = d.uvarint()
	for _, n := range [...]*uint64{&s.sessions, &s.locksHeld, &s.waiters, &s.keys, &s.sequences} {
		*n = d.uvarint()
	}
	for i := range s.history {
		s.history[i] = d.chunkCounts()
	}
	s.droppedAt = d.hlc()
	copy(s.hash[:], d.take(uint64(len(s.hash))))
	return s, d.done()
}

// loadState reads the machine's row; a store without one is the empty state.
func loadState(r Reader) state {
	b, ok := r.Get(metaKey)
	if !ok {
		return state{level: 1}
	}
	s, ok := decodeState(b)
	switch {
	case ok:
		return s
	case isFirstLayout(b):
		panic(damage{ErrFirstLayout})
	}
	panic(damaged(metaKey, "the position of the state machine"))
}

// isFirstLayout reports whether b is the machine's row as it was before formats
// were kept: with the highest revision dropped where the counts of history stand.
func isFirstLayout(b []byte) bool {
	d := decode(b)
	for range 3 {
		d.uvarint() // level, index, term
	}
	d.varint()
	d.hlc()
	for range 7 {
		d.uvarint()
	}
	d.varint()
	d.hlc()
	d.take(16)
	return d.done()
}

// tick gives the next command its label (contract/decisions.md 3).
func (s *state) tick(wallMS int64) hlc {
	switch {
	case wallMS > s.label.ms:
		s.label = hlc{wallMS, 0}
	case s.label.counter == math.MaxUint32:
		s.label = hlc{s.label.ms + 1, 0}
	default:
		s.label.counter++
	}
	return s.label
}

// advance brings the labels above a time. It goes no further: a label ahead of
// the wall clock is seen in every answer.
func (s *state) advance(aboveMS int64) {
	if aboveMS < math.MaxInt64 && s.label.ms <= aboveMS {
		s.label = hlc{aboveMS + 1, 0}
	}
}

// after is the end of something that lasts ms milliseconds from L on; too long
// is never. ms must not be negative.
func (s *state) after(ms int64) int64 {
	if ms > (never-s.leaseClock)/msNS {
		return never
	}
	return s.leaseClock + ms*msNS
}

// live is the one judgement about ends.
func (s *state) live(end int64) bool { return end > s.leaseClock }

// remainingMS is what is left until end, in whole milliseconds.
func (s *state) remainingMS(end int64) int64 {
	if end <= s.leaseClock {
		return 0
	}
	return (end - s.leaseClock) / msNS
}

func (s *state) machineState() *replication.MachineState {
	return &replication.MachineState{
		AppliedIndex: s.index, AppliedTerm: s.term, LeaseClockNs: s.leaseClock, Level: s.level,
		Hash: append([]byte(nil), s.hash[:]...), Sessions: s.sessions, LocksHeld: s.locksHeld,
		Waiters: s.waiters, Keys: s.keys, Sequences: s.sequences,
	}
}
