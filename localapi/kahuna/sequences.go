package kahuna

import (
	"context"
	"strings"
	"time"
	"unicode/utf16"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

const (
	sequenceDone    = pb.GrpcSequenceResponseType_SEQUENCE_SUCCESS
	sequenceInvalid = pb.GrpcSequenceResponseType_SEQUENCE_INVALID_INPUT
	sequenceRetry   = pb.GrpcSequenceResponseType_SEQUENCE_MUST_RETRY
	sequenceError   = pb.GrpcSequenceResponseType_SEQUENCE_ERROR
)

const (
	// maxSequenceNameUnits and maxIdempotencyKeyBytes are Kahuna's (S2, S7).
	maxSequenceNameUnits   = 1024
	maxIdempotencyKeyBytes = 1024
	reservedSequences      = "__kahuna:sequences:"
)

func sequenceType(code replication.Code) pb.GrpcSequenceResponseType {
	switch code {
	case replication.Code_CODE_OK:
		return sequenceDone
	case replication.Code_CODE_NOT_FOUND:
		return pb.GrpcSequenceResponseType_SEQUENCE_NOT_FOUND
	case replication.Code_CODE_EXISTS:
		return pb.GrpcSequenceResponseType_SEQUENCE_ALREADY_EXISTS
	case replication.Code_CODE_INVALID, replication.Code_CODE_KEY_REUSED:
		return sequenceInvalid
	case replication.Code_CODE_EXHAUSTED:
		return pb.GrpcSequenceResponseType_SEQUENCE_MAX_VALUE_EXCEEDED
	}
	return sequenceError
}

// sequenceName trims a name as Kahuna does; ok is false when it is refused.
func sequenceName(name string, d pb.GrpcSequenceDurability) (string, bool) {
	name = strings.TrimSpace(name)
	if name == "" || d != pb.GrpcSequenceDurability_SEQUENCE_PERSISTENT || strings.HasPrefix(name, reservedSequences) {
		return name, false
	}
	units := 0
	for _, r := range name {
		units += max(utf16.RuneLen(r), 1)
	}
	return name, units <= maxSequenceNameUnits
}

// onSequence judges the name and the caller, and asks. A false ok has its answer
// in t.
func (s *Service) onSequence(ctx context.Context, name string, verb policy.Verb, req *replication.Request) (a *replication.Answer, t pb.GrpcSequenceResponseType, err error) {
	if err := s.need(ctx, verb, name); err != nil {
		return nil, sequenceError, err
	}
	a, err = s.ask(ctx, req)
	switch {
	case retries(err):
		return nil, sequenceRetry, nil
	case err != nil:
		return nil, sequenceError, err
	}
	return a, sequenceType(a.GetCode()), nil
}

// CreateSequence records a new sequence; the first value will be InitialValue +
// Increment.
func (s *Service) CreateSequence(ctx context.Context, req *pb.GrpcCreateSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	start := time.Now()
	name, ok := sequenceName(req.GetName(), req.GetDurability())
	if !ok || req.Increment <= 0 || req.MaxValue != nil && *req.MaxValue < req.InitialValue {
		return &pb.GrpcSequenceResponse{Type: sequenceInvalid, Revision: -1}, nil
	}
	_, t, err := s.onSequence(ctx, name, policy.Sequence, &replication.Request{Op: &replication.Request_SequenceCreate{
		SequenceCreate: &replication.SequenceCreate{Name: name, Initial: req.InitialValue, Increment: req.Increment,
			Maximum: req.MaxValue, BlockSize: req.BlockSize}}})
	return s.sequenceAnswer(t, err, nil, 0, start)
}

// UpdateSequence changes what is named of a sequence.
func (s *Service) UpdateSequence(ctx context.Context, req *pb.GrpcUpdateSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	start := time.Now()
	name, ok := sequenceName(req.GetName(), req.GetDurability())
	if !ok {
		return &pb.GrpcSequenceResponse{Type: sequenceInvalid, Revision: -1}, nil
	}
	a, t, err := s.onSequence(ctx, name, policy.Sequence, &replication.Request{Op: &replication.Request_SequenceUpdate{
		SequenceUpdate: &replication.SequenceUpdate{Name: name, Current: req.CurrentValue, Increment: req.Increment,
			Initial: req.InitialValue, Maximum: req.MaxValue, RemoveMaximum: req.RemoveMaxValue,
			BlockSize: req.BlockSize, RemoveBlockSize: req.RemoveBlockSize}}})
	return s.sequenceAnswer(t, err, a.GetSequence(), a.GetSequence().GetRevision(), start)
}

// GetSequence shows a sequence. CurrentValue is the last value issued.
func (s *Service) GetSequence(ctx context.Context, req *pb.GrpcGetSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	start := time.Now()
	name, ok := sequenceName(req.GetName(), req.GetDurability())
	if !ok {
		return &pb.GrpcSequenceResponse{Type: sequenceInvalid, Revision: -1}, nil
	}
	a, t, err := s.onSequence(ctx, name, policy.Read, &replication.Request{Op: &replication.Request_SequenceGet{
		SequenceGet: &replication.SequenceGet{Name: name}}})
	return s.sequenceAnswer(t, err, a.GetSequence(), a.GetSequence().GetRevision(), start)
}

// DeleteSequence removes a sequence and its idempotency keys.
func (s *Service) DeleteSequence(ctx context.Context, req *pb.GrpcDeleteSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	start := time.Now()
	name, ok := sequenceName(req.GetName(), req.GetDurability())
	if !ok {
		return &pb.GrpcSequenceResponse{Type: sequenceInvalid, Revision: -1}, nil
	}
	_, t, err := s.onSequence(ctx, name, policy.Sequence, &replication.Request{Op: &replication.Request_SequenceDelete{
		SequenceDelete: &replication.SequenceDelete{Name: name}}})
	return s.sequenceAnswer(t, err, nil, 0, start)
}

func (s *Service) sequenceAnswer(t pb.GrpcSequenceResponseType, err error, q *replication.Sequence, revision int64, start time.Time) (*pb.GrpcSequenceResponse, error) {
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcSequenceResponse{Type: t, Revision: -1, TimeElapsedMs: elapsedMS(start), Route: s.route(t == sequenceRetry)}
	if t != sequenceDone {
		return out, nil
	}
	out.Revision = revision
	if q != nil {
		out.Sequence = sequenceEntry(q)
	}
	return out, nil
}

func sequenceEntry(q *replication.Sequence) *pb.GrpcSequenceEntry {
	e := &pb.GrpcSequenceEntry{Name: q.Name, CurrentValue: q.Current, InitialValue: q.Initial, Increment: q.Increment,
		MaxValue: q.Maximum, Revision: q.Revision, Durability: pb.GrpcSequenceDurability_SEQUENCE_PERSISTENT,
		BlockSize: q.BlockSize, Incarnation: q.Incarnation}
	e.CreatedAtNode, e.CreatedAtPhysical, e.CreatedAtCounter = label(q.Created)
	e.UpdatedAtNode, e.UpdatedAtPhysical, e.UpdatedAtCounter = label(q.Updated)
	return e
}

// NextSequenceValue draws one value.
func (s *Service) NextSequenceValue(ctx context.Context, req *pb.GrpcNextSequenceRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	return s.allocate(ctx, req.GetName(), 1, req.GetIdempotencyKey(), req.GetDurability())
}

// ReserveSequenceRange draws Count values in a row.
func (s *Service) ReserveSequenceRange(ctx context.Context, req *pb.GrpcReserveSequenceRangeRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	return s.allocate(ctx, req.GetName(), req.GetCount(), req.GetIdempotencyKey(), req.GetDurability())
}

func (s *Service) allocate(ctx context.Context, name string, count int32, key string, d pb.GrpcSequenceDurability) (*pb.GrpcSequenceAllocationResponse, error) {
	start := time.Now()
	name, ok := sequenceName(name, d)
	key = strings.TrimSpace(key)
	if !ok || count <= 0 || len(key) > maxIdempotencyKeyBytes {
		return &pb.GrpcSequenceAllocationResponse{Type: sequenceInvalid}, nil
	}
	a, t, err := s.onSequence(ctx, name, policy.Sequence, &replication.Request{Op: &replication.Request_SequenceNext{
		SequenceNext: &replication.SequenceNext{Name: name, Count: int64(count), IdempotencyKey: key}}})
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcSequenceAllocationResponse{Type: t, TimeElapsedMs: elapsedMS(start), Route: s.route(t == sequenceRetry)}
	if t == sequenceDone {
		got := a.GetAllocation()
		out.Allocation = &pb.GrpcSequenceAllocation{Name: got.GetName(), Start: got.GetStart(), End: got.GetEnd(),
			Count: int32(got.GetCount()), Revision: got.GetRevision()}
	}
	return out, nil
}
