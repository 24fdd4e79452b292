package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// lookPath finds a program as a shell does: by its path if it has a slash, else in
// the folders of PATH, where an empty one is the working directory. It is
// exec.LookPath without package os/exec, which starts late (see package stage).
// Errors are fs.ErrNotExist and fs.ErrPermission.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		if err := runnable(name); err != nil {
			return "", fmt.Errorf("run %s: %w", name, err)
		}
		return name, nil
	}
	var denied error
	var dirs []string
	if list := os.Getenv("PATH"); list != "" {
		dirs = strings.Split(list, ":")
	}
	for _, dir := range dirs {
		file := path.Join(dir, name)
		if dir == "" || dir == "." {
			file = "./" + name // without a slash it would be looked for again
		}
		switch err := runnable(file); {
		case err == nil:
			return file, nil
		case denied == nil && os.IsPermission(err):
			denied = err
		}
	}
	if denied != nil {
		return "", fmt.Errorf("run %s: %w", name, denied)
	}
	return "", fmt.Errorf("run %s: not found in PATH: %w", name, fs.ErrNotExist)
}

// runnable says whether a file can be run by this user.
func runnable(file string) error {
	info, err := os.Stat(file)
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return path.Err // the caller names the file
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("it is a directory: %w", fs.ErrPermission)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS); err != nil && err != unix.ENOSYS {
		return err
	}
	return nil
}
