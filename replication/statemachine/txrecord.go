package statemachine

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

// The stages and outcomes of a transaction, as they are stored.
const (
	txOpen  byte = 1
	txEnded byte = 2 // the outcome is remembered

	txCommitted  byte = 1
	txRolledBack byte = 2
	txAborted    byte = 3
)

// txRecord is the row of a transaction.
type txRecord struct {
	stage        byte
	coordinator  string
	optimistic   bool
	asyncRelease bool
	autoCommit   bool
	validate     bool
	durable      bool
	yield        bool
	priority     byte
	timeoutMS    int64
	readAt       hlc // zero: the present state
	readNode     int32
	end          int64 // open: when the clock ends it; else: when it ended
	order        uint64
	outcome      byte
	next         uint64 // last number given to a row of its own
	rows         uint32 // of tableTxRow
	operations   uint32
	writes       uint32 // staged
	stagedBytes  uint64
	anchor       string   // first persistent key written
	trouble      string   // why it cannot commit any more
	broken       []keyRef // observed, and changed since; the first few
	brokenMore   bool
}

const (
	txFlagOptimistic uint64 = 1 << iota
	txFlagAsync
	txFlagAuto
	txFlagValidate
	txFlagDurable
	txFlagYield
	txFlagBrokenMore
)

func (r *txRecord) flags() (f uint64) {
	for i, on := range [...]bool{r.optimistic, r.asyncRelease, r.autoCommit, r.validate, r.durable, r.yield, r.brokenMore} {
		if on {
			f |= 1 << i
		}
	}
	return f
}

func (r *txRecord) append(b []byte) []byte {
	b = append(b, rowFormat, r.stage, r.priority, r.outcome)
	b = binary.AppendUvarint(b, r.flags())
	b = appendBytes(b, []byte(r.coordinator))
	b = binary.AppendVarint(b, r.timeoutMS)
	b = appendHLC(b, r.readAt)
	b = binary.AppendVarint(b, int64(r.readNode))
	b = binary.AppendVarint(b, r.end)
	for _, n := range [...]uint64{r.order, r.next, uint64(r.rows), uint64(r.operations), uint64(r.writes), r.stagedBytes} {
		b = binary.AppendUvarint(b, n)
	}
	b = appendBytes(b, []byte(r.anchor))
	b = appendBytes(b, []byte(r.trouble))
	b = binary.AppendUvarint(b, uint64(len(r.broken)))
	for _, k := range r.broken {
		b = appendBytes(append(b, byte(k.d)), []byte(k.name))
	}
	return b
}

func decodeTx(b []byte) (r txRecord, ok bool) {
	d := decode(b)
	r.stage, r.priority, r.outcome = d.byte(), d.byte(), d.byte()
	f := d.uvarint()
	for i, on := range [...]*bool{&r.optimistic, &r.asyncRelease, &r.autoCommit, &r.validate, &r.durable, &r.yield, &r.brokenMore} {
		*on = f&(1<<i) != 0
	}
	r.coordinator = d.string()
	r.timeoutMS = d.varint()
	r.readAt = d.hlc()
	r.readNode = int32(d.varint())
	r.end = d.varint()
	r.order, r.next = d.uvarint(), d.uvarint()
	for _, n := range [...]*uint32{&r.rows, &r.operations, &r.writes} {
		*n = uint32(d.uvarint())
	}
	r.stagedBytes = d.uvarint()
	r.anchor = d.string()
	r.trouble = d.string()
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		r.broken = append(r.broken, keyRef{replication.Durability(d.byte()), d.string()})
	}
	return r, d.done() && f < txFlagBrokenMore<<1 && (r.stage == txOpen || r.stage == txEnded)
}

// Rows of tableTxRow: TX KIND and then
const (
	txRowOperation byte = 1 // OPERATION16
	txRowStaged    byte = 2 // D NAME NUMBER8
	txRowRead      byte = 3 // D NAME
	txRowPredicate byte = 4 // NUMBER8
	txRowLock      byte = 5 // D NAME
	txRowSpanLock  byte = 6 // NUMBER8
)

// txRowHead is the length of TABLE TX KIND.
const txRowHead = 1 + txIDBytes + 1

const txIDBytes = 8 + 4

var forgottenKey = []byte{tableMeta, 't'}

func appendTxID(b []byte, id hlc) []byte {
	return binary.BigEndian.AppendUint32(appendUint64(b, uint64(id.ms)), id.counter)
}

func cutTxID(b []byte) (id hlc, rest []byte, ok bool) {
	if len(b) < txIDBytes {
		return hlc{}, nil, false
	}
	return hlc{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])}, b[txIDBytes:], true
}

func txKey(id hlc) []byte { return appendTxID(append(make([]byte, 0, 1+txIDBytes), tableTx), id) }

func txRowKey(id hlc, kind byte, room int) []byte {
	return append(appendTxID(append(make([]byte, 0, txRowHead+room), tableTxRow), id), kind)
}

func txNameKey(id hlc, kind byte, k keyRef) []byte {
	b := txRowKey(id, kind, 1+len(k.name)+2+8)
	return appendName(append(b, byte(k.d)), k.name)
}

func txNumberKey(id hlc, kind byte, number uint64) []byte {
	return appendUint64(txRowKey(id, kind, 8), number)
}

// putTx adds a row of a transaction; putTxAgain replaces one, delTx drops one.
func (m *Machine) putTx(t *transaction, key, value []byte) {
	t.rows++
	m.touchTx(t)
	m.put(key, value)
}

func (m *Machine) putTxAgain(key, value []byte) { m.put(key, value) }

