package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHolderBytes bounds what is shown of the lock file's text.
const maxHolderBytes = 200

// takeLock takes the directory for this process. The kernel gives the lock back
// however the process ends; the text in the file is for people only.
func (d *Dir) takeLock(version string) error {
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return explain(d.path, "open its lock file for writing", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return explain(d.path, "lock it", err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, maxHolderBytes))
		who := strings.TrimSpace(string(holder))
		if who == "" {
			who = "another process"
		}
		return &Error{d.path, ErrInUse, fmt.Sprintf("is in use by %q", who),
			"stop that agent, or give this one its own with --data-dir", nil}
	}
	d.lock = f
	host, _ := os.Hostname()
	text := fmt.Sprintf("kahu %s, pid %d, on %s\n", version, os.Getpid(), host)
	if err := f.Truncate(0); err != nil {
		return explain(d.path, "write its lock file", err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return explain(d.path, "write its lock file", err)
	}
	return nil
}
