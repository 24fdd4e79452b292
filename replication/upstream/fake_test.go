package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// fault is what happens to one request at one server.
type fault int

const (
	fine     fault = iota
	retry          // MustRetry, and it was not applied
	retryLie       // MustRetry, although it was applied
	errored        // Errored, although it was applied
	refused        // the call fails before it is applied
	lost           // it is applied, and the call fails
	silent         // it is applied, and no answer ever comes
	denied         // PermissionDenied
	slow           // it is applied, and answered a second later
	late           // it is applied after three seconds, whoever still waits for it
)

// A request as the fake saw it.
type request struct {
	server int
	method string
	key    string
	owner  string
	auth   string
}

// kahuna, under testing/synctest, is a Kahuna cluster of several servers that share one state, without any
// replication: what makes it a test is what it does wrong on purpose.
type kahuna struct {
	mu        sync.Mutex
	locks     map[string]*lease
	keys      map[string]*value
	sequences map[string]int64
	drawn     map[string]int64 // by idempotency key
	seen      []request
	streams   int // batch streams that were opened
	// ahead is how far the clock of the server that leads is ahead.
	ahead time.Duration
	// plan decides about each request; nil: all is well.
	plan func(request) fault

	listeners []*bufconn.Listener
	servers   []*grpc.Server
	down      []bool
}

type lease struct {
	owner string
	token int64
	ends  time.Time
	held  bool
}

type value struct {
	revision int64
	bytes    []byte
}

// startKahuna starts servers that end with the test.
func startKahuna(t testing.TB, servers int) *kahuna {
	k := &kahuna{locks: map[string]*lease{}, keys: map[string]*value{}, sequences: map[string]int64{}, drawn: map[string]int64{}}
	for i := range servers {
		k.listeners = append(k.listeners, bufconn.Listen(1<<20))
		k.servers = append(k.servers, grpc.NewServer())
		k.down = append(k.down, false)
		k.register(i)
		go func(s *grpc.Server, l net.Listener) { _ = s.Serve(l) }(k.servers[i], k.listeners[i]) // ends with stop
	}
	t.Cleanup(k.stop)
	return k
}

func (k *kahuna) register(i int) {
	pb.RegisterLockerServer(k.servers[i], &locker{k: k, i: i})
	pb.RegisterKeyValuerServer(k.servers[i], &keyValuer{k: k, i: i})
	pb.RegisterSequencerServer(k.servers[i], &sequencer{k: k, i: i})
}

func (k *kahuna) stop() {
	for _, s := range k.servers {
		s.Stop()
	}
}

// kill ends one server with everything that is under way.
func (k *kahuna) kill(i int) {
	k.mu.Lock()
	k.down[i] = true
	k.mu.Unlock()
	k.servers[i].Stop()
}

// dial connects to 10.0.0.N:1.
func (k *kahuna) dial(ctx context.Context, address string) (net.Conn, error) {
	var i int
	if _, err := fmt.Sscanf(address, "10.0.0.%d:1", &i); err != nil {
		return nil, err
	}
	k.mu.Lock()
	down := k.down[i]
	k.mu.Unlock()
	if down {
		return nil, fmt.Errorf("connection refused")
	}
	return k.listeners[i].DialContext(ctx)
}

func (k *kahuna) urls() (out []string) {
	for i := range k.servers {
		out = append(out, fmt.Sprintf("http://10.0.0.%d:1", i))
	}
	return out
}

func (k *kahuna) setPlan(plan func(request) fault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plan = plan
}

// count is how many requests of a method came.
func (k *kahuna) count(method string) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.seen {
		if r.method == method {
			n++
		}
	}
	return n
}

// clock is the wall clock by which leases are judged. mu is held.
func (k *kahuna) clock() time.Time { return time.Now().Add(k.ahead) }

// lead has a server lead whose clock is that far ahead.
func (k *kahuna) lead(ahead time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ahead = ahead
}

// lockOf is a lock as it stands now; the zero one when nobody has it.
func (k *kahuna) lockOf(name string) lease {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.locks["1 "+name]; l != nil && l.held && k.clock().Before(l.ends) {
		return *l
	}
	return lease{}
}

// take frees a lock under its holder's feet.
func (k *kahuna) take(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.locks["1 "+name].held = false
}

// begin notes a request and decides about it. apply must be called, if it is
// carried out, before end.
func (k *kahuna) begin(ctx context.Context, r request) (fault, error) {
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md["authorization"]) > 0 {
		r.auth = md["authorization"][0]
	}
	k.mu.Lock()
	k.seen = append(k.seen, r)
	f := fine
	if k.plan != nil {
		f = k.plan(r)
	}
	k.mu.Unlock()
	switch f {
	case refused:
		return f, status.Error(codes.Unavailable, "refused by the test")
	case denied:
		return f, status.Error(codes.PermissionDenied, "denied by the test")
	}
	return f, nil
}