func (m *Machine) delTx(t *transaction, key []byte) {
	t.rows--
	m.touchTx(t)
	m.del(key)
}

func (o *observation) append(b []byte) []byte {
	b = append(b, rowFormat, boolByte(o.exists))
	b = binary.AppendVarint(b, o.number)
	b = binary.AppendVarint(b, o.end)
	return appendHLC(b, o.at)
}

func decodeObservation(b []byte) (o observation, ok bool) {
	d := decode(b)
	o.exists = d.byte() != 0
	o.number, o.end = d.varint(), d.varint()
	o.at = d.hlc()
	return o, d.done()
}

func (l *txLock) append(b []byte) []byte {
	return binary.AppendVarint(appendHLC(append(b, rowFormat), l.since), l.end)
}

func decodeTxLock(b []byte) (l txLock, ok bool) {
	d := decode(b)
	l.since, l.end = d.hlc(), d.varint()
	return l, d.done()
}

// appendStaged encodes a staged write: what it makes of the key, and the request.
func appendStaged(b []byte, r *revision, item *replication.WriteItem) ([]byte, error) {
	b = append(b, rowFormat)
	b = r.append(b)
	size := item.SizeVT()
	n := len(b)
	b = slices.Grow(b, size)[:n+size]
	_, err := item.MarshalToSizedBufferVT(b[n:])
	return b, err
}

// decodeStaged reads what appendStaged wrote; the item aliases b.
func decodeStaged(b []byte) (r revision, item *replication.WriteItem, ok bool) {
	d := decode(b)
	r = d.revision()
	item = new(replication.WriteItem)
	if d.bad || item.UnmarshalVTUnsafe(d.b) != nil {
		return r, nil, false
	}
	return r, item, true
}

// loadTransactions fills the table from the rows.
func (m *Machine) loadTransactions() {
	t := &m.tx
	*t = txTable{open: make(map[hlc]*transaction), ended: make(map[hlc]*transaction), floor: never,
		locks: make(map[keyRef]*txLock), lockSpans: spanIndex{order: byTransaction},
		readers: make(map[keyRef][]reader), readSpans: spanIndex{order: byEndSeen}}
	if b, ok := m.store.Get(forgottenKey); ok {
		d := decode(b)
		if t.forgotten = d.hlc(); !d.done() {
			panic(damaged(forgottenKey, "the last transaction forgotten"))
		}
	}
	for key, row := range m.store.Scan([]byte{tableTx}, []byte{tableTx + 1}) {
		r, ok := decodeTx(row)
		id, rest, ok2 := cutTxID(key[1:])
		if !ok || !ok2 || len(rest) != 0 {
			panic(damaged(key, "a transaction"))
		}
		if r.stage == txEnded {
			x := &transaction{txRecord: r, id: id}
			t.order = append(t.order, x)
			t.ended[id] = x
			continue
		}
		x := newTransaction(id, r)
		t.open[id] = x
		t.floor = min(t.floor, x.end)
		m.charge(x, len(x.coordinator)+256)
	}
	slices.SortFunc(t.order, func(a, b *transaction) int { return cmp.Compare(a.order, b.order) })
	for _, x := range t.order {
		if x.rows > 0 {
			t.clearing = append(t.clearing, x)
		}
	}
	for key, row := range m.store.Scan([]byte{tableTxRow}, []byte{tableTxRow + 1}) {
		id, rest, ok := cutTxID(key[1:])
		if x := t.open[id]; ok && x != nil && len(rest) > 0 {
			m.loadTxRow(x, key, row)
		}
	}
}

func (m *Machine) loadTxRow(x *transaction, key, row []byte) {
	bad := func(ok bool) {
		if !ok {
			panic(damaged(key, "a row of a transaction"))
		}
	}
	kind, rest := key[txRowHead-1], key[txRowHead:]
	if x.trouble != "" && (kind == txRowLock || kind == txRowSpanLock) {
		return // freed when it was doomed
	}
	switch kind {
	case txRowOperation:
	case txRowPredicate, txRowSpanLock:
		s, ok := decodeSpan(row)
		bad(ok && len(rest) == 8)
		s.tx, s.number = x, binary.BigEndian.Uint64(rest)
		m.charge(x, s.size())
		if kind == txRowPredicate {
			x.predicates = append(x.predicates, &s)
			m.tx.readSpans.add(&s)
		} else {
			x.spans = append(x.spans, &s)
			m.tx.lockSpans.add(&s)
		}
	default:
		bad(len(rest) > 0)
		name, rest2, ok := cutName(rest[1:])
		bad(ok)
		ref := keyRef{replication.Durability(rest[0]), name}
		m.loadTxKey(x, kind, ref, rest2, row, bad)
	}
}

func (m *Machine) loadTxKey(x *transaction, kind byte, ref keyRef, rest, row []byte, bad func(bool)) {
	switch kind {
	case txRowRead:
		o, ok := decodeObservation(row)
		bad(ok && len(rest) == 0)
		m.remember(x, ref, &o)
	case txRowLock:
		l, ok := decodeTxLock(row)
		bad(ok && len(rest) == 0)
		l.tx = x
		x.locks[ref] = &l
		m.tx.locks[ref] = &l
		m.charge(x, len(ref.name)+txKeyBytes)
	case txRowStaged:
		r, item, ok := decodeStaged(bytes.Clone(row))
		bad(ok && len(rest) == 8)
		m.noteStaged(x, ref, item.Kind, r, binary.BigEndian.Uint64(rest))
	default:
		bad(false)
	}
}
