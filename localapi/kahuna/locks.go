package kahuna

import (
	"context"

	"github.com/kahu-sh/kahu/localapi/caller"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

const (
	lockErrored  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_ERRORED
	lockInvalid  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_INVALID_INPUT
	lockRetry    = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_MUST_RETRY
	lockMissing  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCK_DOES_NOT_EXIST
	lockStranger = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_INVALID_OWNER
)

// lockType is the code of a refusal, or done.
func lockType(code replication.Code, done pb.GrpcLockResponseType) pb.GrpcLockResponseType {
	switch code {
	case replication.Code_CODE_OK:
		return done
	case replication.Code_CODE_BUSY:
		return pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_BUSY
	case replication.Code_CODE_NOT_FOUND:
		return lockMissing
	case replication.Code_CODE_INVALID_OWNER:
		return lockStranger
	case replication.Code_CODE_INVALID:
		return lockInvalid
	}
	return lockErrored
}

// lockOutcome is the code of an answer or of the error that came instead; err is
// what is left of that.
func lockOutcome(a *replication.Answer, err error, done pb.GrpcLockResponseType) (pb.GrpcLockResponseType, error) {
	switch {
	case retries(err):
		return lockRetry, nil
	case err != nil:
		return lockErrored, err
	}
	return lockType(a.GetCode(), done), nil
}

// TryLock takes a lock with a lease of its own, or answers Busy. The live owner
// gets Locked with the same token, and its lease stays (L9).
func (s *Service) TryLock(ctx context.Context, req *pb.GrpcTryLockRequest) (*pb.GrpcTryLockResponse, error) {
	if req.GetResource() == "" || len(req.GetOwner()) == 0 || req.GetExpiresMs() <= 0 {
		return &pb.GrpcTryLockResponse{Type: lockInvalid}, nil
	}
	if err := s.need(ctx, policy.Lock, req.Resource); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
		Durability: durability(req.Durability), Name: req.Resource, Owner: req.Owner, TtlMs: int64(req.ExpiresMs),
		Info: s.holderInfo(ctx)}}})
	t, err := lockOutcome(a, err, pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCKED)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcTryLockResponse{Type: t, FencingToken: a.GetLockGrant().GetToken(), Route: s.route(t == lockRetry)}, nil
}

// TryExtendLock moves the end of a lease to now + ExpiresMs, never back (decisions.md 16).
func (s *Service) TryExtendLock(ctx context.Context, req *pb.GrpcExtendLockRequest) (*pb.GrpcExtendLockResponse, error) {
	if req.GetResource() == "" || len(req.GetOwner()) == 0 || req.GetExpiresMs() <= 0 {
		return &pb.GrpcExtendLockResponse{Type: lockInvalid}, nil
	}
	if err := s.need(ctx, policy.Lock, req.Resource); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_LockExtend{LockExtend: &replication.LockExtend{
		Durability: durability(req.Durability), Name: req.Resource, Owner: req.Owner, TtlMs: int64(req.ExpiresMs)}}})
	t, err := lockOutcome(a, err, pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_EXTENDED)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcExtendLockResponse{Type: t, FencingToken: a.GetLockGrant().GetToken(), Route: s.route(t == lockRetry)}, nil
}

// Unlock frees a lock, also one whose lease has lapsed (L15).
func (s *Service) Unlock(ctx context.Context, req *pb.GrpcUnlockRequest) (*pb.GrpcUnlockResponse, error) {
	if req.GetResource() == "" || len(req.GetOwner()) == 0 {
		return &pb.GrpcUnlockResponse{Type: lockInvalid}, nil
	}
	if err := s.need(ctx, policy.Lock, req.Resource); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
		Durability: durability(req.Durability), Name: req.Resource, Owner: req.Owner}}})
	t, err := lockOutcome(a, err, pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_UNLOCKED)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcUnlockResponse{Type: t, Route: s.route(t == lockRetry)}, nil
}

// GetLock shows who holds a lock. The owner of a hold of kahu's own is shown to
// administrators only, since who knows it may unlock.
func (s *Service) GetLock(ctx context.Context, req *pb.GrpcGetLockRequest) (*pb.GrpcGetLockResponse, error) {
	if req.GetResource() == "" {
		return &pb.GrpcGetLockResponse{Type: lockInvalid}, nil
	}
	if err := s.need(ctx, policy.Read, req.Resource); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{
		Durability: durability(req.Durability), Name: req.Resource}}})
	t, err := lockOutcome(a, err, pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_GOT)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcGetLockResponse{Type: t, Route: s.route(t == lockRetry)}
	if t != pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_GOT {
		return out, nil
	}
	lock := a.GetLock()
	out.FencingToken = lock.GetToken()
	out.ExpiresPhysical = a.GetTime().GetPhysicalMs() + lock.GetRemainingMs()
	if s.showsOwner(ctx, lock) {
		out.Owner = lock.GetOwner()
	}
	return out, nil
}

// showsOwner reports whether the caller may know the owner of a lock, and with it
// unlock.
func (s *Service) showsOwner(ctx context.Context, lock *replication.Lock) bool {
	who := caller.From(ctx)
	if s.cfg.Policy.Allows(who, policy.Admin, lock.GetName()) {
		return true
	}
	return len(lock.GetSession()) == 0 && s.cfg.Policy.Allows(who, policy.Lock, lock.GetName())
}
