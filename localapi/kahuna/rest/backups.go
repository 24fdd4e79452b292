package rest

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

const (
	backupsPath = "/v1/backups"
	chainPath   = backupsPath + "/{id}/chain"

	// The outcome's name travels in a trailer of gRPC and in a header here; it makes
	// the client's typed exception, whatever the status (R31).
	backupOutcomeTrailer = "kahuna-backup-outcome"
	backupOutcomeHeader  = "X-Kahuna-Backup-Outcome"
)

// backupStatuses are the outcomes that are not 422 (R32).
var backupStatuses = map[string]int{
	"NotConfigured": http.StatusServiceUnavailable, "RetryableLeadershipLoss": http.StatusServiceUnavailable,
	"NotBackupCoordinator": http.StatusServiceUnavailable, "InsecureRoot": http.StatusServiceUnavailable,
	"ParentMissing": http.StatusNotFound, "TargetConflict": http.StatusConflict,
	"Cancelled": statusClientClosedRequest, "IoError": http.StatusInternalServerError,
}

// outcomes are the numbers of outcomes' names in a restore's answer, by place.
var outcomes = []string{"Ok", "NotConfigured", "ParentMissing", "NeedsFull", "CorruptChain", "CorruptArtifact", "TargetConflict",
	"TargetOutsideCoverage", "Cancelled", "IoError", "RetryableLeadershipLoss", "ExactCheckpointUnavailable", "UnsupportedFormat",
	"TopologyChanged", "NotBackupCoordinator", "InsecureRoot", "RestrictedCoverage"}

// incrementalRequest is KahunaBackupIncrementalRequest. .NET posts PascalCase here.
type incrementalRequest struct {
	ParentBackupID string `json:"parentBackupId"`
}

// restoreRequest is KahunaBackupRestoreRequest, which validate-chain takes too.
type restoreRequest struct {
	LeafBackupID string     `json:"leafBackupId"`
	TargetDir    *string    `json:"targetDir"`
	TargetTimeMs int64Value `json:"targetTimeMs"`
}

// backupInfo is KahunaBackupInfo.
type backupInfo struct {
	BackupID                string  `json:"backupId"`
	FormatVersion           int32   `json:"formatVersion"`
	Type                    string  `json:"type"`
	CreatedAtUtc            string  `json:"createdAtUtc"`
	ParentBackupID          *string `json:"parentBackupId"`
	PartitionCount          int32   `json:"partitionCount"`
	ClusterID               *string `json:"clusterId"`
	CoordinatorNode         *string `json:"coordinatorNode"`
	ClusterSnapshotNode     *int32  `json:"clusterSnapshotNode"`
	ClusterSnapshotPhysical *int64  `json:"clusterSnapshotPhysical"`
	ClusterSnapshotCounter  *uint32 `json:"clusterSnapshotCounter"`
	RequestedKind           *string `json:"requestedKind"`
	ActualKind              *string `json:"actualKind"`
	SubstitutionReason      *string `json:"substitutionReason"`
	IsInvalid               bool    `json:"isInvalid"`
	IsIncomplete            bool    `json:"isIncomplete"`
	InvalidReason           *string `json:"invalidReason"`
	MinRecoverableMs        *int64  `json:"minRecoverablePhysicalMs"`
	MaxRecoverableMs        *int64  `json:"maxRecoverablePhysicalMs"`
}

// gcResponse is KahunaBackupGcResult.
type gcResponse struct {
	Applied            bool         `json:"applied"`
	BytesReclaimed     int64        `json:"bytesReclaimed"`
	RetentionDeletions []gcDeletion `json:"retentionDeletions"`
	OrphanReclamations []gcOrphan   `json:"orphanReclamations"`
}

type gcDeletion struct {
	BackupID     string `json:"backupId"`
	Type         string `json:"type"`
	CreatedAtUtc string `json:"createdAtUtc"`
	Bytes        int64  `json:"bytes"`
	Reason       string `json:"reason"`
}

type gcOrphan struct {
	Name        string `json:"name"`
	IsDirectory bool   `json:"isDirectory"`
	Reason      string `json:"reason"`
}

// restoreResponse is KahunaRestoreResponse. Its outcome is a number.
type restoreResponse struct {
	TargetDir             string       `json:"targetDir"`
	PartitionsRestored    int32        `json:"partitionsRestored"`
	EntriesApplied        int64        `json:"entriesApplied"`
	LastAppliedPhysicalMs int64        `json:"lastAppliedPhysicalMs"`
	Chain                 []backupInfo `json:"chain"`
	Outcome               int32        `json:"outcome"`
	MinRecoverableMs      int64        `json:"minRecoverablePhysicalMs"`
	MaxRecoverableMs      int64        `json:"maxRecoverablePhysicalMs"`
}

func backupRoutes() []route {
	return []route{
		get(backupsPath, 0, listBackups),
		action(backupsPath+"/full", takeFull),
		action(backupsPath+"/coordinated", takeCoordinated),
		post(backupsPath+"/incremental", 0, takeIncremental),
		get(chainPath, 0, getChain),
		post(backupsPath+"/validate-chain", 0, validateChain),
		action(backupsPath+"/gc", collectGarbage),
		post("/v1/restore", 0, restore),
	}
}

// backupProblem answers a refusal that has an outcome: its name stands in a header
// and in the body (R31). A restore that is not allowed here is 403 (R33).
func (x *exchange) backupProblem(outcome string, err error) {
	status, known := backupStatuses[outcome]
	if !known {
		status = http.StatusUnprocessableEntity
	}
	code, detail := statusOf(err)
	if forbidden := httpStatus(code); forbidden == http.StatusForbidden {
		status = forbidden
	}
	body, err := encode(problem{Type: "about:blank", Title: title(status), Status: status, Detail: detail, Outcome: outcome})
	if err != nil { // strings and numbers
		panic("rest: a problem cannot be encoded: " + err.Error())
	}
	x.w.Header().Set(backupOutcomeHeader, outcome)
	x.send(status, "application/problem+json", body)
}

