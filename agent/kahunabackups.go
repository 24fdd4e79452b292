package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// kahunaBackups is the configured directory of backups as Kahuna's service sees
// it. Every backup here is a full one and stands alone: who asks for an
// incremental one gets a full one, and is told.
type kahunaBackups struct{ b *backups }

var _ kahuna.Backups = kahunaBackups{}

// forKahuna is nil where no directory is configured: the service then says so.
func (b *backups) forKahuna() kahuna.Backups {
	if b.dir == nil {
		return nil
	}
	return kahunaBackups{b}
}

const (
	kindFull        = "Full"
	kindIncremental = "Incremental"
	backupFormat    = 1
)

// Take implements kahuna.Backups.
func (k kahunaBackups) Take(ctx context.Context, parent string) (kahuna.Backup, error) {
	if parent != "" {
		if _, err := k.find(parent); err != nil {
			var known *kahuna.BackupError
			if errors.As(err, &known) {
				known.Outcome = kahuna.BackupParentMissing
			}
			return kahuna.Backup{}, err
		}
	}
	e, err := k.b.dir.Take(ctx, k.b.write)
	if err != nil {
		return kahuna.Backup{}, backupFailure(ctx, err)
	}
	out := describe(e)
	if parent != "" {
		out.Requested, out.Substitution = kindIncremental, "every backup of kahu is a full one"
	}
	return out, nil
}

// List implements kahuna.Backups.
func (k kahunaBackups) List(ctx context.Context) ([]kahuna.Backup, error) {
	all, err := k.b.dir.List()
	if err != nil {
		return nil, backupFailure(ctx, err)
	}
	out := make([]kahuna.Backup, len(all))
	for i, e := range all {
		out[i] = describe(e)
	}
	return out, nil
}

// Chain implements kahuna.Backups: a chain of one.
func (k kahunaBackups) Chain(ctx context.Context, leaf string, verify bool) ([]kahuna.Backup, error) {
	e, err := k.find(leaf)
	if err != nil {
		return nil, err
	}
	out := describe(e)
	if verify {
		if err := verifyFile(e.Path); err != nil {
			if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNewer) {
				return nil, backupFailure(ctx, err)
			}
			out.Invalid = err.Error()
		}
	}
	return []kahuna.Backup{out}, nil
}

func verifyFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = backup.Verify(f, nil)
	return err
}

// Restore implements kahuna.Backups. A backup becomes a new cluster, and that is
// begun on its host, by somebody who may write there.
func (kahunaBackups) Restore(context.Context, string, string, int64) (kahuna.Restored, error) {
	return kahuna.Restored{}, &kahuna.BackupError{Outcome: kahuna.BackupNotConfigured,
		Detail: "a backup is not restored over the network: run kahu restore FILE --data-dir DIR on the host of the new cluster's first voter"}
}

// Collect implements kahuna.Backups.
func (k kahunaBackups) Collect(ctx context.Context, dryRun bool) (kahuna.Collected, error) {
	c := k.b.a.cfg.Backup
	gone, err := k.b.dir.Collect(backup.Retention{Keep: c.Keep, MaxAge: c.MaxAge}, time.Now(), dryRun)
	if err != nil {
		return kahuna.Collected{}, backupFailure(ctx, err)
	}
	out := kahuna.Collected{Applied: !dryRun}
	for _, g := range gone {
		out.ReclaimedBytes += g.SizeBytes
		if g.Incomplete {
			out.Orphans = append(out.Orphans, kahuna.CollectedOrphan{Name: g.Path, Reason: g.Reason})
			continue
		}
		out.Deleted = append(out.Deleted, kahuna.CollectedBackup{ID: g.ID, Type: kindFull, Created: g.Created, Bytes: g.SizeBytes, Reason: g.Reason})
	}
	return out, nil
}

// find returns the backup with this id.
func (k kahunaBackups) find(id string) (backup.Entry, error) {
	all, err := k.b.dir.List()
	if err != nil {
		return backup.Entry{}, backupFailure(context.Background(), err)
	}
	for _, e := range all {
		if e.ID == id && !e.Incomplete {
			return e, nil
		}
	}
	return backup.Entry{}, &kahuna.BackupError{Outcome: kahuna.BackupCorruptChain, Detail: fmt.Sprintf("there is no backup %.64q here", id)}
}

func describe(e backup.Entry) kahuna.Backup {
	out := kahuna.Backup{ID: e.ID, Requested: kindFull, Actual: kindFull, Created: e.Created, FormatVersion: backupFormat,
		Invalid: e.Problem, Incomplete: e.Incomplete, Cluster: e.Cluster, Node: e.Node}
	if label, _, err := statemachine.BackupLabel(e.Machine); e.Problem == "" && err == nil {
		out.SnapshotMS, out.SnapshotCount = label.GetPhysicalMs(), label.GetCounter()
		out.EarliestMS, out.LatestMS = out.SnapshotMS, out.SnapshotMS
	}
	return out
}

// backupFailure finds Kahuna's word for an error.
func backupFailure(ctx context.Context, err error) error {
	outcome := kahuna.BackupIOError
	switch {
	case ctx.Err() != nil:
		outcome = kahuna.BackupCancelled
	case errors.Is(err, replication.ErrUnavailable), errors.Is(err, replication.ErrStopped):
		outcome = kahuna.BackupLeadershipLoss
	case errors.Is(err, backup.ErrDamaged):
		outcome = kahuna.BackupCorruptArtifact
	}
	return &kahuna.BackupError{Outcome: outcome, Detail: err.Error()}
}
