package rest_test

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

// scripted is a Service that answers what it was told to, and keeps what it was
// asked.
type scripted struct {
	mu sync.Mutex
	// answer fills res, or returns the rpc's error. Nil: every answer is empty.
	answer func(ctx context.Context, method string, req, res proto.Message) error
	health kahuna.Health
}

func (s *scripted) Health() kahuna.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

var _ rest.Service = (*scripted)(nil)

func (s *scripted) set(answer func(context.Context, string, proto.Message, proto.Message) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func call[Res proto.Message](ctx context.Context, s *scripted, method string, req proto.Message, res Res) (Res, error) {
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	if answer == nil {
		return res, nil
	}
	if err := answer(ctx, method, req, res); err != nil {
		var none Res
		return none, fmt.Errorf("%w", err)
	}
	return res, nil
}

func (s *scripted) TryLock(ctx context.Context, req *pb.GrpcTryLockRequest) (*pb.GrpcTryLockResponse, error) {
	return call(ctx, s, "TryLock", req, &pb.GrpcTryLockResponse{})
}

func (s *scripted) TryExtendLock(ctx context.Context, req *pb.GrpcExtendLockRequest) (*pb.GrpcExtendLockResponse, error) {
	return call(ctx, s, "TryExtendLock", req, &pb.GrpcExtendLockResponse{})
}

func (s *scripted) Unlock(ctx context.Context, req *pb.GrpcUnlockRequest) (*pb.GrpcUnlockResponse, error) {
	return call(ctx, s, "Unlock", req, &pb.GrpcUnlockResponse{})
}

func (s *scripted) GetLock(ctx context.Context, req *pb.GrpcGetLockRequest) (*pb.GrpcGetLockResponse, error) {
	return call(ctx, s, "GetLock", req, &pb.GrpcGetLockResponse{})
}

func (s *scripted) CreateSequence(ctx context.Context, req *pb.GrpcCreateSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return call(ctx, s, "CreateSequence", req, &pb.GrpcSequenceResponse{})
}

func (s *scripted) UpdateSequence(ctx context.Context, req *pb.GrpcUpdateSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return call(ctx, s, "UpdateSequence", req, &pb.GrpcSequenceResponse{})
}

func (s *scripted) GetSequence(ctx context.Context, req *pb.GrpcGetSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return call(ctx, s, "GetSequence", req, &pb.GrpcSequenceResponse{})
}

func (s *scripted) NextSequenceValue(ctx context.Context, req *pb.GrpcNextSequenceRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	return call(ctx, s, "NextSequenceValue", req, &pb.GrpcSequenceAllocationResponse{})
}

func (s *scripted) ReserveSequenceRange(ctx context.Context, req *pb.GrpcReserveSequenceRangeRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	return call(ctx, s, "ReserveSequenceRange", req, &pb.GrpcSequenceAllocationResponse{})
}

func (s *scripted) DeleteSequence(ctx context.Context, req *pb.GrpcDeleteSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return call(ctx, s, "DeleteSequence", req, &pb.GrpcSequenceResponse{})
}

func (s *scripted) TrySetKeyValue(ctx context.Context, req *pb.GrpcTrySetKeyValueRequest) (*pb.GrpcTrySetKeyValueResponse, error) {
	return call(ctx, s, "TrySetKeyValue", req, &pb.GrpcTrySetKeyValueResponse{})
}

func (s *scripted) TrySetManyKeyValue(ctx context.Context, req *pb.GrpcTrySetManyKeyValueRequest) (*pb.GrpcTrySetManyKeyValueResponse, error) {
	return call(ctx, s, "TrySetManyKeyValue", req, &pb.GrpcTrySetManyKeyValueResponse{})
}

func (s *scripted) TryExtendKeyValue(ctx context.Context, req *pb.GrpcTryExtendKeyValueRequest) (*pb.GrpcTryExtendKeyValueResponse, error) {
	return call(ctx, s, "TryExtendKeyValue", req, &pb.GrpcTryExtendKeyValueResponse{})
}

func (s *scripted) TryDeleteKeyValue(ctx context.Context, req *pb.GrpcTryDeleteKeyValueRequest) (*pb.GrpcTryDeleteKeyValueResponse, error) {
	return call(ctx, s, "TryDeleteKeyValue", req, &pb.GrpcTryDeleteKeyValueResponse{})
}

func (s *scripted) TryDeleteManyKeyValue(ctx context.Context, req *pb.GrpcTryDeleteManyKeyValueRequest) (*pb.GrpcTryDeleteManyKeyValueResponse, error) {
	return call(ctx, s, "TryDeleteManyKeyValue", req, &pb.GrpcTryDeleteManyKeyValueResponse{})
}

func (s *scripted) TryGetKeyValue(ctx context.Context, req *pb.GrpcTryGetKeyValueRequest) (*pb.GrpcTryGetKeyValueResponse, error) {
	return call(ctx, s, "TryGetKeyValue", req, &pb.GrpcTryGetKeyValueResponse{})
}

func (s *scripted) TryExistsKeyValue(ctx context.Context, req *pb.GrpcTryExistsKeyValueRequest) (*pb.GrpcTryExistsKeyValueResponse, error) {
	return call(ctx, s, "TryExistsKeyValue", req, &pb.GrpcTryExistsKeyValueResponse{})
}

func (s *scripted) TryGetManyValues(ctx context.Context, req *pb.GrpcTryGetManyValuesRequest) (*pb.GrpcTryGetManyValuesResponse, error) {
	return call(ctx, s, "TryGetManyValues", req, &pb.GrpcTryGetManyValuesResponse{})
}

func (s *scripted) TryExistsManyValues(ctx context.Context, req *pb.GrpcTryExistsManyValuesRequest) (*pb.GrpcTryExistsManyValuesResponse, error) {
	return call(ctx, s, "TryExistsManyValues", req, &pb.GrpcTryExistsManyValuesResponse{})
}

func (s *scripted) GetByRange(ctx context.Context, req *pb.GrpcGetByRangeRequest) (*pb.GrpcGetByRangeResponse, error) {
	return call(ctx, s, "GetByRange", req, &pb.GrpcGetByRangeResponse{})
}

func (s *scripted) GetByBucket(ctx context.Context, req *pb.GrpcGetByBucketRequest) (*pb.GrpcGetByBucketResponse, error) {
	return call(ctx, s, "GetByBucket", req, &pb.GrpcGetByBucketResponse{})
}

func (s *scripted) ScanAllByPrefix(ctx context.Context, req *pb.GrpcScanAllByPrefixRequest) (*pb.GrpcScanAllByPrefixResponse, error) {
	return call(ctx, s, "ScanAllByPrefix", req, &pb.GrpcScanAllByPrefixResponse{})
}

func (s *scripted) TryExecuteTransactionScript(ctx context.Context, req *pb.GrpcTryExecuteTransactionScriptRequest) (*pb.GrpcTryExecuteTransactionScriptResponse, error) {
	return call(ctx, s, "TryExecuteTransactionScript", req, &pb.GrpcTryExecuteTransactionScriptResponse{})
}

func (s *scripted) StartTransaction(ctx context.Context, req *pb.GrpcStartTransactionRequest) (*pb.GrpcStartTransactionResponse, error) {
	return call(ctx, s, "StartTransaction", req, &pb.GrpcStartTransactionResponse{})
}

func (s *scripted) CommitTransaction(ctx context.Context, req *pb.GrpcCommitTransactionRequest) (*pb.GrpcCommitTransactionResponse, error) {
	return call(ctx, s, "CommitTransaction", req, &pb.GrpcCommitTransactionResponse{})
}

func (s *scripted) RollbackTransaction(ctx context.Context, req *pb.GrpcRollbackTransactionRequest) (*pb.GrpcRollbackTransactionResponse, error) {
	return call(ctx, s, "RollbackTransaction", req, &pb.GrpcRollbackTransactionResponse{})
}

func (s *scripted) TryAcquireExclusiveLock(ctx context.Context, req *pb.GrpcTryAcquireExclusiveLockRequest) (*pb.GrpcTryAcquireExclusiveLockResponse, error) {
	return call(ctx, s, "TryAcquireExclusiveLock", req, &pb.GrpcTryAcquireExclusiveLockResponse{})
}

func (s *scripted) TryAcquireExclusivePrefixLock(ctx context.Context, req *pb.GrpcTryAcquireExclusivePrefixLockRequest) (*pb.GrpcTryAcquireExclusivePrefixLockResponse, error) {
	return call(ctx, s, "TryAcquireExclusivePrefixLock", req, &pb.GrpcTryAcquireExclusivePrefixLockResponse{})
}

func (s *scripted) TryReleaseExclusivePrefixLock(ctx context.Context, req *pb.GrpcTryReleaseExclusivePrefixLockRequest) (*pb.GrpcTryReleaseExclusivePrefixLockResponse, error) {
	return call(ctx, s, "TryReleaseExclusivePrefixLock", req, &pb.GrpcTryReleaseExclusivePrefixLockResponse{})
}

func (s *scripted) TryAcquireExclusiveRangeLock(ctx context.Context, req *pb.GrpcTryAcquireExclusiveRangeLockRequest) (*pb.GrpcTryAcquireExclusiveRangeLockResponse, error) {
	return call(ctx, s, "TryAcquireExclusiveRangeLock", req, &pb.GrpcTryAcquireExclusiveRangeLockResponse{})
}

func (s *scripted) TryReleaseExclusiveRangeLock(ctx context.Context, req *pb.GrpcTryReleaseExclusiveRangeLockRequest) (*pb.GrpcTryReleaseExclusiveRangeLockResponse, error) {
	return call(ctx, s, "TryReleaseExclusiveRangeLock", req, &pb.GrpcTryReleaseExclusiveRangeLockResponse{})
}

func (s *scripted) AcquireSnapshotHold(ctx context.Context, req *pb.GrpcAcquireSnapshotHoldRequest) (*pb.GrpcAcquireSnapshotHoldResponse, error) {
	return call(ctx, s, "AcquireSnapshotHold", req, &pb.GrpcAcquireSnapshotHoldResponse{})
}

func (s *scripted) RenewSnapshotHold(ctx context.Context, req *pb.GrpcRenewSnapshotHoldRequest) (*pb.GrpcRenewSnapshotHoldResponse, error) {
	return call(ctx, s, "RenewSnapshotHold", req, &pb.GrpcRenewSnapshotHoldResponse{})
}

func (s *scripted) ReleaseSnapshotHold(ctx context.Context, req *pb.GrpcReleaseSnapshotHoldRequest) (*pb.GrpcReleaseSnapshotHoldResponse, error) {
	return call(ctx, s, "ReleaseSnapshotHold", req, &pb.GrpcReleaseSnapshotHoldResponse{})
}

func (s *scripted) GetSnapshotFloor(ctx context.Context, req *pb.GrpcGetSnapshotFloorRequest) (*pb.GrpcGetSnapshotFloorResponse, error) {
	return call(ctx, s, "GetSnapshotFloor", req, &pb.GrpcGetSnapshotFloorResponse{})
}

func (s *scripted) GetMembership(ctx context.Context, req *pb.GrpcGetMembershipRequest) (*pb.GrpcGetMembershipResponse, error) {
	return call(ctx, s, "GetMembership", req, &pb.GrpcGetMembershipResponse{})
}

func (s *scripted) GetPlacement(ctx context.Context, req *pb.GrpcGetPlacementRequest) (*pb.GrpcGetPlacementResponse, error) {
	return call(ctx, s, "GetPlacement", req, &pb.GrpcGetPlacementResponse{})
}

func (s *scripted) GetRoutingMetadata(ctx context.Context, req *pb.GrpcGetRoutingMetadataRequest) (*pb.GrpcGetRoutingMetadataResponse, error) {
	return call(ctx, s, "GetRoutingMetadata", req, &pb.GrpcGetRoutingMetadataResponse{})
}

func (s *scripted) SetReplicationFactor(ctx context.Context, req *pb.GrpcSetReplicationFactorRequest) (*pb.GrpcSetReplicationFactorResponse, error) {
	return call(ctx, s, "SetReplicationFactor", req, &pb.GrpcSetReplicationFactorResponse{})
}

func (s *scripted) Leave(ctx context.Context, req *pb.GrpcClusterLeaveRequest) (*pb.GrpcClusterLeaveResponse, error) {
	return call(ctx, s, "Leave", req, &pb.GrpcClusterLeaveResponse{})
}

func (s *scripted) GetRanges(ctx context.Context, req *pb.GrpcGetRangesRequest) (*pb.GrpcGetRangesResponse, error) {
	return call(ctx, s, "GetRanges", req, &pb.GrpcGetRangesResponse{})
}

func (s *scripted) RegisterKeyRange(ctx context.Context, req *pb.GrpcRegisterKeyRangeRequest) (*pb.GrpcRegisterKeyRangeResponse, error) {
	return call(ctx, s, "RegisterKeyRange", req, &pb.GrpcRegisterKeyRangeResponse{})
}

func (s *scripted) RemoveKeyRange(ctx context.Context, req *pb.GrpcRemoveKeyRangeRequest) (*pb.GrpcRemoveKeyRangeResponse, error) {
	return call(ctx, s, "RemoveKeyRange", req, &pb.GrpcRemoveKeyRangeResponse{})
}

func (s *scripted) SplitRange(ctx context.Context, req *pb.GrpcSplitRangeRequest) (*pb.GrpcSplitRangeResponse, error) {
	return call(ctx, s, "SplitRange", req, &pb.GrpcSplitRangeResponse{})
}

func (s *scripted) MergeRanges(ctx context.Context, req *pb.GrpcMergeRangesRequest) (*pb.GrpcMergeRangesResponse, error) {
	return call(ctx, s, "MergeRanges", req, &pb.GrpcMergeRangesResponse{})
}

func (s *scripted) TakeFullBackup(ctx context.Context, req *pb.GrpcTakeFullBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return call(ctx, s, "TakeFullBackup", req, &pb.GrpcBackupInfoResponse{})
}

func (s *scripted) TakeIncrementalBackup(ctx context.Context, req *pb.GrpcTakeIncrementalBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return call(ctx, s, "TakeIncrementalBackup", req, &pb.GrpcBackupInfoResponse{})
}

func (s *scripted) TakeCoordinatedBackup(ctx context.Context, req *pb.GrpcTakeCoordinatedBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return call(ctx, s, "TakeCoordinatedBackup", req, &pb.GrpcBackupInfoResponse{})
}

func (s *scripted) ListBackups(ctx context.Context, req *pb.GrpcListBackupsRequest) (*pb.GrpcListBackupsResponse, error) {
	return call(ctx, s, "ListBackups", req, &pb.GrpcListBackupsResponse{})
}

func (s *scripted) GetBackupChain(ctx context.Context, req *pb.GrpcGetBackupChainRequest) (*pb.GrpcListBackupsResponse, error) {
	return call(ctx, s, "GetBackupChain", req, &pb.GrpcListBackupsResponse{})
}

func (s *scripted) ValidateChain(ctx context.Context, req *pb.GrpcValidateChainRequest) (*pb.GrpcListBackupsResponse, error) {
	return call(ctx, s, "ValidateChain", req, &pb.GrpcListBackupsResponse{})
}

func (s *scripted) RunBackupGarbageCollection(ctx context.Context, req *pb.GrpcBackupGcRequest) (*pb.GrpcBackupGcResponse, error) {
	return call(ctx, s, "RunBackupGarbageCollection", req, &pb.GrpcBackupGcResponse{})
}

func (s *scripted) Restore(ctx context.Context, req *pb.GrpcRestoreRequest) (*pb.GrpcRestoreResponse, error) {
	return call(ctx, s, "Restore", req, &pb.GrpcRestoreResponse{})
}
