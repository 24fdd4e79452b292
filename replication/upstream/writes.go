package upstream

import (
	"context"
	"errors"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// write carries out Write: each item for itself, in order. Items of one kind that
// follow each other and name different keys go together.
func (c *Client) write(ctx context.Context, op *replication.Write) (*replication.Answer, error) {
	items := op.GetItems()
	if op.GetAtomic() && len(items) > 1 {
		return nil, notHere("change several keys at once, all or none; do it in a transaction")
	}
	for _, item := range items {
		if err := writable(item); err != nil {
			return nil, err
		}
	}
	out := make([]*replication.WrittenItem, 0, len(items))
	for at := 0; at < len(items); {
		n := together(items[at:])
		var part []*replication.WrittenItem
		var err error
		if n == 1 {
			var one *replication.WrittenItem
			one, err = c.writeOne(ctx, nil, items[at])
			part = []*replication.WrittenItem{one}
		} else {
			part, err = c.writeMany(ctx, items[at:at+n])
		}
		if err != nil {
			if at == 0 || len(items) == 1 {
				return nil, err
			}
			// What came before is done: each item has its own outcome.
			part = part[:0]
			for range items[at:] {
				part = append(part, &replication.WrittenItem{Code: codeOf(err)})
			}
			n = len(items) - at
		}
		out = append(out, part...)
		at += n
	}
	a := &replication.Answer{Result: &replication.Answer_Written{Written: &replication.Written{Items: out}}}
	if len(out) == 1 {
		a.Code = out[0].GetCode()
	}
	return a, nil
}

// codeOf is the code of an item whose call failed. One that was certainly not sent
// has none of its own.
func codeOf(err error) replication.Code {
	var refused *replication.RefusedError
	switch {
	case errors.As(err, &refused):
		return refused.Code
	case errors.Is(err, replication.ErrUnknownOutcome):
		return replication.Code_CODE_UNKNOWN_OUTCOME
	}
	return replication.Code_CODE_ABORTED
}

// writable refuses what Kahuna's wire has no place for.
func writable(item *replication.WriteItem) error {
	if _, err := expiry(item.GetExpiresMs()); err != nil {
		return err
	}
	if item.GetKind() != replication.WriteKind_WRITE_KIND_SET && (item.GetIfNotExists() || item.GetIfValue() || item.GetIfRevision()) {
		return notHere("delete or extend a key on a condition; do it in a transaction or a script")
	}
	return nil
}

// together is how many items from the first on may go in one call.
func together(items []*replication.WriteItem) int {
	kind := items[0].GetKind()
	if kind == replication.WriteKind_WRITE_KIND_EXTEND {
		return 1
	}
	type name struct {
		durability replication.Durability
		key        string
	}
	seen := map[name]bool{}
	for i, item := range items {
		n := name{item.GetDurability(), item.GetKey()}
		if item.GetKind() != kind || seen[n] || i == maxManyKeys {
			return i
		}
		seen[n] = true
	}
	return len(items)
}

// flags are the conditions of a set.
func flags(item *replication.WriteItem) (f pb.GrpcKeyValueFlags) {
	f = pb.GrpcKeyValueFlags_SET
	for flag, set := range map[pb.GrpcKeyValueFlags]bool{
		pb.GrpcKeyValueFlags_SET_NO_REVISION: item.GetNoHistory(), pb.GrpcKeyValueFlags_SET_IF_EXISTS: item.GetIfExists(),
		pb.GrpcKeyValueFlags_SET_IF_NOT_EXISTS: item.GetIfNotExists(), pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_VALUE: item.GetIfValue(),
		pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_REVISION: item.GetIfRevision(),
	} {
		if set {
			f |= flag
		}
	}
	return f
}

// policyOf is how a write treats the lock of a yielding transaction.
func policyOf(yield bool) pb.GrpcTransactionConflictPolicy {
	if yield {
		return pb.GrpcTransactionConflictPolicy_TRANSACTION_CONFLICT_POLICY_YIELD
	}
	return pb.GrpcTransactionConflictPolicy_TRANSACTION_CONFLICT_POLICY_UNSPECIFIED
}

// decision is what the three answers about one key have in common.
type decision interface {
	GetType() pb.GrpcKeyValueResponseType
	GetRevision() int64
	GetLastModifiedNode() int32
	GetLastModifiedPhysical() int64
	GetLastModifiedCounter() uint32
}

// writeOne changes one key, in a transaction or outside.
func (c *Client) writeOne(ctx context.Context, tx *txPlace, item *replication.WriteItem) (*replication.WrittenItem, error) {
	if err := writable(item); err != nil {
		return nil, err
	}
	m := once
	if tx != nil || item.GetKind() == replication.WriteKind_WRITE_KIND_SET && item.GetIfRevision() {
		m = repeatable // by its operation id, or its condition
	}
	d, maybe, err := ask(ctx, c, m, func(ctx context.Context, e *endpoint) (decision, error) {
		switch item.GetKind() {
		case replication.WriteKind_WRITE_KIND_DELETE:
			return e.keys.TryDeleteKeyValue(ctx, tx.deletes(item))
		case replication.WriteKind_WRITE_KIND_EXTEND:
			return e.keys.TryExtendKeyValue(ctx, tx.extends(item))
		}
		return e.keys.TrySetKeyValue(ctx, tx.sets(item))
	}, func(d decision) bool { return kvUndecided(d.GetType()) })
	if err != nil {
		return nil, err
	}
	if maybe && tx == nil && d.GetType() == kvNotSet {
		// Perhaps by its own first attempt.
		return nil, replication.ErrUnknownOutcome
	}
	if kvCode(d.GetType()) == replication.Code_CODE_INVALID {
		return nil, kvRefusal(d.GetType())
	}
	return &replication.WrittenItem{Code: kvCode(d.GetType()), Revision: d.GetRevision(),
		Modified: stamp(d.GetLastModifiedNode(), d.GetLastModifiedPhysical(), d.GetLastModifiedCounter())}, nil
}

// sets makes the request of a set; t may be nil.
func (t *txPlace) sets(item *replication.WriteItem) *pb.GrpcTrySetKeyValueRequest {
	ms, _ := expiry(item.GetExpiresMs()) // checked
	r := &pb.GrpcTrySetKeyValueRequest{Key: item.GetKey(), Value: item.GetValue(), CompareValue: item.GetCompareValue(), CompareRevision: item.GetCompareRevision(),
		Flags: flags(item), ExpiresMs: ms, Durability: table(item.GetDurability()), ConflictPolicy: policyOf(item.GetYield())}
	r.TransactionIdNode, r.TransactionIdPhysical, r.TransactionIdCounter = t.id()
	r.CoordinatorKey, r.OperationIdHigh, r.OperationIdLow = t.operation()
	return r
}

func (t *txPlace) deletes(item *replication.WriteItem) *pb.GrpcTryDeleteKeyValueRequest {
	r := &pb.GrpcTryDeleteKeyValueRequest{Key: item.GetKey(), Durability: table(item.GetDurability()), ConflictPolicy: policyOf(item.GetYield())}
	r.TransactionIdNode, r.TransactionIdPhysical, r.TransactionIdCounter = t.id()
	r.CoordinatorKey, r.OperationIdHigh, r.OperationIdLow = t.operation()
	return r
}

func (t *txPlace) extends(item *replication.WriteItem) *pb.GrpcTryExtendKeyValueRequest {
	ms, _ := expiry(item.GetExpiresMs()) // checked
	r := &pb.GrpcTryExtendKeyValueRequest{Key: item.GetKey(), ExpiresMs: ms, Durability: table(item.GetDurability()), ConflictPolicy: policyOf(item.GetYield())}
	r.TransactionIdNode, r.TransactionIdPhysical, r.TransactionIdCounter = t.id()
	r.CoordinatorKey, r.OperationIdHigh, r.OperationIdLow = t.operation()
	return r
}

// manyItem is one item of a many-key answer.
type manyItem interface {
	decision
	GetKey() string
	GetDurability() pb.GrpcKeyValueDurability
}

// writeMany sets or deletes different keys in one call. An item whose outcome the
// cluster does not say has code UNKNOWN_OUTCOME.
func (c *Client) writeMany(ctx context.Context, items []*replication.WriteItem) ([]*replication.WrittenItem, error) {
	var got []manyItem
	never := func(manyAnswer) bool { return false }
	a, _, err := ask(ctx, c, once, func(ctx context.Context, e *endpoint) (manyAnswer, error) {
		if items[0].GetKind() == replication.WriteKind_WRITE_KIND_DELETE {
			r := &pb.GrpcTryDeleteManyKeyValueRequest{}
			for _, item := range items {
				r.Items = append(r.Items, &pb.GrpcTryDeleteManyKeyValueRequestItem{Key: item.GetKey(), Durability: table(item.GetDurability())})
			}
			a, err := e.keys.TryDeleteManyKeyValue(ctx, r)
			return manyAnswer{deleted: a.GetItems()}, err
		}
		r := &pb.GrpcTrySetManyKeyValueRequest{}
		for _, item := range items {
			one := (*txPlace)(nil).sets(item)
			r.Items = append(r.Items, &pb.GrpcTrySetManyKeyValueRequestItem{Key: one.Key, Value: one.Value, CompareValue: one.CompareValue,
				CompareRevision: one.CompareRevision, Flags: one.Flags, ExpiresMs: one.ExpiresMs, Durability: one.Durability, ConflictPolicy: one.ConflictPolicy})
		}
		a, err := e.keys.TrySetManyKeyValue(ctx, r)
		return manyAnswer{set: a.GetItems()}, err
	}, never)
	if err != nil {
		return nil, err
	}
	for _, item := range a.set {
		got = append(got, item)
	}
	for _, item := range a.deleted {
		got = append(got, item)
	}
	return inOrder(items, got), nil
}

// manyAnswer is either of the two answers.
type manyAnswer struct {
	set     []*pb.GrpcTrySetManyKeyValueResponseItem
	deleted []*pb.GrpcTryDeleteManyKeyValueResponseItem
}

// inOrder gives each item its answer: they come in any order. One alone that is
// InvalidInput stands for all, of which nothing was done (keyvalue.md 4.1).
func inOrder(items []*replication.WriteItem, got []manyItem) []*replication.WrittenItem {
	type name struct {
		durability pb.GrpcKeyValueDurability
		key        string
	}
	answers := make(map[name]manyItem, len(got))
	for _, g := range got {
		answers[name{g.GetDurability(), g.GetKey()}] = g
	}
	refusedAll := len(got) == 1 && len(items) > 1 && got[0].GetType() == kvInvalid
	out := make([]*replication.WrittenItem, len(items))
	for i, item := range items {
		g := answers[name{table(item.GetDurability()), item.GetKey()}]
		switch {
		case refusedAll:
			out[i] = &replication.WrittenItem{Code: replication.Code_CODE_INVALID}
		case g == nil:
			out[i] = &replication.WrittenItem{Code: replication.Code_CODE_UNKNOWN_OUTCOME}
		default:
			out[i] = &replication.WrittenItem{Code: kvCode(g.GetType()), Revision: g.GetRevision(),
				Modified: stamp(g.GetLastModifiedNode(), g.GetLastModifiedPhysical(), g.GetLastModifiedCounter())}
		}
	}
	return out
}
