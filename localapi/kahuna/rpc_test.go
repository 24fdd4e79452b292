package kahuna_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// serverOnly are the rpcs between Kahuna's servers (keyvalue.md 10).
var serverOnly = []string{"/Locker/BatchServerLockRequests", "/KeyValuer/BatchServerKeyValueRequests", "/KeyValuer/ScanByPrefix",
	"/KeyValuer/TryAcquireManyExclusiveLocks", "/KeyValuer/TryReleaseExclusiveLock", "/KeyValuer/TryReleaseManyExclusiveLocks",
	"/KeyValuer/TryPrepareMutations", "/KeyValuer/TryPrepareManyMutations", "/KeyValuer/TryCommitMutations",
	"/KeyValuer/TryCommitManyMutations", "/KeyValuer/TryRollbackMutations", "/KeyValuer/TryRollbackManyMutations",
	"/KeyValuer/GetPartitionApplyFingerprint", "/KeyValuer/GetPreparedIntentPresence"}

// TestDocHasEveryRpc: the table of the package documentation is whole.
func TestDocHasEveryRpc(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := regexp.MustCompile(`[A-Za-z]+`).FindAllString(string(doc), -1)
	want := func(name string) {
		if !slices.Contains(listed, name) {
			t.Errorf("doc.go does not say what becomes of %s", name)
		}
	}
	for _, desc := range services {
		for _, m := range desc.Methods {
			want(m.MethodName)
		}
		for _, m := range desc.Streams {
			want(m.StreamName)
		}
	}
	for _, path := range serverOnly {
		want(path[strings.LastIndex(path, "/")+1:])
	}
}

func TestServerRpcsAreUnimplemented(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		cc := newRig(t, tr, kahuna.Config{Coordinator: newQuorum(t)}).dial()
		for _, path := range serverOnly {
			if err := cc.Invoke(t.Context(), path, &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

// TestEveryRpcTakesAnEmptyRequest: no rpc fails for lack of fields, but those of
// backups, which have statuses.
func TestEveryRpcTakesAnEmptyRequest(t *testing.T) {
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: newQuorum(t)}).dial()
	for _, desc := range services {
		for _, m := range desc.Methods {
			in, out := types(desc.ServiceName, m.MethodName)
			err := cc.Invoke(t.Context(), "/"+desc.ServiceName+"/"+m.MethodName, in.New().Interface(), out.New().Interface())
			if (err != nil) != (desc.ServiceName == "Backups") {
				t.Errorf("%s.%s: %v", desc.ServiceName, m.MethodName, err)
			}
		}
	}
}

// TestHints: every answer to a point request tells where the leader is; a scan
// does not (keyvalue.md 9.2), and nobody is told when there is no such listener.
func TestHints(t *testing.T) {
	a := threeVoters()
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: newQuorum(t), Cluster: a}).dial())
	executed := &pb.GrpcRouteHint{PartitionId: 1, Endpoint: "https://127.0.0.1:8082", Provenance: 1}
	check := func(want, got *pb.GrpcRouteHint) {
		t.Helper()
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
	check(executed, ask[*pb.GrpcTrySetKeyValueResponse](t, kv, set("k", "v")).Route)
	check(executed, ask[*pb.GrpcTryGetKeyValueResponse](t, kv, get("k")).Route)
	check(executed, ask[*pb.GrpcTryGetKeyValueResponse](t, kv, get("miss")).Route)
	many := ask[*pb.GrpcTrySetManyKeyValueResponse](t, kv, &pb.GrpcTrySetManyKeyValueRequest{Items: []*pb.GrpcTrySetManyKeyValueRequestItem{{Key: "a"}, {Key: "b"}}})
	if len(many.Routes) != 1 || many.Items[0].RouteIndex != 1 || many.Items[1].RouteIndex != 1 {
		t.Errorf("a batch tells %v", many)
	}
	a.mu.Lock()
	a.url, a.here = "https://10.0.0.2:8082", false
	a.mu.Unlock()
	check(&pb.GrpcRouteHint{PartitionId: 1, Endpoint: "https://10.0.0.2:8082", Provenance: 2}, ask[*pb.GrpcTrySetKeyValueResponse](t, kv, set("k", "v")).Route)
	a.mu.Lock()
	a.url = ""
	a.mu.Unlock()
	check(nil, ask[*pb.GrpcTrySetKeyValueResponse](t, kv, set("k", "v")).Route)
	if many := ask[*pb.GrpcTryDeleteManyKeyValueResponse](t, kv, &pb.GrpcTryDeleteManyKeyValueRequest{Items: []*pb.GrpcTryDeleteManyKeyValueRequestItem{{Key: "a"}}}); many.Routes != nil || many.Items[0].RouteIndex != 0 {
		t.Errorf("without a URL a batch tells %v", many)
	}
}

