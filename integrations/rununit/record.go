package rununit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/integrations/boottime"
)

// DefaultDir has a record for each unit whose lock is wanted on this host
// (RuntimeDirectory= of kahu-unit@.service).
const DefaultDir = "/run/kahu-unit"

// Flags of `kahu run-unit` that the drop-in uses.
const (
	heldFlag     = "--held"
	releasedFlag = "--released"
)

// DropIn is what the unit itself needs, besides its own settings: a drop-in of its
// service. program is the path of kahu.
func DropIn(program string) string {
	return `# Made by kahu run-unit --print-drop-in: this unit runs only while
# kahu-unit@%N.service owns its lock.
[Unit]
BindsTo=kahu-unit@%N.service
After=kahu-unit@%N.service

[Service]
# Not started without the lock, by whomever; not stopped before it is given back.
ExecCondition=+` + program + ` run-unit ` + heldFlag + ` %n
ExecStopPost=-+` + program + ` run-unit ` + releasedFlag + ` %n
`
}

// Holder is the unit that keeps the lock of another.
func Holder(unit string) string {
	return "kahu-unit@" + strings.TrimSuffix(unit, ".service") + ".service"
}

// Record says what a Runner holds. It is a file that the Runner keeps locked
// (an open file description lock) while the lock may be owned, so that it counts for nothing when the
// Runner is gone.
type Record struct {
	Hold       string        `json:"hold"`
	Lock       string        `json:"lock"`
	Ephemeral  bool          `json:"ephemeral,omitempty"`
	DeadlineNS time.Duration `json:"deadline_boottime_ns"` // nothing of the unit may be left then
	BootID     string        `json:"boot_id"`
	GraceNS    time.Duration `json:"grace_ns"`
}

// path is where a unit's record is.
func path(dir, unit string) string { return filepath.Join(dir, unit+".held") }

// recordFile is a record that is being kept.
type recordFile struct{ f *os.File }

// openRecord makes a unit's record, empty and not locked.
func openRecord(dir, unit string) (*recordFile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of records: %w", err)
	}
	f, err := os.OpenFile(path(dir, unit), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the record of %s: %w", unit, err)
	}
	return &recordFile{f}, nil
}

// hold locks the record; write comes before, so that who sees it locked can read it.
func (r *recordFile) hold() error {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(r.f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return fmt.Errorf("locking the record %s: %w; another kahu run-unit keeps this unit", r.f.Name(), err)
	}
	return nil
}

// free unlocks it: the lock is not owned any more.
func (r *recordFile) free() error {
	lock := unix.Flock_t{Type: unix.F_UNLCK}
	return unix.FcntlFlock(r.f.Fd(), unix.F_OFD_SETLK, &lock)
}

// write replaces the content. Readers see the old or the new one: it is one write
// of a fixed length.
func (r *recordFile) write(rec Record) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	const length = 4096 // longer than the longest: names are bounded
	line := append(text, strings.Repeat(" ", max(length-len(text)-1, 0))+"\n"...)
	if _, err := r.f.WriteAt(line, 0); err != nil {
		return fmt.Errorf("writing the record %s: %w", r.f.Name(), err)
	}
	return nil
}

func (r *recordFile) close() { _ = r.f.Close() } // nothing has to outlive a reboot

// read returns a unit's record; held says that a Runner owns the lock.
func read(dir, unit string) (rec Record, held bool, err error) {
	f, err := os.Open(path(dir, unit))
	if err != nil {
		return Record{}, false, err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return Record{}, false, err
	}
	// Only asked: who looks must not be in the way of who owns it.
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return Record{}, false, fmt.Errorf("asking who keeps the record %s: %w", f.Name(), err)
	}
	held = lock.Type != unix.F_UNLCK
	if len(text) > 0 {
		if err := json.Unmarshal(text, &rec); err != nil {
			return Record{}, held, fmt.Errorf("the record %s is damaged: %w", f.Name(), err)
		}
	}
	return rec, held, nil
}

// Held returns nil while the unit may be started: a Runner owns its lock, and its
// deadline is not near. now is CLOCK_BOOTTIME.
func Held(dir, unit string, now time.Duration) error {
	rec, held, err := read(dir, unit)
	bootID, bootErr := boottime.BootID()
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case err != nil || !held:
		return fmt.Errorf("this host does not own the lock of %s", unit)
	case bootErr != nil:
		return bootErr
	case rec.BootID != bootID || now >= rec.DeadlineNS-reserve(rec.GraceNS):
		return fmt.Errorf("the lease of the lock of %s is about to end", unit)
	}
	return nil
}

// AwaitRelease blocks until no Runner owns the unit's lock, or ctx ends. It returns
// at once when nobody waits for the unit to be stopped: it is restarted, or has ended
// by itself, and the lock stays or is given back without anybody waiting.
func AwaitRelease(ctx context.Context, m Manager, dir, unit string) error {
	u, err := m.Unit(ctx, unit)
	if err != nil || u.Job != "stop" {
		return err
	}
	for {
		_, held, err := read(dir, unit)
		if errors.Is(err, os.ErrNotExist) || err == nil && !held {
			return nil
		}
		t := time.NewTimer(releasePoll)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("the lock of %s was not given back in time: %w", unit, context.Cause(ctx))
		}
	}
}

// releasePoll is between two looks at whether a record is still locked: waiting for
// it in the kernel could not be given up.
const releasePoll = 5 * time.Millisecond
