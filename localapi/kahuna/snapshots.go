package kahuna

import (
	"context"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// Snapshot holds keep history on disk for everybody, so they ask for the verb
// write somewhere; the floor is for whoever may read something.

// AcquireSnapshotHold keeps the history that reads as of a time need.
func (s *Service) AcquireSnapshotHold(ctx context.Context, req *pb.GrpcAcquireSnapshotHoldRequest) (*pb.GrpcAcquireSnapshotHoldResponse, error) {
	switch {
	case req.GetHolderId() == "":
		return &pb.GrpcAcquireSnapshotHoldResponse{Type: kvErrored}, nil
	case req.GetLeaseMs() <= 0:
		return &pb.GrpcAcquireSnapshotHoldResponse{Type: kvInvalid}, nil
	}
	at := &replication.Timestamp{PhysicalMs: req.TimestampPhysical, Counter: req.TimestampCounter, Node: req.TimestampNode}
	hold, expires, t, err := s.hold(ctx, &replication.Request{Op: &replication.Request_SnapshotHoldAcquire{
		SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{Holder: req.HolderId, Timestamp: at, LeaseMs: int64(req.LeaseMs)}}}, kvSet)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcAcquireSnapshotHoldResponse{Type: t, HoldId: hold.GetId(), LeaseExpiryPhysical: expires}, nil
}

// RenewSnapshotHold begins a hold's lease again.
func (s *Service) RenewSnapshotHold(ctx context.Context, req *pb.GrpcRenewSnapshotHoldRequest) (*pb.GrpcRenewSnapshotHoldResponse, error) {
	switch {
	case req.GetHoldId() == "":
		return &pb.GrpcRenewSnapshotHoldResponse{Type: kvErrored}, nil
	case req.GetLeaseMs() <= 0:
		return &pb.GrpcRenewSnapshotHoldResponse{Type: kvInvalid}, nil
	}
	_, expires, t, err := s.hold(ctx, &replication.Request{Op: &replication.Request_SnapshotHoldRenew{
		SnapshotHoldRenew: &replication.SnapshotHoldRenew{Id: req.HoldId, LeaseMs: int64(req.LeaseMs)}}}, kvSet)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcRenewSnapshotHoldResponse{Type: t, LeaseExpiryPhysical: expires}, nil
}

// ReleaseSnapshotHold lets the history go.
func (s *Service) ReleaseSnapshotHold(ctx context.Context, req *pb.GrpcReleaseSnapshotHoldRequest) (*pb.GrpcReleaseSnapshotHoldResponse, error) {
	if req.GetHoldId() == "" {
		return &pb.GrpcReleaseSnapshotHoldResponse{Type: kvErrored}, nil
	}
	_, _, t, err := s.hold(ctx, &replication.Request{Op: &replication.Request_SnapshotHoldRelease{
		SnapshotHoldRelease: &replication.SnapshotHoldRelease{Id: req.HoldId}}}, kvDeleted)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcReleaseSnapshotHoldResponse{Type: t}, nil
}

// hold asks, and returns the hold with the wall-clock end of its lease.
func (s *Service) hold(ctx context.Context, req *replication.Request, done pb.GrpcKeyValueResponseType) (h *replication.SnapshotHold, expiresMS int64, t pb.GrpcKeyValueResponseType, err error) {
	if err := s.needSomewhere(ctx, policy.Write); err != nil {
		return nil, 0, kvErrored, err
	}
	a, err := s.ask(ctx, req)
	if t, err = kvOutcome(a, err, done); err != nil || t != done {
		return nil, 0, t, err
	}
	if h = a.GetSnapshotHold(); h != nil {
		expiresMS = a.GetTime().GetPhysicalMs() + h.RemainingMs
	}
	return h, expiresMS, t, nil
}

// GetSnapshotFloor tells the lowest time that is held, and by how many.
func (s *Service) GetSnapshotFloor(ctx context.Context, _ *pb.GrpcGetSnapshotFloorRequest) (*pb.GrpcGetSnapshotFloorResponse, error) {
	if err := s.needSomewhere(ctx, policy.Read); err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_SnapshotFloorGet{SnapshotFloorGet: &replication.SnapshotFloorGet{}}})
	t, err := kvOutcome(a, err, kvGot)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcGetSnapshotFloorResponse{Type: t, LiveHolds: int32(a.GetSnapshotFloor().GetHolds())}
	out.EffectiveFloorNode, out.EffectiveFloorPhysical, out.EffectiveFloorCounter = label(a.GetSnapshotFloor().GetFloor())
	return out, nil
}
