package rest

import (
	"context"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// acquireHoldRequest is KahunaAcquireSnapshotHoldRequest.
type acquireHoldRequest struct {
	HolderID  *string    `json:"holderId"`
	Timestamp hlc        `json:"timestamp"`
	LeaseMs   int32Value `json:"leaseMs"`
}

// acquireHoldResponse is KahunaAcquireSnapshotHoldResponse.
type acquireHoldResponse struct {
	Type        int32  `json:"type"`
	HoldID      string `json:"holdId"`
	LeaseExpiry hlc    `json:"leaseExpiry"`
}

// renewHoldRequest is KahunaRenewSnapshotHoldRequest.
type renewHoldRequest struct {
	HoldID  *string    `json:"holdId"`
	LeaseMs int32Value `json:"leaseMs"`
}

// renewHoldResponse is KahunaRenewSnapshotHoldResponse.
type renewHoldResponse struct {
	Type        int32 `json:"type"`
	LeaseExpiry hlc   `json:"leaseExpiry"`
}

// releaseHoldRequest is KahunaReleaseSnapshotHoldRequest.
type releaseHoldRequest struct {
	HoldID *string `json:"holdId"`
}

// releaseHoldResponse is KahunaReleaseSnapshotHoldResponse.
type releaseHoldResponse struct {
	Type int32 `json:"type"`
}

// floorResponse is KahunaGetSnapshotFloorResponse.
type floorResponse struct {
	Type           int32 `json:"type"`
	EffectiveFloor hlc   `json:"effectiveFloor"`
	LiveHolds      int32 `json:"liveHolds"`
}

func holdRoutes() []route {
	return []route{
		post("/v1/kv/snapshot-hold/acquire", keyMustRetry, acquireHold),
		post("/v1/kv/snapshot-hold/renew", keyMustRetry, renewHold),
		post("/v1/kv/snapshot-hold/release", keyMustRetry, releaseHold),
		get("/v1/kv/snapshot-floor", keyMustRetry, getFloor),
	}
}

// acquireHold refuses an empty holder with 100, where gRPC says 99 (R18).
func acquireHold(ctx context.Context, s Service, in *acquireHoldRequest) (answer, error) {
	if text(in.HolderID) == "" {
		return ok(acquireHoldResponse{Type: keyInvalidInput})
	}
	a, err := s.AcquireSnapshotHold(ctx, &pb.GrpcAcquireSnapshotHoldRequest{HolderId: text(in.HolderID),
		TimestampNode: in.Timestamp.node(), TimestampPhysical: in.Timestamp.physical(), TimestampCounter: in.Timestamp.counter(),
		LeaseMs: int32(in.LeaseMs)})
	if err != nil {
		return answer{}, err
	}
	return ok(acquireHoldResponse{int32(a.GetType()), a.GetHoldId(),
		stamp(a.GetLeaseExpiryNode(), a.GetLeaseExpiryPhysical(), a.GetLeaseExpiryCounter())})
}

func renewHold(ctx context.Context, s Service, in *renewHoldRequest) (answer, error) {
	if text(in.HoldID) == "" {
		return ok(renewHoldResponse{Type: keyInvalidInput})
	}
	a, err := s.RenewSnapshotHold(ctx, &pb.GrpcRenewSnapshotHoldRequest{HoldId: text(in.HoldID), LeaseMs: int32(in.LeaseMs)})
	if err != nil {
		return answer{}, err
	}
	return ok(renewHoldResponse{int32(a.GetType()), stamp(a.GetLeaseExpiryNode(), a.GetLeaseExpiryPhysical(), a.GetLeaseExpiryCounter())})
}

func releaseHold(ctx context.Context, s Service, in *releaseHoldRequest) (answer, error) {
	if text(in.HoldID) == "" {
		return ok(releaseHoldResponse{Type: keyInvalidInput})
	}
	a, err := s.ReleaseSnapshotHold(ctx, &pb.GrpcReleaseSnapshotHoldRequest{HoldId: text(in.HoldID)})
	if err != nil {
		return answer{}, err
	}
	return ok(releaseHoldResponse{int32(a.GetType())})
}

func getFloor(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.GetSnapshotFloor(ctx, &pb.GrpcGetSnapshotFloorRequest{})
	if err != nil {
		return answer{}, err
	}
	return ok(floorResponse{int32(a.GetType()),
		stamp(a.GetEffectiveFloorNode(), a.GetEffectiveFloorPhysical(), a.GetEffectiveFloorCounter()), a.GetLiveHolds()})
}
