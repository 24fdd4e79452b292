package kahuna

import (
	"context"
	"time"
)

// Backups is what the rpcs of backups need. Its methods may be called
// concurrently. Errors that are a *BackupError are shown with their outcome.
type Backups interface {
	// Take writes a backup of what the cluster decides now and returns its
	// description. parent is the backup that an incremental one stands on; empty
	// asks for a full one.
	Take(ctx context.Context, parent string) (Backup, error)
	// List returns every backup, oldest first. An entry that cannot be read is
	// listed as invalid.
	List(ctx context.Context) ([]Backup, error)
	// Chain returns a backup and those it stands on, the full one first. verify
	// reads every byte.
	Chain(ctx context.Context, leaf string, verify bool) ([]Backup, error)
	// Restore writes the state of a backup to a new directory on this host.
	// targetMS cuts at a wall-clock time; 0 is the end of the chain.
	Restore(ctx context.Context, leaf, dir string, targetMS int64) (Restored, error)
	// Collect removes what retention no longer keeps, or only says what it would.
	Collect(ctx context.Context, dryRun bool) (Collected, error)
}

// Backup describes one backup.
type Backup struct {
	ID            string // UUID text
	Parent        string // of the one that it stands on, empty for a full one
	Requested     string // "Full", "Incremental"
	Actual        string // likewise; a full one may stand in for an incremental one
	Substitution  string // why it does
	Created       time.Time
	SnapshotMS    int64 // wall clock and counter of the last command in it; 0 unknown
	SnapshotCount uint32
	FormatVersion int32
	Invalid       string // why it cannot be used, empty for a good one
	Incomplete    bool   // it was never finished
	// EarliestMS and LatestMS bound what can be restored; both 0 when unknown.
	EarliestMS, LatestMS int64
	Cluster, Node        string
}

// Restored says what a restore wrote.
type Restored struct {
	Dir                  string
	Entries              int64
	LastMS               int64
	Chain                []Backup
	EarliestMS, LatestMS int64
}

// Collected says what retention removed, or would.
type Collected struct {
	Applied        bool
	ReclaimedBytes int64
	Deleted        []CollectedBackup
	Orphans        []CollectedOrphan
}

// CollectedBackup is a backup that retention no longer keeps.
type CollectedBackup struct {
	ID, Type string
	Created  time.Time
	Bytes    int64
	Reason   string
}

// CollectedOrphan is a file or directory that belongs to no backup.
type CollectedOrphan struct {
	Name      string
	Directory bool
	Reason    string
}

// BackupOutcome is a word of Kahuna's for how a backup call failed
// (Kahuna.Shared KahunaBackupException).
type BackupOutcome string

// The outcomes.
const (
	BackupNotConfigured     BackupOutcome = "NotConfigured"
	BackupParentMissing     BackupOutcome = "ParentMissing"
	BackupNeedsFull         BackupOutcome = "NeedsFull"
	BackupCorruptChain      BackupOutcome = "CorruptChain"
	BackupCorruptArtifact   BackupOutcome = "CorruptArtifact"
	BackupTargetConflict    BackupOutcome = "TargetConflict"
	BackupOutsideCoverage   BackupOutcome = "TargetOutsideCoverage"
	BackupCancelled         BackupOutcome = "Cancelled"
	BackupIOError           BackupOutcome = "IoError"
	BackupLeadershipLoss    BackupOutcome = "RetryableLeadershipLoss"
	BackupUnsupportedFormat BackupOutcome = "UnsupportedFormat"
	BackupNotCoordinator    BackupOutcome = "NotBackupCoordinator"
	BackupInsecureRoot      BackupOutcome = "InsecureRoot"
)

// BackupError is a failure that Kahuna has a word for.
type BackupError struct {
	Outcome BackupOutcome
	Detail  string // one line for people
}

// Error implements error.
func (e *BackupError) Error() string { return e.Detail }
