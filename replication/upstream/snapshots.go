package upstream

import (
	"context"
	"errors"
	"slices"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// snapshotAcquire holds history. Asked again it is another hold at the worst, which
// lapses.
func (c *Client) snapshotAcquire(ctx context.Context, op *replication.SnapshotHoldAcquire) (*replication.Answer, error) {
	ms, err := milliseconds(op.GetLeaseMs())
	if err != nil {
		return nil, err
	}
	began := c.cfg.LeaseNow()
	node, physical, counter := label(op.GetTimestamp())
	a, _, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcAcquireSnapshotHoldResponse, error) {
		return e.keys.AcquireSnapshotHold(ctx, &pb.GrpcAcquireSnapshotHoldRequest{HolderId: op.GetHolder(), TimestampNode: node,
			TimestampPhysical: physical, TimestampCounter: counter, LeaseMs: ms})
	}, func(a *pb.GrpcAcquireSnapshotHoldResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	return c.snapshotHold(&replication.SnapshotHold{Id: a.GetHoldId(), Holder: op.GetHolder(), Timestamp: op.GetTimestamp(),
		RemainingMs: op.GetLeaseMs() - sinceMS(c.cfg.LeaseNow(), began)}, a.GetType())
}

func (c *Client) snapshotHold(h *replication.SnapshotHold, t pb.GrpcKeyValueResponseType) (*replication.Answer, error) {
	if err := kvRefusal(t); err != nil {
		return nil, err
	}
	h.RemainingMs = max(h.RemainingMs, 0)
	return &replication.Answer{Result: &replication.Answer_SnapshotHold{SnapshotHold: h}}, nil
}

func (c *Client) snapshotRenew(ctx context.Context, op *replication.SnapshotHoldRenew) (*replication.Answer, error) {
	ms, err := milliseconds(op.GetLeaseMs())
	if err != nil {
		return nil, err
	}
	began := c.cfg.LeaseNow()
	a, _, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcRenewSnapshotHoldResponse, error) {
		return e.keys.RenewSnapshotHold(ctx, &pb.GrpcRenewSnapshotHoldRequest{HoldId: op.GetId(), LeaseMs: ms})
	}, func(a *pb.GrpcRenewSnapshotHoldResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	return c.snapshotHold(&replication.SnapshotHold{Id: op.GetId(), RemainingMs: op.GetLeaseMs() - sinceMS(c.cfg.LeaseNow(), began)}, a.GetType())
}

// snapshotRelease lets history go. Asked again, that it is gone is what was wanted.
func (c *Client) snapshotRelease(ctx context.Context, op *replication.SnapshotHoldRelease) (*replication.Answer, error) {
	a, maybe, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcReleaseSnapshotHoldResponse, error) {
		return e.keys.ReleaseSnapshotHold(ctx, &pb.GrpcReleaseSnapshotHoldRequest{HoldId: op.GetId()})
	}, func(a *pb.GrpcReleaseSnapshotHoldResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	if maybe && a.GetType() == kvMissing {
		return &replication.Answer{}, nil
	}
	return &replication.Answer{}, kvRefusal(a.GetType())
}

// snapshotFloor tells the lowest time that is held, and by how many; who they are
// Kahuna does not tell.
func (c *Client) snapshotFloor(ctx context.Context) (*replication.Answer, error) {
	a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcGetSnapshotFloorResponse, error) {
		return e.keys.GetSnapshotFloor(ctx, &pb.GrpcGetSnapshotFloorRequest{})
	}, func(a *pb.GrpcGetSnapshotFloorResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	if err := kvRefusal(a.GetType()); err != nil {
		return nil, err
	}
	return &replication.Answer{Result: &replication.Answer_SnapshotFloor{SnapshotFloor: &replication.SnapshotFloor{
		Floor: stamp(a.GetEffectiveFloorNode(), a.GetEffectiveFloorPhysical(), a.GetEffectiveFloorCounter()), Holds: uint32(max(a.GetLiveHolds(), 0))}}}, nil
}

// keySpaceSet registers a key space, or takes the record away: on each server, since
// only that which answers routes by it (R30).
func (c *Client) keySpaceSet(ctx context.Context, op *replication.KeySpaceSet) (*replication.Answer, error) {
	changed, done := false, false
	var last error
	if !op.GetRanged() { // the answer does not say whether there was a record
		a, err := c.keySpaceList(ctx, &replication.KeySpaceList{Name: op.GetName()})
		if err != nil {
			return nil, err
		}
		changed = len(a.GetKeySpaces().GetNames()) > 0
	}
	for _, e := range c.pool.list {
		seeded, err := c.keySpaceOn(ctx, e, op)
		var refused *replication.RefusedError
		switch {
		case errors.As(err, &refused):
			return nil, err
		case err != nil:
			last = err
		default:
			changed, done = changed || seeded, true
		}
	}
	if !done || last != nil {
		return nil, errors.Join(replication.ErrUnknownOutcome, last)
	}
	return &replication.Answer{Result: &replication.Answer_KeySpaces{KeySpaces: &replication.KeySpaces{Changed: changed}}}, nil
}

// keySpaceOn asks one server.
func (c *Client) keySpaceOn(ctx context.Context, e *endpoint, op *replication.KeySpaceSet) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	var ok bool
	var word, reason string
	if op.GetRanged() {
		a, err := e.keys.RegisterKeyRange(ctx, &pb.GrpcRegisterKeyRangeRequest{KeySpace: op.GetName()})
		if err != nil {
			return false, errors.Join(refusal(err), err)
		}
		ok, word, reason, changed = a.GetSuccess(), a.GetStatus(), a.GetReason(), a.GetSeeded()
	} else {
		a, err := e.keys.RemoveKeyRange(ctx, &pb.GrpcRemoveKeyRangeRequest{KeySpace: op.GetName()})
		if err != nil {
			return false, errors.Join(refusal(err), err)
		}
		ok, word, reason = a.GetSuccess(), a.GetStatus(), a.GetReason()
	}
	switch {
	case ok:
		return changed, nil
	case word == "InvalidInput" || word == "KeyRangeDisabled":
		return false, refuse(replication.Code_CODE_INVALID, "the Kahuna cluster behind this agent does not take the key space: %s %s", word, reason)
	}
	return false, errors.New(word + " " + reason)
}

// keySpaceList lists the key spaces that are ordered by key, as one server has them.
func (c *Client) keySpaceList(ctx context.Context, op *replication.KeySpaceList) (*replication.Answer, error) {
	a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcGetRangesResponse, error) {
		return e.cluster.GetRanges(ctx, &pb.GrpcGetRangesRequest{KeySpace: op.GetName()})
	}, func(a *pb.GrpcGetRangesResponse) bool { return !a.GetInitialized() })
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range a.GetKeySpaces() {
		if s.GetRoutingMode() == "KeyRange" && s.GetKeySpace() > op.GetAfter() {
			names = append(names, s.GetKeySpace())
		}
	}
	slices.Sort(names)
	out := &replication.KeySpaces{Names: names}
	if limit := int(op.GetLimit()); limit > 0 && len(names) > limit {
		out.Names, out.More = names[:limit], true
	}
	return &replication.Answer{Result: &replication.Answer_KeySpaces{KeySpaces: out}}, nil
}
