package kahuna_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// types are the messages of an rpc.
func types(service, method string) (in, out protoreflect.MessageType) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		panic(err)
	}
	m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
	return messageType(m.Input()), messageType(m.Output())
}

func messageType(d protoreflect.MessageDescriptor) protoreflect.MessageType {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return t
}

// requestIDs are one counter of the process, as in Kahuna's client.
var requestIDs atomic.Int32

// kvStream is a client's side of a key/value batch stream: many callers at a time.
type kvStream struct {
	stream grpc.BidiStreamingClient[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse]
	sendMu sync.Mutex
	mu     sync.Mutex
	calls  map[int32]chan *pb.GrpcBatchClientKeyValueResponse
	err    error
	ended  chan struct{}
}

func openKV(tb testing.TB, cc *grpc.ClientConn) *kvStream {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	st, err := pb.NewKeyValuerClient(cc).BatchClientKeyValueRequests(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	s := &kvStream{stream: st, calls: make(map[int32]chan *pb.GrpcBatchClientKeyValueResponse), ended: make(chan struct{})}
	go s.read()
	tb.Cleanup(func() {
		cancel()
		<-s.ended
	})
	return s
}

func (s *kvStream) read() {
	defer close(s.ended)
	for {
		a, err := s.stream.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
			for _, c := range s.calls {
				close(c)
			}
			s.calls = nil
			s.mu.Unlock()
			return
		}
		c := s.calls[a.RequestId]
		delete(s.calls, a.RequestId)
		s.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
}

// do sends an envelope under a new id and waits for its answer.
func (s *kvStream) do(r *pb.GrpcBatchClientKeyValueRequest) (*pb.GrpcBatchClientKeyValueResponse, error) {
	c := make(chan *pb.GrpcBatchClientKeyValueResponse, 1)
	r.RequestId = requestIDs.Add(1)
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil, s.err
	}
	s.calls[r.RequestId] = c
	s.mu.Unlock()
	s.sendMu.Lock()
	err := s.stream.Send(r)
	s.sendMu.Unlock()
	if err != nil {
		return nil, err
	}
	a, ok := <-c
	if !ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, s.err
	}
	return a, nil
}

// slots are the payload fields of both envelopes by the batch type: numbers of
// the contract, written down once more (keyvalue.md 1.2 and 3).
var slots = map[pb.GrpcClientBatchType]protoreflect.FieldNumber{
	1: 3, 2: 4, 3: 7, 4: 6, 5: 5, 6: 8, 7: 9, 8: 10, 9: 11, 10: 12, 11: 13, 12: 14, 13: 15, 14: 16,
}

var errNoSlot = errors.New("no batch type takes this request")

// call carries out req through the stream; errNoSlot for what is unary only.
func (s *kvStream) call(req proto.Message) (proto.Message, error) {
	for t, slot := range slots {
		r := &pb.GrpcBatchClientKeyValueRequest{Type: t}
		f := r.ProtoReflect().Descriptor().Fields().ByNumber(slot)
		if f.Message() != req.ProtoReflect().Descriptor() {
			continue
		}
		r.ProtoReflect().Set(f, protoreflect.ValueOfMessage(req.ProtoReflect()))
		a, err := s.do(r)
		if err != nil {
			return nil, err
		}
		g := a.ProtoReflect().Descriptor().Fields().ByNumber(slot)
		if a.Type != t || !a.ProtoReflect().Has(g) {
			return nil, errors.New("the answer has another type or no payload: " + a.String())
		}
		return a.ProtoReflect().Get(g).Message().Interface(), nil
	}
	return nil, errNoSlot
}

// lockCall carries out one request on a lock batch stream of its own.
func lockCall(ctx context.Context, cc *grpc.ClientConn, req proto.Message) (proto.Message, error) {
	r := &pb.GrpcBatchClientLockRequest{RequestId: requestIDs.Add(1)}
	switch m := req.(type) {
	case *pb.GrpcTryLockRequest:
		r.Type, r.Payload = 1, &pb.GrpcBatchClientLockRequest_TryLock{TryLock: m}
	case *pb.GrpcExtendLockRequest:
		r.Type, r.Payload = 2, &pb.GrpcBatchClientLockRequest_ExtendLock{ExtendLock: m}
	case *pb.GrpcUnlockRequest:
		r.Type, r.Payload = 3, &pb.GrpcBatchClientLockRequest_Unlock{Unlock: m}
	case *pb.GrpcGetLockRequest:
		r.Type, r.Payload = 4, &pb.GrpcBatchClientLockRequest_GetLock{GetLock: m}
	default:
		return nil, errNoSlot
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := pb.NewLockerClient(cc).BatchClientLockRequests(ctx)
	if err != nil {
		return nil, err
	}
	if err := st.Send(r); err != nil {
		return nil, err
	}
	a, err := st.Recv()
	if err != nil {
		return nil, err
	}
	if a.RequestId != r.RequestId || a.Type != r.Type {
		return nil, errors.New("the answer has another id or type: " + a.String())
	}
	switch p := a.Payload.(type) {
	case *pb.GrpcBatchClientLockResponse_TryLock:
		return p.TryLock, nil
	case *pb.GrpcBatchClientLockResponse_ExtendLock:
		return p.ExtendLock, nil
	case *pb.GrpcBatchClientLockResponse_Unlock:
		return p.Unlock, nil
	case *pb.GrpcBatchClientLockResponse_GetLock:
		return p.GetLock, nil
	}
	return nil, errors.New("the answer has no payload: " + a.String())
}