// TestClusterAnswers: what one group makes of Kahuna's cluster service.
func TestClusterAnswers(t *testing.T) {
	a := threeVoters()
	q := newQuorum(t)
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: q, Cluster: a}).dial()
	if _, err := call(t.Context(), cc, &pb.GrpcRegisterKeyRangeRequest{KeySpace: "orders"}); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ req, want proto.Message }{
		{&pb.GrpcGetMembershipRequest{}, &pb.GrpcGetMembershipResponse{MembershipVersion: 3, LocalRole: 1, Initialized: true, Members: []*pb.GrpcClusterMember{
			{Endpoint: "10.0.0.1:7400", NodeId: 1630568178, Role: 1}, {Endpoint: "10.0.0.2:7400", NodeId: 1647345797, Role: 1}, {Endpoint: "10.0.0.3:7400", NodeId: 1664123416, Role: 0}}}},
		{&pb.GrpcGetPlacementRequest{}, &pb.GrpcGetPlacementResponse{Initialized: true, LocalEndpoint: "10.0.0.1:7400", HostedPartitionCount: 1,
			Partitions: []*pb.GrpcPartitionPlacement{{PartitionId: 1, State: "Active", Generation: 1, HostedLocally: true, Replicas: []*pb.GrpcPartitionReplica{
				{Endpoint: "10.0.0.1:7400"}, {Endpoint: "10.0.0.2:7400"}, {Endpoint: "10.0.0.3:7400", Role: 1}}}}}},
		{&pb.GrpcGetRoutingMetadataRequest{}, &pb.GrpcGetRoutingMetadataResponse{Initialized: true, SchemaVersion: 1,
			HashAlgorithm: "kahuna.placement-group-jump-xxh32-v1", PrefixSeparator: "/", GroupSeparator: "|", HashPoolSize: 1, HashPartitionOffset: 1,
			SequenceStorageKeyFormat: "__kahuna:sequences:{0}", ReservedKeyPrefix: "__kahuna:", LocalEndpoint: "https://127.0.0.1:8082",
			SnapshotVersion: 3, Coherent: true, Leaders: []*pb.GrpcPartitionLeader{{PartitionId: 1, Endpoint: "https://127.0.0.1:8082"}},
			KeySpaces: []*pb.GrpcRoutingKeySpace{{KeySpace: "orders", RoutingMode: "KeyRange", Ranges: []*pb.GrpcRoutingRange{{PartitionId: 1, Generation: 1}}}}}},
	}
	for _, test := range tests {
		got, err := call(t.Context(), cc, test.req)
		if diff := cmp.Diff(test.want, got, protocmp.Transform(), protocmp.IgnoreFields(&pb.GrpcClusterMember{}, "NodeId")); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", short(test.req), err, diff)
		}
	}
	ids := map[int32]bool{}
	m, _ := call(t.Context(), cc, &pb.GrpcGetMembershipRequest{})
	for _, one := range m.(*pb.GrpcGetMembershipResponse).Members {
		ids[one.NodeId] = one.NodeId > 0
	}
	if len(ids) != 3 || ids[0] {
		t.Errorf("node ids are %v", ids)
	}
	for outcome, want := range map[kahuna.LeaveOutcome][2]bool{ // left, retryable (C2)
		kahuna.LeaveCommitted: {true, false}, kahuna.LeaveNotAMember: {true, false}, kahuna.LeaveInsufficientVoters: {false, false},
		kahuna.LeaveNotInitialized: {false, true}, kahuna.LeaveNoLeader: {false, true}, kahuna.LeaveTimeout: {false, true},
	} {
		a.mu.Lock()
		a.left = kahuna.Left{Outcome: outcome, Version: 4, Reason: "why"}
		a.mu.Unlock()
		got, err := call(t.Context(), cc, &pb.GrpcClusterLeaveRequest{})
		wanted := &pb.GrpcClusterLeaveResponse{Left: want[0], Outcome: pb.GrpcLeaveClusterOutcome(outcome), MembershipVersion: 4, Retryable: want[1], Reason: "why"}
		if diff := cmp.Diff(wanted, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("leave %d: %v\n%s", outcome, err, diff)
		}
	}
}

