package statemachine

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

func (a hlc) compare(b hlc) int {
	return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(a.counter, b.counter))
}

// What a command at apply costs, in nanoseconds of an unhurried core, roughly, and
// each byte of a value that it reads or writes costs one more: that bounds as well
// what the answers of an entry, and its changes, take of memory;
// and what one entry may spend before its other costly commands must wait for the
// next one (DESIGN.md §3: apply stays under 10 ms).
const (
	readCost  int64 = 3_000
	writeCost int64 = 8_000
	lockCost  int64 = 4_000
	spanCost  int64 = 20
	entryWork int64 = 5_000_000
)

// busy answers a costly command with PROPOSE_AGAIN when its entry has had enough
// of them. The first one in an entry is always carried out.
func (m *Machine) busy(c *command) bool {
	if m.work < entryWork {
		return false
	}
	c.refuse(replication.Code_CODE_PROPOSE_AGAIN, "the entry was full of work: not applied")
	return true
}

// keyRef names a key in memory.
type keyRef struct {
	d    replication.Durability
	name string
}

// clone gives the name memory of its own: those of a request are the log's.
func (k keyRef) clone() keyRef { return keyRef{k.d, string([]byte(k.name))} }

func compareRefs(a, b keyRef) int {
	return cmp.Or(cmp.Compare(a.d, b.d), cmp.Compare(a.name, b.name))
}

// observation is what a transaction saw of a key when it first touched it.
type observation struct {
	exists bool
	number int64
	end    int64 // as seen, on the lease clock; 0: never
	at     hlc   // label of the command that saw it
}

// staged is a key as a transaction has left it.
type staged struct {
	revision        // on top of the committed one as of the first write
	first    uint64 // number of the first staged write
	value    uint64 // number of the staged write that has the value; 0: the committed one
	items    uint32
}

// txLock is a lock on one key.
type txLock struct {
	tx    *transaction
	since hlc   // held without a gap since this command
	end   int64 // on the lease clock
}

// transaction is one interactive transaction. What it decides by is in its rows
// and, while it is open, in memory as well.
type transaction struct {
	txRecord
	id hlc

	staged     map[keyRef]*staged
	reads      map[keyRef]*observation
	predicates []*txSpan
	locks      map[keyRef]*txLock
	spans      []*txSpan // prefix and range locks
	bytes      int       // of memory
	dirty      bool
}

// txTable has all transactions: open ones, outcomes remembered, and those whose
// rows are still to be cleared away.
type txTable struct {
	open     map[hlc]*transaction
	ended    map[hlc]*transaction // remembered; their maps are nil
	order    []*transaction       // ended, oldest end first
	clearing []*transaction       // ended, with rows left; oldest first
	dirty    []*transaction
	floor    int64 // no open transaction ends before
	bytes    int

	locks     map[keyRef]*txLock
	lockSpans spanIndex
	readers   map[keyRef][]reader // who observed a key and is to be told, in their order
	readSpans spanIndex
	spansTold spansTold

	// forgotten is the highest id of a transaction whose outcome was dropped: of
	// those up to it nobody can tell any more.
	forgotten hlc
}

// due is when something of a transaction is to be swept.
func (t *txTable) due() int64 {
	at := t.floor
	if len(t.order) > 0 {
		at = min(at, saturating(t.order[0].end, TxOutcomeNS))
	}
	return at
}

// findTx returns an open transaction that the clock has not ended.
func (m *Machine) findTx(id hlc) *transaction {
	if t := m.tx.open[id]; t != nil && m.live(t.end) {
		return t
	}
	return nil
}

// touchTx makes the row be written at the end of the entry, once.
func (m *Machine) touchTx(t *transaction) {
	if !t.dirty {
		t.dirty = true
		m.tx.dirty = append(m.tx.dirty, t)
	}
}

// saveTransactions writes the rows of those touched, in order of id: the order in
// which memory met them may differ after a restart.
func (m *Machine) saveTransactions() {
	slices.SortFunc(m.tx.dirty, func(a, b *transaction) int { return a.id.compare(b.id) })
	for _, t := range m.tx.dirty {
		if t.dirty {
			t.dirty = false
			m.row = t.append(m.row[:0])
			m.put(txKey(t.id), m.row)
		}
	}
	clear(m.tx.dirty)
	m.tx.dirty = m.tx.dirty[:0]
}

