package kahuna_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// A step sends req and wants an answer, or moves the clock.
type step struct {
	rule string // of the contract
	req  proto.Message
	want proto.Message
	wait time.Duration
}

// A story is steps on one fresh cluster.
type story struct {
	name  string
	steps []step
}

// forms are the ways in which a client can ask for the same thing.
var forms = []struct {
	name string
	call func(context.Context, *grpc.ClientConn, *kvStream, proto.Message) (proto.Message, error)
}{
	{"unary", func(ctx context.Context, cc *grpc.ClientConn, _ *kvStream, req proto.Message) (proto.Message, error) {
		return call(ctx, cc, req)
	}},
	{"batched", func(ctx context.Context, cc *grpc.ClientConn, kv *kvStream, req proto.Message) (proto.Message, error) {
		a, err := lockCall(ctx, cc, proto.Clone(req))
		if errors.Is(err, errNoSlot) {
			a, err = kv.call(proto.Clone(req))
		}
		if errors.Is(err, errNoSlot) {
			return call(ctx, cc, req)
		}
		return a, err
	}},
}

// TestContract tells every story in both forms.
func TestContract(t *testing.T) {
	for _, form := range forms {
		for _, s := range stories() {
			t.Run(form.name+"/"+s.name, func(t *testing.T) {
				q := newQuorum(t)
				cc := newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial()
				kv := openKV(t, cc)
				for i, st := range s.steps {
					if st.req == nil {
						q.advance(st.wait)
						continue
					}
					got, err := form.call(t.Context(), cc, kv, st.req)
					if err != nil {
						t.Fatalf("step %d (%s): %s: %v", i+1, st.rule, short(st.req), err)
					}
					if diff := cmp.Diff(st.want, got, protocmp.Transform(), quiet(st.want)); diff != "" {
						t.Fatalf("step %d (%s): %s %v (- wanted, + got):\n%s", i+1, st.rule, short(st.req), st.req, diff)
					}
				}
			})
		}
	}
}

// quiet leaves out what a step does not say: how long it took, the hint, and
// labels where the story has none.
func quiet(want proto.Message) cmp.Option {
	names := map[string]bool{"TimeElapsedMs": true, "Route": true, "Routes": true, "RouteIndex": true}
	for _, n := range []string{"LastModifiedPhysical", "LastModifiedCounter", "CreatedAtPhysical", "CreatedAtCounter",
		"UpdatedAtPhysical", "UpdatedAtCounter", "NextCursor", "TransactionIdPhysical", "TransactionIdCounter", "HoldId",
		"HolderTransactionIdPhysical", "HolderTransactionIdCounter"} {
		names[n] = true
	}
	return cmp.FilterPath(func(p cmp.Path) bool {
		for _, s := range p {
			if m, is := s.(cmp.MapIndex); is && names[fmt.Sprint(m.Key())] {
				return true
			}
		}
		return false
	}, cmp.Ignore())
}

func ptr[T any](v T) *T { return &v }

func stories() []story {
	var all []story
	for _, some := range [][]story{lockStories(), writeStories(), conditionStories(), readStories(), manyStories(), scanStories(),
		sequenceStories(), keySpaceStories(), transactionStories(), holdStories()} {
		all = append(all, some...)
	}
	return all
}

