package kahuna

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// BatchClientKeyValueRequests serves a stream of requests about keys,
// transactions and scripts.
func (s *Service) BatchClientKeyValueRequests(stream grpc.BidiStreamingServer[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse]) error {
	return serveBatch(s, stream, kvBatch{s})
}

// kvBatch serves the requests of a key/value stream.
type kvBatch struct{ s *Service }

// frame takes a frame apart. A frame in a frame stays one, and is answered as a
// type that is none.
func (kvBatch) frame(r *pb.GrpcBatchClientKeyValueRequest) ([]*pb.GrpcBatchClientKeyValueRequest, bool) {
	f := r.GetFrame()
	return f.GetItems(), f != nil && r.Type == pb.GrpcClientBatchType_CLIENT_BATCH_FRAME
}

// serve answers by type, as Kahuna does, and not by the payload that is set. A
// type that is none is answered without a payload, which fails its caller at once.
func (h kvBatch) serve(ctx context.Context, r *pb.GrpcBatchClientKeyValueRequest) (*pb.GrpcBatchClientKeyValueResponse, int) {
	out := &pb.GrpcBatchClientKeyValueResponse{Type: r.GetType(), RequestId: r.GetRequestId()}
	switch r.GetType() {
	case pb.GrpcClientBatchType_TRY_GET_KEY_VALUE, pb.GrpcClientBatchType_TRY_EXISTS_KEY_VALUE,
		pb.GrpcClientBatchType_TRY_GET_BY_BUCKET, pb.GrpcClientBatchType_TRY_SCAN_BY_PREFIX,
		pb.GrpcClientBatchType_TRY_EXECUTE_TRANSACTION_SCRIPT:
		return h.read(ctx, r, out)
	case pb.GrpcClientBatchType_TRY_START_TRANSACTION, pb.GrpcClientBatchType_TRY_COMMIT_TRANSACTION,
		pb.GrpcClientBatchType_TRY_ROLLBACK_TRANSACTION, pb.GrpcClientBatchType_TRY_ACQUIRE_EXCLUSIVE_LOCK:
		h.transaction(ctx, r, out)
	default:
		h.write(ctx, r, out)
	}
	return out, 0
}

