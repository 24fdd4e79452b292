package kahuna

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// BatchClientLockRequests serves a stream of requests about locks.
func (s *Service) BatchClientLockRequests(stream grpc.BidiStreamingServer[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse]) error {
	return serveBatch(s, stream, lockBatch{s})
}

// lockBatch serves the requests of a lock stream.
type lockBatch struct{ s *Service }

func (lockBatch) frame(*pb.GrpcBatchClientLockRequest) ([]*pb.GrpcBatchClientLockRequest, bool) {
	return nil, false
}

// serve answers by type, as Kahuna does, and not by the payload that is set. A
// type that is none is answered without a payload, which fails its caller at once.
func (h lockBatch) serve(ctx context.Context, r *pb.GrpcBatchClientLockRequest) (*pb.GrpcBatchClientLockResponse, int) {
	out := &pb.GrpcBatchClientLockResponse{Type: r.Type, RequestId: r.RequestId}
	switch r.Type {
	case pb.GrpcLockClientBatchType_TYPE_TRY_LOCK:
		a, err := item(ctx, r.GetTryLock(), h.s.TryLock)
		if err != nil {
			a = &pb.GrpcTryLockResponse{Type: lockRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientLockResponse_TryLock{TryLock: a}
	case pb.GrpcLockClientBatchType_TYPE_EXTEND_LOCK:
		a, err := item(ctx, r.GetExtendLock(), h.s.TryExtendLock)
		if err != nil {
			a = &pb.GrpcExtendLockResponse{Type: lockRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientLockResponse_ExtendLock{ExtendLock: a}
	case pb.GrpcLockClientBatchType_TYPE_UNLOCK:
		a, err := item(ctx, r.GetUnlock(), h.s.Unlock)
		if err != nil {
			a = &pb.GrpcUnlockResponse{Type: lockRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientLockResponse_Unlock{Unlock: a}
	case pb.GrpcLockClientBatchType_TYPE_GET_LOCK:
		a, err := item(ctx, r.GetGetLock(), h.s.GetLock)
		if err != nil {
			a = &pb.GrpcGetLockResponse{Type: lockRefusal(err)}
		}
		out.Payload = &pb.GrpcBatchClientLockResponse_GetLock{GetLock: a}
	case pb.GrpcLockClientBatchType_LOCK_TYPE_NONE:
	}
	return out, 0
}

// item calls a method with a request's payload; nil where the type says another.
func item[In, Out any](ctx context.Context, in *In, method func(context.Context, *In) (*Out, error)) (*Out, error) {
	if in == nil {
		return nil, errNoPayload
	}
	return method(ctx, in)
}

var errNoPayload = status.Error(codes.InvalidArgument, "the request has no payload of its type")

// lockRefusal is the code of an item whose method failed: a stream has no status
// for one item.
func lockRefusal(err error) pb.GrpcLockResponseType {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.ResourceExhausted:
		return lockInvalid
	case codes.PermissionDenied, codes.Unauthenticated:
		return lockErrored
	}
	return lockRetry
}

// refuse answers without a payload, which fails the caller at once.
func (lockBatch) refuse(r *pb.GrpcBatchClientLockRequest) *pb.GrpcBatchClientLockResponse {
	return &pb.GrpcBatchClientLockResponse{Type: r.GetType(), RequestId: r.GetRequestId()}
}
