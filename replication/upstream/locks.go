package upstream

import (
	"context"
	"fmt"
	"math"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

const (
	lockPersistent = pb.GrpcLockDurability_LOCK_DURABILITY_PERSISTENT

	lockLocked   = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCKED
	lockBusy     = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_BUSY
	lockExtended = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_EXTENDED
	lockUnlocked = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_UNLOCKED
	lockGot      = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_GOT
	lockErrored  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_ERRORED
	lockInvalid  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_INVALID_INPUT
	lockRetry    = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_MUST_RETRY
	lockMissing  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCK_DOES_NOT_EXIST
	lockStranger = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_INVALID_OWNER
)

// lockKey names a lock: the same name in both tables is two locks.
type lockKey struct {
	durability replication.Durability
	name       string
}

func (k lockKey) table() pb.GrpcLockDurability { return pb.GrpcLockDurability(k.durability) }

// lockUndecided: MustRetry, Errored (a proposal that failed, outcome unknown: L12),
// and what the contract does not have.
func lockUndecided(t pb.GrpcLockResponseType) bool {
	switch t {
	case lockLocked, lockBusy, lockExtended, lockUnlocked, lockGot, lockInvalid, lockMissing, lockStranger:
		return false
	}
	return true
}

// lockRefusal is a decided answer that is not the one hoped for.
func lockRefusal(t pb.GrpcLockResponseType) error {
	switch t {
	case lockBusy:
		return refuse(replication.Code_CODE_BUSY, "")
	case lockMissing:
		return refuse(replication.Code_CODE_NOT_FOUND, "")
	case lockStranger:
		return refuse(replication.Code_CODE_INVALID_OWNER, "")
	}
	return refuse(replication.Code_CODE_INVALID, "the Kahuna cluster behind this agent does not take the request: %s", t)
}

// milliseconds is a length of time as Kahuna's wire has it.
func milliseconds(ms int64) (int32, error) {
	if ms <= 0 || ms > math.MaxInt32 {
		return 0, refuse(replication.Code_CODE_INVALID, "a lease of %d ms is not between 1 and %d ms", ms, math.MaxInt32)
	}
	return int32(ms), nil
}

// tried is what became of one TryLock.
type tried struct {
	locked bool // else busy
	token  int64
	// maybe: an attempt before the last may have taken the lock, and then its lease
	// began there.
	maybe bool
	sent  time.Duration // lease time before the first byte of the first attempt
}

// tryLock takes a lock for an owner. Asking again is safe: the live owner gets
// Locked with the same token, and its lease stays (L9).
func (c *Client) tryLock(ctx context.Context, key lockKey, owner []byte, ttl time.Duration) (tried, error) {
	ms, err := milliseconds(ttl.Milliseconds())
	if err != nil {
		return tried{}, err
	}
	out := tried{sent: c.cfg.LeaseNow()}
	a, maybe, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcTryLockResponse, error) {
		return e.locks.TryLock(ctx, &pb.GrpcTryLockRequest{Resource: key.name, Owner: owner, ExpiresMs: ms, Durability: key.table()})
	}, func(a *pb.GrpcTryLockResponse) bool { return lockUndecided(a.GetType()) })
	out.maybe = maybe
	if err != nil {
		return out, err
	}
	switch a.GetType() {
	case lockLocked:
		out.locked, out.token = true, a.GetFencingToken()
		return out, nil
	case lockBusy:
		return out, nil
	}
	return out, lockRefusal(a.GetType())
}

// extendLock moves the end of a lease, and returns the token and the lease time
// before the first byte of an attempt that the end counts from at least.
func (c *Client) extendLock(ctx context.Context, key lockKey, owner []byte, ttl time.Duration) (token int64, sent time.Duration, err error) {
	ms, err := milliseconds(ttl.Milliseconds())
	if err != nil {
		return 0, 0, err
	}
	sent = c.cfg.LeaseNow()
	a, _, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcExtendLockResponse, error) {
		return e.locks.TryExtendLock(ctx, &pb.GrpcExtendLockRequest{Resource: key.name, Owner: owner, ExpiresMs: ms, Durability: key.table()})
	}, func(a *pb.GrpcExtendLockResponse) bool { return lockUndecided(a.GetType()) })
	if err != nil {
		return 0, sent, err
	}
	if a.GetType() != lockExtended {
		return 0, sent, lockRefusal(a.GetType())
	}
	return a.GetFencingToken(), sent, nil
}

// unlockLock gives a lock back. Asked again after an answer that was lost, that it
// is not held by this owner any more is what was wanted.
func (c *Client) unlockLock(ctx context.Context, key lockKey, owner []byte) error {
	a, maybe, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcUnlockResponse, error) {
		return e.locks.Unlock(ctx, &pb.GrpcUnlockRequest{Resource: key.name, Owner: owner, Durability: key.table()})
	}, func(a *pb.GrpcUnlockResponse) bool { return lockUndecided(a.GetType()) })
	switch {
	case err != nil:
		return err
	case a.GetType() == lockUnlocked, maybe && (a.GetType() == lockMissing || a.GetType() == lockStranger):
		return nil
	}
	return lockRefusal(a.GetType())
}

