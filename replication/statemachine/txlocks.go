package statemachine

import (
	"cmp"
	"math"
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

// lockEnd is when a lock of a transaction ends that lasts ms; 0 is as long as the
// transaction.
func (m *Machine) lockEnd(ms int64) int64 {
	if ms == 0 {
		return never
	}
	return m.after(ms)
}

// blocks reports whether a lock with this owner and end is in the way of t,
// which is nil for whoever is in no transaction.
func (m *Machine) blocks(owner *transaction, end int64, t *transaction) bool {
	return owner != t && m.live(end) && m.live(owner.end)
}

// blocker is the rule of conflicts for one key (contract/decisions.md 33): the
// transaction whose lock on the key, its bucket or a range around it is in the
// way of t; nil when none is. The lock of a yielding transaction is in the way of
// those alone who yield as well. Of several the oldest is named.
func (m *Machine) blocker(t *transaction, k keyRef, yields bool) *transaction {
	if len(m.tx.locks) == 0 && m.tx.lockSpans.count == 0 {
		return nil
	}
	var found *transaction
	if l := m.tx.locks[k]; l != nil && m.blocks(l.tx, l.end, t) && (yields || !l.tx.yield) {
		found = l.tx
	}
	m.tx.lockSpans.covering(k, 0, func(list []*txSpan) []*txSpan {
		list, s := m.oldestInTheWay(list, t)
		if s != nil && (found == nil || found.id.after(s.tx.id)) {
			found = s.tx
		}
		return list
	})
	return found
}

// byTransaction is the order of locks on spans: the oldest transaction is named.
func byTransaction(a, b *txSpan) int { return a.tx.id.compare(b.tx.id) }

// oldestInTheWay finds the first of a list in order of their transactions that is in
// the way of t. Those that have ended are met once: they are left out of the list,
// because what has ended by the clock stays ended.
func (m *Machine) oldestInTheWay(list []*txSpan, t *transaction) (left []*txSpan, s *txSpan) {
	for i := 0; i < len(list); {
		switch s := list[i]; {
		case s.tx == t:
			own, _ := slices.BinarySearchFunc(list[i:], t, func(s *txSpan, t *transaction) int {
				return cmp.Or(s.tx.id.compare(t.id), -1) // of t's own the place is behind the last
			})
			i += own
		case !s.gone && m.blocks(s.tx, s.end, t):
			return list, s
		default:
			to := i + 1
			for to < len(list) && list[to].tx != t && (list[to].gone || !m.blocks(list[to].tx, list[to].end, t)) {
				to++
			}
			if i == 0 {
				list = list[to:]
			} else {
				list = slices.Delete(list, i, to)
			}
		}
	}
	return list, nil
}

// intrude is blocker for somebody who now takes the key or writes it: a yielding
// transaction in the way gives up (contract/decisions.md 39).
func (m *Machine) intrude(t *transaction, k keyRef, yields bool) *transaction {
	if found := m.blocker(t, k, yields); found != nil {
		return found
	}
	if l := m.tx.locks[k]; l != nil && m.blocks(l.tx, l.end, t) {
		m.doom(l.tx, "the transaction yielded a key to another one")
	}
	return nil
}

// spanBlocker is the same rule for a prefix or range lock. Locks on single keys
// are not in its way: their owners are told at the commit (I14b).
func (m *Machine) spanBlocker(t *transaction, want *txSpan) *txSpan {
	var found *txSpan
	m.tx.lockSpans.overlapping(want, func(s *txSpan) {
		if m.blocks(s.tx, s.end, t) && !(want.shared && s.shared) && (found == nil || found.tx.id.after(s.tx.id) ||
			found.tx == s.tx && found.number > s.number) {
			found = s
		}
	})
	return found
}

// lockKey gives t the lock on a key that nobody is in the way of. An own lease
// that lives goes on, to the new end; keep leaves its end alone.
func (m *Machine) lockKey(c *command, t *transaction, k keyRef, end int64, keep bool) {
	own := t.locks[k]
	if own != nil && m.live(own.end) {
		if !keep && own.end != end {
			own.end = end
			m.putTxAgain(txNameKey(t.id, txRowLock, k), own.append(nil))
		}
		return
	}
	if other := m.tx.locks[k]; other != nil { // ended, perhaps our own
		m.dropTxLock(other.tx, k)
	}
	k = k.clone()
	l := &txLock{tx: t, since: c.label, end: end}
	t.locks[k], m.tx.locks[k] = l, l
	m.charge(t, len(k.name)+txKeyBytes)
	m.putTx(t, txNameKey(t.id, txRowLock, k), l.append(nil))
}

// dropTxLock takes a lock on a key from its transaction.
func (m *Machine) dropTxLock(t *transaction, k keyRef) {
	l := t.locks[k]
	if l == nil {
		return
	}
	delete(t.locks, k)
	if m.tx.locks[k] == l {
		delete(m.tx.locks, k)
	}
	m.charge(t, -len(k.name)-txKeyBytes)
	m.delTx(t, txNameKey(t.id, txRowLock, k))
}

func (m *Machine) dropSpan(t *transaction, s *txSpan) {
	m.tx.lockSpans.remove(s)
	t.spans = slices.DeleteFunc(t.spans, func(o *txSpan) bool { return o == s })
	m.charge(t, -s.size())
	m.delTx(t, txNumberKey(t.id, txRowSpanLock, s.number))
}

// dropLocks frees everything that a transaction has locked. The rows go when the
// transaction is cleared away: those of a doomed one are not loaded again.
func (m *Machine) dropLocks(t *transaction) {
	for k, l := range t.locks {
		if m.tx.locks[k] == l {
			delete(m.tx.locks, k)
		}
		m.charge(t, -len(k.name)-txKeyBytes)
	}
	for _, s := range t.spans {
		m.tx.lockSpans.remove(s)
		m.charge(t, -s.size())
	}
	m.released = m.released || len(t.locks)+len(t.spans) > 0
	clear(t.locks)
	t.spans = nil
}

// wanted is a lock as it was asked for.
type wanted struct {
	key  keyRef
	span *txSpan // nil: a key
	end  int64
}

// problemOfTxLock says what is malformed about a lock, "" when nothing.
func problemOfTxLock(i *replication.TxLockItem) string {
	switch {
	case i.GetKind() < replication.TxLockKind_TX_LOCK_KIND_KEY || i.GetKind() > replication.TxLockKind_TX_LOCK_KIND_RANGE:
		return "the kind of lock is unknown"
	case i.GetTtlMs() < 0:
		return "the TTL is negative"
	case len(i.GetStart()) > replication.MaxNameBytes, len(i.GetEnd()) > replication.MaxNameBytes:
		return "a bound is longer than 64 KiB"
	case i.Kind == replication.TxLockKind_TX_LOCK_KIND_KEY:
		return problemOfKey(i.Durability, i.Key)
	}
	return first(problemOfDurability(i.Durability), problemOfName("the prefix", i.Key))
}

func (m *Machine) wantedOf(i *replication.TxLockItem) wanted {
	w := wanted{key: keyRef{i.Durability, i.Key}, end: m.lockEnd(i.TtlMs)}
	if i.Kind == replication.TxLockKind_TX_LOCK_KIND_KEY {
		return w
	}
	op := &replication.Range{Durability: i.Durability, Prefix: i.Key, Bucket: i.Kind == replication.TxLockKind_TX_LOCK_KIND_PREFIX}
	if !op.Bucket {
		op.Start, op.StartExclusive, op.End, op.EndInclusive = i.Start, i.StartExclusive, i.End, i.EndInclusive
	}
	w.span = spanOf(rangeOp{op})
	w.span.shared = i.Shared && !op.Bucket
	return w
}

// txLock takes all locks or none. Nobody waits: who is in the way is named.
func (m *Machine) txLock(c *command, op *replication.TxLock) {
	if m.busy(c) {
		return
	}
	t := m.txOf(c, op.GetTx())
	if t == nil || m.replayed(c, t, op.Tx, opLock, op) {
		return
	}
	if n := len(op.Locks); n == 0 || n > MaxTxItems {
		c.invalid("the number of locks is not between 1 and 1024")
		return
	}
	want := make([]wanted, len(op.Locks))
	size := 0
	for i, l := range op.Locks {
		if p := problemOfTxLock(l); p != "" {
			c.invalid(p)
			return
		}
		want[i] = m.wantedOf(l)
		if s := want[i].span; s != nil {
			size += s.size()
		} else {
			size += len(l.Key) + txKeyBytes
		}
	}
	if !m.roomForLocks(c, t, want) || !m.fits(c, t, size) {
		return
	}
	m.chargeLocks(t, want)
	for i, w := range want {
		if end, holder := m.inTheWay(t, w); holder != nil {
			c.refuse(replication.Code_CODE_LOCKED, "another transaction holds a lock that is in the way")
			c.answer.Result = &replication.Answer_TxLocked{TxLocked: &replication.TxLocked{
				Holder: holder.id.timestamp(), Blocked: uint32(i), RemainingMs: m.remainingMS(min(end, holder.end)),
			}}
			return
		}
	}
	for _, w := range want {
		if w.span != nil {
			m.lockSpan(c, t, w)
			continue
		}
		m.intrude(t, w.key, t.yield)
		m.lockKey(c, t, w.key, w.end, false)
	}
	c.answer.Result = &replication.Answer_TxLocked{TxLocked: new(replication.TxLocked)}
	m.keepOperation(c, t, op.Tx, opLock, op)
}

// chargeLocks counts the work of taking or giving up locks. One on a span is held
// against all others there are, and against the transaction's own.
func (m *Machine) chargeLocks(t *transaction, locks []wanted) {
	m.work += int64(len(locks)) * lockCost
	for _, w := range locks {
		if w.span != nil {
			m.work += int64(m.tx.lockSpans.count+len(t.spans)) * spanCost
		}
	}
}

// inTheWay returns who is in the way of one lock, and when that ends.
func (m *Machine) inTheWay(t *transaction, w wanted) (int64, *transaction) {
	if w.span != nil {
		if s := m.spanBlocker(t, w.span); s != nil {
			return s.end, s.tx
		}
		return 0, nil
	}
	holder := m.blocker(t, w.key, t.yield)
	if holder == nil {
		return 0, nil
	}
	if l := m.tx.locks[w.key]; l != nil && l.tx == holder {
		return l.end, holder
	}
	return int64(math.MaxInt64), holder
}

func (m *Machine) roomForLocks(c *command, t *transaction, want []wanted) bool {
	spans := 0
	for _, w := range want {
		if w.span != nil {
			spans++
		}
	}
	switch {
	case spans > 0 && t.yield:
		c.invalid("a transaction that yields takes no prefix or range locks")
	case spans > MaxTxSpansAtOnce:
		c.invalid("more than 64 prefix and range locks in one command")
	case len(t.locks)+len(t.spans)+len(want) > MaxTxLocks:
		c.refuse(replication.Code_CODE_LIMIT, "the transaction has %d locks", len(t.locks)+len(t.spans))
	case spans > 0 && m.tx.lockSpans.count+spans > MaxTxSpans:
		c.refuse(replication.Code_CODE_LIMIT, "all transactions together hold %d prefix and range locks", m.tx.lockSpans.count)
	default:
		return true
	}
	return false
}

// lockSpan gives t a prefix or range lock. The same bounds renew it, and make
// a shared lock exclusive but never the other way round.
func (m *Machine) lockSpan(c *command, t *transaction, w wanted) {
	for _, s := range t.spans {
		if !s.same(w.span) {
			continue
		}
		if !m.live(s.end) {
			m.dropSpan(t, s)
			break
		}
		s.end, s.shared = w.end, s.shared && w.span.shared
		m.putTxAgain(txNumberKey(t.id, txRowSpanLock, s.number), s.append(nil))
		return
	}
	s := w.span
	t.next++
	s.tx, s.number, s.at, s.end = t, t.next, c.label, w.end
	t.spans = append(t.spans, s)
	m.tx.lockSpans.add(s)
	m.charge(t, s.size())
	m.putTx(t, txNumberKey(t.id, txRowSpanLock, s.number), s.append(nil))
}

// txUnlock gives locks up. What was read under them must be unchanged at the commit.
func (m *Machine) txUnlock(c *command, op *replication.TxUnlock) {
	if m.busy(c) {
		return
	}
	t := m.txOf(c, op.GetTx())
	if t == nil || m.replayed(c, t, op.Tx, opUnlock, op) {
		return
	}
	if n := len(op.Locks); n == 0 || n > MaxTxItems {
		c.invalid("the number of locks is not between 1 and 1024")
		return
	}
	for _, l := range op.Locks {
		if p := problemOfTxLock(l); p != "" {
			c.invalid(p)
			return
		}
	}
	m.released = true
	given := make([]wanted, len(op.Locks))
	for i, l := range op.Locks {
		given[i] = m.wantedOf(l)
	}
	m.chargeLocks(t, given)
	for _, w := range given {
		if w.span == nil {
			m.dropTxLock(t, w.key)
			continue
		}
		if i := slices.IndexFunc(t.spans, w.span.same); i >= 0 {
			m.dropSpan(t, t.spans[i])
		}
	}
	m.keepOperation(c, t, op.Tx, opUnlock, op)
}

// heldSince returns what reports whether a lock of t has covered a key without a gap
// since a command, and does so now. It holds as long as no lock of t changes.
func (m *Machine) heldSince(t *transaction) func(k keyRef, at hlc) bool {
	var held *spanIndex
	return func(k keyRef, at hlc) bool {
		if l := t.locks[k]; l != nil && m.live(l.end) && !l.since.after(at) {
			return true
		}
		if held == nil {
			held = m.heldSpans(t)
		}
		found := false
		held.covering(k, 0, func(list []*txSpan) []*txSpan {
			found = found || !list[0].at.after(at)
			return list
		})
		return found
	}
}

// heldSpans is an index of the live prefix and range locks of t, those held longest
// first.
func (m *Machine) heldSpans(t *transaction) *spanIndex {
	x := &spanIndex{order: func(a, b *txSpan) int { return a.at.compare(b.at) }}
	for _, s := range t.spans {
		if m.live(s.end) {
			own := *s // the other index has its notes in it
			x.add(&own)
		}
	}
	return x
}
