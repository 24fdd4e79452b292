package wire_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// transport carries out one request, an rpc's message, at a URL.
type transport interface {
	call(ctx context.Context, url string, req proto.Message) (proto.Message, error)
}

// channelsPerURL is KahunaOptions.GrpcChannels.
const channelsPerURL = 2

// overGRPC is GrpcCommunication: all clients of a process share, for each URL, two
// channels with a batch stream for locks and one for keys. What has a batch type goes
// through a stream, the rest is unary.
type overGRPC struct {
	mu       sync.Mutex
	channels map[string][]*channel
	turn     atomic.Uint32
}

var (
	_         transport = (*overGRPC)(nil)
	sharedRPC           = &overGRPC{channels: map[string][]*channel{}}
	// requestIDs are one counter of the process.
	requestIDs atomic.Int32
)

type channel struct {
	conn  *grpc.ClientConn
	keys  *stream[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse]
	locks *stream[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse]
}

// channel opens both streams of a URL's channels the first time.
func (o *overGRPC) channel(url string) (*channel, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.channels[url] == nil {
		host, ok := strings.CutPrefix(url, "https://")
		if !ok {
			return nil, fmt.Errorf("%s is no https", url)
		}
		for range channelsPerURL {
			conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))) // as the suite says
			if err != nil {
				return nil, err
			}
			keys, err1 := pb.NewKeyValuerClient(conn).BatchClientKeyValueRequests(context.Background())
			locks, err2 := pb.NewLockerClient(conn).BatchClientLockRequests(context.Background())
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			c := &channel{conn: conn, keys: newStream(keys), locks: newStream(locks)}
			go c.keys.read((*pb.GrpcBatchClientKeyValueResponse).GetRequestId) // both end with the process, as those of a client do
			go c.locks.read((*pb.GrpcBatchClientLockResponse).GetRequestId)
			o.channels[url] = append(o.channels[url], c)
		}
	}
	return o.channels[url][int(o.turn.Add(1))%channelsPerURL], nil
}

// stream gives each answer to who asked, by request id.
type stream[Req, Resp any] struct {
	grpc.BidiStreamingClient[Req, Resp]
	sending sync.Mutex

	mu      sync.Mutex // guards what follows
	waiting map[int32]chan *Resp
	err     error
}

func newStream[Req, Resp any](s grpc.BidiStreamingClient[Req, Resp]) *stream[Req, Resp] {
	return &stream[Req, Resp]{BidiStreamingClient: s, waiting: map[int32]chan *Resp{}}
}

func (s *stream[Req, Resp]) read(id func(*Resp) int32) {
	for {
		answer, err := s.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
			for _, c := range s.waiting {
				close(c)
			}
			s.waiting = nil
			s.mu.Unlock()
			return
		}
		c := s.waiting[id(answer)]
		delete(s.waiting, id(answer))
		s.mu.Unlock()
		if c != nil {
			c <- answer
		}
	}
}

func (s *stream[Req, Resp]) ask(ctx context.Context, id int32, req *Req) (*Resp, error) {
	c := make(chan *Resp, 1)
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	s.waiting[id] = c
	s.mu.Unlock()
	s.sending.Lock()
	err := s.Send(req)
	s.sending.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case answer, ok := <-c:
		if ok {
			return answer, nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, s.err
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
		return nil, ctx.Err()
	}
}

// Slots of both envelopes by batch type, from the contract (keyvalue.md 1.2 and 3,
// locks-sequences-cluster-rest.md 2).
var (
	keySlots  = map[int32]protoreflect.FieldNumber{1: 3, 2: 4, 3: 7, 4: 6, 5: 5, 6: 8, 7: 9, 8: 10, 9: 11, 10: 12, 11: 13, 12: 14, 13: 15, 14: 16}
	lockSlots = map[int32]protoreflect.FieldNumber{1: 3, 2: 5, 3: 4, 4: 6}
)

// wrap puts req into its slot of an envelope, if there is one.
func wrap(envelope proto.Message, slots map[int32]protoreflect.FieldNumber, req proto.Message, id int32) (slot protoreflect.FieldNumber, ok bool) {
	m := envelope.ProtoReflect()
	fields := m.Descriptor().Fields()
	for typ, slot := range slots {
		if f := fields.ByNumber(slot); f.Message() == req.ProtoReflect().Descriptor() {
			m.Set(f, protoreflect.ValueOfMessage(req.ProtoReflect()))
			m.Set(fields.ByNumber(1), protoreflect.ValueOfEnum(protoreflect.EnumNumber(typ)))
			m.Set(fields.ByNumber(2), protoreflect.ValueOfInt32(id))
			return slot, true
		}
	}
	return 0, false
}

// unwrap takes the answer of the same type out.
func unwrap(envelope, request proto.Message, slot protoreflect.FieldNumber) (proto.Message, error) {
	m := envelope.ProtoReflect()
	fields := m.Descriptor().Fields()
	if got, want := m.Get(fields.ByNumber(1)).Enum(), request.ProtoReflect().Get(request.ProtoReflect().Descriptor().Fields().ByNumber(1)).Enum(); got != want {
		return nil, fmt.Errorf("a request of type %d was answered as %d", want, got)
	}
	if !m.Has(fields.ByNumber(slot)) {
		return nil, errors.New("response is null")
	}
	return m.Get(fields.ByNumber(slot)).Message().Interface(), nil
}

func (o *overGRPC) call(ctx context.Context, url string, req proto.Message) (proto.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // the client sends nothing either
	}
	ch, err := o.channel(url)
	if err != nil {
		return nil, err
	}
	id := requestIDs.Add(1)
	key := &pb.GrpcBatchClientKeyValueRequest{}
	if slot, ok := wrap(key, keySlots, req, id); ok {
		a, err := ch.keys.ask(ctx, id, key)
		if err != nil {
			return nil, err
		}
		return unwrap(a, key, slot)
	}
	lock := &pb.GrpcBatchClientLockRequest{}
	if slot, ok := wrap(lock, lockSlots, req, id); ok {
		a, err := ch.locks.ask(ctx, id, lock)
		if err != nil {
			return nil, err
		}
		return unwrap(a, lock, slot)
	}
	r := routeOf(req)
	out := r.answer()
	return out, ch.conn.Invoke(ctx, r.rpc, req, out)
}
