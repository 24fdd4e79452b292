package kahuna_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// bothTransports runs a test over each.
func bothTransports(t *testing.T, test func(*testing.T, transport)) {
	for _, tr := range []transport{native, nethttp} {
		t.Run(string(tr), func(t *testing.T) { test(t, tr) })
	}
}

// gate keeps requests for some keys or locks waiting until it is opened.
type gate struct {
	held    chan struct{} // closed to open
	waiting atomic.Int64
	most    atomic.Int64 // that waited at a time
}

func (g *gate) broken(names ...string) func(context.Context, *replication.Request) (*replication.Answer, error, bool) {
	return func(ctx context.Context, req *replication.Request) (*replication.Answer, error, bool) {
		for _, name := range names {
			if nameOf(req) == name {
				n := g.waiting.Add(1)
				for was := g.most.Load(); n > was && !g.most.CompareAndSwap(was, n); was = g.most.Load() {
				}
				defer g.waiting.Add(-1)
				select {
				case <-g.held:
				case <-ctx.Done():
				}
			}
		}
		return nil, nil, false
	}
}

func nameOf(req *replication.Request) string {
	switch op := req.GetOp().(type) {
	case *replication.Request_Write:
		return op.Write.GetItems()[0].GetKey()
	case *replication.Request_Get:
		return op.Get.GetKeys()[0].GetKey()
	case *replication.Request_LockTry:
		return op.LockTry.GetName()
	}
	return ""
}

// TestSlowRequestDelaysNobody: answers come in the order in which they are ready
// (keyvalue.md 3.2), and a half-close ends the stream after the last of them (3.5).
func TestSlowRequestDelaysNobody(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		q := newQuorum(t)
		slow := &gate{held: make(chan struct{})}
		q.setBroken(slow.broken("slow"))
		cc := newRig(t, tr, kahuna.Config{Coordinator: q}).dial()
		st, err := pb.NewKeyValuerClient(cc).BatchClientKeyValueRequests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send := func(id int32, key string) {
			if err := st.Send(&pb.GrpcBatchClientKeyValueRequest{Type: 1, RequestId: id,
				Payload: &pb.GrpcBatchClientKeyValueRequest_TrySetKeyValue{TrySetKeyValue: set(key, "v")}}); err != nil {
				t.Fatal(err)
			}
		}
		send(1, "slow")
		const n = 1000
		for id := range int32(n) {
			send(id+2, fmt.Sprint("k", id))
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		seen := map[int32]bool{}
		for range n {
			a, err := st.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if a.RequestId == 1 || seen[a.RequestId] {
				t.Fatalf("answer to request %d although the slow one waits, or twice", a.RequestId)
			}
			seen[a.RequestId] = true
		}
		close(slow.held)
		if a, err := st.Recv(); err != nil || a.RequestId != 1 || a.GetTrySetKeyValue().GetType() != 0 {
			t.Fatalf("the slow request was answered with %v, %v", a, err)
		}
		if _, err := st.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the half-close and the last answer the stream ends with %v", err)
		}
	})
}

// TestUnknownTypesAreAnswered: a type that is none, or a payload of another type,
// is answered under its id at once; silence would keep the caller for 30 s
// (decision 53).
func TestUnknownTypesAreAnswered(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		cc := newRig(t, tr, kahuna.Config{Coordinator: newQuorum(t)}).dial()
		kv := openKV(t, cc)
		for _, typ := range []pb.GrpcClientBatchType{0, 15, 16, 99, -1} {
			a, err := kv.do(&pb.GrpcBatchClientKeyValueRequest{Type: typ})
			if err != nil || a.Type != typ || a.Payload != nil {
				t.Errorf("type %d is answered with %v, %v", typ, a, err)
			}
		}
		for typ := pb.GrpcClientBatchType(1); typ <= 14; typ++ {
			a, err := kv.do(&pb.GrpcBatchClientKeyValueRequest{Type: typ})
			if err != nil || a.Type != typ || a.Payload == nil {
				t.Errorf("type %d without a payload is answered with %v, %v", typ, a, err)
			}
		}
		locks, err := pb.NewLockerClient(cc).BatchClientLockRequests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for typ := range pb.GrpcLockClientBatchType(6) {
			if err := locks.Send(&pb.GrpcBatchClientLockRequest{Type: typ, RequestId: 7}); err != nil {
				t.Fatal(err)
			}
			a, err := locks.Recv()
			if err != nil || a.Type != typ || a.RequestId != 7 || (a.Payload == nil) != (typ == 0 || typ > 4) {
				t.Errorf("lock type %d without a payload is answered with %v, %v", typ, a, err)
			}
		}
	})
}

