package caller

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Caller is who asks: on the Unix socket the process that connected, as it was
// at accept; from the network whoever proved to be it. It is immutable.
type Caller struct {
	Kind Kind
	// Names are what a certificate or a token calls its holder, TokenID is the
	// token's own, and Remote the address that the network shows: for people.
	Names   []string
	TokenID string
	Remote  string

	// What follows the kernel says of a Process. UID and GID are NoID in others.
	UID    uint32
	GID    uint32
	Groups []uint32 // all, GID included
	PID    int32    // 0 when it is in a pid namespace that we do not see
	// Pidfd refers to that very process, nil when the kernel has none to give
	// (before 6.5). It belongs to the connection, which closes it.
	Pidfd *os.File
	// Cgroup is the path in the cgroup2 tree (or in systemd's own), and Unit the
	// system's systemd unit in it. Empty when they could not be read for certain,
	// Command as well: always where there is no Pidfd.
	Cgroup string
	Unit   string
	// Command is the name that the process gives itself (comm): for people only.
	Command string
}

// InGroup reports whether the caller is a member of gid.
func (c *Caller) InGroup(gid uint32) bool { return c.GID == gid || slices.Contains(c.Groups, gid) }

// Ended reports whether the process is dead for certain. It is false when the
// kernel gave no pidfd.
func (c *Caller) Ended() bool {
	if c.Pidfd == nil {
		return false
	}
	ended := false
	raw, err := c.Pidfd.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { ended = pidfdEnded(int(fd)) })
	}
	return err == nil && ended
}

// LogValue is the caller in a log line.
func (c *Caller) LogValue() slog.Value {
	if c.Kind != Process {
		return slog.GroupValue(slog.String("kind", c.Kind.String()), slog.Any("names", c.Names), slog.String("remote", c.Remote))
	}
	attrs := []slog.Attr{slog.Uint64("uid", uint64(c.UID)), slog.Int("pid", int(c.PID))}
	if c.Unit != "" {
		attrs = append(attrs, slog.String("unit", c.Unit))
	}
	return slog.GroupValue(attrs...)
}

// pidfdEnded: a pidfd becomes readable when its process has ended.
func pidfdEnded(fd int) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 1 && fds[0].Revents&unix.POLLIN != 0
	}
}

// The files of a control group that a guard passes.
const (
	GroupKill   = "cgroup.kill"
	GroupEvents = "cgroup.events"
)

// GroupFile names the file of a control group (v2) that f is, empty for any other
// file. Whoever passes one open has the right that it stands for.
func GroupFile(f *os.File) (name string) {
	raw, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	if err := raw.Control(func(fd uintptr) {
		var fs unix.Statfs_t
		if unix.Fstatfs(int(fd), &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			return
		}
		if at, err := os.Readlink("/proc/self/fd/" + itoa(int(fd))); err == nil {
			name = filepath.Base(at)
		}
	}); err != nil {
		return ""
	}
	return name
}

// IsPidfd reports whether f is a pidfd and not some other file.
func IsPidfd(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	is := false
	err = raw.Control(func(fd uintptr) {
		name, err := os.Readlink("/proc/self/fd/" + itoa(int(fd)))
		is = err == nil && name == "anon_inode:[pidfd]"
	})
	return err == nil && is
}
