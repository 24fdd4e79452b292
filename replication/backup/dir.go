package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

// Dir is a directory of backups. A file in it is whole: it is written under
// another name, synced, and renamed. Its methods may be called concurrently, by
// one process.
type Dir struct{ path string }

const (
	suffix  = ".kahubackup"
	partial = ".partial"
)

// Entry is one file of a Dir.
type Entry struct {
	Header
	Path       string
	SizeBytes  int64
	Modified   time.Time
	Problem    string // why the header cannot be read, else empty
	Incomplete bool   // it was never finished
}

// At is when the backup was taken. Of a file that cannot be read it is when that was
// last changed.
func (e Entry) At() time.Time {
	if e.Problem == "" {
		return e.Created
	}
	return e.Modified
}

// OpenDir makes the directory if it is missing.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for backups: %w", err)
	}
	return &Dir{path: path}, nil
}

// Path of the directory.
func (d *Dir) Path() string { return d.path }

// Take writes a new file with what write writes, and checks it before it counts.
// It blocks for the disk.
func (d *Dir) Take(ctx context.Context, write func(context.Context, io.Writer) error) (e Entry, err error) {
	f, err := os.CreateTemp(d.path, "kahu-*"+partial)
	if err != nil {
		return Entry{}, fmt.Errorf("writing a backup: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name()) // it would be incomplete
		}
	}()
	if err := write(ctx, f); err != nil {
		return Entry{}, err
	}
	if err := f.Sync(); err != nil {
		return Entry{}, fmt.Errorf("writing a backup: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Entry{}, fmt.Errorf("checking a backup: %w", err)
	}
	h, _, err := Verify(f, nil)
	if err != nil {
		return Entry{}, err
	}
	path := filepath.Join(d.path, "kahu-"+h.Created.UTC().Format("20060102T150405Z")+"-"+h.ID[:min(len(h.ID), 8)]+suffix)
	if err := f.Close(); err != nil {
		return Entry{}, fmt.Errorf("writing a backup: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return Entry{}, fmt.Errorf("writing a backup: %w", err)
	}
	if err := atomicfile.Sync(d.path); err != nil {
		return Entry{}, fmt.Errorf("writing a backup: %w", err)
	}
	return read(path)
}

// List returns all files, the oldest first. One whose header cannot be read says
// why.
func (d *Dir) List() ([]Entry, error) {
	names, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("listing backups: %w", err)
	}
	var out []Entry
	for _, n := range names {
		if !strings.HasPrefix(n.Name(), "kahu-") || !strings.HasSuffix(n.Name(), suffix) && !strings.HasSuffix(n.Name(), partial) {
			continue
		}
		e, err := read(filepath.Join(d.path, n.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, or finished, meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(a.At().Compare(b.At()), cmp.Compare(a.Path, b.Path))
	})
	return out, nil
}

// read looks at one file.
func read(path string) (Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return Entry{}, fmt.Errorf("looking at a backup: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Entry{}, fmt.Errorf("looking at a backup: %w", err)
	}
	e := Entry{Path: path, SizeBytes: info.Size(), Modified: info.ModTime(), Incomplete: strings.HasSuffix(path, partial)}
	if r, err := NewReader(f); err != nil {
		e.Problem = err.Error()
	} else {
		e.Header = r.Header()
	}
	return e, nil
}

// Retention says what a Dir keeps. The zero Retention keeps everything.
type Retention struct {
	Keep   int           // newest so many; 0: any number
	MaxAge time.Duration // younger ones; 0: any age. The newest is kept whatever its age
}

// Removal is a file that retention does not keep.
type Removal struct {
	Entry
	Reason string
}

// stale is how old an unfinished file is that nobody writes any more.
const stale = 24 * time.Hour

// Collect removes what retention does not keep at now, and unfinished files that
// were left behind; dryRun only says what it would remove. Files that it cannot
// read are never removed: somebody may want to look.
func (d *Dir) Collect(r Retention, now time.Time, dryRun bool) ([]Removal, error) {
	all, err := d.List()
	if err != nil {
		return nil, err
	}
	var out []Removal
	var whole []Entry
	for _, e := range all {
		switch {
		case e.Incomplete && now.Sub(e.Modified) > stale:
			out = append(out, Removal{e, "never finished"})
		case !e.Incomplete && e.Problem == "":
			whole = append(whole, e)
		}
	}
	// What is dated later than now was taken before the clock was set back: it is no
	// reason to remove what was taken since.
	slices.SortStableFunc(whole, func(a, b Entry) int { return cmp.Compare(fromPast(a, now), fromPast(b, now)) })
	for i, e := range whole {
		newer := len(whole) - 1 - i
		switch {
		case r.Keep > 0 && newer >= r.Keep:
			out = append(out, Removal{e, fmt.Sprintf("%d newer ones are kept", r.Keep)})
		case r.MaxAge > 0 && newer > 0 && now.Sub(e.At()) > r.MaxAge:
			out = append(out, Removal{e, fmt.Sprintf("older than %s", r.MaxAge)})
		}
	}
	if dryRun {
		return out, nil
	}
	for _, e := range out {
		if err := os.Remove(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return out, fmt.Errorf("removing an old backup: %w", err)
		}
	}
	return out, nil
}

// fromPast is 0 for a backup that is dated after now, and 1 for any other.
func fromPast(e Entry, now time.Time) int {
	if e.At().After(now) {
		return 0
	}
	return 1
}

// MakeRoom is called when Take has failed by cause. If there was no room on the disk
// it removes what retention does not keep by its number, and unfinished files: else
// neither would go as long as the disk is full. Nothing goes for its age, since what
// comes next may fail again.
func (d *Dir) MakeRoom(cause error, r Retention, now time.Time) ([]Removal, error) {
	if !errors.Is(cause, unix.ENOSPC) && !errors.Is(cause, unix.EDQUOT) {
		return nil, nil
	}
	return d.Collect(Retention{Keep: r.Keep}, now, false)
}