// TestNoQuorum: who waits for a leader in vain is told to retry, with the code of
// its service and within LeaderWait (decisions 22 and 23); sequences have their own.
func TestNoQuorum(t *testing.T) {
	for _, cause := range []error{replication.ErrUnavailable, replication.ErrUnknownOutcome, replication.ErrStopped} {
		t.Run(cause.Error(), func(t *testing.T) {
			q := newQuorum(t)
			q.setBroken(func(ctx context.Context, _ *replication.Request) (*replication.Answer, error, bool) {
				if _, bounded := ctx.Deadline(); !bounded {
					t.Error("a request to the coordinator has no deadline")
				}
				return nil, fmt.Errorf("the test says: %w", cause), true
			})
			cc := newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial()
			kv := openKV(t, cc)
			for _, form := range forms {
				for _, test := range []struct{ req, want proto.Message }{
					{&pb.GrpcTryLockRequest{Resource: "r", Owner: []byte("a"), ExpiresMs: 9}, &pb.GrpcTryLockResponse{Type: 101}},
					{&pb.GrpcUnlockRequest{Resource: "r", Owner: []byte("a")}, &pb.GrpcUnlockResponse{Type: 101}},
					{set("k", "v"), refused(101, 0)},
					{get("k"), &pb.GrpcTryGetKeyValueResponse{Type: 101}},
					{&pb.GrpcGetByBucketRequest{PrefixKey: "b"}, &pb.GrpcGetByBucketResponse{Type: 101}},
					{&pb.GrpcTrySetManyKeyValueRequest{Items: []*pb.GrpcTrySetManyKeyValueRequestItem{{Key: "k"}}},
						&pb.GrpcTrySetManyKeyValueResponse{Items: []*pb.GrpcTrySetManyKeyValueResponseItem{{Type: 101, Key: "k"}}}},
					{&pb.GrpcTryGetManyValuesRequest{Items: []*pb.GrpcTryManyValuesRequestItem{{Key: "k"}}},
						&pb.GrpcTryGetManyValuesResponse{Items: []*pb.GrpcTryGetManyValuesResponseItem{{Type: 101, Key: "k"}}}},
					{&pb.GrpcCommitTransactionRequest{CoordinatorKey: "c", TransactionIdPhysical: 1}, &pb.GrpcCommitTransactionResponse{Type: 101}},
					{&pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte("SET a 1")}, &pb.GrpcTryExecuteTransactionScriptResponse{Type: 101}},
					{&pb.GrpcGetSnapshotFloorRequest{}, &pb.GrpcGetSnapshotFloorResponse{Type: 101}},
					{&pb.GrpcNextSequenceRequest{Name: "s", Durability: 1}, &pb.GrpcSequenceAllocationResponse{Type: 5}},
					{&pb.GrpcRegisterKeyRangeRequest{KeySpace: "s"}, &pb.GrpcRegisterKeyRangeResponse{Status: "Indeterminate", RoutingMode: "Hash",
						Reason: "no quorum answered in time; the request may still be carried out"}},
				} {
					got, err := form.call(t.Context(), cc, kv, test.req)
					if diff := cmp.Diff(test.want, got, protocmp.Transform(), quiet(test.want)); err != nil || diff != "" {
						t.Errorf("%s %s: %v (- wanted, + got)\n%s", form.name, short(test.req), err, diff)
					}
				}
			}
			// A stream of pages must not end as if it were complete (keyvalue.md 5.4).
			st, err := pb.NewKeyValuerClient(cc).GetByRangeStream(t.Context(), &pb.GrpcGetByRangeRequest{Prefix: "p"})
			if err == nil {
				_, err = st.Recv()
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the range stream ends with %v", err)
			}
		})
	}
}

