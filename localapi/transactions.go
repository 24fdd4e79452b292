package localapi

import (
	"crypto/sha256"
	"fmt"
	"net/http"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Every operation of a transaction is judged for itself, by the names in it and
// by the same rules as outside of one. The transaction belongs to whoever knows
// the secret in its name: its id alone could be guessed (see wire.NewTxSecret).

// admitTransaction judges the operations of transactions.
func (a admission) admitTransaction(req *replication.Request) (string, error) {
	switch op := req.GetOp().(type) {
	case *replication.Request_TxStart:
		return "tx_start", first(a.touches(), coordinated(op.TxStart.GetCoordinatorKey()))
	case *replication.Request_TxRead:
		return "tx_read", first(a.inTx(op.TxRead.GetTx()), a.txRead(op.TxRead))
	case *replication.Request_TxWrite:
		return "tx_write", first(a.inTx(op.TxWrite.GetTx()), a.write(&replication.Write{Items: op.TxWrite.GetItems()}))
	case *replication.Request_TxLock:
		return "tx_lock", first(a.inTx(op.TxLock.GetTx()), a.txLocks(op.TxLock.GetLocks()))
	case *replication.Request_TxUnlock:
		return "tx_unlock", first(a.inTx(op.TxUnlock.GetTx()), a.txLocks(op.TxUnlock.GetLocks()))
	case *replication.Request_TxEnd:
		// Administrators may roll back what they have not begun.
		if !op.TxEnd.GetCommit() && op.TxEnd.GetTx().GetCoordinatorKey() == "" {
			return "tx_end", a.need(policy.Admin, "")
		}
		return "tx_end", a.inTx(op.TxEnd.GetTx())
	case *replication.Request_TxList:
		return "tx_list", a.anywhere(policy.Read)
	}
	return opUnknown, nil
}

// touches: whoever may neither read nor write has no use for a transaction.
func (a admission) touches() error {
	if a.anywhere(policy.Read) == nil {
		return nil
	}
	return a.anywhere(policy.Write)
}

// inTx: the caller names the transaction as only its owner can.
func (a admission) inTx(tx *replication.TxRef) error {
	return first(a.touches(), coordinated(tx.GetCoordinatorKey()))
}

func coordinated(key string) error {
	if key == "" {
		return invalidf("the transaction is named without its secret")
	}
	return nil
}

func (a admission) txRead(op *replication.TxRead) error {
	if op.GetRange() != nil {
		if len(op.GetKeys()) > 0 {
			return invalidf("a read names keys or a prefix and not both")
		}
		_, err := a.admitRead(&replication.Request{Op: &replication.Request_Range{Range: op.GetRange()}})
		return err
	}
	_, err := a.admitRead(&replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: op.GetKeys()}}})
	return err
}

