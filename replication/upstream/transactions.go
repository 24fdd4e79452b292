package upstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// txPlace is one operation in a transaction. The nil one is outside of any.
type txPlace struct {
	ref *replication.TxRef
	op  [replication.OperationIDBytes]byte
	n   uint64 // of the operations made of it
}

// place names an operation in a transaction: with the id that the caller gave, or a
// new one, since Kahuna takes none without.
func place(ref *replication.TxRef) (*txPlace, error) {
	if ref.GetId() == nil {
		return nil, refuse(replication.Code_CODE_INVALID, "the transaction has no id")
	}
	t := &txPlace{ref: ref}
	if copy(t.op[:], ref.GetOperation()) == 0 {
		rand.Read(t.op[:]) // never fails: see crypto/rand
	}
	return t, nil
}

// next names one more operation, by what the first was named and the same each
// time: a request that is sent again has its operations sent again.
func (t *txPlace) next() *txPlace {
	if t == nil {
		return nil
	}
	t.n++
	if t.n == 1 {
		return t
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(t.op[:], t.n))
	return &txPlace{ref: t.ref, op: [replication.OperationIDBytes]byte(sum[:])}
}

func (t *txPlace) id() (node int32, physical int64, counter uint32) {
	if t == nil {
		return 0, 0, 0
	}
	return label(t.ref.GetId())
}

func (t *txPlace) operation() (coordinator string, high, low uint64) {
	if t == nil {
		return "", 0, 0
	}
	return t.ref.GetCoordinatorKey(), binary.BigEndian.Uint64(t.op[:8]), binary.BigEndian.Uint64(t.op[8:])
}

func int32Of(ms int64) int32 { return int32(min(max(ms, 0), math.MaxInt32)) }

