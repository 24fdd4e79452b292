package statemachine

import (
	"bytes"
	"fmt"

	"github.com/kahu-sh/kahu/replication"
)

// write carries out Write. Its code is the item's when there is one, that of
// the first failing item when it is atomic, and OK otherwise: then each item has
// its own.
func (m *Machine) write(c *command, op *replication.Write) {
	if len(op.GetItems()) == 0 {
		c.invalid("the write has no items")
		return
	}
	if len(op.Items) > replication.MaxWriteItems && m.level >= writeItemsLevel {
		c.invalid("the write has more than 10000 items")
		return
	}
	if !m.mayExtend(c, op.Items) {
		return
	}
	out := prepareWritten(c, len(op.Items))
	if op.Atomic && !m.rehearse(c, op.Items, out) {
		return
	}
	for i, item := range op.Items {
		m.writeItem(c, item, &out[i])
	}
	if len(op.Items) == 1 && out[0].Code != replication.Code_CODE_OK {
		c.answer.Code = out[0].Code
		c.answer.Detail = problemOfItem(op.Items[0])
	}
}

// writeItemsLevel is the feature level since which the items of a Write have a
// bound, and what they extend shares the budget of an entry.
const writeItemsLevel = 2

// mayExtend refuses a write for the values whose ends it moves: each is written
// again, so that a few bytes of a request can make gigabytes of changes. Small
// values count for nothing.
func (m *Machine) mayExtend(c *command, items []*replication.WriteItem) bool {
	bytes, extends := int64(0), 0
	for _, item := range items {
		if item.Kind != replication.WriteKind_WRITE_KIND_EXTEND || problemOfItem(item) != "" || m.level < writeItemsLevel {
			continue
		}
		if n := len(m.value(item.Durability, m.head(item.Durability, item.Key))); n > maxValueKept {
			bytes += int64(n)
			extends++
		}
	}
	switch {
	case extends == 0:
		return true
	case m.busy(c):
		return false
	case extends > 1 && bytes > replication.MaxRequestBytes:
		c.refuse(replication.Code_CODE_LIMIT, "the values to be extended have %d bytes together, at most %d at once are allowed", bytes, replication.MaxRequestBytes)
		return false
	}
	m.work += bytes
	return true
}

// writtenItem is an item's answer with all its parts in one allocation.
type writtenItem struct {
	replication.WrittenItem
	modified replication.Timestamp
}

// writtenOne is the answer of a write of one item with all its parts. Most entries
// are full of them: they have one allocation together.
type writtenOne struct {
	answer  replication.Answer_Written
	written replication.Written
	items   [1]writtenItem
	list    [1]*replication.WrittenItem
}

func isPlainWrite(r *replication.Request) bool {
	w, ok := r.Op.(*replication.Request_Write)
	return ok && len(w.Write.GetItems()) == 1
}

func plainWrites(reqs []*replication.Request) (n int) {
	for _, r := range reqs {
		if isPlainWrite(r) {
			n++
		}
	}
	return n
}

// prepareWritten gives the answer of a command n items to be filled in.
func prepareWritten(c *command, n int) []writtenItem {
	if n == 1 && c.one != nil {
		one := c.one
		one.list[0] = &one.items[0].WrittenItem
		one.written.Items = one.list[:]
		one.answer.Written = &one.written
		c.answer.Result = &one.answer
		return one.items[:]
	}
	a := new(struct {
		replication.Answer_Written
		written replication.Written
	})
	a.Written = &a.written
	c.answer.Result = &a.Answer_Written
	items := make([]writtenItem, n)
	a.written.Items = make([]*replication.WrittenItem, n)
	for i := range items {
		a.written.Items[i] = &items[i].WrittenItem
	}
	return items
}

// problemOfItem says what is malformed about an item, "" when nothing.
func problemOfItem(i *replication.WriteItem) string {
	if p := problemOfKey(i.GetDurability(), i.GetKey()); p != "" {
		return p
	}
	switch {
	case i.GetKind() < replication.WriteKind_WRITE_KIND_SET || i.GetKind() > replication.WriteKind_WRITE_KIND_EXTEND:
		return "the kind of write is unknown"
	case i.GetExpiresMs() < 0:
		return "the expiry is negative"
	case len(i.GetValue()) > replication.MaxRequestBytes:
		return "the value is longer than 16 MiB"
	}
	return ""
}

// writeItem carries out one item by itself.
func (m *Machine) writeItem(c *command, item *replication.WriteItem, out *writtenItem) {
	if problemOfItem(item) != "" {
		out.Code, out.Revision = replication.Code_CODE_INVALID, neverWritten.number
		return
	}
	h := m.head(item.Durability, item.Key)
	if holder := m.intrude(nil, keyRef{item.Durability, item.Key}, item.Yield); holder != nil {
		out.Code, out.Holder = replication.Code_CODE_LOCKED, holder.id.timestamp()
	} else {
		out.Code = m.judge(item, &h.revision, func() []byte { return m.value(item.Durability, h) })
	}
	if out.Code == replication.Code_CODE_OK {
		m.change(item, h, c.label)
	}
	m.describeWritten(out, &h.revision)
}

