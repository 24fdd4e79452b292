package upstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"math"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

const (
	seqPersistent = pb.GrpcSequenceDurability_SEQUENCE_PERSISTENT
	seqSuccess    = pb.GrpcSequenceResponseType_SEQUENCE_SUCCESS
)

// seqCode is the code of an answer about a sequence.
func seqCode(t pb.GrpcSequenceResponseType) replication.Code {
	switch t {
	case seqSuccess:
		return replication.Code_CODE_OK
	case pb.GrpcSequenceResponseType_SEQUENCE_NOT_FOUND:
		return replication.Code_CODE_NOT_FOUND
	case pb.GrpcSequenceResponseType_SEQUENCE_ALREADY_EXISTS:
		return replication.Code_CODE_EXISTS
	case pb.GrpcSequenceResponseType_SEQUENCE_INVALID_INPUT:
		return replication.Code_CODE_INVALID
	case pb.GrpcSequenceResponseType_SEQUENCE_MAX_VALUE_EXCEEDED:
		return replication.Code_CODE_EXHAUSTED
	case pb.GrpcSequenceResponseType_SEQUENCE_ABORTED:
		return replication.Code_CODE_ABORTED
	}
	return undecidedCode
}

func seqRefusal(t pb.GrpcSequenceResponseType) error {
	switch code := seqCode(t); code {
	case replication.Code_CODE_OK:
		return nil
	case replication.Code_CODE_INVALID:
		return refuse(code, "the Kahuna cluster behind this agent does not take the request: %s", t)
	default:
		return refuse(code, "")
	}
}

// sequence asks for anything that is answered with a sequence.
func (c *Client) sequence(ctx context.Context, m manner, call func(context.Context, *endpoint) (*pb.GrpcSequenceResponse, error)) (*pb.GrpcSequenceResponse, error) {
	a, _, err := ask(ctx, c, m, call, func(a *pb.GrpcSequenceResponse) bool { return seqCode(a.GetType()) == undecidedCode })
	if err != nil {
		return nil, err
	}
	return a, seqRefusal(a.GetType())
}

func (c *Client) sequenceCreate(ctx context.Context, op *replication.SequenceCreate) (*replication.Answer, error) {
	_, err := c.sequence(ctx, once, func(ctx context.Context, e *endpoint) (*pb.GrpcSequenceResponse, error) {
		return e.sequences.CreateSequence(ctx, &pb.GrpcCreateSequenceRequest{Name: op.GetName(), InitialValue: op.GetInitial(), Increment: op.GetIncrement(),
			MaxValue: op.Maximum, BlockSize: op.BlockSize, Durability: seqPersistent})
	})
	if err != nil {
		return nil, err
	}
	// Its answer has nothing but the revision.
	made := &replication.Sequence{Name: op.GetName(), Current: op.GetInitial(), Initial: op.GetInitial(), Increment: op.GetIncrement(),
		Maximum: op.Maximum, BlockSize: op.BlockSize}
	if a, err := c.sequenceGet(ctx, &replication.SequenceGet{Name: op.GetName()}); err == nil {
		made = a.GetSequence()
	}
	return &replication.Answer{Result: &replication.Answer_Sequence{Sequence: made}}, nil
}

func (c *Client) sequenceGet(ctx context.Context, op *replication.SequenceGet) (*replication.Answer, error) {
	a, err := c.sequence(ctx, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcSequenceResponse, error) {
		return e.sequences.GetSequence(ctx, &pb.GrpcGetSequenceRequest{Name: op.GetName(), Durability: seqPersistent})
	})
	switch {
	case err != nil:
		return nil, err
	case a.GetSequence().GetName() == "": // counts as none (locks-sequences 3.12)
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "")
	}
	return &replication.Answer{Result: &replication.Answer_Sequence{Sequence: sequenceOf(a.GetSequence())}}, nil
}

