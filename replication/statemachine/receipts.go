package statemachine

import (
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

// once is the rule of receipts: a request id, which is a session and a number,
// is carried out at most once, and asking again gives the same answer byte for
// byte. Below the session's watermark, or without the session, nobody can tell
// any more whether it was carried out: it is not carried out now (HAZARDS.md 22).
func (m *Machine) once(c *command) {
	if len(c.req.Session) == 0 {
		c.invalid("the request has no request id")
		return
	}
	id, problem := parseID(c.req.Session)
	if problem != "" {
		c.invalid(problem)
		return
	}
	s := m.liveSession(id)
	if s == nil {
		c.refuse(replication.Code_CODE_UNKNOWN_OUTCOME, "the session of this request is unknown or has ended")
		return
	}
	number := c.req.Number
	if number < s.watermark {
		c.refuse(replication.Code_CODE_UNKNOWN_OUTCOME, "request %d is below the session's watermark %d", number, s.watermark)
		return
	}
	// An agent that names its own request as done still wants this answer.
	m.raiseWatermark(s, min(c.req.DoneBelow, number))
	at, known := slices.BinarySearch(s.numbers, number)
	if known {
		m.replay(c, s.serial, number)
		return
	}
	if len(s.numbers) >= replication.MaxReceipts {
		c.refuse(replication.Code_CODE_LIMIT, "the session has %d answers that its agent has not confirmed", len(s.numbers))
		return
	}
	m.dispatch(c)
	switch c.answer.Code {
	case replication.Code_CODE_LOCKED, replication.Code_CODE_PROPOSE_AGAIN:
		return // nothing changed: sent again, it may be carried out
	}
	s.numbers = slices.Insert(s.numbers, at, number)
	m.keepReceipt(s.serial, number, c.answer)
}

func (m *Machine) keepReceipt(serial, number uint64, a *replication.Answer) {
	const keySize = 1 + 8 + 8
	size := a.SizeVT()
	b := slices.Grow(m.row[:0], keySize+1+size)[:keySize+1+size]
	m.row = b
	appendReceiptKey(b[:0], serial, number)
	b[keySize] = rowFormat
	if _, err := a.MarshalToSizedBufferVT(b[keySize+1:]); err != nil {
		panic(damaged(b[:keySize], "an answer that cannot be encoded"))
	}
	m.putFresh(b[:keySize:keySize], b[keySize:])
}

// replay gives the first answer again.
func (m *Machine) replay(c *command, serial, number uint64) {
	key := appendReceiptKey(nil, serial, number)
	b, ok := m.store.Get(key)
	if !ok || len(b) == 0 || b[0] != rowFormat {
		panic(damaged(key, "a receipt"))
	}
	c.answer.Reset()
	if err := c.answer.UnmarshalVT(b[1:]); err != nil {
		panic(damaged(key, "a receipt"))
	}
}

// raiseWatermark drops the receipts that the agent needs no more.
func (m *Machine) raiseWatermark(s *session, to uint64) {
	if to <= s.watermark {
		return
	}
	s.watermark = to
	m.touch(s)
	n, _ := slices.BinarySearch(s.numbers, to)
	m.dropReceipts(s, n)
}

// dropReceipts drops the n oldest.
func (m *Machine) dropReceipts(s *session, n int) {
	for _, number := range s.numbers[:n] {
		m.row = appendReceiptKey(m.row[:0], s.serial, number)
		m.del(m.row)
	}
	s.numbers = s.numbers[n:] // an append moves what is left once the room is used up
}
