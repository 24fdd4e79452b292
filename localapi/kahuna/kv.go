package kahuna

import (
	"context"
	"strings"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

const (
	kvSet         = pb.GrpcKeyValueResponseType_TYPE_SET
	kvNotSet      = pb.GrpcKeyValueResponseType_TYPE_NOTSET
	kvExtended    = pb.GrpcKeyValueResponseType_TYPE_EXTENDED
	kvGot         = pb.GrpcKeyValueResponseType_TYPE_GOT
	kvDeleted     = pb.GrpcKeyValueResponseType_TYPE_DELETED
	kvLocked      = pb.GrpcKeyValueResponseType_TYPE_LOCKED
	kvUnlocked    = pb.GrpcKeyValueResponseType_TYPE_UNLOCKED
	kvCommitted   = pb.GrpcKeyValueResponseType_TYPE_COMMITTED
	kvRolledBack  = pb.GrpcKeyValueResponseType_TYPE_ROLLEDBACK
	kvExists      = pb.GrpcKeyValueResponseType_TYPE_EXISTS
	kvErrored     = pb.GrpcKeyValueResponseType_TYPE_ERRORED
	kvInvalid     = pb.GrpcKeyValueResponseType_TYPE_INVALID_INPUT
	kvRetry       = pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY
	kvAborted     = pb.GrpcKeyValueResponseType_TYPE_ABORTED
	kvMissing     = pb.GrpcKeyValueResponseType_TYPE_DOES_NOT_EXIST
	kvHeld        = pb.GrpcKeyValueResponseType_TYPE_ALREADY_LOCKED
	kvNotAdmitted = pb.GrpcKeyValueResponseType_TYPE_ADMISSION_REFUSED
)

// reservedKeys begin the names that are nobody's (decisions.md 12).
const reservedKeys = "__kahuna:"

func reserved(key string) bool { return strings.HasPrefix(key, reservedKeys) }

// kvType is the code of a refusal, or done.
func kvType(code replication.Code, done pb.GrpcKeyValueResponseType) pb.GrpcKeyValueResponseType {
	switch code {
	case replication.Code_CODE_OK:
		return done
	case replication.Code_CODE_CONDITION_FAILED:
		return kvNotSet
	case replication.Code_CODE_NOT_FOUND:
		return kvMissing
	case replication.Code_CODE_INVALID:
		return kvInvalid
	case replication.Code_CODE_LOCKED:
		return kvRetry
	case replication.Code_CODE_ABORTED, replication.Code_CODE_TOO_OLD:
		return kvAborted
	case replication.Code_CODE_ADMISSION_REFUSED:
		return kvNotAdmitted
	}
	return kvErrored
}

// kvOutcome is the code of an answer or of the error that came instead; err is
// what is left of that.
func kvOutcome(a *replication.Answer, err error, done pb.GrpcKeyValueResponseType) (pb.GrpcKeyValueResponseType, error) {
	switch {
	case retries(err):
		return kvRetry, nil
	case err != nil:
		return kvErrored, err
	}
	return kvType(a.GetCode(), done), nil
}

// The flags that a client may combine; others stay inside Kahuna's servers.
const knownFlags = pb.GrpcKeyValueFlags_SET | pb.GrpcKeyValueFlags_SET_NO_REVISION | pb.GrpcKeyValueFlags_SET_IF_EXISTS |
	pb.GrpcKeyValueFlags_SET_IF_NOT_EXISTS | pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_VALUE |
	pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_REVISION

// setItem is a set that came in either message. ok is false for flags that no
// client has.
type setItem interface {
	GetKey() string
	GetCompareRevision() int64
	GetFlags() pb.GrpcKeyValueFlags
	GetExpiresMs() int32
	GetDurability() pb.GrpcKeyValueDurability
}

func writeOf(r setItem, value, compare []byte) (*replication.WriteItem, bool) {
	f := r.GetFlags()
	if f&^knownFlags != 0 {
		return nil, false
	}
	item := &replication.WriteItem{Durability: durability(r.GetDurability()), Key: r.GetKey(), Value: value,
		ExpiresMs:   int64(r.GetExpiresMs()),
		NoHistory:   f&pb.GrpcKeyValueFlags_SET_NO_REVISION != 0,
		IfExists:    f&pb.GrpcKeyValueFlags_SET_IF_EXISTS != 0,
		IfNotExists: f&pb.GrpcKeyValueFlags_SET_IF_NOT_EXISTS != 0,
	}
	if f&pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_VALUE != 0 {
		item.IfValue, item.CompareValue = true, compare
	}
	if f&pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_REVISION != 0 {
		item.IfRevision, item.CompareRevision = true, r.GetCompareRevision()
	}
	return item, true
}

// TrySetKeyValue writes one key, alone or in a transaction.
func (s *Service) TrySetKeyValue(ctx context.Context, req *pb.GrpcTrySetKeyValueRequest) (*pb.GrpcTrySetKeyValueResponse, error) {
	start := time.Now()
	item, ok := writeOf(req, req.Value, req.CompareValue)
	tx, txOK := txRef(req)
	if !ok || !txOK || req.GetExpiresMs() < 0 || badKey(req.Key) {
		return &pb.GrpcTrySetKeyValueResponse{Type: kvInvalid}, nil
	}
	w, t, err := s.writeOne(ctx, tx, item, kvSet)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTrySetKeyValueResponse{Type: t, Revision: w.GetRevision(), TimeElapsedMs: elapsedMS(start), Route: s.route(t == kvRetry)}
	out.LastModifiedNode, out.LastModifiedPhysical, out.LastModifiedCounter = label(w.GetModified())
	return out, nil
}

// TryDeleteKeyValue deletes one key, alone or in a transaction.
func (s *Service) TryDeleteKeyValue(ctx context.Context, req *pb.GrpcTryDeleteKeyValueRequest) (*pb.GrpcTryDeleteKeyValueResponse, error) {
	start := time.Now()
	tx, ok := txRef(req)
	if !ok || badKey(req.GetKey()) {
		return &pb.GrpcTryDeleteKeyValueResponse{Type: kvInvalid}, nil
	}
	w, t, err := s.writeOne(ctx, tx, &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_DELETE,
		Durability: durability(req.Durability), Key: req.Key}, kvDeleted)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryDeleteKeyValueResponse{Type: t, Revision: max(w.GetRevision(), 0), TimeElapsedMs: elapsedMS(start), Route: s.route(t == kvRetry)}
	out.LastModifiedNode, out.LastModifiedPhysical, out.LastModifiedCounter = label(w.GetModified())
	return out, nil
}

