package statemachine

import (
	"github.com/kahu-sh/kahu/replication"
)

// txList shows the open transactions in a view, oldest first. It counts their
// rows, so the pages are short.
func (v *view) txList(c *command, op *replication.TxList) {
	from := txKey(toHLC(op.GetAfter()))
	if op.GetAfter() != nil {
		from = append(from, 0)
	}
	out := new(replication.Transactions)
	p := newPage(int64(min(max(op.GetLimit(), 0), 100)))
	if op.GetLimit() == 0 {
		p = newPage(100)
	}
	for key, row := range v.Scan(from, []byte{tableTx + 1}) {
		r, ok := decodeTx(row)
		id, _, ok2 := cutTxID(key[1:])
		if !ok || !ok2 {
			panic(damaged(key, "a transaction"))
		}
		if r.stage != txOpen || !v.live(r.end) {
			continue
		}
		d := v.describeTx(id, &r)
		if !p.take(d.SizeVT(), len(out.Transactions) == 0) {
			out.More = true
			break
		}
		out.Transactions = append(out.Transactions, d)
	}
	c.answer.Result = &replication.Answer_Transactions{Transactions: out}
}

func (v *view) describeTx(id hlc, r *txRecord) *replication.Transaction {
	d := &replication.Transaction{
		Id: id.timestamp(), CoordinatorKey: r.coordinator, RemainingMs: v.remainingMS(r.end),
		Priority: replication.TxPriority(r.priority), Writes: r.writes, Yield: r.yield, Trouble: r.trouble,
	}
	if r.optimistic {
		d.Locking = replication.TxLocking_TX_LOCKING_OPTIMISTIC
	}
	if r.readAt != (hlc{}) || r.readNode != 0 {
		d.ReadTimestamp = r.readAt.timestamp()
		d.ReadTimestamp.Node = r.readNode
	}
	if d.Trouble == "" && (r.brokenMore || len(r.broken) > 0) {
		d.Trouble = "something that the transaction read has changed since"
	}
	count := func(kind byte) (n uint32) {
		from := txRowKey(id, kind, 0)
		for range v.Scan(from, txRowKey(id, kind+1, 0)) {
			n++
		}
		return n
	}
	d.Reads = count(txRowRead) + count(txRowPredicate)
	d.Locks = count(txRowLock) + count(txRowSpanLock)
	return d
}

// OpenTransactions returns how many transactions are open. It is read where Position is.
func (m *Machine) OpenTransactions() int { return len(m.tx.open) }