// TestLeaderWait: a request waits for a leader no longer than LeaderWait, and no
// longer than its caller.
func TestLeaderWait(t *testing.T) {
	q := newQuorum(t)
	q.setBroken(func(ctx context.Context, _ *replication.Request) (*replication.Answer, error, bool) {
		<-ctx.Done()
		return nil, fmt.Errorf("%w (%w)", replication.ErrUnavailable, ctx.Err()), true
	})
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: q, LeaderWait: 50 * time.Millisecond}).dial()
	kv := openKV(t, cc)
	if a := ask[*pb.GrpcTrySetKeyValueResponse](t, kv, set("k", "v")); a.Type != 101 {
		t.Errorf("batched: %v", a)
	}
	if a, err := call(t.Context(), cc, set("k", "v")); err != nil || a.(*pb.GrpcTrySetKeyValueResponse).Type != 101 {
		t.Errorf("unary: %v, %v", a, err)
	}
	// The wait for a slot comes on top of that for a leader.
	var waited time.Duration
	q.setBroken(func(ctx context.Context, _ *replication.Request) (*replication.Answer, error, bool) {
		end, _ := ctx.Deadline()
		waited = time.Until(end)
		return &replication.Answer{Code: replication.Code_CODE_ADMISSION_REFUSED, Index: 1}, nil, true
	})
	for _, form := range forms {
		a, err := form.call(t.Context(), cc, kv, &pb.GrpcStartTransactionRequest{CoordinatorKey: "c", AdmissionWaitMs: 20_000})
		if err != nil || a.(*pb.GrpcStartTransactionResponse).Type != 108 || waited < 15*time.Second || waited > 21*time.Second {
			t.Errorf("%s: a start that waits 20 s for a slot has %v: %v, %v", form.name, waited, a, err)
		}
	}
	q.setBroken(func(ctx context.Context, _ *replication.Request) (*replication.Answer, error, bool) {
		<-ctx.Done()
		return nil, fmt.Errorf("%w (%w)", replication.ErrUnavailable, ctx.Err()), true
	})
	long := newRig(t, nethttp, kahuna.Config{Coordinator: q, LeaderWait: time.Hour}).dial()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if a, err := call(ctx, long, set("k", "v")); err == nil && a.(*pb.GrpcTrySetKeyValueResponse).Type != 101 ||
		err != nil && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("with a deadline: %v, %v", a, err)
	}
}

