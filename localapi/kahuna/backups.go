package kahuna

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
)

// outcomeTrailer carries the word for how a backup call failed: with it, clients
// make their typed exception whatever the status (B1).
const outcomeTrailer = "kahuna-backup-outcome"

// backupCodes are the statuses of outcomes; FailedPrecondition for the others.
// Unavailable would make clients call again for seconds.
var backupCodes = map[BackupOutcome]codes.Code{
	BackupNotConfigured:  codes.FailedPrecondition,
	BackupParentMissing:  codes.NotFound,
	BackupTargetConflict: codes.AlreadyExists,
	BackupCancelled:      codes.Canceled,
	BackupIOError:        codes.Internal,
	BackupLeadershipLoss: codes.Unavailable,
	BackupNotCoordinator: codes.Unavailable,
	BackupInsecureRoot:   codes.Unavailable,
}

// backups judges the caller and returns what keeps backups. A node that keeps
// none says so before it looks at the arguments (B2).
func (s *Service) backups(ctx context.Context) (Backups, error) {
	if err := s.need(ctx, policy.Admin, ""); err != nil {
		return nil, err
	}
	if s.cfg.Backups == nil {
		return nil, s.backupFailed(ctx, &BackupError{Outcome: BackupNotConfigured, Detail: "this agent has no directory for backups"})
	}
	return s.cfg.Backups, nil
}

// backupFailed is the status of a failure, with its word in the trailer. What
// Kahuna has no word for is Internal, and its text stays in the log.
func (s *Service) backupFailed(ctx context.Context, err error) error {
	var known *BackupError
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		known = &BackupError{Outcome: BackupCancelled, Detail: "the call ended before the backup did"}
	default:
		s.cfg.Logger.Error("backup failed", "error", err)
		known = &BackupError{Outcome: BackupIOError, Detail: "the backup failed: the agent's log says why"}
	}
	// Fails outside of a gRPC call, where nobody looks for it.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(outcomeTrailer, string(known.Outcome)))
	code, has := backupCodes[known.Outcome]
	if !has {
		code = codes.FailedPrecondition
	}
	return status.Error(code, known.Detail)
}

// TakeFullBackup writes a backup of everything.
func (s *Service) TakeFullBackup(ctx context.Context, _ *pb.GrpcTakeFullBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return s.takeBackup(ctx, "")
}

// TakeCoordinatedBackup is TakeFullBackup: one group has one state at a time.
func (s *Service) TakeCoordinatedBackup(ctx context.Context, _ *pb.GrpcTakeCoordinatedBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	return s.takeBackup(ctx, "")
}

// TakeIncrementalBackup writes what changed since another backup, or a full one
// where that cannot be.
func (s *Service) TakeIncrementalBackup(ctx context.Context, req *pb.GrpcTakeIncrementalBackupRequest) (*pb.GrpcBackupInfoResponse, error) {
	if _, err := s.backups(ctx); err != nil {
		return nil, err
	}
	if err := checkUUID(req.GetParentBackupId()); err != nil {
		return nil, err
	}
	return s.takeBackup(ctx, req.ParentBackupId)
}

func (s *Service) takeBackup(ctx context.Context, parent string) (*pb.GrpcBackupInfoResponse, error) {
	store, err := s.backups(ctx)
	if err != nil {
		return nil, err
	}
	b, err := store.Take(ctx, parent)
	if err != nil {
		return nil, s.backupFailed(ctx, err)
	}
	return backupInfo(b, false), nil
}

// ListBackups lists every backup.
func (s *Service) ListBackups(ctx context.Context, _ *pb.GrpcListBackupsRequest) (*pb.GrpcListBackupsResponse, error) {
	store, err := s.backups(ctx)
	if err != nil {
		return nil, err
	}
	list, err := store.List(ctx)
	if err != nil {
		return nil, s.backupFailed(ctx, err)
	}
	return &pb.GrpcListBackupsResponse{Backups: backupInfos(list, false)}, nil
}

// GetBackupChain lists a backup and those that it stands on, the full one first.
func (s *Service) GetBackupChain(ctx context.Context, req *pb.GrpcGetBackupChainRequest) (*pb.GrpcListBackupsResponse, error) {
	return s.chain(ctx, req.GetLeafBackupId(), false)
}

// ValidateChain is GetBackupChain after every byte was checked.
func (s *Service) ValidateChain(ctx context.Context, req *pb.GrpcValidateChainRequest) (*pb.GrpcListBackupsResponse, error) {
	return s.chain(ctx, req.GetLeafBackupId(), true)
}

