package statemachine

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// txRead reads with the transaction's own writes, and notes what was seen: the
// commit depends on it. What is read as of a time, or a revision by its number,
// cannot change and is not noted.
func (m *Machine) txRead(c *command, op *replication.TxRead) {
	if m.busy(c) {
		return
	}
	t := m.txOf(c, op.GetTx())
	if t == nil || m.replayed(c, t, op.Tx, opRead, op) {
		return
	}
	asOf := asOfLabel(op.AsOf)
	if asOf == nil && t.readAt != (hlc{}) {
		asOf = &t.readAt
	}
	if op.Range != nil {
		m.txReadRange(c, t, op, asOf)
	} else {
		m.txReadKeys(c, t, op, asOf)
	}
	if c.answer.Code == replication.Code_CODE_OK {
		m.keepOperation(c, t, op.Tx, opRead, op)
	}
}

// view is the machine's own state as those read it who are not in the log.
func (m *Machine) view() *view {
	held := new(heldSince)
	if m.level >= heldOnceLevel {
		*held = heldSince{asked: true, held: len(m.pins.holds) > 0, floor: m.pins.floor}
	}
	return &view{applying{m.store, m}, m.state, held}
}

// applying reads the store and the chunks of history that are not in it yet.
type applying struct {
	Reader
	m *Machine
}

func (a applying) Get(key []byte) ([]byte, bool) {
	if row := a.m.openChunkRow(key); row != nil {
		return row, true
	}
	return a.Reader.Get(key)
}

func (m *Machine) txReadKeys(c *command, t *transaction, op *replication.TxRead, asOf *hlc) {
	if n := len(op.Keys); n == 0 || n > MaxTxKeys {
		c.invalid("the number of keys is not between 1 and 256")
		return
	}
	size := 0
	for _, k := range op.Keys {
		if p := first(problemOfDurability(k.GetDurability()), problemOfName("the key", k.GetKey())); p != "" {
			c.invalid(p)
			return
		}
		size += len(k.Key) + txKeyBytes
	}
	if len(t.reads)+len(op.Keys) > MaxTxReads {
		c.refuse(replication.Code_CODE_LIMIT, "the transaction has read %d keys", len(t.reads))
		return
	}
	if !m.fits(c, t, size) {
		return
	}
	v := m.view()
	p := newPage(0)
	out := &replication.Entries{Entries: make([]*replication.Entry, 0, len(op.Keys))}
	for _, k := range op.Keys {
		f, ok := m.txFind(c, t, v, k, asOf)
		if !ok {
			return
		}
		e := v.entry(k.Durability, string([]byte(k.Key)), &f, op.KeysOnly)
		if !p.take(e.SizeVT(), len(out.Entries) == 0) {
			c.refuse(replication.Code_CODE_LIMIT, "the values are more than %d bytes: read fewer keys at once", replication.MaxPageBytes)
			return
		}
		out.Entries = append(out.Entries, e)
		m.work += readCost + int64(len(e.Value))
	}
	if asOf == nil {
		for _, k := range op.Keys {
			if ref := (keyRef{k.Durability, k.Key}); k.Revision == nil && t.staged[ref] == nil {
				m.observe(c, t, ref)
			}
		}
	}
	c.answer.Result = &replication.Answer_Entries{Entries: out}
}

// txFind reads one key as the transaction sees it. ok is false when c was refused.
func (m *Machine) txFind(c *command, t *transaction, v *view, k *replication.GetKey, asOf *hlc) (f found, ok bool) {
	ref := keyRef{k.Durability, k.Key}
	switch s := t.staged[ref]; {
	case k.Revision != nil:
		f = v.lookupRevision(k.Durability, k.Key, *k.Revision)
	case asOf == nil && m.moved(t, ref):
		m.refuseMoved(c, ref)
		return f, false
	case s != nil:
		f = m.stagedFound(t, ref, s)
	default:
		f = v.lookup(k.Durability, k.Key, asOf)
	}
	if f.tooOld {
		tooOld(c, k.Key)
		return f, false
	}
	return f, true
}

