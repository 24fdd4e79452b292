package rest

import (
	"context"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

var _ Service = (*kahuna.Service)(nil)

// Service is what the routes call: the rpcs of Kahuna, one method each, without
// the streams. A method may be called concurrently, judges the caller that the
// context carries, answers every decision in its message, and returns a gRPC status
// as error where Kahuna's rpc would; codes.Unavailable says that nothing was
// decided.
type Service interface {
	locker
	sequencer
	keyValuer
	transactor
	holder
	clusterer
	ranger
	backuper
}

type locker interface {
	TryLock(context.Context, *pb.GrpcTryLockRequest) (*pb.GrpcTryLockResponse, error)
	TryExtendLock(context.Context, *pb.GrpcExtendLockRequest) (*pb.GrpcExtendLockResponse, error)
	Unlock(context.Context, *pb.GrpcUnlockRequest) (*pb.GrpcUnlockResponse, error)
	GetLock(context.Context, *pb.GrpcGetLockRequest) (*pb.GrpcGetLockResponse, error)
}

type sequencer interface {
	CreateSequence(context.Context, *pb.GrpcCreateSequenceRequest) (*pb.GrpcSequenceResponse, error)
	UpdateSequence(context.Context, *pb.GrpcUpdateSequenceRequest) (*pb.GrpcSequenceResponse, error)
	GetSequence(context.Context, *pb.GrpcGetSequenceRequest) (*pb.GrpcSequenceResponse, error)
	NextSequenceValue(context.Context, *pb.GrpcNextSequenceRequest) (*pb.GrpcSequenceAllocationResponse, error)
	ReserveSequenceRange(context.Context, *pb.GrpcReserveSequenceRangeRequest) (*pb.GrpcSequenceAllocationResponse, error)
	DeleteSequence(context.Context, *pb.GrpcDeleteSequenceRequest) (*pb.GrpcSequenceResponse, error)
}

type keyValuer interface {
	TrySetKeyValue(context.Context, *pb.GrpcTrySetKeyValueRequest) (*pb.GrpcTrySetKeyValueResponse, error)
	TrySetManyKeyValue(context.Context, *pb.GrpcTrySetManyKeyValueRequest) (*pb.GrpcTrySetManyKeyValueResponse, error)
	TryExtendKeyValue(context.Context, *pb.GrpcTryExtendKeyValueRequest) (*pb.GrpcTryExtendKeyValueResponse, error)
	TryDeleteKeyValue(context.Context, *pb.GrpcTryDeleteKeyValueRequest) (*pb.GrpcTryDeleteKeyValueResponse, error)
	TryDeleteManyKeyValue(context.Context, *pb.GrpcTryDeleteManyKeyValueRequest) (*pb.GrpcTryDeleteManyKeyValueResponse, error)
	TryGetKeyValue(context.Context, *pb.GrpcTryGetKeyValueRequest) (*pb.GrpcTryGetKeyValueResponse, error)
	TryExistsKeyValue(context.Context, *pb.GrpcTryExistsKeyValueRequest) (*pb.GrpcTryExistsKeyValueResponse, error)
	TryGetManyValues(context.Context, *pb.GrpcTryGetManyValuesRequest) (*pb.GrpcTryGetManyValuesResponse, error)
	TryExistsManyValues(context.Context, *pb.GrpcTryExistsManyValuesRequest) (*pb.GrpcTryExistsManyValuesResponse, error)
	GetByRange(context.Context, *pb.GrpcGetByRangeRequest) (*pb.GrpcGetByRangeResponse, error)
	GetByBucket(context.Context, *pb.GrpcGetByBucketRequest) (*pb.GrpcGetByBucketResponse, error)
	ScanAllByPrefix(context.Context, *pb.GrpcScanAllByPrefixRequest) (*pb.GrpcScanAllByPrefixResponse, error)
}

type transactor interface {
	TryExecuteTransactionScript(context.Context, *pb.GrpcTryExecuteTransactionScriptRequest) (*pb.GrpcTryExecuteTransactionScriptResponse, error)
	StartTransaction(context.Context, *pb.GrpcStartTransactionRequest) (*pb.GrpcStartTransactionResponse, error)
	CommitTransaction(context.Context, *pb.GrpcCommitTransactionRequest) (*pb.GrpcCommitTransactionResponse, error)
	RollbackTransaction(context.Context, *pb.GrpcRollbackTransactionRequest) (*pb.GrpcRollbackTransactionResponse, error)
	TryAcquireExclusiveLock(context.Context, *pb.GrpcTryAcquireExclusiveLockRequest) (*pb.GrpcTryAcquireExclusiveLockResponse, error)
	TryAcquireExclusivePrefixLock(context.Context, *pb.GrpcTryAcquireExclusivePrefixLockRequest) (*pb.GrpcTryAcquireExclusivePrefixLockResponse, error)
	TryReleaseExclusivePrefixLock(context.Context, *pb.GrpcTryReleaseExclusivePrefixLockRequest) (*pb.GrpcTryReleaseExclusivePrefixLockResponse, error)
	TryAcquireExclusiveRangeLock(context.Context, *pb.GrpcTryAcquireExclusiveRangeLockRequest) (*pb.GrpcTryAcquireExclusiveRangeLockResponse, error)
	TryReleaseExclusiveRangeLock(context.Context, *pb.GrpcTryReleaseExclusiveRangeLockRequest) (*pb.GrpcTryReleaseExclusiveRangeLockResponse, error)
}

type holder interface {
	AcquireSnapshotHold(context.Context, *pb.GrpcAcquireSnapshotHoldRequest) (*pb.GrpcAcquireSnapshotHoldResponse, error)
	RenewSnapshotHold(context.Context, *pb.GrpcRenewSnapshotHoldRequest) (*pb.GrpcRenewSnapshotHoldResponse, error)
	ReleaseSnapshotHold(context.Context, *pb.GrpcReleaseSnapshotHoldRequest) (*pb.GrpcReleaseSnapshotHoldResponse, error)
	GetSnapshotFloor(context.Context, *pb.GrpcGetSnapshotFloorRequest) (*pb.GrpcGetSnapshotFloorResponse, error)
}

type clusterer interface {
	// Health answers at once and anybody: see kahuna.Health.
	Health() kahuna.Health
	GetMembership(context.Context, *pb.GrpcGetMembershipRequest) (*pb.GrpcGetMembershipResponse, error)
	GetPlacement(context.Context, *pb.GrpcGetPlacementRequest) (*pb.GrpcGetPlacementResponse, error)
	GetRoutingMetadata(context.Context, *pb.GrpcGetRoutingMetadataRequest) (*pb.GrpcGetRoutingMetadataResponse, error)
	SetReplicationFactor(context.Context, *pb.GrpcSetReplicationFactorRequest) (*pb.GrpcSetReplicationFactorResponse, error)
	Leave(context.Context, *pb.GrpcClusterLeaveRequest) (*pb.GrpcClusterLeaveResponse, error)
}

type ranger interface {
	GetRanges(context.Context, *pb.GrpcGetRangesRequest) (*pb.GrpcGetRangesResponse, error)
	RegisterKeyRange(context.Context, *pb.GrpcRegisterKeyRangeRequest) (*pb.GrpcRegisterKeyRangeResponse, error)
	RemoveKeyRange(context.Context, *pb.GrpcRemoveKeyRangeRequest) (*pb.GrpcRemoveKeyRangeResponse, error)
	SplitRange(context.Context, *pb.GrpcSplitRangeRequest) (*pb.GrpcSplitRangeResponse, error)
	MergeRanges(context.Context, *pb.GrpcMergeRangesRequest) (*pb.GrpcMergeRangesResponse, error)
}

type backuper interface {
	TakeFullBackup(context.Context, *pb.GrpcTakeFullBackupRequest) (*pb.GrpcBackupInfoResponse, error)
	TakeIncrementalBackup(context.Context, *pb.GrpcTakeIncrementalBackupRequest) (*pb.GrpcBackupInfoResponse, error)
	TakeCoordinatedBackup(context.Context, *pb.GrpcTakeCoordinatedBackupRequest) (*pb.GrpcBackupInfoResponse, error)
	ListBackups(context.Context, *pb.GrpcListBackupsRequest) (*pb.GrpcListBackupsResponse, error)
	GetBackupChain(context.Context, *pb.GrpcGetBackupChainRequest) (*pb.GrpcListBackupsResponse, error)
	ValidateChain(context.Context, *pb.GrpcValidateChainRequest) (*pb.GrpcListBackupsResponse, error)
	RunBackupGarbageCollection(context.Context, *pb.GrpcBackupGcRequest) (*pb.GrpcBackupGcResponse, error)
	Restore(context.Context, *pb.GrpcRestoreRequest) (*pb.GrpcRestoreResponse, error)
}
