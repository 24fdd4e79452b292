package kahuna_test

import (
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

func manyStories() []story {
	type item = pb.GrpcTrySetManyKeyValueRequestItem
	type answer = pb.GrpcTrySetManyKeyValueResponseItem
	type deletion = pb.GrpcTryDeleteManyKeyValueRequestItem
	type deleted = pb.GrpcTryDeleteManyKeyValueResponseItem
	type key = pb.GrpcTryManyValuesRequestItem
	setMany := func(items ...*item) *pb.GrpcTrySetManyKeyValueRequest {
		return &pb.GrpcTrySetManyKeyValueRequest{Items: items}
	}
	return []story{
		{"many/set", []step{
			{rule: "4.7.3", req: setMany(
				&item{Key: "a", Value: []byte("1"), Flags: 1, Durability: 1},
				&item{Key: "b", Value: []byte("2"), Flags: 4, Durability: 1},
				&item{Key: "c", Value: []byte("3"), Flags: 8},
				&item{Key: "d", ExpiresMs: -1, Durability: 1}),
				want: &pb.GrpcTrySetManyKeyValueResponse{Items: []*answer{
					{Key: "a", Durability: 1}, {Type: 1, Key: "b", Revision: -1, Durability: 1},
					{Key: "c"}, {Type: 100, Key: "d", Durability: 1}}}},
			{rule: "4.7.2", req: setMany(&item{Key: "a", Value: []byte("x"), Durability: 1}, &item{Key: "a", Value: []byte("y"), Durability: 1}),
				want: &pb.GrpcTrySetManyKeyValueResponse{Items: []*answer{
					{Key: "a", Revision: 1, Durability: 1}, {Key: "a", Revision: 2, Durability: 1}}}},
			{rule: "4.7.2", req: get("a"), want: got("y", 2)},
			{rule: "4.1", req: setMany(&item{Key: "e", Durability: 1}, &item{Durability: 1}),
				want: &pb.GrpcTrySetManyKeyValueResponse{Items: []*answer{{Type: 100, Durability: 1}}}},
			{rule: "4.1", req: setMany(&item{Key: "e", Durability: 1}, &item{Key: "__kahuna:x", Durability: 1}),
				want: &pb.GrpcTrySetManyKeyValueResponse{Items: []*answer{
					{Type: 100, Key: "e", Durability: 1}, {Type: 100, Key: "__kahuna:x", Durability: 1}}}},
			{rule: "4.1", req: setMany(&item{Key: "e", Durability: 1}, &item{Key: "f", TransactionIdPhysical: 5, Durability: 1}),
				want: &pb.GrpcTrySetManyKeyValueResponse{Items: []*answer{
					{Type: 100, Key: "e", Durability: 1}, {Type: 100, Key: "f", Durability: 1}}}},
			{rule: "4.1", req: get("e"), want: missing},
		}},
		{"many/delete", []step{
			{rule: "4.7", req: set("a", "1"), want: done(0)},
			{rule: "12", req: &pb.GrpcTryDeleteManyKeyValueRequest{Items: []*deletion{{Durability: 1}, {Key: "a", Durability: 1}, {Key: "b"}}},
				want: &pb.GrpcTryDeleteManyKeyValueResponse{Items: []*deleted{
					{Type: 100, Durability: 1}, {Type: 4, Key: "a", Revision: 1, Durability: 1}, {Type: 103, Key: "b"}}}},
			{rule: "4.1", req: &pb.GrpcTryDeleteManyKeyValueRequest{Items: []*deletion{{Key: "a", TransactionIdPhysical: 9, Durability: 1}}},
				want: &pb.GrpcTryDeleteManyKeyValueResponse{Items: []*deleted{{Type: 100, Key: "a", Durability: 1}}}},
		}},
		{"many/get", []step{
			{rule: "4.7", req: set("a", "1"), want: done(0)},
			{rule: "4.7", req: set("a", "2"), want: done(1)},
			{rule: "4.1", req: &pb.GrpcTryGetManyValuesRequest{}, want: &pb.GrpcTryGetManyValuesResponse{
				Items: []*pb.GrpcTryGetManyValuesResponseItem{{Type: 100, Durability: 1}}}},
			{rule: "4.1", req: &pb.GrpcTryGetManyValuesRequest{Items: []*key{{Key: "a", Durability: 1}, {}}},
				want: &pb.GrpcTryGetManyValuesResponse{Items: []*pb.GrpcTryGetManyValuesResponseItem{{Type: 100}}}},
			{rule: "4.1", req: &pb.GrpcTryGetManyValuesRequest{TransactionIdPhysical: 3, Items: []*key{{Key: "a", Revision: -1, Durability: 1}}},
				want: &pb.GrpcTryGetManyValuesResponse{Items: []*pb.GrpcTryGetManyValuesResponseItem{{Type: 100, Key: "a", Durability: 1}}}},
			{rule: "4.7", req: &pb.GrpcTryGetManyValuesRequest{Items: []*key{{Key: "a", Revision: -1, Durability: 1},
				{Key: "a", Durability: 1}, {Key: "b", Revision: -1, Durability: 1}, {Key: "a", Revision: -1}}},
				want: &pb.GrpcTryGetManyValuesResponse{Items: []*pb.GrpcTryGetManyValuesResponseItem{
					{Type: 3, Key: "a", Value: []byte("2"), Revision: 1, Durability: 1, State: 1},
					{Type: 3, Key: "a", Value: []byte("1"), Durability: 1, State: 1},
					{Type: 103, Key: "b", Durability: 1}, {Type: 103, Key: "a"}}}},
			{rule: "4.7", req: &pb.GrpcTryExistsManyValuesRequest{Items: []*key{{Key: "a", Revision: -1, Durability: 1}, {Key: "b", Revision: -1, Durability: 1}}},
				want: &pb.GrpcTryExistsManyValuesResponse{Items: []*pb.GrpcTryExistsManyValuesResponseItem{
					{Type: 10, Key: "a", Revision: 1, Durability: 1, State: 1}, {Type: 103, Key: "b", Durability: 1}}}},
		}},
	}
}

func row(key, value string) *pb.GrpcKeyValueByPrefixItemResponse {
	return &pb.GrpcKeyValueByPrefixItemResponse{Key: key, Value: []byte(value), State: 1}
}

func scanStories() []story {
	type rows = []*pb.GrpcKeyValueByPrefixItemResponse
	fill := func() []step {
		var s []step
		for _, k := range []string{"a", "a/1", "a/2", "a/2/x", "a/3", "ab/1", "b/1"} {
			s = append(s, step{rule: "5", req: set(k, k), want: done(0)})
		}
		return append(s, step{rule: "5", req: &pb.GrpcTryDeleteKeyValueRequest{Key: "a/3", Durability: 1},
			want: &pb.GrpcTryDeleteKeyValueResponse{Type: 4, Revision: 1}})
	}
	return []story{
		{"scan/bucket", append(fill(),
			step{rule: "5.1, decision 28", req: &pb.GrpcGetByBucketRequest{PrefixKey: "a", Durability: 1},
				want: &pb.GrpcGetByBucketResponse{Type: 3, Items: rows{row("a/1", "a/1"), row("a/2", "a/2")}}},
			step{rule: "5.2", req: &pb.GrpcGetByBucketRequest{PrefixKey: "nothing", Durability: 1}, want: &pb.GrpcGetByBucketResponse{Type: 3}},
			step{rule: "4.1", req: &pb.GrpcGetByBucketRequest{Durability: 1}, want: &pb.GrpcGetByBucketResponse{Type: 99}},
			step{rule: "5.2", req: &pb.GrpcGetByBucketRequest{PrefixKey: "a"}, want: &pb.GrpcGetByBucketResponse{Type: 3}},
		)},
		{"scan/prefix", append(fill(),
			step{rule: "5.2.3", req: &pb.GrpcScanAllByPrefixRequest{PrefixKey: "a", Durability: 1},
				want: &pb.GrpcScanAllByPrefixResponse{Type: 3, Items: rows{row("a", "a"), row("a/1", "a/1"), row("a/2", "a/2"), row("a/2/x", "a/2/x"), row("ab/1", "ab/1")}}},
			step{rule: "5.2.3", req: &pb.GrpcScanAllByPrefixRequest{PrefixKey: "b/1", Durability: 1},
				want: &pb.GrpcScanAllByPrefixResponse{Type: 3, Items: rows{row("b/1", "b/1")}}},
			step{rule: "4.1", req: &pb.GrpcScanAllByPrefixRequest{}, want: &pb.GrpcScanAllByPrefixResponse{Type: 3}},
		)},
		{"scan/range", append(fill(),
			step{rule: "4.1", req: &pb.GrpcGetByRangeRequest{Durability: 1}, want: &pb.GrpcGetByRangeResponse{Type: 100}},
			step{rule: "5.3.4", req: &pb.GrpcGetByRangeRequest{Prefix: "a", Limit: 2, Durability: 1},
				want: &pb.GrpcGetByRangeResponse{Type: 3, Items: rows{row("a", "a"), row("a/1", "a/1")}, HasMore: true}},
			step{rule: "5.3.1", req: &pb.GrpcGetByRangeRequest{Prefix: "a", StartKey: ptr("a/1"), Limit: 2, Durability: 1},
				want: &pb.GrpcGetByRangeResponse{Type: 3, Items: rows{row("a/2", "a/2"), row("a/2/x", "a/2/x")}, HasMore: true}},
			step{rule: "5.3.1", req: &pb.GrpcGetByRangeRequest{Prefix: "a", StartKey: ptr("a/2/x"), StartInclusive: true, Limit: 9, Durability: 1},
				want: &pb.GrpcGetByRangeResponse{Type: 3, Items: rows{row("a/2/x", "a/2/x"), row("ab/1", "ab/1")}}},
			step{rule: "5.3.1", req: &pb.GrpcGetByRangeRequest{Prefix: "a", EndKey: ptr("a/2"), Durability: 1},
				want: &pb.GrpcGetByRangeResponse{Type: 3, Items: rows{row("a", "a"), row("a/1", "a/1")}}},
			step{rule: "5.3.1", req: &pb.GrpcGetByRangeRequest{Prefix: "a", EndKey: ptr("a/2"), EndInclusive: true, Limit: -1, Durability: 1},
				want: &pb.GrpcGetByRangeResponse{Type: 3, Items: rows{row("a", "a"), row("a/1", "a/1"), row("a/2", "a/2")}}},
			step{rule: "5.3.2", req: &pb.GrpcGetByRangeRequest{Prefix: "a/", StartKey: ptr("a"), StartInclusive: true, EndKey: ptr("z"), Durability: 1},
				want: &pb.GrpcGetByRangeResponse{Type: 3, Items: rows{row("a/1", "a/1"), row("a/2", "a/2"), row("a/2/x", "a/2/x")}}},
			step{rule: "5.3.1", req: &pb.GrpcGetByRangeRequest{Prefix: "a", EndKey: ptr(""), Durability: 1}, want: &pb.GrpcGetByRangeResponse{Type: 3}},
		)},
	}
}

func sequenceStories() []story {
	create := func(name string, increment int64, maximum *int64) *pb.GrpcCreateSequenceRequest {
		return &pb.GrpcCreateSequenceRequest{Name: name, Increment: increment, MaxValue: maximum, Durability: 1}
	}
	refusedSeq := func(t pb.GrpcSequenceResponseType) *pb.GrpcSequenceResponse {
		return &pb.GrpcSequenceResponse{Type: t, Revision: -1}
	}
	reserve := func(n int32, key string) *pb.GrpcReserveSequenceRangeRequest {
		r := &pb.GrpcReserveSequenceRangeRequest{Name: "s", Count: n, Durability: 1}
		if key != "" {
			r.IdempotencyKey = &key
		}
		return r
	}
	run := func(start, end int64, n int32, revision int64) *pb.GrpcSequenceAllocationResponse {
		return &pb.GrpcSequenceAllocationResponse{Allocation: &pb.GrpcSequenceAllocation{Name: "s", Start: start, End: end, Count: n, Revision: revision}}
	}
	return []story{{"sequences", []step{
		{rule: "3.1", req: &pb.GrpcCreateSequenceRequest{Name: "s", Increment: 1}, want: refusedSeq(3)},
		{rule: "3.2", req: create(" ", 1, nil), want: refusedSeq(3)},
		{rule: "3.2", req: create("__kahuna:sequences:x", 1, nil), want: refusedSeq(3)},
		{rule: "3.3", req: create("s", 0, nil), want: refusedSeq(3)},
		{rule: "3.3", req: create("s", 1, ptr(int64(-1))), want: refusedSeq(3)},
		{rule: "3.9", req: &pb.GrpcGetSequenceRequest{Name: "s", Durability: 1}, want: refusedSeq(1)},
		{rule: "3.4", req: reserve(1, ""), want: &pb.GrpcSequenceAllocationResponse{Type: 1}},
		{rule: "3.2", req: create(" s ", 2, ptr(int64(10))), want: &pb.GrpcSequenceResponse{}},
		{rule: "3.3", req: create("s", 5, nil), want: refusedSeq(2)},
		{rule: "3.9", req: &pb.GrpcGetSequenceRequest{Name: "s", Durability: 1}, want: &pb.GrpcSequenceResponse{
			Sequence: &pb.GrpcSequenceEntry{Name: "s", Increment: 2, MaxValue: ptr(int64(10)), Durability: 1}}},
		{rule: "3.4", req: &pb.GrpcNextSequenceRequest{Name: "s", Durability: 1}, want: run(2, 2, 1, 0)},
		{rule: "3.4", req: reserve(0, ""), want: &pb.GrpcSequenceAllocationResponse{Type: 3}},
		{rule: "3.7", req: reserve(2, "k"), want: run(4, 6, 2, 1)},
		{rule: "3.7", req: reserve(2, " k "), want: run(4, 6, 2, 1)},
		{rule: "3.7", req: reserve(3, "k"), want: &pb.GrpcSequenceAllocationResponse{Type: 3}},
		{rule: "3.5", req: reserve(3, ""), want: &pb.GrpcSequenceAllocationResponse{Type: 4}},
		{rule: "3.5", req: reserve(2, ""), want: run(8, 10, 2, 2)},
		{rule: "3.5", req: reserve(1, ""), want: &pb.GrpcSequenceAllocationResponse{Type: 4}},
		{rule: "decision 27", req: &pb.GrpcUpdateSequenceRequest{Name: "s", RemoveMaxValue: true, BlockSize: ptr(int32(7)), Durability: 1}, want: &pb.GrpcSequenceResponse{
			Revision: 4, Sequence: &pb.GrpcSequenceEntry{Name: "s", CurrentValue: 10, Increment: 2, Revision: 4, Durability: 1, BlockSize: ptr(int32(7)), Incarnation: 1}}},
		{rule: "3.5", req: reserve(1, ""), want: run(12, 12, 1, 4)},
		{rule: "3.9", req: &pb.GrpcDeleteSequenceRequest{Name: "s", Durability: 1}, want: &pb.GrpcSequenceResponse{}},
		{rule: "3.9", req: &pb.GrpcDeleteSequenceRequest{Name: "s", Durability: 1}, want: refusedSeq(1)},
		{rule: "3.9", req: create("s", 1, nil), want: &pb.GrpcSequenceResponse{}},
		{rule: "3.9", req: reserve(2, "k"), want: run(1, 2, 2, 0)},
	}}}
}

func keySpaceStories() []story {
	return []story{{"key spaces", []step{
		{rule: "7.1", req: &pb.GrpcRegisterKeyRangeRequest{}, want: &pb.GrpcRegisterKeyRangeResponse{Status: "InvalidInput", RoutingMode: "Hash", Reason: "a key space has a name, which does not end in /meta"}},
		{rule: "7.1", req: &pb.GrpcRegisterKeyRangeRequest{KeySpace: "x/meta"}, want: &pb.GrpcRegisterKeyRangeResponse{Status: "InvalidInput", RoutingMode: "Hash", Reason: "a key space has a name, which does not end in /meta"}},
		{rule: "7.1", req: &pb.GrpcRegisterKeyRangeRequest{KeySpace: "orders"}, want: &pb.GrpcRegisterKeyRangeResponse{Success: true, Status: "Seeded", Seeded: true, RoutingMode: "KeyRange", DescriptorCount: 1}},
		{rule: "7.1", req: &pb.GrpcRegisterKeyRangeRequest{KeySpace: "orders"}, want: &pb.GrpcRegisterKeyRangeResponse{Success: true, Status: "AlreadySeeded", RoutingMode: "KeyRange", DescriptorCount: 1}},
		{rule: "4.7", req: &pb.GrpcGetRangesRequest{}, want: &pb.GrpcGetRangesResponse{Initialized: true, LocalEndpoint: "10.0.0.1:7400",
			KeySpaces: []*pb.GrpcKeySpaceRanges{{KeySpace: "orders", RoutingMode: "KeyRange", Descriptors: []*pb.GrpcRangeDescriptor{{PartitionId: 1, Generation: 1}}}}}},
		{rule: "4.7", req: &pb.GrpcGetRangesRequest{KeySpace: "no"}, want: &pb.GrpcGetRangesResponse{Initialized: true, LocalEndpoint: "10.0.0.1:7400",
			KeySpaces: []*pb.GrpcKeySpaceRanges{{KeySpace: "no", RoutingMode: "Hash"}}}},
		{rule: "4.9", req: &pb.GrpcSplitRangeRequest{KeySpace: "no", SplitKey: "m"}, want: &pb.GrpcSplitRangeResponse{Status: "NoRange", Determinate: true, Reason: "the key space is not registered"}},
		{rule: "4.9", req: &pb.GrpcSplitRangeRequest{KeySpace: "orders", SplitKey: "m"}, want: &pb.GrpcSplitRangeResponse{Status: "PartitionCreationFailed", Determinate: true,
			Reason: "there is one partition, and it needs no splitting: all data is on every voter"}},
		{rule: "4.9", req: &pb.GrpcMergeRangesRequest{}, want: &pb.GrpcMergeRangesResponse{Success: true, Status: "Completed", Determinate: true}},
		{rule: "7.1", req: &pb.GrpcRemoveKeyRangeRequest{KeySpace: "orders"}, want: &pb.GrpcRemoveKeyRangeResponse{Success: true, Status: "Removed", RoutingMode: "Hash"}},
		{rule: "7.1", req: &pb.GrpcRemoveKeyRangeRequest{KeySpace: "orders"}, want: &pb.GrpcRemoveKeyRangeResponse{Success: true, Status: "Removed", RoutingMode: "Hash"}},
		{rule: "4.5", req: &pb.GrpcSetReplicationFactorRequest{ReplicationFactor: 3}, want: &pb.GrpcSetReplicationFactorResponse{Status: "InvalidInput", Reason: "a partition id is above 0, and a factor is not below"}},
		{rule: "4.5", req: &pb.GrpcSetReplicationFactorRequest{PartitionId: 1, ReplicationFactor: 3}, want: &pb.GrpcSetReplicationFactorResponse{Status: "Refused", Reason: "every voter has everything: add or remove voters instead"}},
		{rule: "4.5", req: &pb.GrpcSetReplicationFactorRequest{PartitionId: 1}, want: &pb.GrpcSetReplicationFactorResponse{Success: true, Status: "Success", Generation: 1}},
	}}}
}

func holdStories() []story {
	acquire := func(holder string, ms int64, counter uint32, lease int32) *pb.GrpcAcquireSnapshotHoldRequest {
		return &pb.GrpcAcquireSnapshotHoldRequest{HolderId: holder, TimestampNode: 42, TimestampPhysical: ms, TimestampCounter: counter, LeaseMs: lease}
	}
	return []story{{"snapshot holds", []step{
		{rule: "6.3", req: acquire("", 5, 7, 1000), want: &pb.GrpcAcquireSnapshotHoldResponse{Type: 99}},
		{rule: "6.3", req: acquire("h", 5, 7, 0), want: &pb.GrpcAcquireSnapshotHoldResponse{Type: 100}},
		{rule: "6.3", req: &pb.GrpcGetSnapshotFloorRequest{}, want: &pb.GrpcGetSnapshotFloorResponse{Type: 3}},
		{rule: "6.3", req: acquire("h", startMS, 7, 1000), want: &pb.GrpcAcquireSnapshotHoldResponse{LeaseExpiryPhysical: startMS + 1000}},
		{rule: "12", req: &pb.GrpcGetSnapshotFloorRequest{}, want: &pb.GrpcGetSnapshotFloorResponse{Type: 3, EffectiveFloorNode: 42,
			EffectiveFloorPhysical: startMS, EffectiveFloorCounter: 7, LiveHolds: 1}},
		{rule: "6.3", req: &pb.GrpcRenewSnapshotHoldRequest{HoldId: "00000000000000000000000000000000", LeaseMs: 9}, want: &pb.GrpcRenewSnapshotHoldResponse{Type: 103}},
		{rule: "6.3", req: &pb.GrpcRenewSnapshotHoldRequest{LeaseMs: 9}, want: &pb.GrpcRenewSnapshotHoldResponse{Type: 99}},
		{rule: "6.3", req: &pb.GrpcRenewSnapshotHoldRequest{HoldId: "x"}, want: &pb.GrpcRenewSnapshotHoldResponse{Type: 100}},
		{rule: "6.3", req: &pb.GrpcReleaseSnapshotHoldRequest{}, want: &pb.GrpcReleaseSnapshotHoldResponse{Type: 99}},
		{rule: "6.3", req: &pb.GrpcReleaseSnapshotHoldRequest{HoldId: "00000000000000000000000000000000"}, want: &pb.GrpcReleaseSnapshotHoldResponse{Type: 103}},
		{wait: time.Second},
		{rule: "6.4", req: &pb.GrpcGetSnapshotFloorRequest{}, want: &pb.GrpcGetSnapshotFloorResponse{Type: 3}},
	}}}
}

// transactionStories are those that need no id of a transaction; the others are in
// transactions_test.go.
func transactionStories() []story {
	start := func(change func(*pb.GrpcStartTransactionRequest)) *pb.GrpcStartTransactionRequest {
		r := &pb.GrpcStartTransactionRequest{CoordinatorKey: "c", Timeout: 1000}
		change(r)
		return r
	}
	bad := &pb.GrpcStartTransactionResponse{Type: 100}
	return []story{{"transactions/bad", []step{
		{rule: "T1", req: start(func(r *pb.GrpcStartTransactionRequest) { r.CoordinatorKey = "" }), want: bad},
		{rule: "T3", req: start(func(r *pb.GrpcStartTransactionRequest) { r.LockingType = 7 }), want: bad},
		{rule: "T3", req: start(func(r *pb.GrpcStartTransactionRequest) { r.ReadValidation = 7 }), want: bad},
		{rule: "T3", req: start(func(r *pb.GrpcStartTransactionRequest) { r.DecisionDurability = 7 }), want: bad},
		{rule: "T4", req: start(func(r *pb.GrpcStartTransactionRequest) { r.ReadValidation, r.ReadTimestampPhysical = 1, startMS }), want: bad},
		{rule: "T3", req: start(func(r *pb.GrpcStartTransactionRequest) { r.Priority = 77 }), want: &pb.GrpcStartTransactionResponse{}},
		{rule: "T1", req: &pb.GrpcCommitTransactionRequest{TransactionIdPhysical: 1}, want: &pb.GrpcCommitTransactionResponse{Type: 100}},
		{rule: "T14", req: &pb.GrpcCommitTransactionRequest{CoordinatorKey: "c", TransactionIdPhysical: 1}, want: &pb.GrpcCommitTransactionResponse{Type: 99}},
		{rule: "T23", req: &pb.GrpcRollbackTransactionRequest{CoordinatorKey: "c", TransactionIdPhysical: 1}, want: &pb.GrpcRollbackTransactionResponse{Type: 99}},
		{rule: "decision 37", req: &pb.GrpcRollbackTransactionRequest{CoordinatorKey: "c", TransactionIdPhysical: startMS - 1000}, want: &pb.GrpcRollbackTransactionResponse{Type: 9}},
		{rule: "decision 37", req: &pb.GrpcCommitTransactionRequest{CoordinatorKey: "c", TransactionIdPhysical: startMS - 1000}, want: &pb.GrpcCommitTransactionResponse{Type: 102}},
		{rule: "decision 37", req: &pb.GrpcTrySetKeyValueRequest{Key: "k", TransactionIdPhysical: startMS, Durability: 1}, want: refused(100, 0)},
		{rule: "T10", req: &pb.GrpcTrySetKeyValueRequest{Key: "k", TransactionIdPhysical: startMS - 1, CoordinatorKey: "c", OperationIdLow: 1, Durability: 1}, want: refused(102, 0)},
		{rule: "I4", req: &pb.GrpcTryAcquireExclusiveLockRequest{Key: "k", CoordinatorKey: "c", OperationIdLow: 1}, want: &pb.GrpcTryAcquireExclusiveLockResponse{Type: 99}},
		{rule: "I4", req: &pb.GrpcTryAcquireExclusiveLockRequest{TransactionIdPhysical: 1, CoordinatorKey: "c", OperationIdLow: 1}, want: &pb.GrpcTryAcquireExclusiveLockResponse{Type: 100}},
		{rule: "I4", req: &pb.GrpcTryAcquireExclusiveLockRequest{TransactionIdPhysical: 1, Key: "k", ExpiresMs: -1, CoordinatorKey: "c", OperationIdLow: 1}, want: &pb.GrpcTryAcquireExclusiveLockResponse{Type: 99}},
		{rule: "1.2", req: &pb.GrpcTryAcquireExclusiveRangeLockRequest{TransactionIdPhysical: 1, Prefix: "k", Mode: 9, CoordinatorKey: "c", OperationIdLow: 1}, want: &pb.GrpcTryAcquireExclusiveRangeLockResponse{Type: 100}},
		{rule: "T10", req: &pb.GrpcTryAcquireExclusivePrefixLockRequest{TransactionIdPhysical: 1, PrefixKey: "k", CoordinatorKey: "c", OperationIdLow: 1}, want: &pb.GrpcTryAcquireExclusivePrefixLockResponse{Type: 102}},
	}}}
}