// txOf finds the transaction that an operation belongs to, or refuses it.
func (m *Machine) txOf(c *command, ref *replication.TxRef) *transaction {
	if ref.GetId() == nil || ref.Id.PhysicalMs == 0 && ref.Id.Counter == 0 {
		c.invalid("the transaction's id is missing")
		return nil
	}
	if n := len(ref.Operation); n != 0 && n != replication.OperationIDBytes {
		c.invalid("the operation id is not 16 bytes")
		return nil
	}
	t := m.findTx(toHLC(ref.Id))
	switch {
	case t == nil || ref.Id.Node != 0 || !t.coordinates(ref):
		c.refuse(replication.Code_CODE_ABORTED, "the transaction is unknown or has ended")
		return nil
	case t.trouble != "":
		c.refuse(replication.Code_CODE_ABORTED, "%s", t.trouble)
		return nil
	}
	return t
}

func (t *transaction) coordinates(ref *replication.TxRef) bool {
	return ref.GetCoordinatorKey() == "" || ref.CoordinatorKey == t.coordinator
}

// RefusedStartLevel is the feature level since which a start that was not admitted
// is decided in the log, so that it cannot be told of one that an earlier attempt
// has begun. Before, the refusal is not looked at.
const RefusedStartLevel = 4

func (m *Machine) txStart(c *command, op *replication.TxStart) {
	if op.Refused != "" && m.level >= RefusedStartLevel {
		c.refuse(replication.Code_CODE_ADMISSION_REFUSED, "%s", op.Refused)
		return
	}
	readAt := op.GetReadTimestamp()
	pinned := readAt.GetPhysicalMs() != 0 || readAt.GetCounter() != 0 || readAt.GetNode() != 0
	switch {
	case op.Locking != replication.TxLocking_TX_LOCKING_PESSIMISTIC && op.Locking != replication.TxLocking_TX_LOCKING_OPTIMISTIC:
		c.invalid("the locking is neither pessimistic (0) nor optimistic (1)")
		return
	case pinned && op.ValidateReads:
		c.invalid("reads as of a time cannot be validated: leave out one of both")
		return
	case len(op.CoordinatorKey) > MaxCoordinatorBytes:
		c.invalid("the coordinator key is longer than 1 KiB")
		return
	case len(m.tx.open) >= MaxTransactions, m.tx.bytes > MaxTxMemoryBytes:
		c.refuse(replication.Code_CODE_ADMISSION_REFUSED, "%d transactions are open", len(m.tx.open))
		return
	}
	timeout := op.TimeoutMs
	if timeout <= 0 {
		timeout = DefaultTxTimeoutMS
	}
	t := newTransaction(c.label, txRecord{
		stage: txOpen, coordinator: string([]byte(op.CoordinatorKey)), timeoutMS: min(timeout, MaxTxTimeoutMS),
		optimistic:   op.Locking == replication.TxLocking_TX_LOCKING_OPTIMISTIC,
		asyncRelease: op.AsyncRelease, autoCommit: op.AutoCommit, validate: op.ValidateReads,
		durable: op.Durable, yield: op.Yield, priority: normalPriority(op.Priority),
	})
	t.end = m.after(t.timeoutMS + TxGraceMS)
	if pinned {
		t.readAt, t.readNode = toHLC(readAt), readAt.Node
	}
	m.tx.open[t.id] = t
	m.charge(t, len(t.coordinator)+256)
	m.tx.floor = min(m.tx.floor, t.end)
	m.touchTx(t)
	c.answer.Result = &replication.Answer_TxStarted{TxStarted: &replication.TxStarted{
		Id: t.id.timestamp(), RemainingMs: m.remainingMS(t.end),
	}}
}

func normalPriority(p replication.TxPriority) byte {
	if p < replication.TxPriority_TX_PRIORITY_BACKGROUND || p > replication.TxPriority_TX_PRIORITY_CRITICAL {
		p = replication.TxPriority_TX_PRIORITY_NORMAL
	}
	return byte(p)
}

func newTransaction(id hlc, r txRecord) *transaction {
	return &transaction{txRecord: r, id: id, staged: make(map[keyRef]*staged),
		reads: make(map[keyRef]*observation), locks: make(map[keyRef]*txLock)}
}

// charge counts memory that a transaction takes, or gives back.
func (m *Machine) charge(t *transaction, size int) {
	t.bytes += size
	m.tx.bytes += size
}

// What an entry of one of the maps costs beside its names, roughly.
const (
	txKeyBytes  = 160
	txSpanBytes = 240
)