// TestPolicy walks every rpc as callers who may do nothing, read, or all but
// administrate, under a prefix.
func TestPolicy(t *testing.T) {
	const nobody, reader, user = 4711, 1001, 1000
	const id, c, op = 1, "c", 1
	tests := []struct {
		req   func(prefix string) proto.Message
		may   []uint32 // on "mine/…"
		alien []uint32 // on "other/…"
	}{
		{req: func(p string) proto.Message {
			return &pb.GrpcTryLockRequest{Resource: p + "l", Owner: []byte("o"), ExpiresMs: 9}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcExtendLockRequest{Resource: p + "l", Owner: []byte("o"), ExpiresMs: 9}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcUnlockRequest{Resource: p + "l", Owner: []byte("o")} }, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcGetLockRequest{Resource: p + "l"} }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return set(p+"k", "v") }, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcTryExtendKeyValueRequest{Key: p + "k"} }, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcTryDeleteKeyValueRequest{Key: p + "k"} }, may: []uint32{user}},
		{req: func(p string) proto.Message { return get(p + "k") }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcTryExistsKeyValueRequest{Key: p + "k"} }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTrySetManyKeyValueRequest{Items: []*pb.GrpcTrySetManyKeyValueRequestItem{{Key: "mine/x"}, {Key: p + "k"}}}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryDeleteManyKeyValueRequest{Items: []*pb.GrpcTryDeleteManyKeyValueRequestItem{{Key: "mine/x"}, {Key: p + "k"}}}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryGetManyValuesRequest{Items: []*pb.GrpcTryManyValuesRequestItem{{Key: "mine/x"}, {Key: p + "k"}}}
		}, may: []uint32{user, reader}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryExistsManyValuesRequest{Items: []*pb.GrpcTryManyValuesRequestItem{{Key: p + "k"}}}
		}, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcGetByBucketRequest{PrefixKey: p + "b"} }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcScanAllByPrefixRequest{PrefixKey: p} }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcGetByRangeRequest{Prefix: p} }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcScanAllByPrefixRequest{PrefixKey: "mine"} }},
		{req: func(p string) proto.Message { return &pb.GrpcStartTransactionRequest{CoordinatorKey: "c"} }, may: []uint32{user, reader}, alien: []uint32{user, reader}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryAcquireExclusiveLockRequest{Key: p + "k", TransactionIdPhysical: id, CoordinatorKey: c, OperationIdLow: op}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryAcquireExclusivePrefixLockRequest{PrefixKey: p + "k", TransactionIdPhysical: id, CoordinatorKey: c, OperationIdLow: op}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryAcquireExclusiveRangeLockRequest{Prefix: p + "k", TransactionIdPhysical: id, CoordinatorKey: c, OperationIdLow: op}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryReleaseExclusivePrefixLockRequest{PrefixKey: p + "k", TransactionIdPhysical: id}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryReleaseExclusiveRangeLockRequest{Prefix: p + "k", TransactionIdPhysical: id}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte("GET `" + p + "k`")}
		}},
		{req: func(p string) proto.Message {
			return &pb.GrpcCreateSequenceRequest{Name: p + "s", Increment: 1, Durability: 1}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcUpdateSequenceRequest{Name: p + "s", Durability: 1} }, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcGetSequenceRequest{Name: p + "s", Durability: 1} }, may: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcNextSequenceRequest{Name: p + "s", Durability: 1} }, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcReserveSequenceRangeRequest{Name: p + "s", Count: 1, Durability: 1}
		}, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcDeleteSequenceRequest{Name: p + "s", Durability: 1} }, may: []uint32{user}},
		{req: func(p string) proto.Message {
			return &pb.GrpcAcquireSnapshotHoldRequest{HolderId: "h", TimestampPhysical: 1, LeaseMs: 1}
		}, may: []uint32{user}, alien: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcRenewSnapshotHoldRequest{HoldId: "h", LeaseMs: 1} }, may: []uint32{user}, alien: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcReleaseSnapshotHoldRequest{HoldId: "h"} }, may: []uint32{user}, alien: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcGetSnapshotFloorRequest{} }, may: []uint32{user, reader}, alien: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcRegisterKeyRangeRequest{KeySpace: p + "s"} }, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcRemoveKeyRangeRequest{KeySpace: p + "s"} }, may: []uint32{user}},
		{req: func(p string) proto.Message { return &pb.GrpcGetMembershipRequest{} }, may: []uint32{user, reader}, alien: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcGetPlacementRequest{} }, may: []uint32{user, reader}, alien: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcGetRangesRequest{} }, may: []uint32{user, reader}, alien: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcGetRoutingMetadataRequest{} }, may: []uint32{user, reader}, alien: []uint32{user, reader}},
		{req: func(p string) proto.Message { return &pb.GrpcSetReplicationFactorRequest{PartitionId: 1} }},
		{req: func(p string) proto.Message { return &pb.GrpcSplitRangeRequest{KeySpace: p, SplitKey: "m"} }},
		{req: func(p string) proto.Message { return &pb.GrpcMergeRangesRequest{} }},
		{req: func(p string) proto.Message { return &pb.GrpcClusterLeaveRequest{} }},
		{req: func(p string) proto.Message { return &pb.GrpcTakeFullBackupRequest{} }},
		{req: func(p string) proto.Message { return &pb.GrpcListBackupsRequest{} }},
		{req: func(p string) proto.Message { return &pb.GrpcRestoreRequest{} }},
	}
	q := newQuorum(t)
	r := newRig(t, nethttp, kahuna.Config{Coordinator: q})
	cc := r.dial()
	for _, uid := range []uint32{nobody, reader, user, 0} {
		r.uid = uid
		for _, test := range tests {
			for prefix, may := range map[string][]uint32{"mine/": test.may, "other/": test.alien} {
				allowed := uid == 0
				for _, u := range may {
					allowed = allowed || u == uid
				}
				req := test.req(prefix)
				_, err := call(t.Context(), cc, req)
				if denied := status.Code(err) == codes.PermissionDenied; denied == allowed {
					t.Errorf("uid %d, %s %v: %v", uid, short(req), req, err)
				}
			}
		}
	}
	r.uid = reader
	kv := openKV(t, cc)
	if a := ask[*pb.GrpcTrySetKeyValueResponse](t, kv, set("mine/k", "v")); a.Type != 99 {
		t.Errorf("a denied item of a stream is answered with %v", a)
	}
}

