package kahuna_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// counts is an Observer that counts.
type counts struct {
	mu   sync.Mutex
	seen map[string]int
	bad  []string
}

func (c *counts) Answered(method, result string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]int{}
	}
	c.seen[method+" "+result]++
	if method == "" || result == "" || took < 0 || took > time.Minute {
		c.bad = append(c.bad, fmt.Sprint(method, result, took))
	}
}

func (c *counts) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[what]
}

// Every request of a batch stream is counted by its rpc and code, one of a type
// that is none too, and each type has a name.
func TestBatchedRequestsAreCounted(t *testing.T) {
	seen := &counts{}
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: newQuorum(t), Observer: seen}).dial()
	kv := openKV(t, cc)
	setMany := func(keys ...string) *pb.GrpcTrySetManyKeyValueRequest {
		r := &pb.GrpcTrySetManyKeyValueRequest{}
		for i, k := range keys {
			r.Items = append(r.Items, &pb.GrpcTrySetManyKeyValueRequestItem{Key: k, Flags: pb.GrpcKeyValueFlags(4 * (i % 2))}) // every other only if it exists
		}
		return r
	}
	for i, tc := range []struct {
		req  proto.Message
		want string
	}{
		{set("k", "v"), "/KeyValuer/TrySetKeyValue Set"},
		{set("", "v"), "/KeyValuer/TrySetKeyValue InvalidInput"},
		{get("k"), "/KeyValuer/TryGetKeyValue Get"},
		{get("nothing"), "/KeyValuer/TryGetKeyValue DoesNotExist"},
		{setMany("a"), "/KeyValuer/TrySetManyKeyValue Set"},
		{setMany("b", "nothing"), "/KeyValuer/TrySetManyKeyValue Mixed"},
		{&pb.GrpcTryDeleteManyKeyValueRequest{Items: []*pb.GrpcTryDeleteManyKeyValueRequestItem{{Key: "a"}, {Key: "b"}}}, "/KeyValuer/TryDeleteManyKeyValue Deleted"},
		{&pb.GrpcStartTransactionRequest{CoordinatorKey: "c", Timeout: 1000}, "/KeyValuer/StartTransaction Set"},
		{&pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte("NO SCRIPT")}, "/KeyValuer/TryExecuteTransactionScript Errored"},
		{&pb.GrpcTryLockRequest{Resource: "r", Owner: []byte("o"), ExpiresMs: 1000}, "/Locker/TryLock Locked"},
		{&pb.GrpcTryLockRequest{Resource: "r", Owner: []byte("p"), ExpiresMs: 1000}, "/Locker/TryLock Busy"},
		{&pb.GrpcUnlockRequest{Resource: "r", Owner: []byte("q")}, "/Locker/Unlock InvalidOwner"},
	} {
		before := seen.of(tc.want)
		if _, err := forms[1].call(t.Context(), cc, kv, tc.req); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if after := seen.of(tc.want); after != before+1 {
			t.Errorf("%s is counted as %q %d times instead of once: %v", short(tc.req), tc.want, after-before, seen.seen)
		}
	}
	if _, err := kv.do(&pb.GrpcBatchClientKeyValueRequest{Type: 99}); err != nil {
		t.Fatal(err)
	}
	if seen.of("unknown none") != 1 {
		t.Errorf("a type that is none is not counted: %v", seen.seen)
	}
	for typ, slot := range slots { // an empty payload of each
		r := &pb.GrpcBatchClientKeyValueRequest{Type: typ}
		f := r.ProtoReflect().Descriptor().Fields().ByNumber(slot)
		r.ProtoReflect().Set(f, protoreflect.ValueOfMessage(r.ProtoReflect().NewField(f).Message()))
		if _, err := kv.do(r); err != nil {
			t.Fatal(err)
		}
	}
	for what := range seen.seen {
		if what != "unknown none" && strings.HasPrefix(what, "unknown") {
			t.Errorf("%q has no name", what)
		}
	}
	if len(seen.bad) > 0 {
		t.Errorf("these make no sense: %q", seen.bad)
	}
}

// MaxInFlight bounds what one stream has served at a time.
func TestMaxInFlight(t *testing.T) {
	const most = 7
	q := newQuorum(t)
	g := &gate{held: make(chan struct{})}
	q.setBroken(g.broken("k"))
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: q, LeaderWait: time.Hour, MaxInFlight: most}).dial())
	var answered sync.WaitGroup
	for range 3 * most {
		answered.Go(func() {
			if _, err := kv.call(get("k")); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "as many as allowed are served", func() bool { return g.waiting.Load() == most })
	close(g.held)
	answered.Wait()
	if got := g.most.Load(); got > most {
		t.Errorf("%d were served at a time, and the bound is %d", got, most)
	}
}