// fits refuses a command of a transaction that would keep more in memory.
func (m *Machine) fits(c *command, t *transaction, size int) bool {
	switch {
	case t.bytes+size > maxTxOwnBytes:
		c.refuse(replication.Code_CODE_LIMIT, "the transaction has locked, read and written too many keys: %d bytes of names", t.bytes)
	case m.tx.bytes+size > MaxTxMemoryBytes:
		c.refuse(replication.Code_CODE_LIMIT, "all transactions together have locked, read and written too many keys")
	default:
		return true
	}
	return false
}

// doom makes sure that a transaction never commits, and frees what it locked.
func (m *Machine) doom(t *transaction, why string) {
	t.trouble = why
	m.dropLocks(t)
	m.touchTx(t)
}

// endDueTransactions ends those whose time is over at L, earliest first. Those
// left for the next entry count for nothing already.
func (m *Machine) endDueTransactions() {
	m.clearTransactions(releasesPerEntry)
	if m.live(m.tx.floor) {
		return
	}
	var due []*transaction
	m.tx.floor = never
	for _, t := range m.tx.open { // the order is made below
		if m.live(t.end) {
			m.tx.floor = min(m.tx.floor, t.end)
		} else {
			due = append(due, t)
		}
	}
	slices.SortFunc(due, func(a, b *transaction) int {
		return cmp.Or(cmp.Compare(a.end, b.end), a.id.compare(b.id))
	})
	for i, t := range due {
		if i == txEndedPerEntry {
			m.tx.floor = t.end
			return
		}
		m.endTx(t, txRolledBack)
	}
}

// endTx closes a transaction with its outcome: its locks are free, nothing is
// observed for it any more, and its rows go in portions.
func (m *Machine) endTx(t *transaction, outcome byte) {
	m.dropLocks(t)
	for ref, o := range t.reads {
		m.tx.dropReader(ref, t, o.end)
	}
	for _, p := range t.predicates {
		m.tx.readSpans.remove(p)
	}
	delete(m.tx.open, t.id)
	m.charge(t, -t.bytes)
	m.serial++
	// The id keeps its coordinator; what else it was is of no use any more.
	t.txRecord = txRecord{stage: txEnded, coordinator: t.coordinator, end: m.leaseClock, order: m.serial,
		outcome: outcome, anchor: t.anchor, rows: t.rows, writes: t.writes}
	t.staged, t.reads, t.predicates, t.locks, t.spans = nil, nil, nil, nil, nil
	m.tx.ended[t.id] = t
	m.tx.order = append(m.tx.order, t)
	if t.rows > 0 {
		m.tx.clearing = append(m.tx.clearing, t)
	}
	m.touchTx(t)
	for len(m.tx.order) > MaxTxOutcomes && m.tx.order[0].rows == 0 {
		m.forgetOutcome()
	}
}

// forgetOutcome drops the outcome remembered longest. Its other rows have gone.
func (m *Machine) forgetOutcome() {
	t := m.tx.order[0]
	m.tx.order = m.tx.order[1:]
	delete(m.tx.ended, t.id)
	if t.id.after(m.tx.forgotten) {
		m.tx.forgotten = t.id
		m.put(forgottenKey, appendHLC([]byte{rowFormat}, t.id))
	}
	t.dirty = false
	m.del(txKey(t.id))
}

// clearTransactions deletes up to limit rows of transactions that have ended.
func (m *Machine) clearTransactions(limit int) (done int) {
	for len(m.tx.clearing) > 0 && done < limit {
		t := m.tx.clearing[0]
		var keys [][]byte
		from := txRowKey(t.id, 0, 0)[:txRowHead-1]
		for key := range m.store.Scan(from, successor(bytes.Clone(from))) {
			if keys = append(keys, bytes.Clone(key)); len(keys) == limit-done {
				break
			}
		}
		for _, key := range keys {
			m.del(key)
		}
		done += max(len(keys), 1)
		t.rows -= uint32(len(keys))
		m.touchTx(t)
		if t.rows == 0 {
			m.tx.clearing = m.tx.clearing[1:]
		} else if len(keys) == 0 {
			panic(damaged(txKey(t.id), "the number of rows of a transaction"))
		}
	}
	return done
}

// sweepTransactions drops rows and outcomes that are due, and returns how many.
func (m *Machine) sweepTransactions(limit int) int {
	done := m.clearTransactions(limit)
	for done < limit && len(m.tx.order) > 0 && m.tx.order[0].rows == 0 && !m.live(saturating(m.tx.order[0].end, TxOutcomeNS)) {
		m.forgetOutcome()
		done++
	}
	return done
}
