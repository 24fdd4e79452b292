package kahuna

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// TakeFullBackup implements Backups.TakeFullBackup.
func (s *Service) TakeFullBackup(ctx context.Context, req *pb.GrpcTakeFullBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TakeIncrementalBackup implements Backups.TakeIncrementalBackup.
func (s *Service) TakeIncrementalBackup(ctx context.Context, req *pb.GrpcTakeIncrementalBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TakeCoordinatedBackup implements Backups.TakeCoordinatedBackup.
func (s *Service) TakeCoordinatedBackup(ctx context.Context, req *pb.GrpcTakeCoordinatedBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// ListBackups implements Backups.ListBackups.
func (s *Service) ListBackups(ctx context.Context, req *pb.GrpcListBackupsRequest) (*pb.GrpcListBackupsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetBackupChain implements Backups.GetBackupChain.
func (s *Service) GetBackupChain(ctx context.Context, req *pb.GrpcGetBackupChainRequest) (*pb.GrpcListBackupsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// ValidateChain implements Backups.ValidateChain.
func (s *Service) ValidateChain(ctx context.Context, req *pb.GrpcValidateChainRequest) (*pb.GrpcListBackupsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// Restore implements Backups.Restore.
func (s *Service) Restore(ctx context.Context, req *pb.GrpcRestoreRequest) (*pb.GrpcRestoreResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// RunBackupGarbageCollection implements Backups.RunBackupGarbageCollection.
func (s *Service) RunBackupGarbageCollection(ctx context.Context, req *pb.GrpcBackupGcRequest) (*pb.GrpcBackupGcResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetMembership implements Cluster.GetMembership.
func (s *Service) GetMembership(ctx context.Context, req *pb.GrpcGetMembershipRequest) (*pb.GrpcGetMembershipResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// Leave implements Cluster.Leave.
func (s *Service) Leave(ctx context.Context, req *pb.GrpcClusterLeaveRequest) (*pb.GrpcClusterLeaveResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetPlacement implements Cluster.GetPlacement.
func (s *Service) GetPlacement(ctx context.Context, req *pb.GrpcGetPlacementRequest) (*pb.GrpcGetPlacementResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// SetReplicationFactor implements Cluster.SetReplicationFactor.
func (s *Service) SetReplicationFactor(ctx context.Context, req *pb.GrpcSetReplicationFactorRequest) (*pb.GrpcSetReplicationFactorResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetRanges implements Cluster.GetRanges.
func (s *Service) GetRanges(ctx context.Context, req *pb.GrpcGetRangesRequest) (*pb.GrpcGetRangesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// SplitRange implements Cluster.SplitRange.
func (s *Service) SplitRange(ctx context.Context, req *pb.GrpcSplitRangeRequest) (*pb.GrpcSplitRangeResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// MergeRanges implements Cluster.MergeRanges.
func (s *Service) MergeRanges(ctx context.Context, req *pb.GrpcMergeRangesRequest) (*pb.GrpcMergeRangesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetRoutingMetadata implements Cluster.GetRoutingMetadata.
func (s *Service) GetRoutingMetadata(ctx context.Context, req *pb.GrpcGetRoutingMetadataRequest) (*pb.GrpcGetRoutingMetadataResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TrySetKeyValue implements KeyValuer.TrySetKeyValue.
func (s *Service) TrySetKeyValue(ctx context.Context, req *pb.GrpcTrySetKeyValueRequest) (*pb.GrpcTrySetKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TrySetManyKeyValue implements KeyValuer.TrySetManyKeyValue.
func (s *Service) TrySetManyKeyValue(ctx context.Context, req *pb.GrpcTrySetManyKeyValueRequest) (*pb.GrpcTrySetManyKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryDeleteManyKeyValue implements KeyValuer.TryDeleteManyKeyValue.
func (s *Service) TryDeleteManyKeyValue(ctx context.Context, req *pb.GrpcTryDeleteManyKeyValueRequest) (*pb.GrpcTryDeleteManyKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryExtendKeyValue implements KeyValuer.TryExtendKeyValue.
func (s *Service) TryExtendKeyValue(ctx context.Context, req *pb.GrpcTryExtendKeyValueRequest) (*pb.GrpcTryExtendKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryDeleteKeyValue implements KeyValuer.TryDeleteKeyValue.
func (s *Service) TryDeleteKeyValue(ctx context.Context, req *pb.GrpcTryDeleteKeyValueRequest) (*pb.GrpcTryDeleteKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryGetKeyValue implements KeyValuer.TryGetKeyValue.
func (s *Service) TryGetKeyValue(ctx context.Context, req *pb.GrpcTryGetKeyValueRequest) (*pb.GrpcTryGetKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryExistsKeyValue implements KeyValuer.TryExistsKeyValue.
func (s *Service) TryExistsKeyValue(ctx context.Context, req *pb.GrpcTryExistsKeyValueRequest) (*pb.GrpcTryExistsKeyValueResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryGetManyValues implements KeyValuer.TryGetManyValues.
func (s *Service) TryGetManyValues(ctx context.Context, req *pb.GrpcTryGetManyValuesRequest) (*pb.GrpcTryGetManyValuesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryExistsManyValues implements KeyValuer.TryExistsManyValues.
func (s *Service) TryExistsManyValues(ctx context.Context, req *pb.GrpcTryExistsManyValuesRequest) (*pb.GrpcTryExistsManyValuesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryExecuteTransactionScript implements KeyValuer.TryExecuteTransactionScript.
func (s *Service) TryExecuteTransactionScript(ctx context.Context, req *pb.GrpcTryExecuteTransactionScriptRequest) (*pb.GrpcTryExecuteTransactionScriptResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryAcquireExclusiveLock implements KeyValuer.TryAcquireExclusiveLock.
func (s *Service) TryAcquireExclusiveLock(ctx context.Context, req *pb.GrpcTryAcquireExclusiveLockRequest) (*pb.GrpcTryAcquireExclusiveLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryAcquireExclusivePrefixLock implements KeyValuer.TryAcquireExclusivePrefixLock.
func (s *Service) TryAcquireExclusivePrefixLock(ctx context.Context, req *pb.GrpcTryAcquireExclusivePrefixLockRequest) (*pb.GrpcTryAcquireExclusivePrefixLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryAcquireExclusiveRangeLock implements KeyValuer.TryAcquireExclusiveRangeLock.
func (s *Service) TryAcquireExclusiveRangeLock(ctx context.Context, req *pb.GrpcTryAcquireExclusiveRangeLockRequest) (*pb.GrpcTryAcquireExclusiveRangeLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryReleaseExclusivePrefixLock implements KeyValuer.TryReleaseExclusivePrefixLock.
func (s *Service) TryReleaseExclusivePrefixLock(ctx context.Context, req *pb.GrpcTryReleaseExclusivePrefixLockRequest) (*pb.GrpcTryReleaseExclusivePrefixLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryReleaseExclusiveRangeLock implements KeyValuer.TryReleaseExclusiveRangeLock.
func (s *Service) TryReleaseExclusiveRangeLock(ctx context.Context, req *pb.GrpcTryReleaseExclusiveRangeLockRequest) (*pb.GrpcTryReleaseExclusiveRangeLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// ScanAllByPrefix implements KeyValuer.ScanAllByPrefix.
func (s *Service) ScanAllByPrefix(ctx context.Context, req *pb.GrpcScanAllByPrefixRequest) (*pb.GrpcScanAllByPrefixResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetByBucket implements KeyValuer.GetByBucket.
func (s *Service) GetByBucket(ctx context.Context, req *pb.GrpcGetByBucketRequest) (*pb.GrpcGetByBucketResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetByRange implements KeyValuer.GetByRange.
func (s *Service) GetByRange(ctx context.Context, req *pb.GrpcGetByRangeRequest) (*pb.GrpcGetByRangeResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetByRangeStream implements KeyValuer.GetByRangeStream.
func (s *Service) GetByRangeStream(req *pb.GrpcGetByRangeRequest, stream grpc.ServerStreamingServer[pb.GrpcGetByRangePageResponse]) error {
	return status.Error(codes.Unimplemented, "being built")
}

// StartTransaction implements KeyValuer.StartTransaction.
func (s *Service) StartTransaction(ctx context.Context, req *pb.GrpcStartTransactionRequest) (*pb.GrpcStartTransactionResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// CommitTransaction implements KeyValuer.CommitTransaction.
func (s *Service) CommitTransaction(ctx context.Context, req *pb.GrpcCommitTransactionRequest) (*pb.GrpcCommitTransactionResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// RollbackTransaction implements KeyValuer.RollbackTransaction.
func (s *Service) RollbackTransaction(ctx context.Context, req *pb.GrpcRollbackTransactionRequest) (*pb.GrpcRollbackTransactionResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// BatchClientKeyValueRequests implements KeyValuer.BatchClientKeyValueRequests.
func (s *Service) BatchClientKeyValueRequests(stream grpc.BidiStreamingServer[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse]) error {
	return status.Error(codes.Unimplemented, "being built")
}

// RegisterKeyRange implements KeyValuer.RegisterKeyRange.
func (s *Service) RegisterKeyRange(ctx context.Context, req *pb.GrpcRegisterKeyRangeRequest) (*pb.GrpcRegisterKeyRangeResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// RemoveKeyRange implements KeyValuer.RemoveKeyRange.
func (s *Service) RemoveKeyRange(ctx context.Context, req *pb.GrpcRemoveKeyRangeRequest) (*pb.GrpcRemoveKeyRangeResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// AcquireSnapshotHold implements KeyValuer.AcquireSnapshotHold.
func (s *Service) AcquireSnapshotHold(ctx context.Context, req *pb.GrpcAcquireSnapshotHoldRequest) (*pb.GrpcAcquireSnapshotHoldResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// RenewSnapshotHold implements KeyValuer.RenewSnapshotHold.
func (s *Service) RenewSnapshotHold(ctx context.Context, req *pb.GrpcRenewSnapshotHoldRequest) (*pb.GrpcRenewSnapshotHoldResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// ReleaseSnapshotHold implements KeyValuer.ReleaseSnapshotHold.
func (s *Service) ReleaseSnapshotHold(ctx context.Context, req *pb.GrpcReleaseSnapshotHoldRequest) (*pb.GrpcReleaseSnapshotHoldResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetSnapshotFloor implements KeyValuer.GetSnapshotFloor.
func (s *Service) GetSnapshotFloor(ctx context.Context, req *pb.GrpcGetSnapshotFloorRequest) (*pb.GrpcGetSnapshotFloorResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryLock implements Locker.TryLock.
func (s *Service) TryLock(ctx context.Context, req *pb.GrpcTryLockRequest) (*pb.GrpcTryLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// TryExtendLock implements Locker.TryExtendLock.
func (s *Service) TryExtendLock(ctx context.Context, req *pb.GrpcExtendLockRequest) (*pb.GrpcExtendLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// Unlock implements Locker.Unlock.
func (s *Service) Unlock(ctx context.Context, req *pb.GrpcUnlockRequest) (*pb.GrpcUnlockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetLock implements Locker.GetLock.
func (s *Service) GetLock(ctx context.Context, req *pb.GrpcGetLockRequest) (*pb.GrpcGetLockResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// BatchClientLockRequests implements Locker.BatchClientLockRequests.
func (s *Service) BatchClientLockRequests(stream grpc.BidiStreamingServer[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse]) error {
	return status.Error(codes.Unimplemented, "being built")
}

// CreateSequence implements Sequencer.CreateSequence.
func (s *Service) CreateSequence(ctx context.Context, req *pb.GrpcCreateSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// UpdateSequence implements Sequencer.UpdateSequence.
func (s *Service) UpdateSequence(ctx context.Context, req *pb.GrpcUpdateSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// GetSequence implements Sequencer.GetSequence.
func (s *Service) GetSequence(ctx context.Context, req *pb.GrpcGetSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// NextSequenceValue implements Sequencer.NextSequenceValue.
func (s *Service) NextSequenceValue(ctx context.Context, req *pb.GrpcNextSequenceRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// ReserveSequenceRange implements Sequencer.ReserveSequenceRange.
func (s *Service) ReserveSequenceRange(ctx context.Context, req *pb.GrpcReserveSequenceRangeRequest) (*pb.GrpcSequenceAllocationResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}

// DeleteSequence implements Sequencer.DeleteSequence.
func (s *Service) DeleteSequence(ctx context.Context, req *pb.GrpcDeleteSequenceRequest) (*pb.GrpcSequenceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "being built")
}
