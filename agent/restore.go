package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/membership"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/datadir"
	"github.com/kahu-sh/kahu/storage/engines"
)

// RestoreOptions say where a backup becomes a new cluster. Fields without
// "optional" are required.
type RestoreOptions struct {
	DataDir string // new or empty
	Storage string // engine: memory, sqlite, rocksdb
	Version string // of this program
	// TokenFloor, optional, is the fencing token above which the cluster begins,
	// for a host whose clock is doubted; 0: from the backup and the clock.
	TokenFloor int64
	Logger     *slog.Logger
	Now        func() time.Time       // optional: time.Now
	Progress   func(bytesRead uint64) // optional
	Header     func(backup.Header)    // optional: told before anything is written
}

// Restored says what a restore made.
type Restored struct {
	DataDir    string    `json:"data_dir"`
	Node       string    `json:"node"`    // id of the one voter
	Cluster    string    `json:"cluster"` // id of the new cluster
	From       string    `json:"from_cluster"`
	Backup     string    `json:"backup"` // id
	Created    time.Time `json:"backup_created"`
	Rows       uint64    `json:"rows"`
	Keys       uint64    `json:"keys"`
	Sequences  uint64    `json:"sequences"` // all of them stand still
	TokenFloor int64     `json:"token_floor"`
}

// Restore reads a backup and makes of it the data directory of the first voter
// of a new cluster. Nothing is left in the directory when it fails. Errors about
// the file wrap backup.ErrDamaged or backup.ErrNewer, those about the directory
// are *UnusableError; each is one line that says what to do.
func Restore(ctx context.Context, in io.Reader, o RestoreOptions) (Restored, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	// The file is judged before the directory is touched.
	r, err := backup.NewReader(in)
	if err != nil {
		return Restored{}, err
	}
	h := r.Header()
	rows, err := statemachine.NewRestorer(h.Machine)
	if errors.Is(err, statemachine.ErrNewer) {
		err = fmt.Errorf("%w: %w", backup.ErrNewer, err)
	}
	if err != nil {
		return Restored{}, err
	}
	if o.Header != nil {
		o.Header(h)
	}
	if err := engines.Check(o.Storage); err != nil {
		return Restored{}, &UnusableError{err}
	}
	made, err := checkRestoreDir(o.DataDir)
	if err != nil {
		return Restored{}, &UnusableError{err}
	}
	out, err := restoreInto(ctx, r, rows, o)
	if err != nil {
		return Restored{}, errors.Join(err, emptyDir(o.DataDir, made))
	}
	if err := datadir.GiveToOwner(o.DataDir); err != nil {
		return Restored{}, err
	}
	out.From, out.Backup, out.Created = h.Cluster, h.ID, h.Created
	return out, nil
}

// checkRestoreDir refuses a directory that anything is in. made says that there
// was none.
func checkRestoreDir(path string) (made bool, err error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at the data directory: %w", err)
	}
	if datadir.Unfinished(path) {
		return false, fmt.Errorf("a restore into the data directory %s was cut short: empty it, and restore the backup again", path)
	}
	for _, e := range entries {
		switch e.Name() {
		case "lost+found": // the root of a file system has it
			continue
		case "agent.json":
			return false, fmt.Errorf("the data directory %s is that of an agent: a backup becomes a new cluster; name a new or empty --data-dir, and stop the agents of the old cluster if it shall replace them", path)
		}
		return false, fmt.Errorf("the data directory %s is not empty (it has %s): name a new or empty --data-dir", path, e.Name())
	}
	return false, nil
}

