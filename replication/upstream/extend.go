package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// verdict is what the cluster has decided about the lease of one lock.
type verdict struct {
	extended bool // else this owner does not have it
	token    int64
	sent     time.Duration // lease time before the first byte of the extend that was answered
}

// extendAll extends locks, all on one batch stream, and tells decided of each that
// the cluster decides about. Those that it does not are left as they are: error
// says why the last of them was, and then asked is who better is not asked next.
// One sweep, on one server but avoid; it blocks until that has answered all, or
// nothing for a while.
func (c *Client) extendAll(ctx context.Context, avoid *endpoint, ttl time.Duration, holds []*hold, decided func(*hold, verdict)) (asked *endpoint, err error) {
	ms, err := milliseconds(ttl.Milliseconds())
	if err != nil {
		return nil, err
	}
	e := c.pool.pick(avoid)
	sweep := &sweep{c: c, e: e, ms: ms, holds: holds, sent: make([]atomic.Int64, len(holds)), decided: decided}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// It ends the stream when no answer has come for so long.
	sweep.silence = time.AfterFunc(attemptTimeout, cancel)
	defer sweep.silence.Stop()
	left, err := sweep.run(ctx)
	switch {
	case err != nil:
		c.pool.failed(e, textOf(err))
		return e, fmt.Errorf("%s: %w", e.url, err)
	case left > 0:
		return e, errUndecided
	}
	c.pool.answered(e)
	return nil, nil
}

// sweep is one stream of extends.
type sweep struct {
	c       *Client
	e       *endpoint
	ms      int32
	holds   []*hold
	sent    []atomic.Int64 // lease time before each was sent
	decided func(*hold, verdict)
	silence *time.Timer
}

type lockStream = grpc.BidiStreamingClient[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse]

// run sends and receives. It returns how many were answered without a decision.
func (s *sweep) run(ctx context.Context) (undecided int, err error) {
	stream, err := s.e.locks.BatchClientLockRequests(ctx)
	if err != nil {
		return 0, err
	}
	sending := make(chan struct{})
	go func() { // ends with the stream at the latest
		defer close(sending)
		s.send(stream)
	}()
	answered := make([]bool, len(s.holds))
	for left := len(s.holds); left > 0; left-- {
		a, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the stream ended before every extend was answered")
			}
			s.silence.Stop()
			return undecided, err
		}
		s.silence.Reset(attemptTimeout)
		i := int(a.GetRequestId()) - 1
		if i < 0 || i >= len(s.holds) || answered[i] {
			return undecided, fmt.Errorf("an answer names a request that was not made: %d", a.GetRequestId())
		}
		answered[i] = true
		if !s.take(i, a.GetExtendLock()) {
			undecided++
		}
	}
	<-sending
	return undecided, nil
}

// send sends all extends and closes its half of the stream. What fails is seen by
// who receives.
func (s *sweep) send(stream lockStream) {
	for i, h := range s.holds {
		s.sent[i].Store(int64(s.c.cfg.LeaseNow()))
		err := stream.Send(&pb.GrpcBatchClientLockRequest{Type: pb.GrpcLockClientBatchType_TYPE_EXTEND_LOCK, RequestId: int32(i + 1),
			Payload: &pb.GrpcBatchClientLockRequest_ExtendLock{ExtendLock: &pb.GrpcExtendLockRequest{
				Resource: h.key.name, Owner: []byte(h.owner), ExpiresMs: s.ms, Durability: h.key.table()}}})
		if err != nil {
			return
		}
	}
	_ = stream.CloseSend() // the server ends the stream when all is answered
}

// take looks at one answer, and says whether it decides.
func (s *sweep) take(i int, a *pb.GrpcExtendLockResponse) bool {
	if a == nil {
		return false // of another type, or without a payload
	}
	switch a.GetType() {
	case lockExtended:
		s.decided(s.holds[i], verdict{extended: true, token: a.GetFencingToken(), sent: time.Duration(s.sent[i].Load())})
		return true
	case lockMissing, lockStranger:
		s.decided(s.holds[i], verdict{})
		return true
	}
	return false
}