// end is how a request that was applied is answered.
func (k *kahuna) end(ctx context.Context, f fault) error {
	switch f {
	case lost:
		return status.Error(codes.Unavailable, "lost by the test")
	case slow:
		time.Sleep(time.Second) // virtual time
	case silent:
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

type locker struct {
	pb.UnimplementedLockerServer
	k *kahuna
	i int
}

const (
	lockLocked   = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCKED
	lockBusy     = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_BUSY
	lockExtended = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_EXTENDED
	lockUnlocked = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_UNLOCKED
	lockGot      = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_GOT
	lockErrored  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_ERRORED
	lockRetry    = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_MUST_RETRY
	lockMissing  = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_LOCK_DOES_NOT_EXIST
	lockStranger = pb.GrpcLockResponseType_LOCK_RESPONSE_TYPE_INVALID_OWNER
)

// on carries an operation on a lock out, with its fault. The rules are those of
// LockActor.cs (L2 to L10).
func (s *locker) on(ctx context.Context, method, name string, owner []byte, d pb.GrpcLockDurability, apply func(*lease, bool) pb.GrpcLockResponseType) (pb.GrpcLockResponseType, lease, error) {
	f, err := s.k.begin(ctx, request{server: s.i, method: method, key: name, owner: string(owner)})
	if err != nil {
		return 0, lease{}, err
	}
	switch f {
	case retry:
		return lockRetry, lease{}, nil
	case late:
		time.Sleep(3 * time.Second) // virtual time: see bubble
	}
	s.k.mu.Lock()
	key := fmt.Sprintf("%d %s", d, name)
	l := s.k.locks[key]
	if l == nil {
		l = &lease{token: -1}
		s.k.locks[key] = l
	}
	t := apply(l, l.held && s.k.clock().Before(l.ends))
	now := *l
	s.k.mu.Unlock()
	switch f {
	case retryLie:
		return lockRetry, lease{}, nil
	case errored:
		return lockErrored, lease{}, nil
	}
	return t, now, s.k.end(ctx, f)
}

func (s *locker) TryLock(ctx context.Context, r *pb.GrpcTryLockRequest) (*pb.GrpcTryLockResponse, error) {
	t, l, err := s.on(ctx, "TryLock", r.Resource, r.Owner, r.Durability, func(l *lease, live bool) pb.GrpcLockResponseType {
		switch {
		case live && l.owner == string(r.Owner):
			return lockLocked // and the lease stays
		case live:
			return lockBusy
		}
		*l = lease{owner: string(r.Owner), token: l.token + 1, ends: s.k.clock().Add(time.Duration(r.ExpiresMs) * time.Millisecond), held: true}
		return lockLocked
	})
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryLockResponse{Type: t}
	if t == lockLocked {
		out.FencingToken = l.token
	}
	return out, nil
}

func (s *locker) TryExtendLock(ctx context.Context, r *pb.GrpcExtendLockRequest) (*pb.GrpcExtendLockResponse, error) {
	t, l, err := s.on(ctx, "TryExtendLock", r.Resource, r.Owner, r.Durability, func(l *lease, live bool) pb.GrpcLockResponseType {
		switch {
		case !live:
			return lockMissing
		case l.owner != string(r.Owner):
			return lockStranger
		}
		l.ends = s.k.clock().Add(time.Duration(r.ExpiresMs) * time.Millisecond)
		return lockExtended
	})
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcExtendLockResponse{Type: t}
	if t == lockExtended {
		out.FencingToken = l.token
	}
	return out, nil
}

func (s *locker) Unlock(ctx context.Context, r *pb.GrpcUnlockRequest) (*pb.GrpcUnlockResponse, error) {
	t, _, err := s.on(ctx, "Unlock", r.Resource, r.Owner, r.Durability, func(l *lease, _ bool) pb.GrpcLockResponseType {
		switch {
		case !l.held:
			return lockMissing
		case l.owner != string(r.Owner):
			return lockStranger
		}
		l.held = false
		return lockUnlocked
	})
	if err != nil {
		return nil, err
	}
	return &pb.GrpcUnlockResponse{Type: t}, nil
}

func (s *locker) GetLock(ctx context.Context, r *pb.GrpcGetLockRequest) (*pb.GrpcGetLockResponse, error) {
	t, l, err := s.on(ctx, "GetLock", r.Resource, nil, r.Durability, func(_ *lease, live bool) pb.GrpcLockResponseType {
		if !live {
			return lockMissing
		}
		return lockGot
	})
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcGetLockResponse{Type: t}
	if t == lockGot {
		out.Owner, out.FencingToken, out.ExpiresPhysical = []byte(l.owner), l.token, l.ends.UnixMilli()
	}
	return out, nil
}

// BatchClientLockRequests serves extends, all at the same time. A call that fails
// ends the stream with everything on it.
func (s *locker) BatchClientLockRequests(stream grpc.BidiStreamingServer[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse]) error {
	s.k.mu.Lock()
	s.k.streams++
	s.k.mu.Unlock()
	var (
		serving sync.WaitGroup
		writing sync.Mutex
		broken  = make(chan error, 1)
	)
	received := make(chan error, 1)
	go func() { // ends with the stream
		for {
			r, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			serving.Go(func() {
				a, err := s.TryExtendLock(stream.Context(), r.GetExtendLock())
				if err != nil {
					select {
					case broken <- err:
					default:
					}
					return
				}
				writing.Lock()
				defer writing.Unlock()
				_ = stream.Send(&pb.GrpcBatchClientLockResponse{Type: r.Type, RequestId: r.RequestId, // else the client has gone
					Payload: &pb.GrpcBatchClientLockResponse_ExtendLock{ExtendLock: a}})
			})
		}
	}()
	select {
	case err := <-broken:
		return err
	case err := <-received:
		serving.Wait()
		if err == io.EOF {
			return nil
		}
		return err
	}
}

type keyValuer struct {
	pb.UnimplementedKeyValuerServer
	k *kahuna
	i int
}

func (s *keyValuer) TrySetKeyValue(ctx context.Context, r *pb.GrpcTrySetKeyValueRequest) (*pb.GrpcTrySetKeyValueResponse, error) {
	f, err := s.k.begin(ctx, request{server: s.i, method: "TrySetKeyValue", key: r.Key})
	if err != nil {
		return nil, err
	}
	if f == retry {
		return &pb.GrpcTrySetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY}, nil
	}
	s.k.mu.Lock()
	v := s.k.keys[r.Key]
	if v == nil {
		v = &value{revision: -1}
		s.k.keys[r.Key] = v
	}
	out := &pb.GrpcTrySetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_SET}
	if r.Flags&pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_REVISION != 0 && r.CompareRevision != v.revision {
		out.Type = pb.GrpcKeyValueResponseType_TYPE_NOTSET
	} else {
		v.revision++
		v.bytes = slices.Clone(r.Value)
	}
	out.Revision = v.revision
	s.k.mu.Unlock()
	switch f {
	case retryLie:
		return &pb.GrpcTrySetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY}, nil
	case errored:
		return &pb.GrpcTrySetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_ERRORED}, nil
	}
	return out, s.k.end(ctx, f)
}