// lockTry carries out LockTry. Who stands in line on this host goes first.
func (c *Client) lockTry(ctx context.Context, op *replication.LockTry) (*replication.Answer, error) {
	key := lockKey{op.GetDurability(), op.GetName()}
	if c.sessions.waiters(key) > 0 {
		return nil, refuse(replication.Code_CODE_BUSY, "others on this host are waiting for it")
	}
	ttl := time.Duration(op.GetTtlMs()) * time.Millisecond
	got, err := c.tryLock(ctx, key, op.GetOwner(), ttl)
	if err != nil {
		return nil, err
	}
	if !got.locked {
		return nil, refuse(replication.Code_CODE_BUSY, "")
	}
	// The answer does not say whether the owner had it already, with a lease that
	// ends sooner.
	grant := &replication.LockGrant{Granted: true, Token: got.token, RemainingMs: op.GetTtlMs() - (c.cfg.LeaseNow() - got.sent).Milliseconds()}
	l, _, err := c.readLock(ctx, key)
	if err == nil && string(l.GetOwner()) == string(op.GetOwner()) {
		grant.RemainingMs = min(grant.RemainingMs, remaining(l.GetExpiresPhysical()))
	}
	grant.RemainingMs = max(grant.RemainingMs, 0)
	return &replication.Answer{Result: &replication.Answer_LockGrant{LockGrant: grant}}, nil
}

// lockExtend carries out LockExtend.
func (c *Client) lockExtend(ctx context.Context, op *replication.LockExtend) (*replication.Answer, error) {
	token, sent, err := c.extendLock(ctx, lockKey{op.GetDurability(), op.GetName()}, op.GetOwner(), time.Duration(op.GetTtlMs())*time.Millisecond)
	if err != nil {
		return nil, err
	}
	left := max(op.GetTtlMs()-(c.cfg.LeaseNow()-sent).Milliseconds(), 0)
	return &replication.Answer{Result: &replication.Answer_LockGrant{LockGrant: &replication.LockGrant{Granted: true, Token: token, RemainingMs: left}}}, nil
}

// lockBreak unlocks with the owner that the cluster shows. Who takes the lock in
// between keeps it.
func (c *Client) lockBreak(ctx context.Context, op *replication.LockBreak) (*replication.Answer, error) {
	key := lockKey{op.GetDurability(), op.GetName()}
	l, found, err := c.readLock(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "")
	case len(l.GetOwner()) == 0:
		return nil, refuse(replication.Code_CODE_DENIED, "this agent is in upstream mode, where a lock is broken with its owner's secret, and the cluster does not show it")
	}
	if err := c.unlockLock(ctx, key, l.GetOwner()); err != nil {
		return nil, err
	}
	c.sessions.broken(key, string(l.GetOwner()), op.GetReason())
	return &replication.Answer{}, nil
}

// readLock asks who holds a lock.
func (c *Client) readLock(ctx context.Context, key lockKey) (l *pb.GrpcGetLockResponse, found bool, err error) {
	l, _, err = ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcGetLockResponse, error) {
		return e.locks.GetLock(ctx, &pb.GrpcGetLockRequest{Resource: key.name, Durability: key.table()})
	}, func(a *pb.GrpcGetLockResponse) bool { return lockUndecided(a.GetType()) })
	switch {
	case err != nil:
		return nil, false, err
	case l.GetType() == lockMissing:
		return nil, false, nil
	case l.GetType() != lockGot:
		return nil, false, lockRefusal(l.GetType())
	}
	return l, true, nil
}

// lockGet carries out LockGet: the cluster's word, with what this host knows of its
// own holder and line.
func (c *Client) lockGet(ctx context.Context, op *replication.LockGet) (*replication.Answer, error) {
	key := lockKey{op.GetDurability(), op.GetName()}
	got, found, err := c.readLock(ctx, key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "")
	}
	l := &replication.Lock{Durability: op.GetDurability(), Name: op.GetName(), Owner: got.GetOwner(), Token: got.GetFencingToken(),
		RemainingMs: remaining(got.GetExpiresPhysical()), Info: &replication.HolderInfo{}}
	c.sessions.describe(key, l, int(op.GetQueueLimit()))
	return &replication.Answer{Result: &replication.Answer_Lock{Lock: l}}, nil
}

// machineGet asks for anything that it takes a leader to say.
func (c *Client) machineGet(ctx context.Context) (*replication.Answer, error) {
	if _, _, err := c.readLock(ctx, lockKey{replication.Durability_DURABILITY_PERSISTENT, probeLock}); err != nil {
		return nil, fmt.Errorf("asking the cluster: %w", err)
	}
	return &replication.Answer{Result: &replication.Answer_Machine{Machine: &replication.MachineState{}}}, nil
}

// remaining is how long there is until a wall time of the cluster's, as this host's
// clock has it: for people.
func remaining(physicalMS int64) int64 { return max(physicalMS-time.Now().UnixMilli(), 0) }