func lockStories() []story {
	a, b := []byte("aaaa"), []byte("bbbb")
	try := func(owner []byte, ms int32, d pb.GrpcLockDurability) *pb.GrpcTryLockRequest {
		return &pb.GrpcTryLockRequest{Resource: "r", Owner: owner, ExpiresMs: ms, Durability: d}
	}
	locked := func(token int64) *pb.GrpcTryLockResponse { return &pb.GrpcTryLockResponse{FencingToken: token} }
	var s []story
	for _, d := range []pb.GrpcLockDurability{0, 1} {
		extend := func(owner []byte, ms int32) *pb.GrpcExtendLockRequest {
			return &pb.GrpcExtendLockRequest{Resource: "r", Owner: owner, ExpiresMs: ms, Durability: d}
		}
		unlock := func(owner []byte) *pb.GrpcUnlockRequest {
			return &pb.GrpcUnlockRequest{Resource: "r", Owner: owner, Durability: d}
		}
		get := &pb.GrpcGetLockRequest{Resource: "r", Durability: d}
		s = append(s, story{fmt.Sprint("locks/", d), []step{
			{rule: "2.2", req: try(nil, 1000, d), want: &pb.GrpcTryLockResponse{Type: 100}},
			{rule: "2.2", req: try(a, 0, d), want: &pb.GrpcTryLockResponse{Type: 100}},
			{rule: "2.2", req: &pb.GrpcTryLockRequest{Owner: a, ExpiresMs: 1, Durability: d}, want: &pb.GrpcTryLockResponse{Type: 100}},
			{rule: "2.10", req: get, want: &pb.GrpcGetLockResponse{Type: 102}},
			{rule: "2.9", req: unlock(a), want: &pb.GrpcUnlockResponse{Type: 102}},
			{rule: "2.8", req: extend(a, 1000), want: &pb.GrpcExtendLockResponse{Type: 102}},
			{rule: "2.3", req: try(a, 1000, d), want: locked(0)},
			{rule: "2.4", req: try(a, 9000, d), want: locked(0)},
			{rule: "2.6", req: try(b, 1000, d), want: &pb.GrpcTryLockResponse{Type: 1}},
			{rule: "2.1", req: try(b, 1000, 1-d), want: locked(0)},
			{rule: "2.10", req: get, want: &pb.GrpcGetLockResponse{Type: 4, Owner: a, ExpiresPhysical: startMS + 1000}},
			{rule: "2.8", req: extend(b, 1000), want: &pb.GrpcExtendLockResponse{Type: 103}},
			{rule: "2.8", req: extend(a, 5000), want: &pb.GrpcExtendLockResponse{Type: 2}},
			{rule: "decision 16", req: extend(a, 100), want: &pb.GrpcExtendLockResponse{Type: 2}},
			{rule: "decision 16", req: get, want: &pb.GrpcGetLockResponse{Type: 4, Owner: a, ExpiresPhysical: startMS + 5000}},
			{rule: "2.9", req: unlock(b), want: &pb.GrpcUnlockResponse{Type: 103}},
			{wait: 5000 * time.Millisecond},
			{rule: "decision 1", req: get, want: &pb.GrpcGetLockResponse{Type: 102}},
			{rule: "2.8", req: extend(a, 1000), want: &pb.GrpcExtendLockResponse{Type: 102}},
			{rule: "2.9", req: unlock(b), want: &pb.GrpcUnlockResponse{Type: 103}},
			{rule: "2.9", req: unlock(a), want: &pb.GrpcUnlockResponse{Type: 3}},
			{rule: "2.9", req: unlock(a), want: &pb.GrpcUnlockResponse{Type: 102}},
			{rule: "2.3", req: try(b, 1000, d), want: locked(1)},
			{wait: time.Second},
			{rule: "2.5", req: try(b, 1000, d), want: locked(2)},
		}})
	}
	return append(s, story{"locks/bad", []step{
		{rule: "2.13", req: try(a, 1000, 7), want: &pb.GrpcTryLockResponse{Type: 100}},
		{rule: "2.2", req: &pb.GrpcGetLockRequest{}, want: &pb.GrpcGetLockResponse{Type: 100}},
		{rule: "2.2", req: &pb.GrpcUnlockRequest{Resource: "r"}, want: &pb.GrpcUnlockResponse{Type: 100}},
	}})
}

func set(key, value string) *pb.GrpcTrySetKeyValueRequest {
	return &pb.GrpcTrySetKeyValueRequest{Key: key, Value: []byte(value), Flags: 1, Durability: 1}
}

func get(key string) *pb.GrpcTryGetKeyValueRequest {
	return &pb.GrpcTryGetKeyValueRequest{Key: key, Revision: -1, Durability: 1}
}

func got(value string, revision int64) *pb.GrpcTryGetKeyValueResponse {
	return &pb.GrpcTryGetKeyValueResponse{Type: 3, Value: []byte(value), Revision: revision, State: 1}
}

func done(revision int64) *pb.GrpcTrySetKeyValueResponse {
	return &pb.GrpcTrySetKeyValueResponse{Revision: revision}
}

func refused(code pb.GrpcKeyValueResponseType, revision int64) *pb.GrpcTrySetKeyValueResponse {
	return &pb.GrpcTrySetKeyValueResponse{Type: code, Revision: revision}
}

var missing = &pb.GrpcTryGetKeyValueResponse{Type: 103}

