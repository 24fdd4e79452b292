// Package atomicfile writes files that are there whole or not at all.
//
// It promises that whoever opens the path, at any time and also after a crash or
// the loss of power, finds the old content or the new one; that Write has stored
// the file and its name durably when it returns nil; and that a file never had
// another mode, at no time, than the one asked for or a stricter one. The main
// function is Write. What is in the file, and turns between writers, are left to
// the caller; of a Write that was killed a file ".NAME-*" stays beside the path.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options say how a file is stored. The zero value replaces it, for its owner alone.
type Options struct {
	// Mode is the file's; 0 is 0600. The umask is not asked.
	Mode os.FileMode
	// KeepOwner gives the new file mode and owner of the old one, if there is one:
	// another user reads it.
	KeepOwner bool
	// New refuses with fs.ErrExist when there is something at the path already.
	New bool
}

// Write stores what content writes at path. It blocks for the disk. Whatever it
// returns an error for has changed nothing, except that after the last step, the
// sync of the directory, the new file may be there and not be durable.
func Write(path string, o Options, content func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // closed already, or worth nothing
			_ = os.Remove(f.Name()) // renamed already, or worth nothing
		}
	}()
	if err := content(f); err != nil {
		return err
	}
	if err := o.dress(f, path); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if o.New {
		err = publish(f.Name(), path)
	} else {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return Sync(dir)
}

// WriteBytes is Write of content that is there already.
func WriteBytes(path string, o Options, content []byte) error {
	return Write(path, o, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// dress gives f its mode and its owner.
func (o Options) dress(f *os.File, path string) error {
	mode := o.Mode
	if mode == 0 {
		mode = 0o600
	}
	old, err := os.Stat(path)
	if !o.KeepOwner || err != nil {
		return f.Chmod(mode)
	}
	if sys, ok := old.Sys().(*syscall.Stat_t); ok && (int(sys.Uid) != os.Geteuid() || int(sys.Gid) != os.Getegid()) {
		if err := f.Chown(int(sys.Uid), int(sys.Gid)); err != nil {
			return fmt.Errorf("keeping the owner of %s: %w", path, err)
		}
	}
	return f.Chmod(old.Mode().Perm())
}

// publish gives a finished file its name, unless the name is taken.
func publish(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without that flag; a link refuses as well.
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
	}
	return err
}

// Sync has what is in a file, or which names are in a directory, outlive a power
// cut (fsync(2)). It blocks as long as the disk takes. The error names the path.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