// write answers what changes keys, and whatever is none of the others.
func (h kvBatch) write(ctx context.Context, r *pb.GrpcBatchClientKeyValueRequest, out *pb.GrpcBatchClientKeyValueResponse) {
	switch r.GetType() {
	case pb.GrpcClientBatchType_TRY_SET_KEY_VALUE:
		a, err := item(ctx, r.GetTrySetKeyValue(), h.s.TrySetKeyValue)
		if err != nil {
			a = &pb.GrpcTrySetKeyValueResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TrySetKeyValue{TrySetKeyValue: a}
	case pb.GrpcClientBatchType_TRY_EXTEND_KEY_VALUE:
		a, err := item(ctx, r.GetTryExtendKeyValue(), h.s.TryExtendKeyValue)
		if err != nil {
			a = &pb.GrpcTryExtendKeyValueResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryExtendKeyValue{TryExtendKeyValue: a}
	case pb.GrpcClientBatchType_TRY_DELETE_KEY_VALUE:
		a, err := item(ctx, r.GetTryDeleteKeyValue(), h.s.TryDeleteKeyValue)
		if err != nil {
			a = &pb.GrpcTryDeleteKeyValueResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryDeleteKeyValue{TryDeleteKeyValue: a}
	case pb.GrpcClientBatchType_TRY_SET_MANY_KEY_VALUE:
		a, err := item(ctx, r.GetTrySetManyKeyValue(), h.s.TrySetManyKeyValue)
		if err != nil { // an item for each key, or its caller waits for ever (keyvalue.md 3.3)
			a = &pb.GrpcTrySetManyKeyValueResponse{}
			for _, i := range r.GetTrySetManyKeyValue().GetItems() {
				a.Items = append(a.Items, &pb.GrpcTrySetManyKeyValueResponseItem{Type: kvRefusal(err), Key: i.GetKey(), Durability: i.GetDurability()})
			}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TrySetManyKeyValue{TrySetManyKeyValue: a}
	case pb.GrpcClientBatchType_TRY_DELETE_MANY_KEY_VALUE:
		a, err := item(ctx, r.GetTryDeleteManyKeyValue(), h.s.TryDeleteManyKeyValue)
		if err != nil {
			a = &pb.GrpcTryDeleteManyKeyValueResponse{}
			for _, i := range r.GetTryDeleteManyKeyValue().GetItems() {
				a.Items = append(a.Items, &pb.GrpcTryDeleteManyKeyValueResponseItem{Type: kvRefusal(err), Key: i.GetKey(), Durability: i.GetDurability()})
			}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryDeleteManyKeyValue{TryDeleteManyKeyValue: a}
	}
}

// transaction answers what begins and ends sessions, and their locks.
func (h kvBatch) transaction(ctx context.Context, r *pb.GrpcBatchClientKeyValueRequest, out *pb.GrpcBatchClientKeyValueResponse) {
	switch r.GetType() {
	case pb.GrpcClientBatchType_TRY_START_TRANSACTION:
		a, err := item(ctx, r.GetStartTransaction(), h.s.StartTransaction)
		if err != nil {
			a = &pb.GrpcStartTransactionResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_StartTransaction{StartTransaction: a}
	case pb.GrpcClientBatchType_TRY_COMMIT_TRANSACTION:
		a, err := item(ctx, r.GetCommitTransaction(), h.s.CommitTransaction)
		if err != nil {
			a = &pb.GrpcCommitTransactionResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_CommitTransaction{CommitTransaction: a}
	case pb.GrpcClientBatchType_TRY_ROLLBACK_TRANSACTION:
		a, err := item(ctx, r.GetRollbackTransaction(), h.s.RollbackTransaction)
		if err != nil {
			a = &pb.GrpcRollbackTransactionResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_RollbackTransaction{RollbackTransaction: a}
	case pb.GrpcClientBatchType_TRY_ACQUIRE_EXCLUSIVE_LOCK:
		a, err := item(ctx, r.GetTryAcquireExclusiveLock(), h.s.TryAcquireExclusiveLock)
		if err != nil {
			a = &pb.GrpcTryAcquireExclusiveLockResponse{Type: kvRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryAcquireExclusiveLock{TryAcquireExclusiveLock: a}
	}
}

// read answers what may come back large: so many at a time, and within the budget
// of answers that nobody has read yet.
func (h kvBatch) read(ctx context.Context, r *pb.GrpcBatchClientKeyValueRequest, out *pb.GrpcBatchClientKeyValueResponse) (*pb.GrpcBatchClientKeyValueResponse, int) {
	if r.GetType() != pb.GrpcClientBatchType_TRY_EXECUTE_TRANSACTION_SCRIPT { // which may sleep
		select {
		case h.s.reads <- struct{}{}:
			defer func() { <-h.s.reads }()
		case <-ctx.Done():
			h.readNothing(r, out, errRetry)
			return out, 0
		}
	}
	h.readInto(ctx, r, out)
	charge := out.SizeVT()
	if charge < largeAnswerBytes {
		return out, 0
	}
	if !h.s.answers.take(charge) {
		h.readNothing(r, out, errRetry)
		return out, 0
	}
	return out, charge
}

func (h kvBatch) readInto(ctx context.Context, r *pb.GrpcBatchClientKeyValueRequest, out *pb.GrpcBatchClientKeyValueResponse) {
	var err error
	switch r.GetType() {
	case pb.GrpcClientBatchType_TRY_GET_KEY_VALUE:
		var a *pb.GrpcTryGetKeyValueResponse
		a, err = item(ctx, r.GetTryGetKeyValue(), h.s.TryGetKeyValue)
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryGetKeyValue{TryGetKeyValue: a}
	case pb.GrpcClientBatchType_TRY_EXISTS_KEY_VALUE:
		var a *pb.GrpcTryExistsKeyValueResponse
		a, err = item(ctx, r.GetTryExistsKeyValue(), h.s.TryExistsKeyValue)
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryExistsKeyValue{TryExistsKeyValue: a}
	case pb.GrpcClientBatchType_TRY_GET_BY_BUCKET:
		var a *pb.GrpcGetByBucketResponse
		a, err = item(ctx, r.GetGetByBucket(), h.s.GetByBucket)
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_GetByBucket{GetByBucket: a}
	case pb.GrpcClientBatchType_TRY_SCAN_BY_PREFIX:
		var a *pb.GrpcScanAllByPrefixResponse
		a, err = item(ctx, r.GetScanByPrefix(), h.s.ScanAllByPrefix)
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_ScanByPrefix{ScanByPrefix: a}
	case pb.GrpcClientBatchType_TRY_EXECUTE_TRANSACTION_SCRIPT:
		var a *pb.GrpcTryExecuteTransactionScriptResponse
		a, err = item(ctx, r.GetTryExecuteTransactionScript(), h.s.TryExecuteTransactionScript)
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryExecuteTransactionScript{TryExecuteTransactionScript: a}
	}
	if err != nil {
		h.readNothing(r, out, err)
	}
}

// readNothing refuses a read.
func (kvBatch) readNothing(r *pb.GrpcBatchClientKeyValueRequest, out *pb.GrpcBatchClientKeyValueResponse, err error) {
	t := kvRefusal(err)
	switch r.GetType() {
	case pb.GrpcClientBatchType_TRY_GET_KEY_VALUE:
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryGetKeyValue{TryGetKeyValue: &pb.GrpcTryGetKeyValueResponse{Type: t}}
	case pb.GrpcClientBatchType_TRY_EXISTS_KEY_VALUE:
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryExistsKeyValue{TryExistsKeyValue: &pb.GrpcTryExistsKeyValueResponse{Type: t}}
	case pb.GrpcClientBatchType_TRY_GET_BY_BUCKET:
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_GetByBucket{GetByBucket: &pb.GrpcGetByBucketResponse{Type: t}}
	case pb.GrpcClientBatchType_TRY_SCAN_BY_PREFIX:
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_ScanByPrefix{ScanByPrefix: &pb.GrpcScanAllByPrefixResponse{Type: t}}
	case pb.GrpcClientBatchType_TRY_EXECUTE_TRANSACTION_SCRIPT:
		out.Payload = &pb.GrpcBatchClientKeyValueResponse_TryExecuteTransactionScript{
			TryExecuteTransactionScript: &pb.GrpcTryExecuteTransactionScriptResponse{Type: t, Reason: reason(status.Convert(err).Message())}}
	}
}

// kvRefusal is the code of an item whose method failed: a stream has no status
// for one item.
func kvRefusal(err error) pb.GrpcKeyValueResponseType {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.ResourceExhausted:
		return kvInvalid
	case codes.PermissionDenied, codes.Unauthenticated:
		return kvErrored
	}
	return kvRetry
}

// refuse answers without a payload, which fails the caller at once.
func (kvBatch) refuse(r *pb.GrpcBatchClientKeyValueRequest) *pb.GrpcBatchClientKeyValueResponse {
	return &pb.GrpcBatchClientKeyValueResponse{Type: r.GetType(), RequestId: r.GetRequestId()}
}