func (m *Machine) describeWritten(out *writtenItem, r *revision) {
	out.Revision = r.number
	if r.number >= 0 {
		out.Modified = &out.modified
		r.modified.fill(out.Modified)
	}
	if r.alive(&m.state) {
		out.ExpiresAtMs = r.expiresMS
	}
}

// judge says what an item comes to, given the head of its key: a condition that
// fails, a key that is missing, or OK.
func (m *Machine) judge(item *replication.WriteItem, r *revision, value func() []byte) replication.Code {
	alive := r.alive(&m.state)
	if !holds(item, alive, r.number, value) {
		return replication.Code_CODE_CONDITION_FAILED
	}
	if !alive && item.Kind != replication.WriteKind_WRITE_KIND_SET {
		return replication.Code_CODE_NOT_FOUND
	}
	return replication.Code_CODE_OK
}

// holds is the rule of conditions: all that are named must hold. The revision
// counts whether the key is alive or not, a missing value compares as empty, and
// null is empty (contract: 4.2).
func holds(item *replication.WriteItem, alive bool, number int64, value func() []byte) bool {
	switch {
	case item.IfExists && !alive, item.IfNotExists && alive:
		return false
	case item.IfRevision && item.CompareRevision != number:
		return false
	case item.IfValue:
		var current []byte
		if alive {
			current = value()
		}
		return bytes.Equal(current, item.CompareValue)
	}
	return true
}

// value is the value of a head, to be read before its next change.
func (m *Machine) value(d replication.Durability, h *head) []byte {
	if h.number < 0 || !h.hasValue {
		return nil
	}
	if h.valueKept {
		return notNil(h.value)
	}
	key := headKey(d, h.name)
	row, ok := m.store.Get(key)
	if !ok {
		panic(damaged(key, "the newest revision of a key"))
	}
	_, value := mustDecodeHead(key, row)
	return value
}

// outcome is the head that an item makes of a head. It changes no rows, so that
// an atomic write, and later a transaction, can look before it leaps.
func (m *Machine) outcome(item *replication.WriteItem, r revision, label hlc) revision {
	next := revision{number: r.number + 1, written: label, modified: label, armed: r.armed}
	switch item.Kind {
	case replication.WriteKind_WRITE_KIND_DELETE:
		next.tombstone, next.end = true, max(m.leaseClock, 1)
		return next
	case replication.WriteKind_WRITE_KIND_EXTEND:
		next.number, next.written, next.hasValue = r.number, r.written, r.hasValue
	default:
		next.hasValue = item.Value != nil
	}
	if item.ExpiresMs > 0 {
		next.end = m.after(item.ExpiresMs)
		next.expiresMS = plusMS(label.ms, item.ExpiresMs)
	}
	return next
}

func plusMS(at, ms int64) int64 {
	if at > never-ms {
		return never
	}
	return at + ms
}

// change is the rule of applying writes: the only place where a command writes a
// key. The head is changed in place.
func (m *Machine) change(item *replication.WriteItem, h *head, label hlc) {
	d := item.Durability
	m.endKey(d, h)
	before := h.revision
	next := m.outcome(item, before, label)
	value := item.Value
	switch item.Kind {
	case replication.WriteKind_WRITE_KIND_EXTEND:
		value = m.value(d, h)
	case replication.WriteKind_WRITE_KIND_DELETE:
		value = nil
	}
	next.armed = m.arm(dueKey, nameRefIf(next.end != 0, d, h.name), before.armed, keyDue(&next))
	wasThere, isThere := before.number >= 0 && !before.tombstone, !next.tombstone
	switch {
	case isThere && !wasThere:
		m.keys++
	case wasThere && !isThere:
		m.keys--
	}
	if next.number != before.number {
		switch {
		case before.number < 0:
			h.born = m.birth(d)
		case item.Kind == replication.WriteKind_WRITE_KIND_SET && item.NoHistory:
		default:
			m.supersede(d, h)
		}
	}
	h.revision = next
	m.putHead(d, h, value)
	if before.number < 0 {
		m.heads[d].add(h)
	}
	m.noticeChange(item.Kind, keyRef{d, h.name}, &next)
}

// history is how many revisions below the newest a key keeps.
func history(d replication.Durability) int64 {
	if d == replication.Durability_DURABILITY_PERSISTENT {
		return HistoryPersistent
	}
	return HistoryEphemeral
}

// nameRefIf saves the building of a ref that arm will not look at.
func nameRefIf(needed bool, d replication.Durability, name string) []byte {
	if !needed {
		return nil
	}
	return nameRef(d, name)
}