// stagedFound is a key as the transaction's own writes have left it.
func (m *Machine) stagedFound(t *transaction, ref keyRef, s *staged) found {
	f := found{revision: s.revision, ok: s.alive(&m.state)}
	if f.ok {
		f.value = bytes.Clone(m.stagedValue(t, ref, s))
	}
	return f
}

func (m *Machine) stagedValue(t *transaction, ref keyRef, s *staged) []byte {
	if !s.hasValue {
		return nil
	}
	if s.value == 0 {
		return m.value(ref.d, m.head(ref.d, ref.name))
	}
	key := appendUint64(txNameKey(t.id, txRowStaged, ref), s.value)
	row, ok := m.store.Get(key)
	_, item, ok2 := decodeStaged(row)
	if !ok || !ok2 {
		panic(damaged(key, "a staged write"))
	}
	if item.Value == nil {
		return []byte{}
	}
	return item.Value
}

// moved reports whether a key is not what the transaction saw of it any more.
func (m *Machine) moved(t *transaction, ref keyRef) bool {
	if t.brokenMore || len(t.broken) > 0 && slices.Contains(t.broken, ref) {
		return true
	}
	o := t.reads[ref]
	return o != nil && o.exists && o.end != 0 && !m.live(o.end) && !m.head(ref.d, ref.name).alive(&m.state)
}

func (m *Machine) refuseMoved(c *command, ref keyRef) {
	c.refuse(replication.Code_CODE_ABORTED, "key %.100q has changed since the transaction read it", ref.name)
}

// observe notes what the transaction sees of a key, if it has not been seen before.
func (m *Machine) observe(c *command, t *transaction, ref keyRef) {
	if t.reads[ref] != nil {
		return
	}
	h := m.head(ref.d, ref.name)
	o := &observation{exists: h.alive(&m.state), number: h.number, at: c.label}
	if o.exists {
		o.end = h.end
	}
	ref = ref.clone()
	m.remember(t, ref, o)
	m.putTx(t, txNameKey(t.id, txRowRead, ref), o.append(nil))
}

// remember puts an observation into memory.
func (m *Machine) remember(t *transaction, ref keyRef, o *observation) {
	t.reads[ref] = o
	m.tx.addReader(ref, t, o.end)
	m.charge(t, len(ref.name)+txKeyBytes)
}

// noticeChange tells the transactions that have observed a key that it changes.
// An extend counts only where it ends something earlier than it was seen to end:
// neither existence nor revision change before that.
//
// Who was told of a key once is not told again, so that the work is bounded by what
// was observed, not by how often it changes: see reader and spansTold.
func (m *Machine) noticeChange(kind replication.WriteKind, k keyRef, next *revision) {
	if len(m.tx.readers) == 0 && m.tx.readSpans.count == 0 {
		return
	}
	end := next.end
	if kind != replication.WriteKind_WRITE_KIND_EXTEND {
		end = math.MinInt64
	} else if end == 0 {
		end = never
	}
	for _, r := range m.tx.takeReaders(k, end) {
		m.breakRead(r.t, k)
	}
	if m.tx.readSpans.count > 0 {
		m.noticeInSpans(k, end)
	}
}

// noticeInSpans tells those who have read a range that the key is in.
func (m *Machine) noticeInSpans(k keyRef, end int64) {
	told := m.tx.spansTold.of(k)
	since := uint64(0)
	if told != nil && told.end <= end {
		since = told.added + 1
	}
	found := false
	m.tx.readSpans.covering(k, since, func(list []*txSpan) []*txSpan {
		left := list[:0]
		for i, s := range list {
			switch {
			case s.gone:
				continue
			case !endsBefore(end, s.end): // and so are those that follow
				return append(left, list[i:]...)
			case s.added >= since:
				found = true
				m.breakRead(s.tx, k)
			}
			if !s.tx.brokenMore { // else it has nothing more to be told
				left = append(left, s)
			}
		}
		return left
	})
	if found {
		m.tx.spansTold.put(k, told, spanNotice{added: m.tx.readSpans.added, end: end})
	}
}

// byEndSeen is the order of ranges read: what was seen to end last comes first.
func byEndSeen(a, b *txSpan) int { return cmp.Compare(endSeen(b.end), endSeen(a.end)) }

