package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// GiveToOwner gives what root has made in a data directory, which nobody may have
// open, to whom the directory belongs: an operator repairs it as root, and the agent
// runs as somebody else. By anybody but root it does nothing.
func GiveToOwner(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	root, err := os.OpenRoot(path) // whoever owns it can lead nobody out of it by links
	if err != nil {
		return explain(path, "open it", err)
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return explain(path, "look at it", err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return explain(path, "look at "+name, err)
		}
		info, err := root.Lstat(name)
		if err != nil {
			return explain(path, "look at "+name, err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Uid != 0 || st.Uid == owner.Uid || entry.Name() == "lost+found" || info.Mode().IsRegular() && st.Nlink > 1 {
			return nil
		}
		if err := root.Lchown(name, int(owner.Uid), int(owner.Gid)); err != nil {
			return explain(path, "give its owner "+name, err)
		}
		return nil
	})
}

// checkRights looks for files that somebody else, mostly root, has left: each would
// stop the agent later, and some only when they are written.
func (d *Dir) checkRights() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fs.WalkDir(d.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return nil // it has just gone, or whoever needs it says so
		}
		if name == "." || name == "secret" || name == "lost+found" {
			return nil // Open finds it out itself; the others may be somebody else's
		}
		if access := unix.Access(filepath.Join(d.path, name), unix.R_OK|unix.W_OK); err == nil && (access == nil || errors.Is(access, unix.EROFS)) {
			return nil
		}
		if err == nil && !entry.IsDir() && !entry.Type().IsRegular() {
			return nil
		}
		owner := "somebody else"
		if info, err := d.root.Lstat(name); err == nil {
			owner = fmt.Sprintf("user %d", info.Sys().(*syscall.Stat_t).Uid)
		}
		return &Error{d.path, ErrNoRights, fmt.Sprintf("has %s of %s, which user %d may not write", name, owner, os.Geteuid()),
			fmt.Sprintf("chown -R %d %s, and start the agent as the same user each time", os.Geteuid(), d.path), fs.ErrPermission}
	})
}
