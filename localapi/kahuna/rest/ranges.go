package rest

import (
	"context"
	"net/http"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// rangeMap is KahunaRangeMapResponse.
type rangeMap struct {
	Initialized   bool       `json:"initialized"`
	LocalEndpoint string     `json:"localEndpoint"`
	KeySpaces     []keySpace `json:"keySpaces"`
}

type keySpace struct {
	KeySpace    string       `json:"keySpace"`
	RoutingMode string       `json:"routingMode"`
	Descriptors []descriptor `json:"descriptors"`
}

// descriptor is one interval; a bound that is null is open, and "" is a bound.
type descriptor struct {
	StartKey    *string `json:"startKey"`
	EndKey      *string `json:"endKey"`
	PartitionID int32   `json:"partitionId"`
	Generation  int64   `json:"generation"`
}

// keyRangeRequest is KahunaKeyRangeRequest.
type keyRangeRequest struct {
	KeySpace *string `json:"keySpace"`
}

// registerResponse is KahunaRegisterKeyRangeResponse.
type registerResponse struct {
	Success         bool    `json:"success"`
	Status          string  `json:"status"`
	Seeded          bool    `json:"seeded"`
	RoutingMode     string  `json:"routingMode"`
	DescriptorCount int32   `json:"descriptorCount"`
	Reason          *string `json:"reason"`
}

// removeResponse is KahunaRemoveKeyRangeResponse.
type removeResponse struct {
	Success         bool    `json:"success"`
	Status          string  `json:"status"`
	RoutingMode     string  `json:"routingMode"`
	DescriptorCount int32   `json:"descriptorCount"`
	Reason          *string `json:"reason"`
}

// splitRequest is KahunaSplitRangeRequest.
type splitRequest struct {
	KeySpace *string `json:"keySpace"`
	SplitKey *string `json:"splitKey"`
}

// splitResponse is KahunaSplitRangeResponse.
type splitResponse struct {
	Success        bool    `json:"success"`
	Status         string  `json:"status"`
	Determinate    bool    `json:"determinate"`
	NewPartitionID int32   `json:"newPartitionId"`
	NewGeneration  int64   `json:"newGeneration"`
	LeaderHint     *string `json:"leaderHint"`
	Reason         *string `json:"reason"`
}

// mergeResponse is KahunaMergeRangesResponse.
type mergeResponse struct {
	Success     bool    `json:"success"`
	Status      string  `json:"status"`
	Determinate bool    `json:"determinate"`
	Merges      int32   `json:"merges"`
	LeaderHint  *string `json:"leaderHint"`
	Reason      *string `json:"reason"`
}

func rangeRoutes() []route {
	return []route{
		get("/v1/ranges", 0, getRanges),
		post("/v1/ranges/register", 0, registerRange),
		post("/v1/ranges/unregister", 0, unregisterRange),
		post("/v1/ranges/split", 0, splitRange),
		action("/v1/ranges/merge", mergeRanges),
	}
}

// rangeStatus is 200 for success, 400 for bad input and 409 for all other verdicts
// (R29).
func rangeStatus(success bool, status string) int {
	switch {
	case success:
		return http.StatusOK
	case status == "InvalidInput":
		return http.StatusBadRequest
	default:
		return http.StatusConflict
	}
}

func getRanges(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.GetRanges(ctx, &pb.GrpcGetRangesRequest{KeySpace: keySpaceOf(x.r)})
	if err != nil {
		return answer{}, err
	}
	body := rangeMap{a.GetInitialized(), a.GetLocalEndpoint(), make([]keySpace, 0, len(a.GetKeySpaces()))}
	for _, s := range a.GetKeySpaces() {
		shown := keySpace{s.GetKeySpace(), s.GetRoutingMode(), []descriptor{}}
		for _, d := range s.GetDescriptors() {
			shown.Descriptors = append(shown.Descriptors, descriptor{d.StartKey, d.EndKey, d.GetPartitionId(), d.GetGeneration()})
		}
		body.KeySpaces = append(body.KeySpaces, shown)
	}
	return ok(body)
}

func registerRange(ctx context.Context, s Service, in *keyRangeRequest) (answer, error) {
	a, err := s.RegisterKeyRange(ctx, &pb.GrpcRegisterKeyRangeRequest{KeySpace: text(in.KeySpace)})
	if err != nil {
		return answer{}, err
	}
	return answer{rangeStatus(a.GetSuccess(), a.GetStatus()),
		registerResponse{a.GetSuccess(), a.GetStatus(), a.GetSeeded(), a.GetRoutingMode(), a.GetDescriptorCount(), orNull(a.GetReason())}}, nil
}

func unregisterRange(ctx context.Context, s Service, in *keyRangeRequest) (answer, error) {
	a, err := s.RemoveKeyRange(ctx, &pb.GrpcRemoveKeyRangeRequest{KeySpace: text(in.KeySpace)})
	if err != nil {
		return answer{}, err
	}
	return answer{rangeStatus(a.GetSuccess(), a.GetStatus()),
		removeResponse{a.GetSuccess(), a.GetStatus(), a.GetRoutingMode(), a.GetDescriptorCount(), orNull(a.GetReason())}}, nil
}

func splitRange(ctx context.Context, s Service, in *splitRequest) (answer, error) {
	a, err := s.SplitRange(ctx, &pb.GrpcSplitRangeRequest{KeySpace: text(in.KeySpace), SplitKey: text(in.SplitKey)})
	if err != nil {
		return answer{}, err
	}
	return answer{rangeStatus(a.GetSuccess(), a.GetStatus()), splitResponse{a.GetSuccess(), a.GetStatus(), a.GetDeterminate(),
		a.GetNewPartitionId(), a.GetNewGeneration(), orNull(a.GetLeaderHint()), orNull(a.GetReason())}}, nil
}

// mergeRanges takes any body, or none: .NET posts none and no content type.
func mergeRanges(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.MergeRanges(ctx, &pb.GrpcMergeRangesRequest{})
	if err != nil {
		return answer{}, err
	}
	return answer{rangeStatus(a.GetSuccess(), a.GetStatus()), mergeResponse{a.GetSuccess(), a.GetStatus(), a.GetDeterminate(),
		a.GetMerges(), orNull(a.GetLeaderHint()), orNull(a.GetReason())}}, nil
}

// keySpaceOf is the filter of the two lists of key spaces; empty is all.
func keySpaceOf(r *http.Request) string {
	space, _ := query(r, "keySpace")
	return space
}