func writeStories() []story {
	del := &pb.GrpcTryDeleteKeyValueRequest{Key: "k", Durability: 1}
	extend := func(ms int32) *pb.GrpcTryExtendKeyValueRequest {
		return &pb.GrpcTryExtendKeyValueRequest{Key: "k", ExpiresMs: ms, Durability: 1}
	}
	exists := &pb.GrpcTryExistsKeyValueRequest{Key: "k", Revision: -1, Durability: 1}
	expiring := set("k", "v")
	expiring.ExpiresMs = 1000
	return []story{
		{"kv/bad input", []step{
			{rule: "4.1", req: set("", "v"), want: refused(100, 0)},
			{rule: "4.1", req: set("__kahuna:x", "v"), want: refused(100, 0)},
			{rule: "4.1", req: set("__kahunax", "v"), want: done(0)},
			{rule: "4.1", req: &pb.GrpcTrySetKeyValueRequest{Key: "k", ExpiresMs: -1}, want: refused(100, 0)},
			{rule: "1.2", req: &pb.GrpcTrySetKeyValueRequest{Key: "k", Flags: 64}, want: refused(100, 0)},
			{rule: "4.6", req: &pb.GrpcTrySetKeyValueRequest{Key: "k", Durability: 5}, want: refused(100, 0)},
			{rule: "4.1", req: get("__kahuna:x"), want: &pb.GrpcTryGetKeyValueResponse{Type: 100}},
			{rule: "4.1", req: get(""), want: &pb.GrpcTryGetKeyValueResponse{Type: 100}},
			{rule: "4.1", req: extend(-1), want: &pb.GrpcTryExtendKeyValueResponse{Type: 100}},
			{rule: "4.1", req: &pb.GrpcTryDeleteKeyValueRequest{}, want: &pb.GrpcTryDeleteKeyValueResponse{Type: 100}},
			{rule: "4.1", req: &pb.GrpcTryExistsKeyValueRequest{}, want: &pb.GrpcTryExistsKeyValueResponse{Type: 100}},
		}},
		{"kv/revisions", []step{
			{rule: "4.5.1", req: set("k", "a"), want: done(0)},
			{rule: "4.5.1", req: set("k", "b"), want: done(1)},
			{rule: "4.4.1", req: get("k"), want: got("b", 1)},
			{rule: "4.3.2", req: del, want: &pb.GrpcTryDeleteKeyValueResponse{Type: 4, Revision: 2}},
			{rule: "4.4.1", req: get("k"), want: missing},
			{rule: "4.3.2", req: del, want: &pb.GrpcTryDeleteKeyValueResponse{Type: 103, Revision: 2}},
			{rule: "4.5.2", req: set("k", "c"), want: done(3)},
			{rule: "4.4.1", req: exists, want: &pb.GrpcTryExistsKeyValueResponse{Type: 10, Revision: 3, State: 1}},
			{rule: "4.4.2", req: &pb.GrpcTryGetKeyValueRequest{Key: "k", Durability: 1}, want: got("a", 0)},
			{rule: "4.4.2", req: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: 1, Durability: 1}, want: got("b", 1)},
			{rule: "4.4.2", req: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: 2, Durability: 1}, want: missing},
			{rule: "4.4.2", req: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: 9, Durability: 1}, want: missing},
			{rule: "4.6.1", req: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: -1}, want: missing},
		}},
		{"kv/expiry", []step{
			{rule: "4.3.1", req: extend(10), want: &pb.GrpcTryExtendKeyValueResponse{Type: 103}},
			{rule: "4.2.1", req: expiring, want: done(0)},
			{rule: "decision 2", req: get("k"), want: &pb.GrpcTryGetKeyValueResponse{Type: 3, Value: []byte("v"), State: 1, ExpiresPhysical: startMS + 1000}},
			{rule: "4.3.1", req: extend(5000), want: &pb.GrpcTryExtendKeyValueResponse{Type: 2}},
			{wait: 2 * time.Second},
			{rule: "4.3.1", req: get("k"), want: &pb.GrpcTryGetKeyValueResponse{Type: 3, Value: []byte("v"), State: 1, ExpiresPhysical: startMS + 5000}},
			{wait: 3 * time.Second},
			{rule: "4.2.2", req: get("k"), want: missing},
			{rule: "decision 17", req: del, want: &pb.GrpcTryDeleteKeyValueResponse{Type: 103}},
			{rule: "4.5.2", req: set("k", "w"), want: done(1)},
			{rule: "decision 16", req: extend(0), want: &pb.GrpcTryExtendKeyValueResponse{Type: 2, Revision: 1}},
			{wait: time.Hour},
			{rule: "decision 16", req: get("k"), want: got("w", 1)},
		}},
		{"kv/null and empty", []step{
			{rule: "4.2.9", req: &pb.GrpcTrySetKeyValueRequest{Key: "null", Durability: 1}, want: done(0)},
			{rule: "4.2.9", req: &pb.GrpcTrySetKeyValueRequest{Key: "empty", Value: []byte{}, Durability: 1}, want: done(0)},
			{rule: "4.2.9", req: get("null"), want: &pb.GrpcTryGetKeyValueResponse{Type: 3, State: 1}},
			{rule: "4.2.9", req: get("empty"), want: &pb.GrpcTryGetKeyValueResponse{Type: 3, State: 1, Value: []byte{}}},
		}},
	}
}