func listBackups(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.ListBackups(ctx, &pb.GrpcListBackupsRequest{})
	return chainAnswer(a, err)
}

func getChain(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.GetBackupChain(ctx, &pb.GrpcGetBackupChainRequest{LeafBackupId: x.id})
	return chainAnswer(a, err)
}

func validateChain(ctx context.Context, s Service, in *restoreRequest) (answer, error) {
	a, err := s.ValidateChain(ctx, &pb.GrpcValidateChainRequest{LeafBackupId: in.LeafBackupID})
	return chainAnswer(a, err)
}

func takeFull(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.TakeFullBackup(ctx, &pb.GrpcTakeFullBackupRequest{})
	return backupAnswer(a, err)
}

func takeCoordinated(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.TakeCoordinatedBackup(ctx, &pb.GrpcTakeCoordinatedBackupRequest{})
	return backupAnswer(a, err)
}

func takeIncremental(ctx context.Context, s Service, in *incrementalRequest) (answer, error) {
	a, err := s.TakeIncrementalBackup(ctx, &pb.GrpcTakeIncrementalBackupRequest{ParentBackupId: in.ParentBackupID})
	return backupAnswer(a, err)
}

// collectGarbage takes no body that matters. Without dryRun nothing is removed; .NET
// sends True and False.
func collectGarbage(ctx context.Context, x *exchange) (answer, error) {
	dry := true
	if values, given := query(x.r, "dryRun"); given {
		switch strings.ToLower(values) {
		case "true":
		case "false":
			dry = false
		default:
			return answer{}, bad("dryRun must be true or false and not %s", strconv.Quote(cut(values)))
		}
	}
	a, err := x.h.svc.RunBackupGarbageCollection(ctx, &pb.GrpcBackupGcRequest{DryRun: dry})
	if err != nil {
		return answer{}, err
	}
	body := gcResponse{Applied: a.GetApplied(), BytesReclaimed: a.GetBytesReclaimed(), RetentionDeletions: []gcDeletion{}, OrphanReclamations: []gcOrphan{}}
	for _, d := range a.GetRetentionDeletions() {
		body.RetentionDeletions = append(body.RetentionDeletions, gcDeletion{d.GetBackupId(), d.GetType(), d.GetCreatedAtUtc(), d.GetBytes(), d.GetReason()})
	}
	for _, o := range a.GetOrphanReclamations() {
		body.OrphanReclamations = append(body.OrphanReclamations, gcOrphan{o.GetName(), o.GetIsDirectory(), o.GetReason()})
	}
	return ok(body)
}

// query returns a parameter, whose name is matched without regard to case.
func query(r *http.Request, name string) (string, bool) {
	for k, v := range r.URL.Query() {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0], true
		}
	}
	return "", false
}

func restore(ctx context.Context, s Service, in *restoreRequest) (answer, error) {
	a, err := s.Restore(ctx, &pb.GrpcRestoreRequest{LeafBackupId: in.LeafBackupID, TargetDir: text(in.TargetDir), TargetTimeMs: int64(in.TargetTimeMs)})
	if err != nil {
		return answer{}, err
	}
	body := restoreResponse{a.GetTargetDir(), a.GetPartitionsRestored(), a.GetEntriesApplied(), a.GetLastAppliedPhysicalMs(),
		chain(a.GetChain()), 0, a.GetMinRecoverablePhysicalMs(), a.GetMaxRecoverablePhysicalMs()}
	for i, o := range outcomes {
		if o == a.GetOutcome() {
			body.Outcome = int32(i)
		}
	}
	return ok(body)
}

func backupAnswer(a *pb.GrpcBackupInfoResponse, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return ok(info(a))
}

func chainAnswer(a *pb.GrpcListBackupsResponse, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return ok(chain(a.GetBackups()))
}

func chain(all []*pb.GrpcBackupInfoResponse) []backupInfo {
	shown := make([]backupInfo, 0, len(all))
	for _, b := range all {
		shown = append(shown, info(b))
	}
	return shown
}

func info(b *pb.GrpcBackupInfoResponse) backupInfo {
	shown := backupInfo{BackupID: b.GetBackupId(), FormatVersion: b.GetFormatVersion(), Type: b.GetType(), CreatedAtUtc: b.GetCreatedAtUtc(),
		ParentBackupID: orNull(b.GetParentBackupId()), PartitionCount: b.GetPartitionCount(), ClusterID: orNull(b.GetClusterId()),
		CoordinatorNode: orNull(b.GetCoordinatorNode()), RequestedKind: orNull(b.GetRequestedKind()), ActualKind: orNull(b.GetActualKind()),
		SubstitutionReason: orNull(b.GetSubstitutionReason()), IsInvalid: b.GetIsInvalid(), IsIncomplete: b.GetIsIncomplete(),
		InvalidReason: orNull(b.GetInvalidReason())}
	if b.GetHasSnapshotTime() {
		node, physical, counter := b.GetSnapshotNode(), b.GetSnapshotPhysical(), b.GetSnapshotCounter()
		shown.ClusterSnapshotNode, shown.ClusterSnapshotPhysical, shown.ClusterSnapshotCounter = &node, &physical, &counter
	}
	if b.GetHasCoverage() {
		low, high := b.GetMinRecoverablePhysicalMs(), b.GetMaxRecoverablePhysicalMs()
		shown.MinRecoverableMs, shown.MaxRecoverableMs = &low, &high
	}
	return shown
}
