// Package cgroup keeps a tree of processes in a control group of its own, so that
// one write ends all of it, whatever its processes did with sessions, parents and
// user ids.
//
// It promises that a Group holds every process that was started in it (Group.FD
// with CLONE_INTO_CGROUP) and every descendant of theirs, that Kill ends them
// although the caller may send them no signal, and that Wait returns only once
// none is left. A process that may write to another group's cgroup.procs can leave:
// root can, and nobody whose unit is not delegated to him.
//
// It needs cgroup v2 (alone, or the v2 tree of a hybrid host), Linux 5.14 for
// cgroup.kill, and a group of the caller's own to make a child in: root, or a unit
// with Delegate=. What runs in the group, and when it ends, is left to package guard.
//
// It imports little, as package stage says.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path" // not path/filepath: see package stage
	"strconv"
	"syscall"
	"unsafe"
)

// prefix begins the name of every group made here; see sweep.
const prefix = "kahu-exec-"

// A Group is one control group below that of the process that made it. Its methods
// may be called concurrently, Close last.
type Group struct {
	path string
	dir  *os.File
}

// Make makes an empty group below the caller's own. It first removes what guards
// that were killed have left beside it, and ends what still runs there. Errors say
// that the host or the caller's rights do not allow it.
func Make() (*Group, error) {
	parent, err := own()
	if err != nil {
		return nil, err
	}
	name, err := nameOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	sweep(parent)
	dir := path.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	g, err := Open(dir)
	if err == nil {
		err = g.killable()
	}
	if err != nil {
		_ = os.Remove(dir) // nothing was started in it
		return nil, err
	}
	return g, nil
}

// Open opens a group that another process has made.
func Open(name string) (*Group, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open a control group: %w", err)
	}
	return &Group{path: name, dir: dir}, nil
}

// killable reports whether Kill would do something, by asking without doing.
func (g *Group) killable() error {
	f, err := os.OpenFile(path.Join(g.path, "cgroup.kill"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("a control group cannot be killed here: %w", err)
	}
	return f.Close()
}

// Path is the group's directory in this mount namespace.
func (g *Group) Path() string { return g.path }

// FD is the group's directory, for CLONE_INTO_CGROUP. It stays the group's.
func (g *Group) FD() int { return int(g.dir.Fd()) }

// Files opens what another process needs to end the group in the place of its
// maker, whatever its own rights: cgroup.kill for writing, and cgroup.events. The
// caller closes them.
func (g *Group) Files() ([]*os.File, error) {
	kill, err := os.OpenFile(path.Join(g.path, "cgroup.kill"), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("pass a control group on: %w", err)
	}
	events, err := os.Open(path.Join(g.path, "cgroup.events"))
	if err != nil {
		kill.Close()
		return nil, fmt.Errorf("pass a control group on: %w", err)
	}
	return []*os.File{kill, events}, nil
}

// Kill sends SIGKILL to every process in the group and below it, and to what they
// fork meanwhile. It does not wait. A group that is gone is dead.
func (g *Group) Kill() error { return ignoreGone(g.write("cgroup.kill", "1")) }

// Freeze stops every process in the group, or lets them go on. A frozen process
// can be killed. It does not wait.
func (g *Group) Freeze(frozen bool) error {
	return ignoreGone(g.write("cgroup.freeze", map[bool]string{true: "1", false: "0"}[frozen]))
}

func (g *Group) write(name, text string) error {
	if err := os.WriteFile(path.Join(g.path, name), []byte(text), 0); err != nil {
		return fmt.Errorf("write to a control group: %w", err)
	}
	return nil
}

// Wait blocks until no process is left in the group and below it. Zombies do not
// count.
func (g *Group) Wait() error {
	events, err := os.Open(path.Join(g.path, "cgroup.events"))
	if err != nil {
		return ignoreGone(fmt.Errorf("watch a control group: %w", err))
	}
	defer events.Close()
	text := make([]byte, 256)
	for {
		n, err := events.ReadAt(text, 0)
		if n == 0 {
			return ignoreGone(fmt.Errorf("watch a control group: %w", err))
		}
		if bytes.Contains(text[:n], []byte("populated 0")) {
			return nil
		}
		// What changed since the read wakes the poll: the kernel counts.
		if err := pollPriority(int32(events.Fd())); err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("watch a control group: %w", err)
		}
	}
}

// Remove removes the group with all that its processes have made below it. It
// fails while one of them lives.
func (g *Group) Remove() error { return remove(g.path) }