// TryExtendKeyValue moves a key's expiry to now + ExpiresMs; 0 is never
// (decisions.md 16).
func (s *Service) TryExtendKeyValue(ctx context.Context, req *pb.GrpcTryExtendKeyValueRequest) (*pb.GrpcTryExtendKeyValueResponse, error) {
	start := time.Now()
	tx, ok := txRef(req)
	if !ok || req.GetExpiresMs() < 0 || badKey(req.GetKey()) {
		return &pb.GrpcTryExtendKeyValueResponse{Type: kvInvalid}, nil
	}
	w, t, err := s.writeOne(ctx, tx, &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_EXTEND,
		Durability: durability(req.Durability), Key: req.Key, ExpiresMs: int64(req.ExpiresMs)}, kvExtended)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryExtendKeyValueResponse{Type: t, Revision: max(w.GetRevision(), 0), TimeElapsedMs: elapsedMS(start), Route: s.route(t == kvRetry)}
	out.LastModifiedNode, out.LastModifiedPhysical, out.LastModifiedCounter = label(w.GetModified())
	return out, nil
}

func badKey(key string) bool { return key == "" || reserved(key) }

// writeOne carries out one change and returns its item and code.
func (s *Service) writeOne(ctx context.Context, tx *replication.TxRef, item *replication.WriteItem, done pb.GrpcKeyValueResponseType) (*replication.WrittenItem, pb.GrpcKeyValueResponseType, error) {
	if err := s.need(ctx, policy.Write, item.Key); err != nil {
		return nil, kvErrored, err
	}
	if err := s.valueFits(item.Value); err != nil {
		return nil, kvErrored, err
	}
	written, code, err := s.write(ctx, tx, []*replication.WriteItem{item})
	switch {
	case retries(err):
		return nil, kvRetry, nil
	case err != nil:
		return nil, kvErrored, err
	case len(written) != 1:
		return nil, kvType(code, kvErrored), nil // refused as a whole
	}
	t := kvType(written[0].GetCode(), done)
	if t == kvInvalid || t == kvRetry {
		return nil, t, nil // and nothing else (keyvalue.md 4.1)
	}
	return written[0], t, nil
}

// write has changes decided, in a transaction or each for itself. Without items
// the code says why all were refused. A plain write that meets a transaction's
// lock waits for it at the voter (decisions.md 24).
func (s *Service) write(ctx context.Context, tx *replication.TxRef, items []*replication.WriteItem) ([]*replication.WrittenItem, replication.Code, error) {
	var req *replication.Request
	if tx == nil {
		req = plainWrite(items)
	} else {
		req = &replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: tx, Items: items}}}
	}
	a, err := s.ask(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	return a.GetWritten().GetItems(), a.GetCode(), nil
}

// plainWrite makes the request of a write, with one allocation: this is the way
// of most requests.
func plainWrite(items []*replication.WriteItem) *replication.Request {
	var r struct {
		req   replication.Request
		op    replication.Request_Write
		write replication.Write
	}
	r.write.Items = items
	r.op.Write = &r.write
	r.req.Op = &r.op
	return &r.req
}
