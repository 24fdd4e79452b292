package statemachine

import (
	"encoding/binary"
	"math"

	"github.com/kahu-sh/kahu/replication"
)

// sequence is the record of one sequence. Every allocation is one command, so
// there are no blocks and no gaps: current is the last value issued.
type sequence struct {
	name        string
	current     int64
	initial     int64
	increment   int64
	maximum     *int64
	blockSize   *int32 // kept and shown
	revision    int64
	incarnation int64
	created     hlc
	updated     hlc
	held        bool   // restored: stands still until an operator sets current (HAZARDS.md 18)
	oldest      uint64 // order of the oldest idempotency key remembered
	next        uint64 // order of the next one
}

const (
	flagMaximum byte = 1 << iota
	flagBlockSize
	flagHeld // since level 2
)

func (s *sequence) append(b []byte) []byte {
	var flags byte
	if s.maximum != nil {
		flags |= flagMaximum
	}
	if s.blockSize != nil {
		flags |= flagBlockSize
	}
	if s.held {
		flags |= flagHeld
	}
	b = append(b, rowFormat, flags)
	for _, v := range [...]int64{s.current, s.initial, s.increment, s.revision, s.incarnation} {
		b = binary.AppendVarint(b, v)
	}
	b = appendHLC(appendHLC(b, s.created), s.updated)
	b = binary.AppendUvarint(binary.AppendUvarint(b, s.oldest), s.next)
	if s.maximum != nil {
		b = binary.AppendVarint(b, *s.maximum)
	}
	if s.blockSize != nil {
		b = binary.AppendVarint(b, int64(*s.blockSize))
	}
	return b
}

func decodeSequence(b []byte) (s sequence, ok bool) {
	d := decode(b)
	flags := d.byte()
	for _, v := range [...]*int64{&s.current, &s.initial, &s.increment, &s.revision, &s.incarnation} {
		*v = d.varint()
	}
	s.created, s.updated = d.hlc(), d.hlc()
	s.oldest, s.next = d.uvarint(), d.uvarint()
	if flags&flagMaximum != 0 {
		v := d.varint()
		s.maximum = &v
	}
	if flags&flagBlockSize != 0 {
		wide := d.varint()
		v := int32(wide)
		if int64(v) != wide {
			d.fail()
		}
		s.blockSize = &v
	}
	s.held = flags&flagHeld != 0
	return s, d.done() && flags < flagHeld<<1
}

// readSequence reads a sequence's row.
func readSequence(r Reader, name string) (s sequence, ok bool) {
	key := sequenceKey(name)
	b, ok := r.Get(key)
	if !ok {
		return sequence{}, false
	}
	if s, ok = decodeSequence(b); !ok {
		panic(damaged(key, "a sequence"))
	}
	s.name = name
	return s, true
}

func (m *Machine) saveSequence(s *sequence) {
	m.row = s.append(m.row[:0])
	m.put(sequenceKey(s.name), m.row)
}

func (s *sequence) describe() *replication.Sequence {
	return &replication.Sequence{
		Name: string([]byte(s.name)), Current: s.current, Initial: s.initial, Increment: s.increment,
		Maximum: s.maximum, BlockSize: s.blockSize, Revision: s.revision, Incarnation: s.incarnation,
		Created: s.created.timestamp(), Updated: s.updated.timestamp(), Held: s.held,
	}
}

const (
	textNoSequence = "there is no sequence of this name"
	textHeld       = "the sequence was restored and stands still: what it gave out after the backup is not known. " +
		"Name its next value: kahu seq release NAME --next N, or --margin N to leave out N values"
)

// problemOfShape says what is wrong with a sequence's fields, "" when nothing.
func (s *sequence) problemOfShape(floor int64) string {
	return replication.ProblemOfSequence(s.increment, s.maximum, s.blockSize, floor)
}

