package holds

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process names a process for as long as this boot lasts: a pid is given again,
// together with its start time it is not. The zero process is one that this agent
// cannot see, in another pid namespace.
type process struct {
	PID   int   `json:"pid"`
	Start int64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// What keeps anything from being told about a process.
var (
	errNotSeen = errors.New("the process is in another pid namespace")
	errHidden  = errors.New("/proc does not show when the process was started (it may be mounted with hidepid)")
)

// processOf says which process a pidfd is of.
func processOf(pidfd *os.File) (p process) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return p
	}
	var info []byte
	if raw.Control(func(fd uintptr) {
		info, err = os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(fd)))
	}) != nil || err != nil {
		return p
	}
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(rest)))
			if err != nil || pid <= 0 {
				return p // 0: not in our namespace; -1: it was reaped
			}
			// If it has ended since, the start is another's or none: then the pidfd
			// says so as well, and the hold ends. 0: /proc does not show it.
			start, _ := startOf(pid)
			return process{PID: pid, Start: start}
		}
	}
	return p
}

// reopen returns a pidfd of the process, or nil when it has ended. The error says
// that neither is known.
func (p process) reopen() (*os.File, error) {
	if p.PID <= 0 {
		return nil, errNotSeen
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL): // none, or a thread's id now
		return nil, nil
	case err != nil:
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	// Read after the pidfd was opened: if this is still its process, so is that.
	start, err := startOf(p.PID)
	if err == nil && start == p.Start {
		return os.NewFile(uintptr(fd), "pidfd"), nil
	}
	if err == nil && p.Start == 0 {
		err = errHidden // when it was asked for, and now it is not
	}
	ended := hasEnded(fd)
	_ = unix.Close(fd)
	switch {
	case ended:
		return nil, nil
	case errors.Is(err, os.ErrNotExist):
		// /proc may show this user its own processes only (hidepid=2).
		return nil, errHidden
	}
	return nil, err // nil: the pid is another's now
}

// hasEnded reports whether the process of a pidfd has ended. What cannot be told
// has not.
func hasEnded(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// startOf reads when a process was started.
func startOf(pid int) (int64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name in parentheses may contain anything.
	const field = 22 - 3 // counted from the state, the third
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= field {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(f))
	}
	return strconv.ParseInt(string(f[field]), 10, 64)
}

// namespaces names those in which pids and start times mean what they say.
func namespaces() string {
	pid, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	clock, _ := os.Readlink("/proc/self/ns/time") // not in every kernel
	return pid + " " + clock
}