// TestOwnersAreSecrets: who knows the owner of a lock may unlock it.
func TestOwnersAreSecrets(t *testing.T) {
	q := newQuorum(t)
	r := newRig(t, nethttp, kahuna.Config{Coordinator: q})
	cc := r.dial()
	hold := []byte("0123456789abcdef0123456789abcdef")
	a, err := q.Do(t.Context(), &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
		Durability: 1, Name: "mine/hold", Session: session, Owner: hold}}})
	if err != nil || !a.GetLockGrant().GetGranted() {
		t.Fatal(a, err)
	}
	owner := func(uid uint32, name string) string {
		r.uid = uid
		a, err := call(t.Context(), cc, &pb.GrpcGetLockRequest{Resource: name, Durability: 1})
		if err != nil || a.(*pb.GrpcGetLockResponse).Type != 4 {
			t.Fatal(a, err)
		}
		return string(a.(*pb.GrpcGetLockResponse).Owner)
	}
	r.uid = 1000
	// Decision 21: a lock of kahu exec and one of a client are the same lock.
	if a, err := call(t.Context(), cc, &pb.GrpcTryLockRequest{Resource: "mine/hold", Owner: []byte("me"), ExpiresMs: 9, Durability: 1}); err != nil || a.(*pb.GrpcTryLockResponse).Type != 1 {
		t.Errorf("a lock that a hold has: %v, %v", a, err)
	}
	if _, err := call(t.Context(), cc, &pb.GrpcTryLockRequest{Resource: "mine/l", Owner: []byte("me"), ExpiresMs: 9000, Durability: 1}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		uid        uint32
		name, want string
	}{{0, "mine/l", "me"}, {0, "mine/hold", string(hold)}, {1000, "mine/l", "me"}, {1000, "mine/hold", ""}, {1001, "mine/l", ""}} {
		if got := owner(test.uid, test.name); got != test.want {
			t.Errorf("uid %d sees %q as the owner of %s, wanted %q", test.uid, got, test.name, test.want)
		}
	}
}

