package rest

import (
	"context"
	"encoding/json"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

const (
	sequenceMustRetry  = int32(pb.GrpcSequenceResponseType_SEQUENCE_MUST_RETRY)
	sequencePersistent = sequenceDurability(pb.GrpcSequenceDurability_SEQUENCE_PERSISTENT)
)

// sequenceName is KahunaSequenceNameRequest. Durability left out is persistent here
// and in the others, unlike in gRPC (S1).
type sequenceName struct {
	Name       *string            `json:"name"`
	Durability sequenceDurability `json:"durability"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *sequenceName) UnmarshalJSON(raw []byte) error {
	type plain sequenceName
	in.Durability = sequencePersistent
	return json.Unmarshal(raw, (*plain)(in))
}

// nextRequest is KahunaSequenceNextRequest.
type nextRequest struct {
	Name           *string            `json:"name"`
	IdempotencyKey *string            `json:"idempotencyKey"`
	Durability     sequenceDurability `json:"durability"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *nextRequest) UnmarshalJSON(raw []byte) error {
	type plain nextRequest
	in.Durability = sequencePersistent
	return json.Unmarshal(raw, (*plain)(in))
}

// reserveRequest is KahunaSequenceReserveRequest.
type reserveRequest struct {
	Name           *string            `json:"name"`
	Count          int32Value         `json:"count"`
	IdempotencyKey *string            `json:"idempotencyKey"`
	Durability     sequenceDurability `json:"durability"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *reserveRequest) UnmarshalJSON(raw []byte) error {
	type plain reserveRequest
	in.Durability = sequencePersistent
	return json.Unmarshal(raw, (*plain)(in))
}

// updateRequest is the newer clients' update: null leaves a setting alone (S30).
type updateRequest struct {
	Name            *string            `json:"name"`
	CurrentValue    *int64Value        `json:"currentValue"`
	Increment       *int64Value        `json:"increment"`
	InitialValue    *int64Value        `json:"initialValue"`
	MaxValue        *int64Value        `json:"maxValue"`
	RemoveMaxValue  boolValue          `json:"removeMaxValue"`
	BlockSize       *int32Value        `json:"blockSize"`
	RemoveBlockSize boolValue          `json:"removeBlockSize"`
	Durability      sequenceDurability `json:"durability"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *updateRequest) UnmarshalJSON(raw []byte) error {
	type plain updateRequest
	in.Durability = sequencePersistent
	return json.Unmarshal(raw, (*plain)(in))
}

// createRequest is KahunaSequenceCreateRequest: its initial value and increment may
// not be null, and left out the increment is 1 (S3).
type createRequest struct {
	Name         *string            `json:"name"`
	InitialValue int64Value         `json:"initialValue"`
	Increment    int64Value         `json:"increment"`
	MaxValue     *int64Value        `json:"maxValue"`
	BlockSize    *int32Value        `json:"blockSize"`
	Durability   sequenceDurability `json:"durability"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *createRequest) UnmarshalJSON(raw []byte) error {
	type plain createRequest
	in.Increment, in.Durability = 1, sequencePersistent
	return json.Unmarshal(raw, (*plain)(in))
}

// sequenceResponse is KahunaSequenceResponse. Its allocation is never null: zeros
// when there is none (R15).
type sequenceResponse struct {
	ServedFrom *string        `json:"servedFrom"`
	Type       int32          `json:"type"`
	Sequence   *sequenceEntry `json:"sequence"`
	Allocation allocation     `json:"allocation"`
	Revision   int64          `json:"revision"`
	Route      *hint          `json:"route"`
}

type sequenceEntry struct {
	Name         string `json:"name"`
	CurrentValue int64  `json:"currentValue"`
	InitialValue int64  `json:"initialValue"`
	Increment    int64  `json:"increment"`
	MaxValue     *int64 `json:"maxValue"`
	Revision     int64  `json:"revision"`
	Durability   int32  `json:"durability"`
	CreatedAt    hlc    `json:"createdAt"`
	UpdatedAt    hlc    `json:"updatedAt"`
	BlockSize    *int32 `json:"blockSize"`
	Incarnation  int64  `json:"incarnation"`
}

type allocation struct {
	Name     *string `json:"name"`
	Start    int64   `json:"start"`
	End      int64   `json:"end"`
	Count    int32   `json:"count"`
	Revision int64   `json:"revision"`
}

func sequenceRoutes() []route {
	return []route{
		post("/v1/sequences/create", sequenceMustRetry, createSequence),
		post("/v1/sequences/update", sequenceMustRetry, updateSequence),
		post("/v1/sequences/get", sequenceMustRetry, getSequence),
		post("/v1/sequences/next", sequenceMustRetry, nextSequence),
		post("/v1/sequences/reserve", sequenceMustRetry, reserveSequence),
		post("/v1/sequences/delete", sequenceMustRetry, deleteSequence),
	}
}

func createSequence(ctx context.Context, s Service, in *createRequest) (answer, error) {
	a, err := s.CreateSequence(ctx, &pb.GrpcCreateSequenceRequest{Name: text(in.Name), InitialValue: int64(in.InitialValue),
		Increment: int64(in.Increment), MaxValue: optional[int64](in.MaxValue), BlockSize: optional[int32](in.BlockSize),
		Durability: pb.GrpcSequenceDurability(in.Durability)})
	return sequenceAnswer(a, err)
}

func updateSequence(ctx context.Context, s Service, in *updateRequest) (answer, error) {
	a, err := s.UpdateSequence(ctx, &pb.GrpcUpdateSequenceRequest{Name: text(in.Name), CurrentValue: optional[int64](in.CurrentValue),
		Increment: optional[int64](in.Increment), InitialValue: optional[int64](in.InitialValue),
		MaxValue: optional[int64](in.MaxValue), RemoveMaxValue: bool(in.RemoveMaxValue),
		BlockSize: optional[int32](in.BlockSize), RemoveBlockSize: bool(in.RemoveBlockSize), Durability: pb.GrpcSequenceDurability(in.Durability)})
	return sequenceAnswer(a, err)
}

func getSequence(ctx context.Context, s Service, in *sequenceName) (answer, error) {
	a, err := s.GetSequence(ctx, &pb.GrpcGetSequenceRequest{Name: text(in.Name), Durability: pb.GrpcSequenceDurability(in.Durability)})
	return sequenceAnswer(a, err)
}

func nextSequence(ctx context.Context, s Service, in *nextRequest) (answer, error) {
	a, err := s.NextSequenceValue(ctx, &pb.GrpcNextSequenceRequest{Name: text(in.Name), IdempotencyKey: in.IdempotencyKey, Durability: pb.GrpcSequenceDurability(in.Durability)})
	return allocationAnswer(a, err)
}

func reserveSequence(ctx context.Context, s Service, in *reserveRequest) (answer, error) {
	a, err := s.ReserveSequenceRange(ctx, &pb.GrpcReserveSequenceRangeRequest{Name: text(in.Name), Count: int32(in.Count),
		IdempotencyKey: in.IdempotencyKey, Durability: pb.GrpcSequenceDurability(in.Durability)})
	return allocationAnswer(a, err)
}

func deleteSequence(ctx context.Context, s Service, in *sequenceName) (answer, error) {
	a, err := s.DeleteSequence(ctx, &pb.GrpcDeleteSequenceRequest{Name: text(in.Name), Durability: pb.GrpcSequenceDurability(in.Durability)})
	return sequenceAnswer(a, err)
}

func sequenceAnswer(a *pb.GrpcSequenceResponse, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	body := sequenceResponse{ServedFrom: a.ServedFrom, Type: int32(a.GetType()), Revision: a.GetRevision(), Route: hintOf(a.GetRoute())}
	if e := a.GetSequence(); e != nil {
		body.Sequence = &sequenceEntry{Name: e.GetName(), CurrentValue: e.GetCurrentValue(), InitialValue: e.GetInitialValue(),
			Increment: e.GetIncrement(), MaxValue: e.MaxValue, Revision: e.GetRevision(), Durability: int32(e.GetDurability()),
			CreatedAt: stamp(e.GetCreatedAtNode(), e.GetCreatedAtPhysical(), e.GetCreatedAtCounter()),
			UpdatedAt: stamp(e.GetUpdatedAtNode(), e.GetUpdatedAtPhysical(), e.GetUpdatedAtCounter()),
			BlockSize: e.BlockSize, Incarnation: e.GetIncarnation()}
	}
	return ok(body)
}

// allocationAnswer repeats the allocation's revision at the top (R16).
func allocationAnswer(a *pb.GrpcSequenceAllocationResponse, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	body := sequenceResponse{ServedFrom: a.ServedFrom, Type: int32(a.GetType()), Route: hintOf(a.GetRoute())}
	if run := a.GetAllocation(); run != nil {
		body.Revision = run.GetRevision()
		name := run.GetName()
		body.Allocation = allocation{Name: &name, Start: run.GetStart(), End: run.GetEnd(), Count: run.GetCount(), Revision: run.GetRevision()}
	}
	return ok(body)
}
