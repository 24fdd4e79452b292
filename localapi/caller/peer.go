package caller

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// identify asks the kernel who connected. All of it was fixed at connect, so a
// descriptor that was passed on keeps the identity of whoever dialled.
func identify(raw syscall.RawConn) (*Caller, error) {
	c := &Caller{}
	var failed error
	pidfd := -1
	err := raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		c.UID, c.GID, c.PID = cred.Uid, cred.Gid, cred.Pid
		if c.Groups, err = peerGroups(int(fd)); err != nil {
			failed = fmt.Errorf("SO_PEERGROUPS: %w", err)
			return
		}
		// Close-on-exec by itself. Kernels before 6.5 do not know it; a dead and
		// reaped peer has none. A pidfd made from the pid could be another process's.
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			pidfd = n
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	if !c.InGroup(c.GID) || len(c.Groups) == 0 {
		c.Groups = append(c.Groups, c.GID)
	}
	if pidfd >= 0 {
		c.Pidfd = os.NewFile(uintptr(pidfd), "pidfd")
		c.look(pidfd)
	}
	return c, nil
}

// TellsUnits reports whether this kernel tells the systemd unit and the control group
// of a caller: kernels before 6.5 have no SO_PEERPIDFD. An error says that it could not
// be found out. It does not block.
func TellsUnits() (bool, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("make a pair of sockets: %w", err)
	}
	defer func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }() // nothing was written
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("SO_PEERPIDFD: %w", err)
	}
	return true, unix.Close(pidfd)
}

// peerGroups are the supplementary groups; SO_PEERCRED has the primary one only.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		sizeBytes := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&sizeBytes)), 0)
		switch {
		case errno == 0:
			return groups[:sizeBytes/4], nil
		case errno == unix.ERANGE && len(groups) < maxGroups: // sizeBytes is what it takes
			groups = make([]uint32, min(max(int(sizeBytes/4), 2*len(groups)), maxGroups))
		default:
			return nil, errno
		}
	}
}

// look reads where and what the process is. A pid can be reused; while its
// pidfd says alive after the reading, what was read is the process's own.
func (c *Caller) look(pidfd int) {
	if c.PID <= 0 {
		return
	}
	proc := "/proc/" + itoa(int(c.PID))
	cgroup, err1 := os.ReadFile(proc + "/cgroup")
	command, err2 := os.ReadFile(proc + "/comm")
	if pidfdEnded(pidfd) {
		return
	}
	if err1 == nil {
		c.Cgroup, c.Unit = parseCgroup(string(cgroup))
	}
	if err2 == nil {
		c.Command = strings.ToValidUTF8(strings.TrimSuffix(string(command), "\n"), "?")
	}
}

// parseCgroup takes the cgroup2 path, or systemd's own tree where the cgroup2
// one is not used. The unit is the outermost one: the system manager made it.
// What is below a service is delegated, and a user names it as it likes.
func parseCgroup(text string) (cgroup, unit string) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || !strings.HasPrefix(fields[2], "/") {
			continue
		}
		if fields[0] == "0" && fields[1] == "" && (fields[2] != "/" || cgroup == "") {
			cgroup = fields[2]
		}
		if fields[1] == "name=systemd" && (cgroup == "" || cgroup == "/") {
			cgroup = fields[2]
		}
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(cgroup, "/"), "/") {
		part = strings.TrimPrefix(part, "_") // systemd's escape of names that the kernel could use
		if strings.HasSuffix(part, ".slice") {
			continue
		}
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			return cgroup, part
		}
		break // also "..": outside of our cgroup namespace
	}
	return cgroup, ""
}

// errNotUnix means that a listener handed out something else.
var errNotUnix = errors.New("not a Unix socket connection")