func sequenceOf(q *pb.GrpcSequenceEntry) *replication.Sequence {
	return &replication.Sequence{Name: q.GetName(), Current: q.GetCurrentValue(), Initial: q.GetInitialValue(), Increment: q.GetIncrement(),
		Maximum: q.MaxValue, BlockSize: q.BlockSize, Revision: q.GetRevision(), Incarnation: q.GetIncarnation(),
		Created: stamp(q.GetCreatedAtNode(), q.GetCreatedAtPhysical(), q.GetCreatedAtCounter()),
		Updated: stamp(q.GetUpdatedAtNode(), q.GetUpdatedAtPhysical(), q.GetUpdatedAtCounter())}
}

func (c *Client) sequenceUpdate(ctx context.Context, op *replication.SequenceUpdate) (*replication.Answer, error) {
	if op.GetOnlyHeld() {
		return nil, refuse(replication.Code_CODE_CONDITION_FAILED, "the sequence does not stand still: those of a Kahuna cluster never do (upstream mode)")
	}
	a, err := c.sequence(ctx, once, func(ctx context.Context, e *endpoint) (*pb.GrpcSequenceResponse, error) {
		return e.sequences.UpdateSequence(ctx, &pb.GrpcUpdateSequenceRequest{Name: op.GetName(), CurrentValue: op.Current, Increment: op.Increment,
			InitialValue: op.Initial, MaxValue: op.Maximum, RemoveMaxValue: op.GetRemoveMaximum(), BlockSize: op.BlockSize,
			RemoveBlockSize: op.GetRemoveBlockSize(), Durability: seqPersistent})
	})
	if err != nil {
		return nil, err
	}
	if a.GetSequence() == nil {
		return c.sequenceGet(ctx, &replication.SequenceGet{Name: op.GetName()})
	}
	return &replication.Answer{Result: &replication.Answer_Sequence{Sequence: sequenceOf(a.GetSequence())}}, nil
}

func (c *Client) sequenceDelete(ctx context.Context, op *replication.SequenceDelete) (*replication.Answer, error) {
	_, err := c.sequence(ctx, once, func(ctx context.Context, e *endpoint) (*pb.GrpcSequenceResponse, error) {
		return e.sequences.DeleteSequence(ctx, &pb.GrpcDeleteSequenceRequest{Name: op.GetName(), Durability: seqPersistent})
	})
	return &replication.Answer{}, err
}

// sequenceNext draws values under an idempotency key, the caller's or one of its
// own, so that asking again gives the same values.
func (c *Client) sequenceNext(ctx context.Context, op *replication.SequenceNext) (*replication.Answer, error) {
	if op.GetCount() <= 0 || op.GetCount() > math.MaxInt32 {
		return nil, refuse(replication.Code_CODE_INVALID, "the count %d is not between 1 and %d, which is all that a Kahuna cluster takes (upstream mode)", op.GetCount(), math.MaxInt32)
	}
	key := op.GetIdempotencyKey()
	if key == "" {
		var b [16]byte
		rand.Read(b[:]) // never fails: see crypto/rand
		key = "kahu-" + hex.EncodeToString(b[:])
	}
	a, _, err := ask(ctx, c, repeatable, func(ctx context.Context, e *endpoint) (*pb.GrpcSequenceAllocationResponse, error) {
		return e.sequences.ReserveSequenceRange(ctx, &pb.GrpcReserveSequenceRangeRequest{Name: op.GetName(), Count: int32(op.GetCount()),
			IdempotencyKey: &key, Durability: seqPersistent})
	}, func(a *pb.GrpcSequenceAllocationResponse) bool { return seqCode(a.GetType()) == undecidedCode })
	if err != nil {
		return nil, err
	}
	if a.GetType() == pb.GrpcSequenceResponseType_SEQUENCE_INVALID_INPUT && op.GetIdempotencyKey() != "" {
		return nil, refuse(replication.Code_CODE_KEY_REUSED, "the Kahuna cluster behind this agent does not take it: the idempotency key was used with another count, or name or key are not to its liking")
	}
	if err := seqRefusal(a.GetType()); err != nil {
		return nil, err
	}
	got := a.GetAllocation()
	return &replication.Answer{Result: &replication.Answer_Allocation{Allocation: &replication.Allocation{Name: got.GetName(), Start: got.GetStart(),
		End: got.GetEnd(), Count: int64(got.GetCount()), Revision: got.GetRevision()}}}, nil
}