// txStart carries out TxStart. One that was started and not told of ends by itself.
func (c *Client) txStart(ctx context.Context, op *replication.TxStart) (*replication.Answer, error) {
	r := &pb.GrpcStartTransactionRequest{CoordinatorKey: op.GetCoordinatorKey(), LockingType: pb.GrpcLockingType(op.GetLocking()),
		Timeout: int32Of(op.GetTimeoutMs()), AsyncRelease: op.GetAsyncRelease(), AutoCommit: op.GetAutoCommit(),
		Priority: pb.GrpcTransactionPriority(op.GetPriority()), AdmissionWaitMs: int32Of(op.GetAdmissionWaitMs()), ConflictPolicy: policyOf(op.GetYield())}
	if op.GetValidateReads() {
		r.ReadValidation = pb.GrpcReadValidation_READ_VALIDATION_TRACK_AND_VALIDATE
	}
	if op.GetDurable() {
		r.DecisionDurability = pb.GrpcDecisionDurability_DECISION_DURABILITY_DURABLE
	}
	r.ReadTimestampNode, r.ReadTimestampPhysical, r.ReadTimestampCounter = label(op.GetReadTimestamp())
	began := c.cfg.LeaseNow()
	a, _, err := ask(ctx, c, patient, func(ctx context.Context, e *endpoint) (*pb.GrpcStartTransactionResponse, error) {
		return e.keys.StartTransaction(ctx, r)
	}, func(a *pb.GrpcStartTransactionResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	if err := kvRefusal(a.GetType()); err != nil {
		return nil, err
	}
	timeout := op.GetTimeoutMs()
	if timeout <= 0 {
		timeout = defaultTxTimeoutMS
	}
	return &replication.Answer{Result: &replication.Answer_TxStarted{TxStarted: &replication.TxStarted{
		Id:          stamp(a.GetTransactionIdNode(), a.GetTransactionIdPhysical(), a.GetTransactionIdCounter()),
		RemainingMs: max(timeout-sinceMS(c.cfg.LeaseNow(), began), 0)}}}, nil
}

// defaultTxTimeoutMS is Kahuna's for a transaction that names none.
const defaultTxTimeoutMS = 5000

// txLock carries out TxLock. Kahuna takes one lock at a time: those before one that
// is refused stay until the transaction ends.
func (c *Client) txLock(ctx context.Context, op *replication.TxLock) (*replication.Answer, error) {
	tx, err := place(op.GetTx())
	if err != nil {
		return nil, err
	}
	for i, item := range op.GetLocks() {
		t, holder, err := c.txLockOne(ctx, tx.next(), item)
		switch {
		case err != nil:
			return nil, err
		case t == kvHeld:
			return &replication.Answer{Code: replication.Code_CODE_LOCKED, Result: &replication.Answer_TxLocked{
				TxLocked: &replication.TxLocked{Holder: holder, Blocked: uint32(i)}}}, nil
		}
		if err := kvRefusal(t); err != nil {
			return nil, err
		}
	}
	return &replication.Answer{Result: &replication.Answer_TxLocked{TxLocked: &replication.TxLocked{}}}, nil
}

// lockAnswer is what the answers to the three kinds of locks have in common.
type lockAnswer interface {
	GetType() pb.GrpcKeyValueResponseType
	GetHolderTransactionIdNode() int32
	GetHolderTransactionIdPhysical() int64
	GetHolderTransactionIdCounter() uint32
}

func (c *Client) txLockOne(ctx context.Context, tx *txPlace, item *replication.TxLockItem) (pb.GrpcKeyValueResponseType, *replication.Timestamp, error) {
	node, physical, counter := tx.id()
	key, high, low := tx.operation()
	ms := int32Of(item.GetTtlMs())
	if ms == 0 {
		ms = defaultTxTimeoutMS // Kahuna's clients send the transaction's
	}
	a, _, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (lockAnswer, error) {
		switch item.GetKind() {
		case replication.TxLockKind_TX_LOCK_KIND_PREFIX:
			return e.keys.TryAcquireExclusivePrefixLock(ctx, &pb.GrpcTryAcquireExclusivePrefixLockRequest{TransactionIdNode: node, TransactionIdPhysical: physical,
				TransactionIdCounter: counter, PrefixKey: item.GetKey(), ExpiresMs: ms, Durability: table(item.GetDurability()),
				CoordinatorKey: key, OperationIdHigh: high, OperationIdLow: low})
		case replication.TxLockKind_TX_LOCK_KIND_RANGE:
			r := &pb.GrpcTryAcquireExclusiveRangeLockRequest{TransactionIdNode: node, TransactionIdPhysical: physical,
				TransactionIdCounter: counter, Prefix: item.GetKey(), StartKey: item.Start, StartInclusive: !item.GetStartExclusive(),
				EndKey: item.End, EndInclusive: item.GetEndInclusive(), ExpiresMs: ms, Durability: table(item.GetDurability()),
				CoordinatorKey: key, OperationIdHigh: high, OperationIdLow: low}
			if item.GetShared() {
				r.Mode = pb.GrpcRangeLockMode_GRPC_RANGE_LOCK_SHARED
			}
			return e.keys.TryAcquireExclusiveRangeLock(ctx, r)
		}
		return e.keys.TryAcquireExclusiveLock(ctx, &pb.GrpcTryAcquireExclusiveLockRequest{TransactionIdNode: node, TransactionIdPhysical: physical,
			TransactionIdCounter: counter, Key: item.GetKey(), ExpiresMs: ms, Durability: table(item.GetDurability()),
			CoordinatorKey: key, OperationIdHigh: high, OperationIdLow: low})
	}, func(a lockAnswer) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return 0, nil, err
	}
	return a.GetType(), stamp(a.GetHolderTransactionIdNode(), a.GetHolderTransactionIdPhysical(), a.GetHolderTransactionIdCounter()), nil
}

// txUnlock carries out TxUnlock for buckets and ranges: the lock of a key stays
// until the transaction ends.
func (c *Client) txUnlock(ctx context.Context, op *replication.TxUnlock) (*replication.Answer, error) {
	tx, err := place(op.GetTx())
	if err != nil {
		return nil, err
	}
	node, physical, counter := tx.id()
	for _, item := range op.GetLocks() {
		if item.GetKind() == replication.TxLockKind_TX_LOCK_KIND_KEY {
			return nil, notHere("give the lock of a key up before the transaction ends")
		}
		a, _, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (interface {
			GetType() pb.GrpcKeyValueResponseType
		}, error) {
			if item.GetKind() == replication.TxLockKind_TX_LOCK_KIND_PREFIX {
				return e.keys.TryReleaseExclusivePrefixLock(ctx, &pb.GrpcTryReleaseExclusivePrefixLockRequest{TransactionIdNode: node,
					TransactionIdPhysical: physical, TransactionIdCounter: counter, PrefixKey: item.GetKey(), Durability: table(item.GetDurability())})
			}
			return e.keys.TryReleaseExclusiveRangeLock(ctx, &pb.GrpcTryReleaseExclusiveRangeLockRequest{TransactionIdNode: node,
				TransactionIdPhysical: physical, TransactionIdCounter: counter, Prefix: item.GetKey(), StartKey: item.Start,
				StartInclusive: !item.GetStartExclusive(), EndKey: item.End, EndInclusive: item.GetEndInclusive(), Durability: table(item.GetDurability())})
		}, func(a interface {
			GetType() pb.GrpcKeyValueResponseType
		}) bool {
			return kvUndecided(a.GetType())
		})
		if err != nil {
			return nil, err
		}
		if err := kvRefusal(a.GetType()); err != nil && kvCode(a.GetType()) != replication.Code_CODE_NOT_FOUND {
			return nil, err
		}
	}
	return &replication.Answer{}, nil
}