// txLocks: locks keep others from writing, so they ask for the verb write.
func (a admission) txLocks(locks []*replication.TxLockItem) error {
	if len(locks) == 0 || len(locks) > wire.MaxItems {
		return invalidf("a request has 1 to %d locks, and this one %d", wire.MaxItems, len(locks))
	}
	for _, l := range locks {
		err := knownDurability(l.GetDurability())
		if l.GetKind() == replication.TxLockKind_TX_LOCK_KIND_KEY {
			err = first(err, a.named(policy.Write, "key", l.GetKey()))
		} else {
			err = first(err, invalid(wire.CheckPrefix("prefix", l.GetKey())), a.need(policy.Write, lockedPrefix(l)))
		}
		if ms := l.GetTtlMs(); err == nil && ms != 0 {
			err = checkTTLms(ms)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lockedPrefix is what every key begins with that a lock covers: a bucket P is
// the keys P/<rest>.
func lockedPrefix(l *replication.TxLockItem) string {
	if l.GetKind() == replication.TxLockKind_TX_LOCK_KIND_PREFIX {
		return l.GetKey() + "/"
	}
	return l.GetKey()
}

// withoutCoordinators leaves out what would let others use a transaction.
func withoutCoordinators(t *replication.Transactions) *replication.Transactions {
	out := &replication.Transactions{More: t.GetMore(), Transactions: make([]*replication.Transaction, len(t.GetTransactions()))}
	for i, one := range t.GetTransactions() {
		out.Transactions[i] = &replication.Transaction{Id: one.Id, RemainingMs: one.RemainingMs, Priority: one.Priority,
			Locking: one.Locking, Writes: one.Writes, Reads: one.Reads, Locks: one.Locks, Yield: one.Yield,
			ReadTimestamp: one.ReadTimestamp, Trouble: one.Trouble}
	}
	return out
}

// getTransactions lists open transactions.
func (s *Server) getTransactions(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	list := &replication.TxList{Limit: uint32(limit)}
	if after := x.query.Get("after"); after != "" {
		if list.After, _, err = wire.ParseTxName(after); err != nil {
			return err
		}
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_TxList{TxList: list}})
	if err != nil {
		return err
	}
	out := wire.Transactions{Transactions: []wire.Transaction{}}
	for _, t := range a.GetTransactions().GetTransactions() {
		out.Transactions = append(out.Transactions, wire.TransactionOf(t))
	}
	if n := len(out.Transactions); a.GetTransactions().GetMore() && n > 0 {
		out.Next = out.Transactions[n-1].ID
	}
	return x.writeJSON(http.StatusOK, out)
}

// postTransaction begins one.
func (s *Server) postTransaction(x *exchange) error {
	var in wire.TxBegin
	if err := x.decodeOptional(&in); err != nil {
		return err
	}
	secret := wire.NewTxSecret()
	start, err := in.Request(secret)
	if err != nil {
		return invalid(err)
	}
	_, a, err := s.do(x.r.Context(), x.who, &replication.Request{Op: &replication.Request_TxStart{TxStart: start}}, s.limit(0)+wire.TxWait(start))
	if err != nil {
		return err
	}
	if e := wire.ErrorOfAnswer(a); e != nil {
		return e
	}
	name := wire.TxName(a.GetTxStarted().GetId(), secret)
	x.w.Header().Set("Location", apiRoot+"/transactions/"+name)
	return x.writeJSON(http.StatusCreated, wire.TxBegun{Transaction: name, RemainingMS: a.GetTxStarted().GetRemainingMs()})
}

// decodeOptional is decode where an empty body is an object without fields.
func (x *exchange) decodeOptional(v any) error {
	if x.r.ContentLength == 0 {
		return nil
	}
	return x.decode(v)
}

// transaction reads which transaction the path names, and the operation's id.
func (x *exchange) transaction() (*replication.TxRef, error) {
	id, secret, err := wire.ParseTxName(x.name)
	if err != nil {
		return nil, err
	}
	ref := &replication.TxRef{Id: id, CoordinatorKey: secret}
	key, err := x.oneHeader("Idempotency-Key")
	if err != nil {
		return nil, err
	}
	if len(key) > wire.MaxIdempotencyKeyBytes {
		return nil, invalidf("the idempotency key has %d bytes, and the limit is %d", len(key), wire.MaxIdempotencyKeyBytes)
	}
	if key != "" {
		sum := sha256.Sum256([]byte(key))
		ref.Operation = sum[:replication.OperationIDBytes]
	}
	return ref, nil
}

// postTxRead reads in a transaction.
func (s *Server) postTxRead(x *exchange) error {
	tx, err := x.transaction()
	if err != nil {
		return err
	}
	var in wire.TxRead
	if err := x.decode(&in); err != nil {
		return err
	}
	op, err := in.Request()
	if err != nil {
		return invalid(err)
	}
	op.Tx = tx
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_TxRead{TxRead: op}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.TxEntriesOf(a.GetEntries(), in.KeysOnly))
}

// postTxWrite stages changes. One change alone that is refused is a problem; of
// several each has its code.
func (s *Server) postTxWrite(x *exchange) error {
	tx, err := x.transaction()
	if err != nil {
		return err
	}
	var in wire.TxWrite
	if err := s.decodeValues(x, &in); err != nil {
		return err
	}
	op := &replication.TxWrite{Tx: tx}
	for i, change := range in.Writes {
		item, err := change.Request()
		if err != nil {
			return invalidf("change %d: %v", i+1, err)
		}
		op.Items = append(op.Items, item)
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_TxWrite{TxWrite: op}})
	items := a.GetWritten().GetItems()
	if err != nil {
		refused := wire.ErrorOf(err)
		if refused.Kind == wire.ConditionFailed && len(items) == 1 {
			revision := items[0].GetRevision()
			refused = &wire.Error{Kind: refused.Kind, Detail: refused.Detail, Revision: &revision}
		}
		return refused
	}
	if len(items) != len(op.Items) {
		return wire.Refuse(wire.Internal, fmt.Sprintf("%d changes were answered with %d", len(op.Items), len(items)))
	}
	out := wire.TxWritten{Items: make([]wire.TxWrittenItem, len(items))}
	for i, item := range items {
		out.Items[i] = wire.TxWrittenItem{Key: op.Items[i].GetKey(), Code: "ok", Revision: item.GetRevision()}
		if code := item.GetCode(); code != replication.Code_CODE_OK {
			out.Items[i].Code = string(wire.KindOfCode(code))
		}
	}
	return x.writeJSON(http.StatusOK, out)
}

