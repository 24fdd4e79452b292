package main

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// kahunaSocket is the --kahuna that means the agent's own socket.
const kahunaSocket = "socket"

// kahunaTarget asks as a client of Kahuna does: sets, reads and locks in batch
// streams of one gRPC connection, by turns, and sequences one call each.
type kahunaTarget struct {
	conn      *grpc.ClientConn
	sequences pb.SequencerClient
	keys      []*batchStream[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse]
	locks     []*batchStream[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse]
	turn      atomic.Uint32

	durability     pb.GrpcKeyValueDurability
	lockDurability pb.GrpcLockDurability
	stop           context.CancelFunc
	reading        sync.WaitGroup
}

var _ target = (*kahunaTarget)(nil)

// dialKahuna opens the streams at an address: "socket", or a URL.
func dialKahuna(address, socket string, streams int, ephemeral bool, access kahunaAccess) (*kahunaTarget, error) {
	where, options, err := access.dial(address, socket)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(where, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &kahunaTarget{conn: conn, sequences: pb.NewSequencerClient(conn), stop: stop,
		durability: pb.GrpcKeyValueDurability_PERSISTENT, lockDurability: pb.GrpcLockDurability_LOCK_DURABILITY_PERSISTENT}
	if ephemeral {
		t.durability, t.lockDurability = pb.GrpcKeyValueDurability_EPHEMERAL, pb.GrpcLockDurability_LOCK_DURABILITY_EPHEMERAL
	}
	for range streams {
		kv, err1 := pb.NewKeyValuerClient(conn).BatchClientKeyValueRequests(ctx)
		locks, err2 := pb.NewLockerClient(conn).BatchClientLockRequests(ctx)
		if err := cmp.Or(err1, err2); err != nil {
			_ = t.Close() // the reason is what counts
			err = fmt.Errorf("opening a stream at %s: %w", address, err)
			if status.Code(err) == codes.Unavailable {
				err = withCode(exitUnavailable, err)
			}
			return nil, err
		}
		keyStream, lockStream := newBatchStream(kv), newBatchStream(locks)
		t.keys, t.locks = append(t.keys, keyStream), append(t.locks, lockStream)
		t.reading.Go(func() { keyStream.read((*pb.GrpcBatchClientKeyValueResponse).GetRequestId) }) // both end with Close
		t.reading.Go(func() { lockStream.read((*pb.GrpcBatchClientLockResponse).GetRequestId) })
	}
	return t, nil
}

// Close ends the streams and the connection.
func (t *kahunaTarget) Close() error {
	t.stop()
	err := t.conn.Close()
	t.reading.Wait()
	return err
}

// batchStream gives each answer to who asked, by request id.
type batchStream[Req, Resp any] struct {
	stream grpc.BidiStreamingClient[Req, Resp]

	sending sync.Mutex // SendMsg is for one at a time

	mu      sync.Mutex // guards what follows
	next    int32
	waiting map[int32]chan *Resp
	err     error // why the stream ended
}

func newBatchStream[Req, Resp any](s grpc.BidiStreamingClient[Req, Resp]) *batchStream[Req, Resp] {
	return &batchStream[Req, Resp]{stream: s, waiting: make(map[int32]chan *Resp)}
}

// read hands answers out until the stream ends.
func (s *batchStream[Req, Resp]) read(id func(*Resp) int32) {
	for {
		answer, err := s.stream.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
			for _, c := range s.waiting {
				close(c)
			}
			clear(s.waiting)
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

// ask sends what make makes of an id and waits for its answer.
func (s *batchStream[Req, Resp]) ask(ctx context.Context, request func(id int32) *Req) (*Resp, error) {
	c := make(chan *Resp, 1)
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	s.next++
	id := s.next
	s.waiting[id] = c
	s.mu.Unlock()
	s.sending.Lock()
	err := s.stream.Send(request(id))
	s.sending.Unlock()
	if err != nil {
		return nil, fmt.Errorf("sending on the stream: %w", err)
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

func (t *kahunaTarget) key(ctx context.Context, request func(id int32) *pb.GrpcBatchClientKeyValueRequest) (*pb.GrpcBatchClientKeyValueResponse, error) {
	return t.keys[int(t.turn.Add(1))%len(t.keys)].ask(ctx, request)
}

// Put sets a key.
func (t *kahunaTarget) Put(ctx context.Context, key string, value []byte) error {
	a, err := t.key(ctx, func(id int32) *pb.GrpcBatchClientKeyValueRequest {
		return &pb.GrpcBatchClientKeyValueRequest{Type: pb.GrpcClientBatchType_TRY_SET_KEY_VALUE, RequestId: id,
			Payload: &pb.GrpcBatchClientKeyValueRequest_TrySetKeyValue{TrySetKeyValue: &pb.GrpcTrySetKeyValueRequest{
				Key: key, Value: value, Flags: pb.GrpcKeyValueFlags_SET, Durability: t.durability}}}
	})
	if err == nil && a.GetTrySetKeyValue().GetType() != pb.GrpcKeyValueResponseType_TYPE_SET {
		err = fmt.Errorf("a set was answered %v", a.GetTrySetKeyValue().GetType())
	}
	return err
}

// Get reads a key, which must exist.
func (t *kahunaTarget) Get(ctx context.Context, key string) error {
	a, err := t.key(ctx, func(id int32) *pb.GrpcBatchClientKeyValueRequest {
		return &pb.GrpcBatchClientKeyValueRequest{Type: pb.GrpcClientBatchType_TRY_GET_KEY_VALUE, RequestId: id,
			Payload: &pb.GrpcBatchClientKeyValueRequest_TryGetKeyValue{TryGetKeyValue: &pb.GrpcTryGetKeyValueRequest{
				Key: key, Revision: -1, Durability: t.durability}}}
	})
	if err == nil && a.GetTryGetKeyValue().GetType() != pb.GrpcKeyValueResponseType_TYPE_GOT {
		err = fmt.Errorf("a get was answered %v", a.GetTryGetKeyValue().GetType())
	}
	return err
}

func (t *kahunaTarget) askLock(ctx context.Context, request func(id int32) *pb.GrpcBatchClientLockRequest) (*pb.GrpcBatchClientLockResponse, error) {
	return t.locks[int(t.turn.Add(1))%len(t.locks)].ask(ctx, request)
}

// Lock takes a lock that is free.
func (t *kahunaTarget) Lock(ctx context.Context, name, owner string) error {
	a, err := t.askLock(ctx, func(id int32) *pb.GrpcBatchClientLockRequest {
		return &pb.GrpcBatchClientLockRequest{Type: pb.GrpcLockClientBatchType_TYPE_TRY_LOCK, RequestId: id,
			Payload: &pb.GrpcBatchClientLockRequest_TryLock{TryLock: &pb.GrpcTryLockRequest{
				Resource: name, Owner: []byte(owner), ExpiresMs: int32(benchLockTTL.Milliseconds()), Durability: t.lockDurability}}}
	})
	if err == nil && a.GetTryLock().GetType() != pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCKED {
		err = fmt.Errorf("a try-lock was answered %v", a.GetTryLock().GetType())
	}
	return err
}

// Unlock gives it back.
func (t *kahunaTarget) Unlock(ctx context.Context, name, owner string) error {
	a, err := t.askLock(ctx, func(id int32) *pb.GrpcBatchClientLockRequest {
		return &pb.GrpcBatchClientLockRequest{Type: pb.GrpcLockClientBatchType_TYPE_UNLOCK, RequestId: id,
			Payload: &pb.GrpcBatchClientLockRequest_Unlock{Unlock: &pb.GrpcUnlockRequest{Resource: name, Owner: []byte(owner), Durability: t.lockDurability}}}
	})
	if err == nil && a.GetUnlock().GetType() != pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_UNLOCKED {
		err = fmt.Errorf("an unlock was answered %v", a.GetUnlock().GetType())
	}
	return err
}

// CreateSequence makes sure that the sequence exists.
func (t *kahunaTarget) CreateSequence(ctx context.Context, name string) error {
	a, err := t.sequences.CreateSequence(ctx, &pb.GrpcCreateSequenceRequest{Name: name, Increment: 1, Durability: pb.GrpcSequenceDurability_SEQUENCE_PERSISTENT})
	if err != nil {
		return err
	}
	switch a.GetType() {
	case pb.GrpcSequenceResponseType_SEQUENCE_SUCCESS, pb.GrpcSequenceResponseType_SEQUENCE_ALREADY_EXISTS:
		return nil
	}
	return fmt.Errorf("a create was answered %v", a.GetType())
}

// Next takes a number.
func (t *kahunaTarget) Next(ctx context.Context, name string) error {
	a, err := t.sequences.NextSequenceValue(ctx, &pb.GrpcNextSequenceRequest{Name: name, Durability: pb.GrpcSequenceDurability_SEQUENCE_PERSISTENT})
	if err == nil && a.GetAllocation() == nil {
		err = fmt.Errorf("a next was answered %v", a.GetType())
	}
	return err
}