func copied[T any](v *T) *T {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

func (m *Machine) sequenceCreate(c *command, op *replication.SequenceCreate) {
	s := sequence{
		name: op.GetName(), current: op.GetInitial(), initial: op.GetInitial(), increment: op.GetIncrement(),
		maximum: copied(op.Maximum), blockSize: copied(op.BlockSize), created: c.label, updated: c.label,
	}
	if p := first(problemOfSequence(s.name), s.problemOfShape(s.initial)); p != "" {
		c.invalid(p)
		return
	}
	if _, ok := readSequence(m.store, s.name); ok {
		c.refuse(replication.Code_CODE_EXISTS, "there is a sequence of this name")
		return
	}
	m.state.sequences++
	m.saveSequence(&s)
	c.answer.Result = &replication.Answer_Sequence{Sequence: s.describe()}
}

// sequenceNext allocates the next count values. An idempotency key is looked at
// before the maximum, so that a replay works on an exhausted sequence (S20).
func (m *Machine) sequenceNext(c *command, op *replication.SequenceNext) {
	p := problemOfSequence(op.GetName())
	switch {
	case p != "":
	case op.Count <= 0:
		p = "the count is not above zero"
	case len(op.IdempotencyKey) > MaxIdempotencyKeyBytes:
		p = "the idempotency key is longer than 1024 bytes"
	}
	if p != "" {
		c.invalid(p)
		return
	}
	s, ok := readSequence(m.store, op.Name)
	if !ok {
		c.refuse(replication.Code_CODE_NOT_FOUND, textNoSequence)
		return
	}
	if op.IdempotencyKey != "" {
		if a, ok := readAllocation(m.store, op.Name, op.IdempotencyKey); ok {
			if a.count != op.Count {
				c.refuse(replication.Code_CODE_KEY_REUSED, "the idempotency key was used for %d values", a.count)
				return
			}
			c.answer.Result = a.answer(op.Name, true)
			return
		}
	}
	if s.held {
		c.refuse(replication.Code_CODE_HELD, textHeld)
		return
	}
	if left := s.left(); uint64(op.Count) > left {
		c.refuse(replication.Code_CODE_EXHAUSTED, "the sequence has %d values left", left)
		return
	}
	a := allocation{
		start: s.current + s.increment, end: s.current + s.increment*op.Count,
		count: op.Count, revision: s.revision, at: m.leaseClock, order: s.next,
	}
	s.current = a.end
	s.revision++
	s.updated = c.label
	if op.IdempotencyKey != "" {
		m.rememberAllocation(&s, op.IdempotencyKey, a)
	}
	m.saveSequence(&s)
	c.answer.Result = a.answer(op.Name, false)
}

// left is how many values the sequence can still issue. The maximum itself may
// be issued; without one it is that of 64 bits. Nothing here can overflow.
func (s *sequence) left() uint64 {
	limit := int64(math.MaxInt64)
	if s.maximum != nil {
		limit = *s.maximum
	}
	if s.current >= limit {
		return 0
	}
	return (uint64(limit) - uint64(s.current)) / uint64(s.increment)
}

// notLowerLevel is the feature level since which an update can be one that lowers
// nothing.
const notLowerLevel = 4

func (m *Machine) sequenceUpdate(c *command, op *replication.SequenceUpdate) {
	if p := problemOfSequence(op.GetName()); p != "" {
		c.invalid(p)
		return
	}
	s, ok := readSequence(m.store, op.Name)
	if !ok {
		c.refuse(replication.Code_CODE_NOT_FOUND, textNoSequence)
		return
	}
	if op.Current == nil && op.Increment == nil && op.Initial == nil && op.Maximum == nil &&
		!op.RemoveMaximum && op.BlockSize == nil && !op.RemoveBlockSize {
		c.invalid("the update changes nothing")
		return
	}
	if op.OnlyHeld && !s.held {
		c.refuse(replication.Code_CODE_CONDITION_FAILED, "the sequence does not stand still")
		return
	}
	if op.NotLower && op.Current != nil && *op.Current < s.current && m.level >= notLowerLevel {
		c.refuse(replication.Code_CODE_INVALID, replication.TextLower, s.current, *op.Current)
		return
	}
	s.held = s.held && op.Current == nil
	set := func(to *int64, from *int64) {
		if from != nil {
			*to = *from
		}
	}
	set(&s.current, op.Current)
	set(&s.increment, op.Increment)
	set(&s.initial, op.Initial)
	if op.Maximum != nil {
		s.maximum = copied(op.Maximum)
	}
	if op.RemoveMaximum {
		s.maximum = nil
	}
	if op.BlockSize != nil {
		s.blockSize = copied(op.BlockSize)
	}
	if op.RemoveBlockSize {
		s.blockSize = nil
	}
	if p := s.problemOfShape(s.current); p != "" {
		c.invalid(p)
		return
	}
	s.revision++
	s.incarnation++
	s.updated = c.label
	m.saveSequence(&s)
	c.answer.Result = &replication.Answer_Sequence{Sequence: s.describe()}
}

func (m *Machine) sequenceDelete(c *command, op *replication.SequenceDelete) {
	if p := problemOfSequence(op.GetName()); p != "" {
		c.invalid(p)
		return
	}
	s, ok := readSequence(m.store, op.Name)
	if !ok {
		c.refuse(replication.Code_CODE_NOT_FOUND, textNoSequence)
		return
	}
	for s.oldest < s.next {
		m.forgetOldest(&s)
	}
	m.del(sequenceKey(s.name))
	m.state.sequences--
	c.answer.Result = &replication.Answer_Sequence{Sequence: s.describe()}
}
