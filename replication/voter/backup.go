package voter

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// BackupInfo is what a voter does not know of itself and a backup's header has.
type BackupInfo struct {
	Cluster, Host, Version string
	Created                time.Time
}

// backupCatchUp is how long a backup waits until this voter has what was decided
// before it: one whose vote was just taken never gets it, and others have it.
const backupCatchUp = 3 * time.Second

// backupRows is how many rows are looked at before others may have the store.
const backupRows = 4096

// Backup writes a backup of this voter's state to out: consistent, of everything
// that was decided before the call, while the voter goes on. It blocks for as
// long as out does, and keeps no more than a chunk in memory. Errors are those of
// ReadIndex and of out; a state that is replaced meanwhile by a leader's snapshot
// ends it, and it may be taken again. A voter that does not catch up within
// backupCatchUp answers replication.ErrUnavailable.
func (v *Voter) Backup(ctx context.Context, out io.Writer, info BackupInfo) (backup.Trailer, error) {
	// Not barrier, which sends a read on to the leader when this voter is behind.
	index, err := v.readIndex(ctx)
	if err != nil {
		return backup.Trailer{}, err
	}
	catchUp, cancel := context.WithTimeout(ctx, backupCatchUp)
	defer cancel()
	if err := v.fsm.applied.wait(catchUp, index); err != nil {
		if ctx.Err() == nil && catchUp.Err() != nil {
			return backup.Trailer{}, fmt.Errorf("%w: this voter has not caught up with the others, or has lost its vote", replication.ErrUnavailable)
		}
		return backup.Trailer{}, fmt.Errorf("taking a backup: %w", err)
	}
	s, machine, err := v.fsm.open()
	if err != nil {
		return backup.Trailer{}, fmt.Errorf("taking a backup: %w", err)
	}
	defer func() { _ = s.Close() }() // always nil
	w, err := backup.NewWriter(out, backup.Header{
		ID: newUUID(), Cluster: info.Cluster, Node: v.cfg.NodeID, Host: info.Host, Version: info.Version,
		Created: info.Created.UTC(), Index: s.header.index, Term: s.header.term, Machine: machine,
	})
	if err != nil {
		return backup.Trailer{}, err
	}
	filter := statemachine.NewBackupFilter()
	for more := true; more; {
		if ctx.Err() != nil {
			return backup.Trailer{}, context.Cause(ctx)
		}
		if more, err = s.copyTo(w, filter); err != nil {
			return backup.Trailer{}, fmt.Errorf("taking a backup: %w", err)
		}
	}
	return w.Close(filter.BackupSummary)
}

// open freezes the state now, for a stream of its rows, and returns the state
// machine's own row.
func (f *fsm) open() (*snapshotStream, []byte, error) {
	f.swap.RLock()
	defer f.swap.RUnlock()
	f.apply.Lock()
	defer f.apply.Unlock()
	view, err := f.viewLocked()
	if err != nil {
		return nil, nil, err
	}
	p := f.machine.Position()
	machine, ok := view.Get(statemachine.MachineRow())
	if !ok {
		view.Release()
		return nil, nil, fmt.Errorf("nothing was ever applied here")
	}
	s := &snapshotStream{fsm: f, view: view, header: snapshotHeader{index: p.Index, term: p.Term}}
	f.streams[s] = struct{}{}
	return s, append([]byte(nil), machine...), nil
}

// copyTo writes some rows, outside of which the store may be replaced. The rows
// are written after it was left: out may block.
func (s *snapshotStream) copyTo(w *backup.Writer, filter *statemachine.BackupFilter) (more bool, err error) {
	rows, next, err := s.some(filter)
	if err != nil {
		return false, err
	}
	for _, r := range rows {
		if err := w.Row(r.key, r.value); err != nil {
			return false, err
		}
	}
	s.next = next
	return next != nil, nil
}

type ownedRow struct{ key, value []byte }

// some reads the next rows that belong into a backup, and where to go on.
func (s *snapshotStream) some(filter *statemachine.BackupFilter) (rows []ownedRow, next []byte, err error) {
	s.fsm.swap.RLock()
	defer s.fsm.swap.RUnlock()
	if s.view == nil {
		return nil, nil, errReplaced
	}
	seen, size := 0, 0
	for key, value := range s.view.Scan(s.next, nil) {
		if seen >= backupRows || size >= chunkTargetBytes {
			return rows, append([]byte(nil), key...), s.view.Err()
		}
		seen++
		keep, err := filter.Keep(key, value)
		if err != nil {
			return nil, nil, err
		}
		if keep {
			rows = append(rows, ownedRow{append([]byte(nil), key...), append([]byte(nil), value...)})
			size += len(key) + len(value)
		}
	}
	return rows, nil, s.view.Err()
}

// newUUID is a random one, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