func (x *exchange) txLocks() (*replication.TxRef, []*replication.TxLockItem, error) {
	tx, err := x.transaction()
	if err != nil {
		return nil, nil, err
	}
	var in wire.TxLocks
	if err := x.decode(&in); err != nil {
		return nil, nil, err
	}
	var out []*replication.TxLockItem
	for i, lock := range in.Locks {
		item, err := lock.Request()
		if err != nil {
			return nil, nil, invalidf("lock %d: %v", i+1, err)
		}
		out = append(out, item)
	}
	return tx, out, nil
}

// postTxLock takes locks, all or none. It never waits.
func (s *Server) postTxLock(x *exchange) error {
	tx, locks, err := x.txLocks()
	if err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: tx, Locks: locks}}})
	if err != nil {
		if in := a.GetTxLocked(); in != nil && int(in.GetBlocked()) < len(locks) {
			return wire.Refuse(wire.ErrorOf(err).Kind, fmt.Sprintf("transaction %s has locked %.100q, for %d ms at most",
				wire.TxName(in.GetHolder(), ""), locks[in.GetBlocked()].GetKey(), in.GetRemainingMs()))
		}
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

// postTxUnlock gives locks up before the end.
func (s *Server) postTxUnlock(x *exchange) error {
	tx, locks, err := x.txLocks()
	if err != nil {
		return err
	}
	if _, err := s.ask(x, &replication.Request{Op: &replication.Request_TxUnlock{TxUnlock: &replication.TxUnlock{Tx: tx, Locks: locks}}}); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) postTxCommit(x *exchange) error   { return s.endTransaction(x, true) }
func (s *Server) postTxRollback(x *exchange) error { return s.endTransaction(x, false) }

// endTransaction ends one. The first end decides, and is told to whoever asks
// again: a commit of what was rolled back is a problem, a rollback of what was
// committed says so.
func (s *Server) endTransaction(x *exchange, commit bool) error {
	tx, err := x.transaction()
	if err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: tx, Commit: commit}}})
	aborted := a.GetTxEnded().GetOutcome() == replication.TxOutcome_TX_OUTCOME_ABORTED
	if err != nil && (commit || !aborted) {
		return err
	}
	out := wire.TxEnded{Transaction: x.name, Outcome: "rolled-back"}
	switch ended := a.GetTxEnded(); {
	case ended.GetOutcome() == replication.TxOutcome_TX_OUTCOME_COMMITTED:
		out.Outcome, out.Writes = "committed", ended.GetWrites()
	case commit:
		return wire.Refuse(wire.Aborted, "the transaction was rolled back, by the clock or on request; nothing was changed")
	}
	return x.writeJSON(http.StatusOK, out)
}