func (s *Service) chain(ctx context.Context, leaf string, verify bool) (*pb.GrpcListBackupsResponse, error) {
	store, err := s.backups(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkUUID(leaf); err != nil {
		return nil, err
	}
	list, err := store.Chain(ctx, leaf, verify)
	if err != nil {
		return nil, s.backupFailed(ctx, err)
	}
	return &pb.GrpcListBackupsResponse{Backups: backupInfos(list, true)}, nil
}

// Restore writes the state of a backup to a new directory on this host.
func (s *Service) Restore(ctx context.Context, req *pb.GrpcRestoreRequest) (*pb.GrpcRestoreResponse, error) {
	store, err := s.backups(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkUUID(req.GetLeafBackupId()); err != nil {
		return nil, err
	}
	if strings.TrimSpace(req.GetTargetDir()) == "" {
		return nil, status.Error(codes.InvalidArgument, "the directory to restore to is empty")
	}
	r, err := store.Restore(ctx, req.LeafBackupId, req.TargetDir, max(req.TargetTimeMs, 0))
	if err != nil {
		return nil, s.backupFailed(ctx, err)
	}
	return &pb.GrpcRestoreResponse{TargetDir: r.Dir, PartitionsRestored: partition, EntriesApplied: r.Entries,
		LastAppliedPhysicalMs: r.LastMS, Chain: backupInfos(r.Chain, true), Outcome: "Success",
		MinRecoverablePhysicalMs: r.EarliestMS, MaxRecoverablePhysicalMs: r.LatestMS}, nil
}

// RunBackupGarbageCollection removes what retention no longer keeps.
func (s *Service) RunBackupGarbageCollection(ctx context.Context, req *pb.GrpcBackupGcRequest) (*pb.GrpcBackupGcResponse, error) {
	store, err := s.backups(ctx)
	if err != nil {
		return nil, err
	}
	got, err := store.Collect(ctx, req.GetDryRun())
	if err != nil {
		return nil, s.backupFailed(ctx, err)
	}
	out := &pb.GrpcBackupGcResponse{Applied: got.Applied, BytesReclaimed: got.ReclaimedBytes}
	for _, d := range got.Deleted {
		out.RetentionDeletions = append(out.RetentionDeletions, &pb.GrpcBackupGcDeletion{BackupId: d.ID, Type: d.Type,
			CreatedAtUtc: utc(d.Created), Bytes: d.Bytes, Reason: d.Reason})
	}
	for _, o := range got.Orphans {
		out.OrphanReclamations = append(out.OrphanReclamations, &pb.GrpcBackupGcOrphan{Name: o.Name, IsDirectory: o.Directory, Reason: o.Reason})
	}
	return out, nil
}

func backupInfos(list []Backup, chain bool) []*pb.GrpcBackupInfoResponse {
	out := make([]*pb.GrpcBackupInfoResponse, 0, len(list))
	for i, b := range list {
		out = append(out, backupInfo(b, chain && i == 0))
	}
	return out
}

// backupInfo describes a backup; coverage is for the first of a chain.
func backupInfo(b Backup, coverage bool) *pb.GrpcBackupInfoResponse {
	out := &pb.GrpcBackupInfoResponse{BackupId: b.ID, Type: b.Actual, CreatedAtUtc: utc(b.Created), ParentBackupId: b.Parent,
		PartitionCount: partition, HasSnapshotTime: b.SnapshotMS != 0, SnapshotPhysical: b.SnapshotMS, SnapshotCounter: b.SnapshotCount,
		RequestedKind: b.Requested, ActualKind: b.Actual, SubstitutionReason: b.Substitution, FormatVersion: b.FormatVersion,
		IsInvalid: b.Invalid != "" || b.Incomplete, InvalidReason: b.Invalid, IsIncomplete: b.Incomplete,
		ClusterId: b.Cluster, CoordinatorNode: b.Node}
	if coverage && b.LatestMS != 0 {
		out.HasCoverage, out.MinRecoverablePhysicalMs, out.MaxRecoverablePhysicalMs = true, b.EarliestMS, b.LatestMS
	}
	return out
}

// utc is a time as .NET writes one; clients parse that of every entry, so there
// is always one.
func utc(t time.Time) string {
	if t.IsZero() {
		return "0001-01-01T00:00:00.0000000Z"
	}
	return t.UTC().Format("2006-01-02T15:04:05.0000000Z")
}

// checkUUID refuses what is no dashed UUID.
func checkUUID(id string) error {
	if plain := strings.ReplaceAll(id, "-", ""); len(id) == 36 && len(plain) == 32 {
		if _, err := hex.DecodeString(plain); err == nil {
			return nil
		}
	}
	return status.Errorf(codes.InvalidArgument, "the backup id %.80q is no UUID", id)
}
