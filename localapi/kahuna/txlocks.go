package kahuna

import (
	"context"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// Locks of a session keep others from writing, so taking one asks for the verb
// write, whatever it is taken for.

// TryAcquireExclusiveLock locks one key for a session, or says who has it.
func (s *Service) TryAcquireExclusiveLock(ctx context.Context, req *pb.GrpcTryAcquireExclusiveLockRequest) (*pb.GrpcTryAcquireExclusiveLockResponse, error) {
	t, holder, err := s.lock(ctx, req, &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_KEY,
		Durability: durability(req.GetDurability()), Key: req.GetKey(), TtlMs: int64(req.GetExpiresMs())})
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryAcquireExclusiveLockResponse{Type: t}
	out.HolderTransactionIdNode, out.HolderTransactionIdPhysical, out.HolderTransactionIdCounter = label(holder)
	return out, nil
}

// TryAcquireExclusivePrefixLock locks one bucket for a session (I8).
func (s *Service) TryAcquireExclusivePrefixLock(ctx context.Context, req *pb.GrpcTryAcquireExclusivePrefixLockRequest) (*pb.GrpcTryAcquireExclusivePrefixLockResponse, error) {
	t, holder, err := s.lock(ctx, req, &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_PREFIX,
		Durability: durability(req.GetDurability()), Key: req.GetPrefixKey(), TtlMs: int64(req.GetExpiresMs())})
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryAcquireExclusivePrefixLockResponse{Type: t}
	out.HolderTransactionIdNode, out.HolderTransactionIdPhysical, out.HolderTransactionIdCounter = label(holder)
	return out, nil
}

// TryAcquireExclusiveRangeLock locks the keys of a prefix between two bounds,
// also shared with others who do (I10).
func (s *Service) TryAcquireExclusiveRangeLock(ctx context.Context, req *pb.GrpcTryAcquireExclusiveRangeLockRequest) (*pb.GrpcTryAcquireExclusiveRangeLockResponse, error) {
	item := rangeLock(req)
	item.TtlMs = int64(req.GetExpiresMs())
	switch req.GetMode() {
	case pb.GrpcRangeLockMode_GRPC_RANGE_LOCK_EXCLUSIVE:
	case pb.GrpcRangeLockMode_GRPC_RANGE_LOCK_SHARED:
		item.Shared = true
	default:
		return &pb.GrpcTryAcquireExclusiveRangeLockResponse{Type: kvInvalid}, nil
	}
	t, holder, err := s.lock(ctx, req, item)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryAcquireExclusiveRangeLockResponse{Type: t}
	out.HolderTransactionIdNode, out.HolderTransactionIdPhysical, out.HolderTransactionIdCounter = label(holder)
	return out, nil
}

// rangeBounds is what both messages about a range lock carry.
type rangeBounds interface {
	GetPrefix() string
	GetStartKey() string
	GetStartInclusive() bool
	GetEndKey() string
	GetEndInclusive() bool
	GetDurability() pb.GrpcKeyValueDurability
}

func rangeLock(req rangeBounds) *replication.TxLockItem {
	item := &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_RANGE,
		Durability: durability(req.GetDurability()), Key: req.GetPrefix()}
	var start, end *string
	switch r := req.(type) {
	case *pb.GrpcTryAcquireExclusiveRangeLockRequest:
		start, end = r.StartKey, r.EndKey
	case *pb.GrpcTryReleaseExclusiveRangeLockRequest:
		start, end = r.StartKey, r.EndKey
	}
	if start != nil {
		item.Start, item.StartExclusive = start, !req.GetStartInclusive()
	}
	if end != nil {
		item.End, item.EndInclusive = end, req.GetEndInclusive()
	}
	return item
}

// lock takes one lock and returns its code, with the holder of the one in the way.
func (s *Service) lock(ctx context.Context, req inTransaction, item *replication.TxLockItem) (pb.GrpcKeyValueResponseType, *replication.Timestamp, error) {
	if badKey(item.Key) {
		return kvInvalid, nil, nil
	}
	if item.TtlMs < 0 || stamp(req.GetTransactionIdNode(), req.GetTransactionIdPhysical(), req.GetTransactionIdCounter()) == nil {
		return kvErrored, nil, nil // I4
	}
	tx, ok := txRef(req)
	if !ok {
		return kvInvalid, nil, nil
	}
	if err := s.need(ctx, policy.Write, item.Key); err != nil {
		return kvErrored, nil, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: tx, Locks: []*replication.TxLockItem{item}}}})
	t, err := kvOutcome(a, err, kvLocked)
	if err == nil && a.GetCode() == replication.Code_CODE_LOCKED {
		return kvHeld, a.GetTxLocked().GetHolder(), nil
	}
	return t, nil, err
}

// TryReleaseExclusivePrefixLock gives a bucket's lock up before the end.
func (s *Service) TryReleaseExclusivePrefixLock(ctx context.Context, req *pb.GrpcTryReleaseExclusivePrefixLockRequest) (*pb.GrpcTryReleaseExclusivePrefixLockResponse, error) {
	t, err := s.unlock(ctx, req, &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_PREFIX,
		Durability: durability(req.GetDurability()), Key: req.GetPrefixKey()})
	if err != nil {
		return nil, err
	}
	return &pb.GrpcTryReleaseExclusivePrefixLockResponse{Type: t}, nil
}

// TryReleaseExclusiveRangeLock gives a range's lock up before the end.
func (s *Service) TryReleaseExclusiveRangeLock(ctx context.Context, req *pb.GrpcTryReleaseExclusiveRangeLockRequest) (*pb.GrpcTryReleaseExclusiveRangeLockResponse, error) {
	t, err := s.unlock(ctx, req, rangeLock(req))
	if err != nil {
		return nil, err
	}
	return &pb.GrpcTryReleaseExclusiveRangeLockResponse{Type: t}, nil
}

type unlocking interface {
	GetTransactionIdNode() int32
	GetTransactionIdPhysical() int64
	GetTransactionIdCounter() uint32
}

func (s *Service) unlock(ctx context.Context, req unlocking, item *replication.TxLockItem) (pb.GrpcKeyValueResponseType, error) {
	id := stamp(req.GetTransactionIdNode(), req.GetTransactionIdPhysical(), req.GetTransactionIdCounter())
	switch {
	case badKey(item.Key):
		return kvInvalid, nil
	case id == nil:
		return kvErrored, nil
	}
	if err := s.need(ctx, policy.Write, item.Key); err != nil {
		return kvErrored, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_TxUnlock{TxUnlock: &replication.TxUnlock{
		Tx: &replication.TxRef{Id: id}, Locks: []*replication.TxLockItem{item}}}})
	return kvOutcome(a, err, kvUnlocked)
}