// keyDue is when a sweep should look at a key with this head.
func keyDue(r *revision) int64 {
	switch {
	case r.tombstone:
		return saturating(r.end, TombstoneNS)
	case r.end == 0:
		return never
	}
	return r.end
}

// putHead writes the head's row, and keeps value, which may be the one that the
// head has.
func (m *Machine) putHead(d replication.Durability, h *head, value []byte) {
	b := appendName(append(m.row[:0], tableKey, byte(d)), h.name)
	n := len(b)
	b = h.append(b, value)
	m.row = b
	m.put(b[:n:n], b[n:])
	size := h.sizeBytes()
	h.keep(value)
	m.heads[d].youngBytes += h.sizeBytes() - size
}

// endKey is the rule for the end of a key's expiry: what is over at L becomes a
// tombstone that has lost its value and keeps its number. Everybody who writes a
// key ends it first, so that it makes no difference whether a sweep has passed.
func (m *Machine) endKey(d replication.Durability, h *head) {
	if h.number < 0 || h.tombstone || h.alive(&m.state) {
		return
	}
	h.tombstone, h.expired, h.hasValue = true, true, false
	h.armed = m.arm(dueKey, nameRef(d, h.name), h.armed, keyDue(&h.revision))
	m.keys--
	m.putHead(d, h, nil)
}

// fireKey looks at a key whose due row came up, and is gone.
func (m *Machine) fireKey(d replication.Durability, name string, end int64) int {
	h := m.head(d, name)
	if h.number < 0 || h.armed != end {
		return 1
	}
	h.armed = 0
	m.endKey(d, h)
	if h.tombstone && !m.live(saturating(h.end, TombstoneNS)) {
		until := m.pinnedUntil(h.written)
		if until == 0 {
			return m.dropKey(d, h)
		}
		h.armed = m.arm(dueKey, nameRef(d, name), 0, until)
		m.putHead(d, h, nil)
		return 2
	}
	if h.armed == 0 {
		value := m.value(d, h)
		h.armed = m.arm(dueKey, nameRef(d, name), 0, keyDue(&h.revision))
		m.putHead(d, h, value)
	}
	return 2
}

// dropKey forgets a key and its history; its count starts anew. What was
// forgotten leaves a mark, so that a read as of before says that it cannot tell.
func (m *Machine) dropKey(d replication.Durability, h *head) int {
	if h.armed != 0 {
		m.del(dueRowKey(h.armed, dueKey, nameRef(d, h.name)))
	}
	m.del(headKey(d, h.name))
	m.history[d].overdue += uint64(min(h.number, history(d)))
	if h.written.after(m.droppedAt) {
		m.droppedAt = h.written
	}
	m.heads[d].drop(h.name)
	return 2
}

// birth is the trail's born of a key that begins now.
func (m *Machine) birth(d replication.Durability) uint64 {
	if m.droppedAt == (hlc{}) {
		return 0 // there is nothing of a namesake
	}
	return m.history[d].chunks + 1
}

// rehearse judges all items of an atomic write, each on top of those before it,
// and changes nothing. When one fails all are refused.
func (m *Machine) rehearse(c *command, items []*replication.WriteItem, out []writtenItem) bool {
	type place struct {
		d   replication.Durability
		key string
	}
	type staged struct {
		revision
		value []byte
	}
	made := make(map[place]staged, len(items))
	failed := -1
	for i, item := range items {
		if problemOfItem(item) != "" {
			out[i].Code, out[i].Revision = replication.Code_CODE_INVALID, neverWritten.number
		} else {
			at := place{item.Durability, item.Key}
			h := m.head(item.Durability, item.Key)
			m.describeWritten(&out[i], &h.revision)
			s, ok := made[at]
			value := func() []byte { return s.value }
			if !ok {
				s.revision = h.revision
				value = func() []byte { return m.value(item.Durability, h) }
			}
			if holder := m.blocker(nil, keyRef{item.Durability, item.Key}, item.Yield); holder != nil {
				out[i].Code, out[i].Holder = replication.Code_CODE_LOCKED, holder.id.timestamp()
			} else if out[i].Code = m.judge(item, &s.revision, value); out[i].Code == replication.Code_CODE_OK {
				if item.Kind == replication.WriteKind_WRITE_KIND_EXTEND {
					s.value = value()
				} else {
					s.value = item.Value
				}
				s.revision = m.outcome(item, s.revision, c.label)
				made[at] = s
			}
		}
		if failed < 0 && out[i].Code != replication.Code_CODE_OK {
			failed = i
		}
	}
	if failed < 0 {
		return true
	}
	c.answer.Code = out[failed].Code
	c.answer.Detail = fmt.Sprintf("item %d of %d failed, nothing was written", failed+1, len(items))
	for i := range out {
		if out[i].Code == replication.Code_CODE_OK {
			out[i].Code = replication.Code_CODE_ABORTED
		}
	}
	return false
}