// Close forgets the group and leaves it as it is.
func (g *Group) Close() error { return g.dir.Close() }

func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := remove(path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !isGone(err) {
		return fmt.Errorf("remove a control group: %w", err)
	}
	return nil
}

// isGone tells of a directory that does not exist, or whose group was removed
// while it was open.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

// sweep ends and removes groups below parent whose makers are dead. A group's tree
// must not outlive its maker, and kill -9 of a whole guard leaves nobody to see to
// it. Whatever fails is left for the next: a group may be another user's.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !bytes.HasPrefix([]byte(e.Name()), []byte(prefix)) || alive(e.Name()) {
			continue
		}
		g := Group{path: path.Join(parent, e.Name())}
		if g.Kill() == nil {
			_ = g.Remove()
		}
	}
}

// nameOf names a group after its maker: pid namespace, pid and start time, which
// no other process has as long as this boot lasts.
func nameOf(pid int) (string, error) {
	var ns syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/pid", &ns); err != nil {
		return "", fmt.Errorf("find the pid namespace: %w", err)
	}
	start, err := startOf(pid)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%d-%d-%s", prefix, ns.Ino, pid, start), nil
}

// alive reports whether the maker of a group may live: also when it is in another
// pid namespace, where nobody here can tell.
func alive(name string) bool {
	f := bytes.Split(bytes.TrimPrefix([]byte(name), []byte(prefix)), []byte("-"))
	if len(f) != 3 {
		return true
	}
	var ns syscall.Stat_t
	pid, err := strconv.Atoi(string(f[1]))
	if err != nil || syscall.Stat("/proc/self/ns/pid", &ns) != nil || strconv.FormatUint(ns.Ino, 10) != string(f[0]) {
		return true
	}
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return false
	}
	start, err := startOf(pid)
	if errors.Is(err, errEnded) {
		return false
	}
	return err != nil || start == string(f[2])
}

// startOf reads when a process was started, in clock ticks since the boot.
func startOf(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", fmt.Errorf("find when a process was started: %w", err)
	}
	const field = 22 - 3 // counted from the state, the third
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= field {
		return "", fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(f))
	}
	if state := f[0][0]; state == 'Z' || state == 'X' {
		return "", errEnded
	}
	return string(f[field]), nil
}

// errEnded says that a process is there only to be waited for.
var errEnded = errors.New("the process has ended")

// own finds the directory of the caller's own group in the v2 tree.
func own() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the control group: %w", err)
	}
	group, ok := unified(groups)
	if !ok {
		return "", errors.New("this host has no cgroup v2")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the control groups: %w", err)
	}
	for line := range bytes.Lines(mounts) {
		if root, point, ok := mountOf(line); ok {
			if rest, below := bytes.CutPrefix(group, bytes.TrimSuffix(root, []byte("/"))); below && (len(rest) == 0 || rest[0] == '/') {
				return path.Join(string(point), string(rest)), nil
			}
		}
	}
	return "", fmt.Errorf("the control group %s is not mounted here", group)
}

// unified finds the v2 entry of /proc/PID/cgroup.
func unified(text []byte) (group []byte, ok bool) {
	for line := range bytes.Lines(text) {
		if group, ok := bytes.CutPrefix(line, []byte("0::")); ok {
			return bytes.TrimSuffix(group, []byte("\n")), true
		}
	}
	return nil, false
}

// mountOf takes root and mount point from a line of mountinfo that is of cgroup v2.
func mountOf(line []byte) (root, point []byte, ok bool) {
	f := bytes.Fields(line)
	for i := 6; i+1 < len(f); i++ {
		if string(f[i]) == "-" {
			return unescape(f[3]), unescape(f[4]), string(f[i+1]) == "cgroup2"
		}
	}
	return nil, nil, false
}

// unescape undoes the kernel's octal escapes of mountinfo.
func unescape(s []byte) []byte {
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		if s[0] == '\\' && len(s) >= 4 {
			if c, err := strconv.ParseUint(string(s[1:4]), 8, 8); err == nil {
				out, s = append(out, byte(c)), s[4:]
				continue
			}
		}
		out, s = append(out, s[0]), s[1:]
	}
	return out
}

// pollPriority blocks until the kernel tells of a change in a file of its own.
func pollPriority(fd int32) error {
	poll := struct {
		fd              int32
		events, revents int16
	}{fd: fd, events: 2} // POLLPRI
	if _, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