// TestBackupsNotConfigured: failures are statuses with a word in the trailer
// (B1, B2).
func TestBackupsNotConfigured(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		cc := newRig(t, tr, kahuna.Config{Coordinator: newQuorum(t)}).dial()
		for _, m := range pb.Backups_ServiceDesc.Methods {
			in, out := types("Backups", m.MethodName)
			var trailer metadata.MD
			err := cc.Invoke(t.Context(), "/Backups/"+m.MethodName, in.New().Interface(), out.New().Interface(), grpc.Trailer(&trailer))
			if status.Code(err) != codes.FailedPrecondition || len(trailer.Get("kahuna-backup-outcome")) != 1 || trailer.Get("kahuna-backup-outcome")[0] != "NotConfigured" {
				t.Errorf("%s: %v, trailer %v", m.MethodName, err, trailer)
			}
		}
	})
}

// TestRangeStream: all pages are one state, whatever is written meanwhile
// (decision 30), and an empty prefix has none (keyvalue.md 4.1).
func TestRangeStream(t *testing.T) {
	bothTransports(t, func(t *testing.T, tr transport) {
		q := newQuorum(t)
		cc := newRig(t, tr, kahuna.Config{Coordinator: q}).dial()
		client := pb.NewKeyValuerClient(cc)
		for i := range 5 {
			if _, err := client.TrySetKeyValue(t.Context(), set(fmt.Sprint("p/", i), "old")); err != nil {
				t.Fatal(err)
			}
		}
		pages := 0
		q.setBroken(func(_ context.Context, req *replication.Request) (*replication.Answer, error, bool) {
			if req.GetRange() != nil && pages == 1 { // between the first page and the second
				for i := range 7 {
					a, err := q.Do(t.Context(), &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{
						Items: []*replication.WriteItem{{Durability: 1, Key: fmt.Sprint("p/", i), Value: []byte("new")}}}}})
					if err != nil || a.GetWritten().GetItems()[0].GetCode() != replication.Code_CODE_OK {
						t.Error(a, err)
					}
				}
			}
			if req.GetRange() != nil {
				pages++
			}
			return nil, nil, false
		})
		st, err := client.GetByRangeStream(t.Context(), &pb.GrpcGetByRangeRequest{Prefix: "p", Limit: 2, Durability: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			page, err := st.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if page.Type != 3 || page.HasMore != (page.NextCursor != nil) {
				t.Errorf("page %v", page)
			}
			for _, i := range page.Items {
				got = append(got, i.Key+"="+string(i.Value))
			}
		}
		if diff := cmp.Diff([]string{"p/0=old", "p/1=old", "p/2=old", "p/3=old", "p/4=old"}, got); diff != "" {
			t.Error(diff)
		}
		empty, err := client.GetByRangeStream(t.Context(), &pb.GrpcGetByRangeRequest{})
		if err == nil {
			_, err = empty.Recv()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("an empty prefix: %v", err)
		}
	})
}

