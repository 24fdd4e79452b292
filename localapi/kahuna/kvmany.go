package kahuna

import (
	"context"
	"slices"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// TrySetManyKeyValue writes keys, each for itself, a thousand at a time. It is never
// part of a transaction (keyvalue.md 4.1).
func (s *Service) TrySetManyKeyValue(ctx context.Context, req *pb.GrpcTrySetManyKeyValueRequest) (*pb.GrpcTrySetManyKeyValueResponse, error) {
	start := time.Now()
	out := &pb.GrpcTrySetManyKeyValueResponse{}
	answer := func(i int) *pb.GrpcTrySetManyKeyValueResponseItem {
		return &pb.GrpcTrySetManyKeyValueResponseItem{Key: req.Items[i].GetKey(), Durability: req.Items[i].GetDurability()}
	}
	refuseAll := false
	for i, r := range req.GetItems() {
		if r.GetKey() == "" {
			one := answer(i)
			one.Type = kvInvalid
			out.Items = []*pb.GrpcTrySetManyKeyValueResponseItem{one}
			return out, nil
		}
		refuseAll = refuseAll || reserved(r.GetKey()) || stamp(r.TransactionIdNode, r.TransactionIdPhysical, r.TransactionIdCounter) != nil
	}
	items := make([]*replication.WriteItem, 0, len(req.GetItems()))
	out.Items = make([]*pb.GrpcTrySetManyKeyValueResponseItem, 0, len(req.GetItems()))
	for i, r := range req.GetItems() {
		out.Items = append(out.Items, answer(i))
		item, ok := writeOf(r, r.Value, r.CompareValue)
		if refuseAll || !ok {
			out.Items[i].Type = kvInvalid
			continue
		}
		if err := first2(s.need(ctx, policy.Write, r.Key), s.valueFits(r.Value)); err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	written, code, err := s.writeMany(ctx, nil, items)
	if err != nil {
		return nil, err
	}
	var route int32
	out.Routes, route = s.routes(code == kvRetry)
	out.TimeElapsedMs = elapsedMS(start)
	next := 0
	for _, one := range out.Items {
		one.RouteIndex = route
		if one.Type == kvInvalid {
			continue
		}
		if written == nil {
			one.Type = code
			continue
		}
		w := written[next]
		next++
		if one.Type = kvType(w.GetCode(), kvSet); one.Type == kvInvalid {
			continue
		}
		one.Revision = w.GetRevision()
		one.LastModifiedNode, one.LastModifiedPhysical, one.LastModifiedCounter = label(w.GetModified())
		one.HolderTransactionIdNode, one.HolderTransactionIdPhysical, one.HolderTransactionIdCounter = label(w.GetHolder())
	}
	return out, nil
}

// TryDeleteManyKeyValue deletes keys, each for itself; in a transaction when all
// items name it and the request identifies the operation.
func (s *Service) TryDeleteManyKeyValue(ctx context.Context, req *pb.GrpcTryDeleteManyKeyValueRequest) (*pb.GrpcTryDeleteManyKeyValueResponse, error) {
	start := time.Now()
	out := &pb.GrpcTryDeleteManyKeyValueResponse{Items: make([]*pb.GrpcTryDeleteManyKeyValueResponseItem, 0, len(req.GetItems()))}
	tx, ok := txRefMany(req)
	for _, r := range req.GetItems() {
		ok = ok && !reserved(r.GetKey())
	}
	var items []*replication.WriteItem
	for i, r := range req.GetItems() {
		out.Items = append(out.Items, &pb.GrpcTryDeleteManyKeyValueResponseItem{Key: r.GetKey(), Durability: r.GetDurability()})
		if !ok || r.GetKey() == "" {
			out.Items[i].Type = kvInvalid
			continue
		}
		if err := s.need(ctx, policy.Write, r.Key); err != nil {
			return nil, err
		}
		items = append(items, &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_DELETE,
			Durability: durability(r.Durability), Key: r.Key})
	}
	written, code, err := s.writeMany(ctx, tx, items)
	if err != nil {
		return nil, err
	}
	var route int32
	out.Routes, route = s.routes(code == kvRetry)
	out.TimeElapsedMs = elapsedMS(start)
	next := 0
	for _, one := range out.Items {
		one.RouteIndex = route
		if one.Type == kvInvalid {
			continue
		}
		if written == nil {
			one.Type = code
			continue
		}
		w := written[next]
		next++
		one.Type, one.Revision = kvType(w.GetCode(), kvDeleted), max(w.GetRevision(), 0)
		one.LastModifiedNode, one.LastModifiedPhysical, one.LastModifiedCounter = label(w.GetModified())
	}
	return out, nil
}

// writeMany is write for a batch: items of the same number, or nil and the code
// of them all.
func (s *Service) writeMany(ctx context.Context, tx *replication.TxRef, items []*replication.WriteItem) ([]*replication.WrittenItem, pb.GrpcKeyValueResponseType, error) {
	if len(items) == 0 {
		return nil, kvInvalid, nil
	}
	if tx == nil && len(items) > maxItemsAtOnce {
		return s.writeInParts(ctx, items)
	}
	written, code, err := s.write(ctx, tx, items)
	switch {
	case retries(err):
		return nil, kvRetry, nil
	case err != nil:
		return nil, kvErrored, err
	case len(written) != len(items):
		return nil, kvType(code, kvErrored), nil
	}
	return written, kvSet, nil
}

// writeInParts is writeMany for a batch that would hold up the log as one command.
// Each item stands for itself, so it makes no difference which came together. Once
// nothing is decided in time what is left is MustRetry as well.
func (s *Service) writeInParts(ctx context.Context, items []*replication.WriteItem) ([]*replication.WrittenItem, pb.GrpcKeyValueResponseType, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	all := make([]*replication.WrittenItem, 0, len(items))
	late := false
	for part := range slices.Chunk(items, maxItemsAtOnce) {
		var written []*replication.WrittenItem
		code := replication.Code_CODE_LOCKED // answered with MustRetry
		if !late {
			var err error
			switch written, code, err = s.write(ctx, nil, part); {
			case retries(err):
				late, code = true, replication.Code_CODE_LOCKED
			case err != nil:
				return nil, kvErrored, err
			}
		}
		if len(written) == len(part) {
			all = append(all, written...)
			continue
		}
		if code == replication.Code_CODE_OK {
			code = replication.Code_CODE_UNKNOWN_OUTCOME
		}
		for range part { // refused as a whole
			all = append(all, &replication.WrittenItem{Code: code})
		}
	}
	return all, kvSet, nil
}

func first2(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// manyReads is what both many-key reads carry.
type manyReads interface {
	GetItems() []*pb.GrpcTryManyValuesRequestItem
	GetTransactionIdNode() int32
	GetTransactionIdPhysical() int64
	GetTransactionIdCounter() uint32
	GetReadTimestampNode() int32
	GetReadTimestampPhysical() int64
	GetReadTimestampCounter() uint32
}

// manyRead is one key of a many-key read and what became of it.
type manyRead struct {
	key        string
	durability pb.GrpcKeyValueDurability
	t          pb.GrpcKeyValueResponseType
	entry      *replication.Entry // nil unless done
}

// readMany reads keys, each for itself. done is the code of a hit.
func (s *Service) readMany(ctx context.Context, req manyReads, keysOnly bool, done pb.GrpcKeyValueResponseType) ([]manyRead, error) {
	items := req.GetItems()
	if len(items) == 0 {
		return []manyRead{{durability: pb.GrpcKeyValueDurability_PERSISTENT, t: kvInvalid}}, nil
	}
	inTx := stamp(req.GetTransactionIdNode(), req.GetTransactionIdPhysical(), req.GetTransactionIdCounter()) != nil
	out := make([]manyRead, len(items))
	keys := make([]*replication.GetKey, len(items))
	for i, r := range items {
		if r.GetKey() == "" {
			return []manyRead{{durability: r.GetDurability(), t: kvInvalid}}, nil
		}
		out[i] = manyRead{key: r.Key, durability: r.Durability, t: kvInvalid}
		keys[i] = &replication.GetKey{Durability: durability(r.Durability), Key: r.Key}
		if r.Revision >= 0 {
			keys[i].Revision = &r.Revision
		}
		if err := s.need(ctx, policy.Read, r.Key); err != nil {
			return nil, err
		}
	}
	if inTx {
		return out, nil
	}
	asOf := stamp(req.GetReadTimestampNode(), req.GetReadTimestampPhysical(), req.GetReadTimestampCounter())
	limited, cancel := s.bound(ctx)
	defer cancel()
	return out, s.readKeys(limited, keys, asOf, keysOnly, done, out)
}

// readKeys fills out. A read that is too large for one page, or that fails for
// one key alone, is asked for in halves.
func (s *Service) readKeys(ctx context.Context, keys []*replication.GetKey, asOf *replication.Timestamp, keysOnly bool, done pb.GrpcKeyValueResponseType, out []manyRead) error {
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: keys, KeysOnly: keysOnly, AsOf: asOf}}})
	if err != nil && !retries(err) {
		return err
	}
	entries := a.GetEntries().GetEntries()
	if err == nil && a.GetCode() != replication.Code_CODE_OK && len(keys) > 1 {
		half := len(keys) / 2
		return first2(s.readKeys(ctx, keys[:half], asOf, keysOnly, done, out[:half]),
			s.readKeys(ctx, keys[half:], asOf, keysOnly, done, out[half:]))
	}
	for i := range out {
		switch {
		case err != nil:
			out[i].t = kvRetry
		case a.GetCode() != replication.Code_CODE_OK || len(entries) != len(keys):
			out[i].t = kvType(a.GetCode(), kvErrored)
		default:
			out[i].t, out[i].entry = hit(entries[i], done)
		}
	}
	return nil
}