func (s *keyValuer) TryGetKeyValue(ctx context.Context, r *pb.GrpcTryGetKeyValueRequest) (*pb.GrpcTryGetKeyValueResponse, error) {
	f, err := s.k.begin(ctx, request{server: s.i, method: "TryGetKeyValue", key: r.Key})
	if err != nil {
		return nil, err
	}
	if f == retry {
		return &pb.GrpcTryGetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY}, nil
	}
	s.k.mu.Lock()
	v := s.k.keys[r.Key]
	out := &pb.GrpcTryGetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_DOES_NOT_EXIST}
	if v != nil {
		out = &pb.GrpcTryGetKeyValueResponse{Type: pb.GrpcKeyValueResponseType_TYPE_GOT, Value: v.bytes, Revision: v.revision}
	}
	s.k.mu.Unlock()
	return out, s.k.end(ctx, f)
}

// ScanAllByPrefix answers with all keys, cut where Kahuna cuts, in no order.
func (s *keyValuer) ScanAllByPrefix(_ context.Context, _ *pb.GrpcScanAllByPrefixRequest) (*pb.GrpcScanAllByPrefixResponse, error) {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	out := &pb.GrpcScanAllByPrefixResponse{Type: pb.GrpcKeyValueResponseType_TYPE_GOT}
	for key, v := range s.k.keys {
		if len(out.Items) < 4096 {
			out.Items = append(out.Items, &pb.GrpcKeyValueByPrefixItemResponse{Key: key, Value: v.bytes, Revision: v.revision})
		}
	}
	return out, nil
}

type sequencer struct {
	pb.UnimplementedSequencerServer
	k *kahuna
	i int
}

func (s *sequencer) ReserveSequenceRange(ctx context.Context, r *pb.GrpcReserveSequenceRangeRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	f, err := s.k.begin(ctx, request{server: s.i, method: "ReserveSequenceRange", key: r.Name})
	if err != nil {
		return nil, err
	}
	if f == retry {
		return &pb.GrpcSequenceAllocationResponse{Type: pb.GrpcSequenceResponseType_SEQUENCE_MUST_RETRY}, nil
	}
	s.k.mu.Lock()
	first, known := s.k.drawn[r.GetIdempotencyKey()]
	if !known || r.IdempotencyKey == nil {
		first = s.k.sequences[r.Name] + 1
		s.k.sequences[r.Name] += int64(r.Count)
		s.k.drawn[r.GetIdempotencyKey()] = first
	}
	s.k.mu.Unlock()
	if f == retryLie {
		return &pb.GrpcSequenceAllocationResponse{Type: pb.GrpcSequenceResponseType_SEQUENCE_MUST_RETRY}, nil
	}
	return &pb.GrpcSequenceAllocationResponse{Allocation: &pb.GrpcSequenceAllocation{Name: r.Name, Start: first, End: first + int64(r.Count) - 1, Count: r.Count}}, s.k.end(ctx, f)
}
