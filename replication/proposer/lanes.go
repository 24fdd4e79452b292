package proposer

import "github.com/kahu-sh/kahu/replication"

// A waiter is one request on its way, and who waits for it.
type waiter struct {
	req  *replication.Request
	size int // encoded

	// Written before finish tells, read after.
	answer *replication.Answer
	err    error

	done chan struct{} // Do: one token when finished
	fn   func(*replication.Answer, error)

	queued bool // in a lane; guarded by Proposer.mu
}

// finish hands over the outcome. It is called once for each waiter in use.
func (w *waiter) finish(answer *replication.Answer, err error) {
	if w.fn != nil {
		w.fn(answer, err)
		return
	}
	w.answer, w.err = answer, err
	w.done <- struct{}{}
}

// encodedSize is what w adds to an entry: tag and length in front of the request.
func (w *waiter) encodedSize() int { return w.size + 6 }

// weight is how much of an entry w takes beside its bytes: each of its items costs
// as much to apply as a small request.
func (w *waiter) weight() int {
	if op, ok := w.req.GetOp().(*replication.Request_Write); ok {
		return max(1, len(op.Write.GetItems()))
	}
	return 1
}

// lanes is the queue: urgent requests before the others, each lane in order of
// arrival. Guarded by Proposer.mu.
type lanes struct {
	lane  [2]fifo // 0: urgent
	count int
	bytes int
}

func laneOf(w *waiter) int {
	if w.req.IsUrgent() {
		return 0
	}
	return 1
}

// push appends w to its lane.
func (l *lanes) push(w *waiter) {
	w.queued = true
	l.lane[laneOf(w)].push(w)
	l.count++
	l.bytes += w.encodedSize()
}

// pushFront puts back what take returned, in the same order.
func (l *lanes) pushFront(ws []*waiter) {
	for i := len(ws) - 1; i >= 0; i-- {
		w := ws[i]
		w.queued = true
		l.lane[laneOf(w)].pushFront(w)
		l.count++
		l.bytes += w.encodedSize()
	}
}

// remove withdraws w and reports whether it was queued. Its place stays, empty,
// until take comes by.
func (l *lanes) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	w.queued = false
	l.lane[laneOf(w)].forget(w)
	l.count--
	l.bytes -= w.encodedSize()
	return true
}

// full reports whether an entry is worth closing now.
func (l *lanes) full() bool {
	return l.bytes >= replication.MaxEntryBytes || l.count >= MaxEntryRequests
}

// take appends to into what goes into the next entry: urgent first, and at most
// MaxEntryRequests, items of writes counted one by one, and MaxEntryBytes, but at
// least one when there is one. A lane
// is never overtaken by something smaller behind its first.
func (l *lanes) take(into []*waiter) []*waiter {
	bytes, weight := entryHeaderBytes, 0
	for i := range l.lane {
		for {
			w := l.lane[i].peek()
			if w == nil {
				break
			}
			if len(into) > 0 && (weight+w.weight() > MaxEntryRequests || bytes+w.encodedSize() > replication.MaxEntryBytes) {
				return into
			}
			l.lane[i].pop()
			w.queued = false
			l.count--
			l.bytes -= w.encodedSize()
			bytes += w.encodedSize()
			weight += w.weight()
			into = append(into, w)
		}
	}
	return into
}

// takeAll empties the lanes.
func (l *lanes) takeAll() []*waiter {
	all := make([]*waiter, 0, l.count)
	for i := range l.lane {
		for w := l.lane[i].peek(); w != nil; w = l.lane[i].peek() {
			l.lane[i].pop()
			w.queued = false
			all = append(all, w)
		}
	}
	l.count, l.bytes = 0, 0
	return all
}

// entryHeaderBytes is more than format, level, term, lease clock and wall clock take.
const entryHeaderBytes = 48

// fifo is a queue in a slice; the front is at head. Withdrawn places are nil.
type fifo struct {
	items []*waiter
	head  int
}

func (q *fifo) push(w *waiter) { q.items = append(q.items, w) }

func (q *fifo) pushFront(w *waiter) {
	if q.head == 0 {
		grown := make([]*waiter, len(q.items)+64, 2*len(q.items)+128)
		copy(grown[64:], q.items)
		q.items, q.head = grown, 64
	}
	q.head--
	q.items[q.head] = w
}

// peek returns the first waiter, or nil, and drops withdrawn places before it.
func (q *fifo) peek() *waiter {
	for q.head < len(q.items) {
		if w := q.items[q.head]; w != nil {
			return w
		}
		q.head++
	}
	q.items, q.head = q.items[:0], 0
	return nil
}

// pop removes what peek returned.
func (q *fifo) pop() {
	q.items[q.head] = nil
	q.head++
	// Move what is left down once the front half is empty, so that a queue that
	// is never quite empty does not grow.
	if q.head >= 1024 && q.head*2 >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
}

// forget empties w's place. It searches: withdrawing is rare.
func (q *fifo) forget(w *waiter) {
	for i := q.head; i < len(q.items); i++ {
		if q.items[i] == w {
			q.items[i] = nil
			return
		}
	}
}