// emptyDir takes away what a failed restore has made.
func emptyDir(path string, made bool) error {
	if made {
		return os.RemoveAll(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != "lost+found" {
			errs = append(errs, os.RemoveAll(filepath.Join(path, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// restoreInto fills the directory. Only the last step makes it one that an agent
// starts from: what a crash leaves before is refused.
func restoreInto(ctx context.Context, r *backup.Reader, rows *statemachine.Restorer, o RestoreOptions) (out Restored, err error) {
	dir, err := datadir.Open(o.DataDir, datadir.Options{Engine: o.Storage, Version: o.Version, Logger: o.Logger, Fill: true})
	if err != nil {
		return out, &UnusableError{err}
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	engine, err := engines.Open(o.Storage, dir.EngineDir())
	if err != nil {
		return out, fmt.Errorf("opening the %s engine: %w", o.Storage, err)
	}
	st := &diskStorage{kind: o.Storage, dir: dir, engine: engine}
	defer func() { err = errors.Join(err, st.Close()) }()
	g, err := st.NewGeneration()
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, g.Discard()) }() // nothing after Activate
	if err := copyRows(ctx, r, rows, g.Engine(), o.Progress); err != nil {
		return out, err
	}
	trailer := r.Trailer()
	if rows.Keys != trailer.Keys || rows.Sequences != trailer.Sequences {
		return out, fmt.Errorf("%w: it has %d keys and %d sequences, %d and %d were announced",
			backup.ErrDamaged, rows.Keys, rows.Sequences, trailer.Keys, trailer.Sequences)
	}
	floor, err := statemachine.TokenFloor(trailer.HighestToken, o.Now().UnixMilli(), o.TokenFloor)
	if err != nil {
		return out, err
	}
	node := dir.Identity().Node
	var last storage.Batch
	for _, row := range rows.Finish(floor, o.Now().UnixMilli(), voter.FoundingConfiguration(node)) {
		last.Put(row.Key, row.Value)
	}
	if err := g.Engine().Write(&last); err != nil {
		return out, fmt.Errorf("writing the restored state: %w", err)
	}
	if err := voter.FoundLog(dir.LogDir(), o.Logger); err != nil {
		return out, err
	}
	cluster, err := membership.Found(dir.Path(), node)
	if err != nil {
		return out, err
	}
	if err := g.Activate(); err != nil {
		return out, err
	}
	if err := dir.Filled(); err != nil {
		return out, err
	}
	return Restored{DataDir: dir.Path(), Node: node, Cluster: cluster, Rows: trailer.Rows, Keys: rows.Keys,
		Sequences: rows.Sequences, TokenFloor: floor}, nil
}

// copyRows writes every row of the backup, each as it shall be.
func copyRows(ctx context.Context, r *backup.Reader, rows *statemachine.Restorer, engine storage.Engine, progress func(uint64)) error {
	for {
		chunk, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		var batch storage.Batch
		for _, row := range chunk {
			value, err := rows.Row(row.Key, row.Value)
			if err != nil {
				return fmt.Errorf("%w: %w", backup.ErrDamaged, err)
			}
			batch.Put(row.Key, value)
		}
		if err := engine.Write(&batch); err != nil {
			return fmt.Errorf("writing the restored state: %w", err)
		}
		if progress != nil {
			progress(r.Bytes())
		}
	}
}

// VerifyBackup reads a backup to its end and returns what it says of itself.
func VerifyBackup(in io.Reader, progress func(bytesRead uint64)) (BackupDescription, error) {
	h, t, err := backup.Verify(in, progress)
	if err != nil {
		return BackupDescription{}, err
	}
	label, level, err := statemachine.BackupLabel(h.Machine)
	if err != nil {
		return BackupDescription{}, fmt.Errorf("%w: %w", backup.ErrDamaged, err)
	}
	return BackupDescription{ID: h.ID, Cluster: h.Cluster, Node: h.Node, Host: h.Host, Version: h.Version, Created: h.Created,
		Index: h.Index, LastChange: time.UnixMilli(label.GetPhysicalMs()).UTC(), Level: level, Keys: t.Keys,
		Sequences: t.Sequences, Rows: t.Rows, Bytes: t.Bytes, HighestToken: t.HighestToken}, nil
}

// BackupDescription is what can be told of a backup that is whole.
type BackupDescription struct {
	ID           string    `json:"id"`
	Cluster      string    `json:"cluster"`
	Node         string    `json:"node"`
	Host         string    `json:"host,omitempty"`
	Version      string    `json:"version,omitempty"` // of the kahu that wrote it
	Created      time.Time `json:"created"`
	Index        uint64    `json:"index"`
	LastChange   time.Time `json:"last_change"` // wall clock of the last change in it
	Level        uint32    `json:"level"`
	Keys         uint64    `json:"keys"`
	Sequences    uint64    `json:"sequences"`
	Rows         uint64    `json:"rows"`
	Bytes        uint64    `json:"bytes"`
	HighestToken int64     `json:"highest_token"`
}
