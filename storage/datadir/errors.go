package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kahu-sh/kahu/storage"
	"golang.org/x/sys/unix"
)

// Why a directory is refused.
var (
	ErrInUse        = errors.New("data directory is in use")
	ErrForeign      = errors.New("data directory belongs to something else")
	ErrCorrupt      = fmt.Errorf("data directory is damaged: %w", storage.ErrCorrupt)
	ErrNewerFormat  = fmt.Errorf("data directory is of a newer kahu: %w", storage.ErrNewerFormat)
	ErrEngineKind   = errors.New("data directory has another storage engine")
	ErrReadOnly     = errors.New("data directory is read-only")
	ErrNoRights     = errors.New("no rights on the data directory")
	ErrNotDirectory = errors.New("data directory is not a directory")
	ErrUnfinished   = errors.New("data directory was never filled")
	ErrFull         = errors.New("no room in the data directory")
)

// Error says in one line what is wrong with a directory, and what to do.
type Error struct {
	Path   string
	Reason error  // one of the Err values above
	Detail string // what was found
	Advice string // what to do next
	Cause  error  // of the system, or nil
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("data directory %s %s: %s", e.Path, e.Detail, e.Advice)
}

// Unwrap gives the reason and the system's error to errors.Is.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Cause}
}

func corrupt(path, detail string, cause error) error {
	return &Error{path, ErrCorrupt, "is damaged: " + detail,
		"keep a copy of it, then start this agent with an empty directory, as a new member", cause}
}

// explain gives an error of the system its reason.
func explain(path, doing string, err error) error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, unix.EROFS):
		return &Error{path, ErrReadOnly, "is on a file system that is mounted read-only",
			"remount it for writing, or choose another with --data-dir", err}
	case errors.Is(err, fs.ErrPermission):
		return &Error{path, ErrNoRights,
			fmt.Sprintf("does not let user %d %s (%v)", os.Geteuid(), doing, err),
			"run the agent as the directory's owner, or chown the directory to this user", err}
	case errors.Is(err, unix.ENOTDIR):
		return &Error{path, ErrNotDirectory, "is not a directory, or leads through a file",
			"name a directory with --data-dir", err}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &Error{path, ErrFull, "has no room left", "free space on its file system", err}
	}
	return fmt.Errorf("data directory %s: cannot %s: %w", path, doing, err)
}