// TestFrames: many requests in one message (keyvalue.md 3.6), one level deep.
func TestFrames(t *testing.T) {
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: newQuorum(t)}).dial()
	st, err := pb.NewKeyValuerClient(cc).BatchClientKeyValueRequests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	frame := func(items ...*pb.GrpcBatchClientKeyValueRequest) *pb.GrpcBatchClientKeyValueRequest {
		return &pb.GrpcBatchClientKeyValueRequest{Type: 15, RequestId: 100, Payload: &pb.GrpcBatchClientKeyValueRequest_Frame{
			Frame: &pb.GrpcBatchClientKeyValueRequestFrame{Items: items}}}
	}
	one := func(id int32) *pb.GrpcBatchClientKeyValueRequest {
		return &pb.GrpcBatchClientKeyValueRequest{Type: 1, RequestId: id, Payload: &pb.GrpcBatchClientKeyValueRequest_TrySetKeyValue{
			TrySetKeyValue: set(fmt.Sprint("k", id), "v")}}
	}
	if err := st.Send(frame(one(1), one(2), frame(one(3)))); err != nil {
		t.Fatal(err)
	}
	got := map[int32]*pb.GrpcBatchClientKeyValueResponse{}
	for range 3 {
		a, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got[a.RequestId] = a
	}
	if got[1].GetTrySetKeyValue() == nil || got[2].GetTrySetKeyValue() == nil || got[100] == nil || got[100].Payload != nil {
		t.Errorf("a frame is answered with %v", got)
	}
}

// TestNotReadBeyondInFlight: past DefaultMaxInFlight the stream is not read, and goes on
// when there is room (decision 53).
func TestNotReadBeyondInFlight(t *testing.T) {
	q := newQuorum(t)
	g := &gate{held: make(chan struct{})}
	q.setBroken(g.broken("k"))
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: q, LeaderWait: time.Hour}).dial()
	kv := openKV(t, cc)
	const n = kahuna.DefaultMaxInFlight + 500
	var answered sync.WaitGroup
	for range n {
		answered.Go(func() {
			if a, err := kv.call(get("k")); err != nil || a.(*pb.GrpcTryGetKeyValueResponse).Type != 103 {
				t.Errorf("answered %v, %v", a, err)
			}
		})
	}
	// Reads wait for a turn besides: so many are with the coordinator at a time.
	eventually(t, "all turns of reads are taken", func() bool { return g.waiting.Load() == kahuna.MaxReads })
	close(g.held)
	answered.Wait()
}

// TestClientThatDoesNotRead: its requests are not read beyond a bound, others are
// served, and the large answers that nobody reads are bounded.
func TestClientThatDoesNotRead(t *testing.T) {
	const bound, size = 1 << 20, 64 << 10
	q := newQuorum(t)
	var served atomic.Int64
	q.setBroken(func(context.Context, *replication.Request) (*replication.Answer, error, bool) {
		served.Add(1)
		return nil, nil, false
	})
	r := newRig(t, nethttp, kahuna.Config{Coordinator: q, AnswerBytes: bound})
	good := openKV(t, r.dial())
	big := set("big", string(make([]byte, size)))
	if _, err := good.call(big); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	st, err := pb.NewKeyValuerClient(r.dial()).BatchClientKeyValueRequests(ctx)
	if err != nil {
		t.Fatal(err)
	}
	served.Store(0)
	sent := make(chan struct{})
	go func() { // ends with ctx: the stream is not read beyond a bound
		defer close(sent)
		for id := int32(1); ; id++ {
			if st.Send(&pb.GrpcBatchClientKeyValueRequest{Type: 5, RequestId: id,
				Payload: &pb.GrpcBatchClientKeyValueRequest_TryGetKeyValue{TryGetKeyValue: get("big")}}) != nil {
				return
			}
		}
	}()
	eventually(t, "the stream is not read any more", func() bool {
		was := served.Load()
		for range 20 {
			if a, err := good.call(get("big")); err != nil {
				t.Fatal(err)
			} else if typ := a.(*pb.GrpcTryGetKeyValueResponse).Type; typ != 3 && typ != 101 {
				t.Fatalf("the good client got %v", typ)
			}
		}
		return was >= kahuna.DefaultMaxInFlight && served.Load() == was+20
	})
	// At most a write that is under way, a bound of bytes and DefaultMaxInFlight small
	// answers belong to it.
	if n := r.service.UnreadBytes(); n == 0 || n > bound {
		t.Errorf("%d bytes of answers wait for clients, and the bound is %d", n, bound)
	}
	cancel()
	<-sent
	eventually(t, "the budget is given back", func() bool { return r.service.UnreadBytes() == 0 })
	if a, err := good.call(get("big")); err != nil || a.(*pb.GrpcTryGetKeyValueResponse).Type != 3 {
		t.Errorf("afterwards the good client got %v, %v", a, err)
	}
}