func conditionStories() []story {
	with := func(flags pb.GrpcKeyValueFlags, value string, change func(*pb.GrpcTrySetKeyValueRequest)) *pb.GrpcTrySetKeyValueRequest {
		r := set("k", value)
		r.Flags = flags
		if change != nil {
			change(r)
		}
		return r
	}
	xx, nx := pb.GrpcKeyValueFlags_SET_IF_EXISTS, pb.GrpcKeyValueFlags_SET_IF_NOT_EXISTS
	cas := func(compare []byte) func(*pb.GrpcTrySetKeyValueRequest) {
		return func(r *pb.GrpcTrySetKeyValueRequest) { r.CompareValue = compare }
	}
	rev := func(n int64) func(*pb.GrpcTrySetKeyValueRequest) {
		return func(r *pb.GrpcTrySetKeyValueRequest) { r.CompareRevision = n }
	}
	del := &pb.GrpcTryDeleteKeyValueRequest{Key: "k", Durability: 1}
	return []story{
		{"kv/conditions", []step{
			{rule: "4.2.6", req: with(xx, "a", nil), want: refused(1, -1)},
			{rule: "4.2.3", req: with(nx, "a", nil), want: done(0)},
			{rule: "4.2.3", req: with(nx, "b", nil), want: refused(1, 0)},
			{rule: "4.2.3", req: with(xx, "b", nil), want: done(1)},
			{rule: "4.2.3", req: with(xx|nx, "c", nil), want: refused(1, 1)},
			{rule: "4.2.3", req: with(16, "c", cas([]byte("b"))), want: done(2)},
			{rule: "4.2.3", req: with(16, "d", cas([]byte("b"))), want: refused(1, 2)},
			{rule: "4.2.3", req: with(32, "d", rev(2)), want: done(3)},
			{rule: "4.2.3", req: with(32, "e", rev(10)), want: refused(1, 3)},
			{rule: "4.3.2", req: del, want: &pb.GrpcTryDeleteKeyValueResponse{Type: 4, Revision: 4}},
			{rule: "4.2.3", req: with(xx, "f", nil), want: refused(1, 4)},
			{rule: "4.2.5", req: with(32, "f", rev(4)), want: done(5)},
			{rule: "4.2.8", req: with(2, "g", nil), want: done(6)},
			{rule: "decision 14", req: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: 5, Durability: 1}, want: &pb.GrpcTryGetKeyValueResponse{Type: 102}},
		}},
		{"kv/conditions on nothing", []step{
			{rule: "4.2.4", req: with(16, "a", cas([]byte("x"))), want: refused(1, -1)},
			{rule: "4.2.4", req: with(32, "a", rev(0)), want: refused(1, -1)},
			{rule: "4.2.4", req: with(16, "a", cas(nil)), want: done(0)},
		}},
		{"kv/revision -1", []step{
			{rule: "4.2.4", req: with(32, "a", rev(-1)), want: done(0)},
		}},
	}
}

func readStories() []story {
	at := func(ms int64) *pb.GrpcTryGetKeyValueRequest {
		r := get("k")
		r.ReadTimestampPhysical, r.ReadTimestampCounter = ms, 1<<32-1
		return r
	}
	return []story{
		{"kv/as of", []step{
			{rule: "4.4.3", req: set("k", "a"), want: done(0)},
			{wait: time.Second},
			{rule: "4.4.3", req: set("k", "b"), want: done(1)},
			{rule: "4.4.3", req: at(startMS - 1), want: missing},
			{rule: "4.4.3", req: at(startMS), want: got("a", 0)},
			{rule: "4.4.3", req: at(startMS + 999), want: got("a", 0)},
			{rule: "4.4.3", req: at(startMS + 1000), want: got("b", 1)},
			{wait: time.Second},
			{rule: "decision 6", req: &pb.GrpcTryExtendKeyValueRequest{Key: "k", ExpiresMs: 60_000, Durability: 1}, want: &pb.GrpcTryExtendKeyValueResponse{Type: 2, Revision: 1}},
			{rule: "decision 6", req: at(startMS + 1500), want: &pb.GrpcTryGetKeyValueResponse{Type: 3, Value: []byte("b"), Revision: 1, State: 1, ExpiresPhysical: startMS + 62_000}},
		}},
	}
}
