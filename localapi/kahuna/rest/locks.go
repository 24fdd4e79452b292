package rest

import (
	"context"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

const lockMustRetry = int32(pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_MUST_RETRY)

// lockRequest is KahunaLockRequest. Durability left out is ephemeral.
type lockRequest struct {
	Resource   *string    `json:"resource"`
	Owner      payload    `json:"owner"`
	ExpiresMs  int32Value `json:"expiresMs"`
	Durability durability `json:"durability"`
}

// servedFrom is empty, and null when Kahuna's handler refuses the request itself
// (R12).
func (in *lockRequest) servedFrom(valid bool) *string {
	return servedHere(valid && text(in.Resource) != "" && in.Owner != nil)
}

// lockName is KahunaGetLockRequest.
type lockName struct {
	Resource   *string    `json:"resource"`
	Durability durability `json:"durability"`
}

// lockResponse is KahunaLockResponse.
type lockResponse struct {
	ServedFrom   *string `json:"servedFrom"`
	Type         int32   `json:"type"`
	FencingToken int64   `json:"fencingToken"`
	Route        *hint   `json:"route"`
}

// lockInfo is KahunaGetLockResponse.
type lockInfo struct {
	ServedFrom   *string `json:"servedFrom"`
	Type         int32   `json:"type"`
	Owner        payload `json:"owner"`
	Expires      hlc     `json:"expires"`
	FencingToken int64   `json:"fencingToken"`
	Route        *hint   `json:"route"`
}

// hint is the newer clients' route hint (R19a).
type hint struct {
	PartitionID int32  `json:"partitionId"`
	Endpoint    string `json:"endpoint"`
	Provenance  int32  `json:"provenance"`
	Generation  int64  `json:"generation"`
}

func hintOf(h *pb.GrpcRouteHint) *hint {
	if h == nil {
		return nil
	}
	return &hint{h.GetPartitionId(), h.GetEndpoint(), int32(h.GetProvenance()), h.GetGeneration()}
}

func hintsOf(all []*pb.GrpcRouteHint) []*hint {
	var hints []*hint
	for _, h := range all {
		hints = append(hints, hintOf(h))
	}
	return hints
}

func lockRoutes() []route {
	return []route{
		post("/v1/locks/try-lock", lockMustRetry, tryLock),
		post("/v1/locks/try-extend", lockMustRetry, tryExtendLock),
		post("/v1/locks/try-unlock", lockMustRetry, tryUnlock),
		post("/v1/locks/get-info", lockMustRetry, getLock),
	}
}

func tryLock(ctx context.Context, s Service, in *lockRequest) (answer, error) {
	a, err := s.TryLock(ctx, &pb.GrpcTryLockRequest{Resource: text(in.Resource), Owner: in.Owner,
		ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcLockDurability(in.Durability)})
	if err != nil {
		return answer{}, err
	}
	return ok(lockResponse{in.servedFrom(in.ExpiresMs > 0), int32(a.GetType()), a.GetFencingToken(), hintOf(a.GetRoute())})
}

func tryExtendLock(ctx context.Context, s Service, in *lockRequest) (answer, error) {
	a, err := s.TryExtendLock(ctx, &pb.GrpcExtendLockRequest{Resource: text(in.Resource), Owner: in.Owner,
		ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcLockDurability(in.Durability)})
	if err != nil {
		return answer{}, err
	}
	return ok(lockResponse{in.servedFrom(in.ExpiresMs > 0), int32(a.GetType()), a.GetFencingToken(), hintOf(a.GetRoute())})
}

func tryUnlock(ctx context.Context, s Service, in *lockRequest) (answer, error) {
	a, err := s.Unlock(ctx, &pb.GrpcUnlockRequest{Resource: text(in.Resource), Owner: in.Owner,
		Durability: pb.GrpcLockDurability(in.Durability)})
	if err != nil {
		return answer{}, err
	}
	return ok(lockResponse{in.servedFrom(true), int32(a.GetType()), 0, hintOf(a.GetRoute())})
}

func getLock(ctx context.Context, s Service, in *lockName) (answer, error) {
	a, err := s.GetLock(ctx, &pb.GrpcGetLockRequest{Resource: text(in.Resource), Durability: pb.GrpcLockDurability(in.Durability)})
	if err != nil {
		return answer{}, err
	}
	return ok(lockInfo{servedHere(a.GetType() == pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_GOT), int32(a.GetType()), a.Owner,
		stamp(a.GetExpiresNode(), a.GetExpiresPhysical(), a.GetExpiresCounter()), a.GetFencingToken(), hintOf(a.GetRoute())})
}
