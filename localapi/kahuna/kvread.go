package kahuna

import (
	"context"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// pointRead is what both reads of one key carry.
type pointRead interface {
	inTransaction
	GetKey() string
	GetRevision() int64
	GetDurability() pb.GrpcKeyValueDurability
	GetReadTimestampNode() int32
	GetReadTimestampPhysical() int64
	GetReadTimestampCounter() uint32
}

// TryGetKeyValue reads one key: the newest revision (-1), another by number, or
// the one as of a time.
func (s *Service) TryGetKeyValue(ctx context.Context, req *pb.GrpcTryGetKeyValueRequest) (*pb.GrpcTryGetKeyValueResponse, error) {
	start := time.Now()
	e, t, err := s.readOne(ctx, req, false, kvGot)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryGetKeyValueResponse{Type: t, TimeElapsedMs: elapsedMS(start), Route: s.route(t == kvRetry)}
	if e != nil {
		out.Value, out.Revision, out.State = e.Value, e.Revision, pb.GrpcKeyValueState_STATE_SET
		out.ExpiresPhysical = e.ExpiresAtMs
		out.LastModifiedNode, out.LastModifiedPhysical, out.LastModifiedCounter = label(e.Modified)
	}
	return out, nil
}

// TryExistsKeyValue is TryGetKeyValue without the value.
func (s *Service) TryExistsKeyValue(ctx context.Context, req *pb.GrpcTryExistsKeyValueRequest) (*pb.GrpcTryExistsKeyValueResponse, error) {
	start := time.Now()
	e, t, err := s.readOne(ctx, req, true, kvExists)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryExistsKeyValueResponse{Type: t, TimeElapsedMs: elapsedMS(start), Route: s.route(t == kvRetry)}
	if e != nil {
		out.Revision, out.State = e.Revision, pb.GrpcKeyValueState_STATE_SET
		out.ExpiresPhysical = e.ExpiresAtMs
		out.LastModifiedNode, out.LastModifiedPhysical, out.LastModifiedCounter = label(e.Modified)
	}
	return out, nil
}

// readOne reads one key, in a transaction unless it asks for a revision by number
// (keyvalue.md 4.4).
func (s *Service) readOne(ctx context.Context, req pointRead, keysOnly bool, done pb.GrpcKeyValueResponseType) (*replication.Entry, pb.GrpcKeyValueResponseType, error) {
	tx, ok := txRef(req)
	if !ok || badKey(req.GetKey()) {
		return nil, kvInvalid, nil
	}
	if err := s.need(ctx, policy.Read, req.GetKey()); err != nil {
		return nil, kvErrored, err
	}
	asOf := stamp(req.GetReadTimestampNode(), req.GetReadTimestampPhysical(), req.GetReadTimestampCounter())
	key := &replication.GetKey{Durability: durability(req.GetDurability()), Key: req.GetKey()}
	if revision := req.GetRevision(); revision >= 0 {
		key.Revision, asOf, tx = &revision, nil, nil
	}
	read := &replication.Request{}
	if tx == nil {
		read.Op = &replication.Request_Get{Get: &replication.Get{Keys: []*replication.GetKey{key}, KeysOnly: keysOnly, AsOf: asOf}}
	} else {
		read.Op = &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: tx, Keys: []*replication.GetKey{key}, KeysOnly: keysOnly, AsOf: asOf}}
	}
	a, err := s.ask(ctx, read)
	t, err := kvOutcome(a, err, done)
	entries := a.GetEntries().GetEntries()
	if err != nil || t != done {
		return nil, t, err
	}
	if len(entries) != 1 {
		return nil, kvErrored, nil
	}
	t, e := hit(entries[0], done)
	return e, t, nil
}
