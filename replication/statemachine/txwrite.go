package statemachine

import (
	"bytes"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// txWrite stages writes. Each item stands for itself, is judged on what the
// transaction sees, and answers as if it were applied.
func (m *Machine) txWrite(c *command, op *replication.TxWrite) {
	if m.busy(c) {
		return
	}
	t := m.txOf(c, op.GetTx())
	if t == nil || m.replayed(c, t, op.Tx, opWrite, op) {
		return
	}
	if n := len(op.Items); n == 0 || n > MaxTxItems {
		c.invalid("the number of writes is not between 1 and 1024")
		return
	}
	size, staged := 0, t.stagedBytes
	for _, i := range op.Items {
		size += 3 * (len(i.GetKey()) + txKeyBytes) // staged, locked, observed
		staged += uint64(len(i.GetKey()) + len(i.GetValue()))
	}
	switch {
	case int(t.writes)+len(op.Items) > MaxTxWrites:
		c.refuse(replication.Code_CODE_LIMIT, "the transaction has %d writes, at most %d are allowed", t.writes, MaxTxWrites)
		return
	case staged > MaxTxStagedBytes && t.writes > 0:
		c.refuse(replication.Code_CODE_LIMIT, "the transaction's writes have %d bytes, at most %d are allowed", staged, MaxTxStagedBytes)
		return
	case len(t.locks)+len(t.spans)+len(op.Items) > MaxTxLocks, len(t.reads)+len(op.Items) > MaxTxReads:
		c.refuse(replication.Code_CODE_LIMIT, "the transaction has %d locks and has read %d keys", len(t.locks)+len(t.spans), len(t.reads))
		return
	case !m.fits(c, t, size):
		return
	}
	out := prepareWritten(c, len(op.Items))
	for i, item := range op.Items {
		m.stageItem(c, t, item, &out[i])
		m.work += writeCost + int64(len(item.Value))
	}
	if len(op.Items) == 1 && out[0].Code != replication.Code_CODE_OK {
		c.answer.Code, c.answer.Detail = out[0].Code, problemOfItem(op.Items[0])
	}
	m.keepOperation(c, t, op.Tx, opWrite, op)
}

// stageItem stages one write.
func (m *Machine) stageItem(c *command, t *transaction, item *replication.WriteItem, out *writtenItem) {
	out.Revision = neverWritten.number
	if problemOfItem(item) != "" {
		out.Code = replication.Code_CODE_INVALID
		return
	}
	ref := keyRef{item.Durability, item.Key}
	if m.moved(t, ref) {
		out.Code = replication.Code_CODE_ABORTED
		return
	}
	if holder := m.intrude(t, ref, t.yield); holder != nil {
		out.Code, out.Holder = replication.Code_CODE_LOCKED, holder.id.timestamp()
		return
	}
	h := m.head(item.Durability, item.Key)
	before := h.revision
	s := t.staged[ref]
	if s != nil {
		before = s.revision
	}
	value := func() []byte {
		if s != nil {
			return m.stagedValue(t, ref, s)
		}
		return m.value(item.Durability, h)
	}
	out.Code = m.judge(item, &before, value)
	if s == nil && conditional(item) {
		m.observe(c, t, ref)
	}
	bytes := len(item.Value)
	if out.Code == replication.Code_CODE_OK && item.Kind == replication.WriteKind_WRITE_KIND_EXTEND {
		bytes = len(value()) // which the commit writes again
		if t.stagedBytes+uint64(bytes) > MaxTxStagedBytes && t.writes > 0 {
			out.Code = replication.Code_CODE_LIMIT
		}
	}
	if out.Code == replication.Code_CODE_OK {
		before = m.outcome(item, before, c.label)
		m.lockKey(c, t, ref, m.after(TxIntentMS), true)
		m.stage(t, ref.clone(), item, before)
		t.stagedBytes += uint64(len(item.Key) + bytes)
	}
	m.describeWritten(out, &before)
}

// conditional reports whether what a write comes to depends on what was there
// before: then it counts as a read of the key (contract/decisions.md 32).
func conditional(i *replication.WriteItem) bool {
	return i.Kind != replication.WriteKind_WRITE_KIND_SET || i.IfExists || i.IfNotExists || i.IfValue || i.IfRevision
}

// stage keeps one write and what it makes of the key.
func (m *Machine) stage(t *transaction, ref keyRef, item *replication.WriteItem, next revision) {
	next.armed = 0
	t.next++
	row, err := appendStaged(m.row[:0], &next, item)
	key := appendUint64(txNameKey(t.id, txRowStaged, ref), t.next)
	if err != nil {
		panic(damaged(key, "a write that cannot be encoded"))
	}
	m.row = row
	m.putTx(t, key, row)
	m.noteStaged(t, ref, item.Kind, next, t.next)
	t.writes++
	if t.anchor == "" && ref.d == replication.Durability_DURABILITY_PERSISTENT {
		t.anchor = ref.name
		if len(t.anchor) > MaxCoordinatorBytes { // clients only send it back
			t.anchor = strings.ToValidUTF8(t.anchor[:MaxCoordinatorBytes], "")
		}
	}
}

// noteStaged puts a staged write into memory, in the order of their numbers.
func (m *Machine) noteStaged(t *transaction, ref keyRef, kind replication.WriteKind, next revision, number uint64) {
	s := t.staged[ref]
	if s == nil {
		s = &staged{first: number}
		t.staged[ref] = s
		m.charge(t, len(ref.name)+txKeyBytes)
	}
	s.revision = next
	s.items++
	if kind != replication.WriteKind_WRITE_KIND_EXTEND {
		s.value = number
	}
}

// stagedItems reads the staged writes of one key, in order.
func (m *Machine) stagedItems(t *transaction, ref keyRef) []*replication.WriteItem {
	s := t.staged[ref]
	items := make([]*replication.WriteItem, 0, s.items)
	from := txNameKey(t.id, txRowStaged, ref)
	for key, row := range m.store.Scan(from, passed(bytes.Clone(from))) {
		_, item, ok := decodeStaged(bytes.Clone(row))
		if !ok {
			panic(damaged(key, "a staged write"))
		}
		items = append(items, item)
	}
	return items
}