// txRead carries out TxRead.
func (c *Client) txRead(ctx context.Context, op *replication.TxRead) (*replication.Answer, error) {
	tx, err := place(op.GetTx())
	if err != nil {
		return nil, err
	}
	if r := op.GetRange(); r != nil {
		if r.GetDescending() || !r.GetBucket() {
			return nil, notHere("list keys in a transaction, but those of a bucket in ascending order")
		}
		e, err := c.bucketPage(ctx, tx, r, op.GetAsOf())
		if err != nil {
			return nil, err
		}
		return entries(e), nil
	}
	out := &replication.Entries{}
	for _, k := range op.GetKeys() {
		e, err := c.getOne(ctx, tx.next(), k, op.GetAsOf(), op.GetKeysOnly())
		if err != nil {
			return nil, err
		}
		out.Entries = append(out.Entries, e)
	}
	return entries(out), nil
}

// txWrite carries out TxWrite, one item after the other.
func (c *Client) txWrite(ctx context.Context, op *replication.TxWrite) (*replication.Answer, error) {
	tx, err := place(op.GetTx())
	if err != nil {
		return nil, err
	}
	out := &replication.Written{}
	a := &replication.Answer{Result: &replication.Answer_Written{Written: out}}
	for _, item := range op.GetItems() {
		w, err := c.writeOne(ctx, tx.next(), item)
		if w.GetCode() == replication.Code_CODE_ABORTED {
			return nil, refuse(w.GetCode(), "the transaction has ended, or cannot commit any more")
		}
		var refused *replication.RefusedError
		if errors.As(err, &refused) && len(op.GetItems()) > 1 {
			w, err = &replication.WrittenItem{Code: refused.Code}, nil
		}
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, w)
	}
	if len(out.Items) == 1 {
		a.Code = out.Items[0].GetCode()
	}
	return a, nil
}

// txEnd carries out TxEnd. The first end decides, so that asking again is safe.
func (c *Client) txEnd(ctx context.Context, op *replication.TxEnd) (*replication.Answer, error) {
	if op.GetTx().GetCoordinatorKey() == "" {
		return nil, notHere("end a transaction without its secret")
	}
	tx, err := place(op.GetTx())
	if err != nil {
		return nil, err
	}
	node, physical, counter := tx.id()
	var anchor *string // to be sent with the next attempt
	type ended interface {
		GetType() pb.GrpcKeyValueResponseType
	}
	a, maybe, err := ask(ctx, c, patient, func(ctx context.Context, e *endpoint) (ended, error) {
		if !op.GetCommit() {
			return e.keys.RollbackTransaction(ctx, &pb.GrpcRollbackTransactionRequest{CoordinatorKey: op.GetTx().GetCoordinatorKey(),
				TransactionIdNode: node, TransactionIdPhysical: physical, TransactionIdCounter: counter, RecordAnchorKey: anchor})
		}
		a, err := e.keys.CommitTransaction(ctx, &pb.GrpcCommitTransactionRequest{CoordinatorKey: op.GetTx().GetCoordinatorKey(),
			TransactionIdNode: node, TransactionIdPhysical: physical, TransactionIdCounter: counter, RecordAnchorKey: anchor})
		if a != nil && a.RecordAnchorKey != nil {
			anchor = a.RecordAnchorKey
		}
		return a, err
	}, func(a ended) bool { return a.GetType() == kvRetry })
	if err != nil {
		return nil, err
	}
	out := &replication.TxEnded{}
	if anchor != nil {
		out.RecordAnchorKey = *anchor
	}
	answer := &replication.Answer{Result: &replication.Answer_TxEnded{TxEnded: out}}
	switch a.GetType() {
	case kvCommitted:
		out.Outcome = replication.TxOutcome_TX_OUTCOME_COMMITTED
	case kvRolledBack:
		out.Outcome = replication.TxOutcome_TX_OUTCOME_ROLLED_BACK
	case kvAborted:
		out.Outcome, answer.Code = replication.TxOutcome_TX_OUTCOME_ABORTED, replication.Code_CODE_ABORTED
	case kvErrored: // never heard of, or long forgotten
		if maybe && op.GetCommit() {
			return nil, replication.ErrUnknownOutcome
		}
		answer.Code = replication.Code_CODE_NOT_FOUND
	default:
		return nil, kvRefusal(a.GetType())
	}
	return answer, nil
}