// TestScansAreWholeOrFail: beyond the largest message a scan says how to read
// instead, and never ends early (decision 29).
func TestScansAreWholeOrFail(t *testing.T) {
	q := newQuorum(t)
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial()
	client := pb.NewKeyValuerClient(cc)
	for i := range 5 {
		if _, err := client.TrySetKeyValue(t.Context(), set(fmt.Sprint("b/", i), string(make([]byte, 900<<10)))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.GetByBucket(t.Context(), &pb.GrpcGetByBucketRequest{PrefixKey: "b", Durability: 1}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a bucket of 4.5 MiB: %v", err)
	}
	page, err := client.GetByRange(t.Context(), &pb.GrpcGetByRangeRequest{Prefix: "b", Durability: 1})
	if err != nil || !page.HasMore || page.NextCursor == nil || len(page.Items) == 0 {
		t.Errorf("a page of it: %d rows, more %v, %v", len(page.GetItems()), page.GetHasMore(), err)
	}
	many, err := client.TryGetManyValues(t.Context(), &pb.GrpcTryGetManyValuesRequest{Items: []*pb.GrpcTryManyValuesRequestItem{
		{Key: "b/0", Revision: -1, Durability: 1}, {Key: "b/1", Revision: -1, Durability: 1}, {Key: "b/2", Revision: -1, Durability: 1},
		{Key: "b/3", Revision: -1, Durability: 1}, {Key: "b/4", Revision: -1, Durability: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range many.Items {
		if i.Type != 3 || len(i.Value) != 900<<10 {
			t.Errorf("%s: %v, %d bytes", i.Key, i.Type, len(i.Value))
		}
	}
}

// TestBucketOfManyPages: more rows than one page of the quorum's are one answer,
// also in a transaction.
func TestBucketOfManyPages(t *testing.T) {
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: newQuorum(t)}).dial())
	const n = replication.MaxPageRows + 100
	many := &pb.GrpcTrySetManyKeyValueRequest{}
	for i := range n {
		many.Items = append(many.Items, &pb.GrpcTrySetManyKeyValueRequestItem{Key: fmt.Sprintf("b/%06d", i), Flags: 1, Durability: 1})
	}
	if a := ask[*pb.GrpcTrySetManyKeyValueResponse](t, kv, many); len(a.Items) != n || a.Items[n-1].Type != 0 {
		t.Fatalf("%d items were written: %v", len(a.Items), a.Items[len(a.Items)-1])
	}
	tx := begin(t, kv, 1)
	tx.set("b/999999", "own")
	for name, rows := range map[string][]*pb.GrpcKeyValueByPrefixItemResponse{
		"plain":          ask[*pb.GrpcGetByBucketResponse](t, kv, &pb.GrpcGetByBucketRequest{PrefixKey: "b", Durability: 1}).Items,
		"in transaction": tx.bucket("b").Items,
	} {
		want := n
		if name != "plain" {
			want++
		}
		sorted := slices.IsSortedFunc(rows, func(a, b *pb.GrpcKeyValueByPrefixItemResponse) int { return strings.Compare(a.Key, b.Key) })
		if len(rows) != want || !sorted {
			t.Errorf("%s: %d rows, sorted %v", name, len(rows), sorted)
		}
	}
}

// TestScripts: the answer of a script, a failing one, and one that is none.
func TestScripts(t *testing.T) {
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: newQuorum(t)}).dial())
	run := func(text string, params ...*pb.GrpcKeyValueParameter) *pb.GrpcTryExecuteTransactionScriptResponse {
		return ask[*pb.GrpcTryExecuteTransactionScriptResponse](t, kv, &pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte(text), Parameters: params})
	}
	if a := run("SET @k @v", &pb.GrpcKeyValueParameter{Key: "@k", Value: ptr("a")}, &pb.GrpcKeyValueParameter{Key: "@v", Value: ptr("1")}); a.Type != 0 {
		t.Errorf("set: %v", a)
	}
	if a := run("LET x = GET a LET y = to_int(x) + 1 SET a y RETURN y"); a.Type != 3 || len(a.Values) != 1 || string(a.Values[0].Value) != "2" {
		t.Errorf("increment: %v", a)
	}
	if a := run("GET a"); a.Type != 3 || string(a.Values[0].Value) != "2" || a.Values[0].Revision != 1 {
		t.Errorf("get: %v", a)
	}
	if a := run("SET"); a.Type != 99 || a.Reason == nil {
		t.Errorf("no script: %v", a)
	}
	if a := run(""); a.Type != 100 {
		t.Errorf("empty: %v", a)
	}
}