// hit is the code of an entry, and the entry when it is there. The revision of a
// deletion is no value.
func hit(e *replication.Entry, done pb.GrpcKeyValueResponseType) (pb.GrpcKeyValueResponseType, *replication.Entry) {
	if !e.GetFound() || e.GetDeleted() {
		return kvMissing, nil
	}
	return done, e
}

// TryGetManyValues reads keys, each for itself.
func (s *Service) TryGetManyValues(ctx context.Context, req *pb.GrpcTryGetManyValuesRequest) (*pb.GrpcTryGetManyValuesResponse, error) {
	reads, err := s.readMany(ctx, req, false, kvGot)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryGetManyValuesResponse{Items: make([]*pb.GrpcTryGetManyValuesResponseItem, 0, len(reads))}
	var route int32
	out.Routes, route = s.routes(false)
	for _, r := range reads {
		one := &pb.GrpcTryGetManyValuesResponseItem{Type: r.t, Key: r.key, Durability: r.durability, RouteIndex: route}
		if e := r.entry; e != nil {
			one.Value, one.Revision, one.State = e.Value, e.Revision, pb.GrpcKeyValueState_STATE_SET
			one.ExpiresPhysical = e.ExpiresAtMs
			one.LastModifiedNode, one.LastModifiedPhysical, one.LastModifiedCounter = label(e.Modified)
		}
		out.Items = append(out.Items, one)
	}
	return out, nil
}

// TryExistsManyValues looks for keys, each for itself.
func (s *Service) TryExistsManyValues(ctx context.Context, req *pb.GrpcTryExistsManyValuesRequest) (*pb.GrpcTryExistsManyValuesResponse, error) {
	reads, err := s.readMany(ctx, req, true, kvExists)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryExistsManyValuesResponse{Items: make([]*pb.GrpcTryExistsManyValuesResponseItem, 0, len(reads))}
	var route int32
	out.Routes, route = s.routes(false)
	for _, r := range reads {
		one := &pb.GrpcTryExistsManyValuesResponseItem{Type: r.t, Key: r.key, Durability: r.durability, RouteIndex: route}
		if e := r.entry; e != nil {
			one.Revision, one.State = e.Revision, pb.GrpcKeyValueState_STATE_SET
			one.ExpiresPhysical = e.ExpiresAtMs
			one.LastModifiedNode, one.LastModifiedPhysical, one.LastModifiedCounter = label(e.Modified)
		}
		out.Items = append(out.Items, one)
	}
	return out, nil
}
