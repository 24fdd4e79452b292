package statemachine

import (
	"cmp"
	"encoding/binary"
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
		m.replay(c, s, at)
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
	m.keepReceipt(s, at, number, c.answer)
}

// receipts are the answers of a session that its agent has not confirmed. Those of
// one log entry share a row, which goes with the last of them.
type receipts struct {
	numbers []uint64     // of the requests, ascending
	entries []uint64     // index of the entry that decided each of them
	rows    []receiptRow // in order of index
	open    []byte       // the row of the entry being applied
}

type receiptRow struct {
	index uint64
	left  int // receipts in it that were not dropped
}

// keepReceipt remembers an answer; at is the place of its number among the others.
func (m *Machine) keepReceipt(s *session, at int, number uint64, a *replication.Answer) {
	s.numbers = slices.Insert(s.numbers, at, number)
	s.entries = slices.Insert(s.entries, at, m.index)
	last := len(s.rows) - 1
	if last < 0 || s.rows[last].index != m.index {
		s.rows = append(s.rows, receiptRow{index: m.index})
		m.sessions.answered = append(m.sessions.answered, s)
		last++
	}
	s.rows[last].left++
	size := a.SizeVT()
	b := binary.AppendUvarint(binary.AppendUvarint(s.open, number), uint64(size))
	s.open = slices.Grow(b, size)[:len(b)+size]
	if _, err := a.MarshalToSizedBufferVT(s.open[len(b):]); err != nil {
		panic(damaged(receiptsKey(s.serial, m.index), "an answer that cannot be encoded"))
	}
}

// saveReceipts writes the rows of the entry being applied.
func (m *Machine) saveReceipts() {
	for _, s := range m.sessions.answered {
		last := len(s.rows) - 1
		if s.rows[last].left > 0 {
			m.row = append(append(m.row[:0], rowFormat), s.open...)
			m.putFresh(receiptsKey(s.serial, m.index), m.row)
		} else {
			s.rows = s.rows[:last]
		}
		if s.open = s.open[:0]; cap(s.open) > rowKept {
			s.open = nil
		}
	}
	m.sessions.answered = m.sessions.answered[:0]
}

// cutReceipt takes the first receipt off a row, behind its format byte.
func cutReceipt(row []byte) (number uint64, answer, rest []byte, ok bool) {
	d := decoder{b: row}
	number, answer = d.uvarint(), d.bytes()
	return number, answer, d.b, !d.bad
}

// loadReceipts reads what a session has from its rows. Whatever was dropped of
// them lies below its watermark.
func (m *Machine) loadReceipts(s *session) {
	for key, row := range m.store.Scan(receiptsKey(s.serial, 0), receiptsKey(s.serial+1, 0)) {
		r := receiptRow{index: binary.BigEndian.Uint64(key[len(key)-8:])}
		if len(row) == 0 || row[0] != rowFormat {
			panic(damaged(key, "receipts"))
		}
		for rest := row[1:]; len(rest) > 0; {
			number, _, next, ok := cutReceipt(rest)
			if !ok {
				panic(damaged(key, "receipts"))
			}
			if rest = next; number >= s.watermark {
				at, _ := slices.BinarySearch(s.numbers, number)
				s.numbers = slices.Insert(s.numbers, at, number)
				s.entries = slices.Insert(s.entries, at, r.index)
				r.left++
			}
		}
		s.rows = append(s.rows, r)
	}
}

// replay gives the first answer again: that of the number at a place.
func (m *Machine) replay(c *command, s *session, at int) {
	key := receiptsKey(s.serial, s.entries[at])
	rest := s.open
	if s.entries[at] != m.index {
		row, ok := m.store.Get(key)
		if !ok || len(row) == 0 || row[0] != rowFormat {
			panic(damaged(key, "receipts"))
		}
		rest = row[1:]
	}
	for {
		number, answer, next, ok := cutReceipt(rest)
		if !ok {
			panic(damaged(key, "receipts"))
		}
		if rest = next; number != s.numbers[at] {
			continue
		}
		c.answer.Reset()
		if err := c.answer.UnmarshalVT(answer); err != nil {
			panic(damaged(key, "receipts"))
		}
		return
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

// dropReceipts drops the n oldest, and with the last of a row the row. The
// watermark must have passed them.
func (m *Machine) dropReceipts(s *session, n int) {
	for _, index := range s.entries[:n] {
		at, ok := slices.BinarySearchFunc(s.rows, index, func(r receiptRow, index uint64) int { return cmp.Compare(r.index, index) })
		if !ok {
			panic(damaged(receiptsKey(s.serial, index), "receipts"))
		}
		// The row of this entry is not written yet, and perhaps never.
		if s.rows[at].left--; s.rows[at].left == 0 && index != m.index {
			m.del(receiptsKey(s.serial, index))
			s.rows = slices.Delete(s.rows, at, at+1)
		}
	}
	// An append moves what is left once the room is used up.
	s.numbers, s.entries = s.numbers[n:], s.entries[n:]
}