// TestUnreadStreamEnds: a client that leaves its answers unread for too long loses
// its stream, and nothing of it stays behind.
func TestUnreadStreamEnds(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		q := newQuorum(t)
		var began atomic.Bool
		q.setBroken(func(_ context.Context, req *replication.Request) (*replication.Answer, error, bool) {
			if req.GetGet() != nil {
				began.Store(true)
			}
			return nil, nil, false
		})
		r := newRig(t, tr, kahuna.Config{Coordinator: q, AnswerBytes: 1 << 40, WriteTimeout: 50 * time.Millisecond})
		cc := r.dial()
		if _, err := call(t.Context(), cc, set("big", string(make([]byte, 1<<20)))); err != nil {
			t.Fatal(err)
		}
		st, err := pb.NewKeyValuerClient(cc).BatchClientKeyValueRequests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for id := range int32(100) {
			if st.Send(&pb.GrpcBatchClientKeyValueRequest{Type: 5, RequestId: id,
				Payload: &pb.GrpcBatchClientKeyValueRequest_TryGetKeyValue{TryGetKeyValue: get("big")}}) != nil {
				break // it has ended already
			}
		}
		eventually(t, "the stream and its answers are gone", func() bool {
			return began.Load() && r.service.Streams() == 0 && r.service.UnreadBytes() == 0
		})
		for err == nil {
			_, err = st.Recv()
		}
		if code := status.Code(err); code != codes.ResourceExhausted && code != codes.Internal && code != codes.Canceled {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// TestCloseAnswersFirst: a Service that stops answers what it has taken, and then
// ends its streams as UNAVAILABLE.
func TestCloseAnswersFirst(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		q := newQuorum(t)
		slow := &gate{held: make(chan struct{})}
		q.setBroken(slow.broken("slow"))
		r := newRig(t, tr, kahuna.Config{Coordinator: q})
		kv := openKV(t, r.dial())
		answered := make(chan error, 1)
		go func() {
			a, err := kv.call(set("slow", "v"))
			if err == nil && a.(*pb.GrpcTrySetKeyValueResponse).Type != 0 {
				err = errors.New(a.(*pb.GrpcTrySetKeyValueResponse).String())
			}
			answered <- err
		}()
		eventually(t, "the request is served", func() bool { return slow.waiting.Load() == 1 })
		closed := make(chan error, 1)
		go func() { closed <- r.service.Close(context.Background()) }()
		eventually(t, "no stream is opened any more", func() bool {
			st, err := pb.NewKeyValuerClient(r.dial()).BatchClientKeyValueRequests(t.Context())
			if err == nil {
				_, err = st.Recv()
			}
			return status.Code(err) == codes.Unavailable
		})
		select {
		case err := <-closed:
			t.Fatalf("Close returned %v although a request is served", err)
		default:
		}
		close(slow.held)
		if err := <-answered; err != nil {
			t.Errorf("the request under way ended with %v", err)
		}
		<-kv.ended
		if status.Code(kv.err) != codes.Unavailable {
			t.Errorf("the stream ended with %v", kv.err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// TestPanicIsOneRequests: a bug that one request meets is that request's alone.
func TestPanicIsOneRequests(t *testing.T) {
	q := newQuorum(t)
	q.setBroken(func(_ context.Context, req *replication.Request) (*replication.Answer, error, bool) {
		if nameOf(req) == "bug" {
			panic("a bug of the test")
		}
		return nil, nil, false
	})
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial())
	a, err := kv.do(&pb.GrpcBatchClientKeyValueRequest{Type: 1, Payload: &pb.GrpcBatchClientKeyValueRequest_TrySetKeyValue{TrySetKeyValue: set("bug", "v")}})
	if err != nil || a.Payload != nil {
		t.Errorf("the request that met a bug got %v, %v", a, err)
	}
	if _, err := kv.call(set("k", "v")); err != nil {
		t.Errorf("the stream did not survive: %v", err)
	}
}

// TestTooManyStreams are refused one by one, and served again when others end.
func TestTooManyStreams(t *testing.T) {
	q := newQuorum(t)
	r := newRig(t, nethttp, kahuna.Config{Coordinator: q, MaxStreams: 3})
	cc := r.dial()
	for range 3 {
		kv := openKV(t, cc)
		if _, err := kv.call(get("k")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st, err := pb.NewLockerClient(cc).BatchClientLockRequests(ctx)
	if err == nil {
		_, err = st.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one stream too many: %v", err)
	}
}

// TestMessageTooLarge ends its stream or call, and nobody else's.
func TestMessageTooLarge(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		cc := newRig(t, tr, kahuna.Config{Coordinator: newQuorum(t)}).dial()
		kv, other := openKV(t, cc), openKV(t, cc)
		huge := set("k", string(make([]byte, 5<<20)))
		if _, err := kv.call(huge); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a message of 5 MiB on a stream: %v", err)
		}
		if _, err := call(t.Context(), cc, huge); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a message of 5 MiB: %v", err)
		}
		large := set("k", string(make([]byte, 2<<20)))
		if a, err := other.call(large); err != nil || a.(*pb.GrpcTrySetKeyValueResponse).Type != 100 {
			t.Errorf("a value of 2 MiB on a stream is answered with %v, %v", a, err)
		}
		if _, err := call(t.Context(), cc, large); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a value of 2 MiB: %v", err)
		}
		if a, err := other.call(set("k", string(make([]byte, 1<<20)))); err != nil || a.(*pb.GrpcTrySetKeyValueResponse).Type != 0 {
			t.Errorf("a value of 1 MiB: %v, %v", a, err)
		}
	})
}