// endSeen is an end that was seen, of which 0 is never.
func endSeen(end int64) int64 {
	if end == 0 {
		return never
	}
	return end
}

// endsBefore compares with an end that was seen.
func endsBefore(end, seen int64) bool { return end < endSeen(seen) }

func (m *Machine) breakRead(t *transaction, k keyRef) {
	switch {
	case t.brokenMore || slices.Contains(t.broken, k):
		return
	case len(t.broken) < txBrokenKept && t.brokenBytes()+len(k.name) <= txBrokenBytes:
		t.broken = append(t.broken, k.clone())
	default:
		t.brokenMore = true
	}
	m.touchTx(t)
}

func (t *transaction) brokenBytes() (n int) {
	for _, k := range t.broken {
		n += len(k.name)
	}
	return n
}

// txReadRange reads a range or bucket, with own writes merged in. The interval
// that was looked at is noted as a whole, so that keys that appear in it count.
func (m *Machine) txReadRange(c *command, t *transaction, op *replication.TxRead, asOf *hlc) {
	r := op.Range
	if p := first(problemOfDurability(r.GetDurability()), problemOfBounds(r)); p != "" {
		c.invalid(p)
		return
	}
	v := m.view()
	if asOf != nil && v.droppedAt.after(*asOf) {
		c.refuse(replication.Code_CODE_TOO_OLD, "keys that were deleted since then are forgotten")
		return
	}
	if asOf == nil && len(t.predicates) >= MaxTxPredicates {
		c.refuse(replication.Code_CODE_LIMIT, "the transaction has read %d ranges", len(t.predicates))
		return
	}
	if asOf == nil && m.tx.readSpans.count >= MaxTxSpans {
		c.refuse(replication.Code_CODE_LIMIT, "all transactions together have read %d ranges", m.tx.readSpans.count)
		return
	}
	span := spanOf(rangeOp{r})
	span.tx, span.at = t, c.label
	if !m.fits(c, t, span.size()+replication.MaxNameBytes) {
		return
	}
	for _, k := range t.broken {
		if asOf == nil && k.d == span.d && strings.HasPrefix(k.name, span.prefix) && span.covers(k.name, spanRow(k)) {
			m.refuseMoved(c, k)
			return
		}
	}
	w := rangeWalk{m: m, c: c, t: t, v: v, op: op, asOf: asOf, span: span, page: txPage(r.Limit, asOf), out: new(replication.Entries)}
	w.own = t.stagedIn(span)
	if r.Descending {
		slices.Reverse(w.own)
	}
	if !w.run() {
		return
	}
	if asOf == nil {
		w.narrow()
		t.next++
		span.number = t.next
		t.predicates = append(t.predicates, span)
		m.tx.readSpans.add(span)
		m.charge(t, span.size())
		m.putTx(t, txNumberKey(t.id, txRowPredicate, span.number), span.append(nil))
	}
	c.answer.Result = &replication.Answer_Entries{Entries: w.out}
}

// What is read at apply is bounded: a page by its rows, fewer where history must
// be searched, and by the keys looked at, deleted ones included.
const (
	maxTxRows     = 1_000
	maxTxRowsAsOf = 256
	maxTxSteps    = 4_000
)

func txPage(limit int64, asOf *hlc) page {
	most := int64(maxTxRows)
	if asOf != nil {
		most = maxTxRowsAsOf
	}
	if limit <= 0 || limit > most {
		limit = most
	}
	return newPage(limit)
}

func problemOfBounds(r *replication.Range) string {
	if len(r.Prefix) > replication.MaxNameBytes || len(r.GetStart()) > replication.MaxNameBytes || len(r.GetEnd()) > replication.MaxNameBytes {
		return "the prefix or a bound is longer than 64 KiB"
	}
	return ""
}

// stagedIn lists the keys in a span that the transaction has written, in order.
func (t *transaction) stagedIn(s *txSpan) (out []keyRef) {
	for k := range t.staged { // sorted below
		if k.d == s.d && strings.HasPrefix(k.name, s.prefix) && s.covers(k.name, spanRow(k)) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, compareRefs)
	return out
}
