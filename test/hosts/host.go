package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Host is one booted system.
type Host struct {
	Name    string
	Address string // on the bridge of its Lab

	lab    *Lab
	root   string // its file system
	nspawn *exec.Cmd
	leader int // pid of its systemd, as seen from here
	ended  chan struct{}
}

// A Lab is a bridge with hosts on it. What it made goes with the test.
type Lab struct {
	t    *testing.T
	dir  string
	base string // file system that all hosts begin with
	id   string // in the names of what is global: namespaces, cgroups
}

// packages are in every base system.
const packages = "systemd,systemd-sysv,dbus,iproute2,procps,init-system-helpers"

// NewLab makes the bridge, and the base system if this machine has none yet.
func NewLab(t *testing.T) *Lab {
	t.Helper()
	l := &Lab{t: t, dir: t.TempDir(), id: "kahu" + strconv.Itoa(os.Getpid())}
	l.base = l.baseSystem("bookworm", packages)
	l.must("ip", "netns", "add", l.id)
	t.Cleanup(func() { l.try("ip", "netns", "del", l.id) })
	l.must("ip", "-n", l.id, "link", "add", "br0", "type", "bridge")
	l.must("ip", "-n", l.id, "link", "set", "br0", "up")
	return l
}

// baseSystem returns the file system of that name, which has these packages.
func (l *Lab) baseSystem(name, packages string) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		l.t.Fatal(err)
	}
	base := filepath.Join(cache, "kahu-hosts", name)
	if _, err := os.Stat(base); err == nil {
		return base
	}
	l.t.Logf("making the base system %s", base)
	making := base + ".part"
	if err := errors.Join(os.RemoveAll(making), os.MkdirAll(filepath.Dir(base), 0o700)); err != nil {
		l.t.Fatal(err)
	}
	args := []string{"--variant=minbase", "--include=" + packages, "bookworm", making}
	if mirror := os.Getenv("KAHU_DEBIAN_MIRROR"); mirror != "" {
		args = append(args, mirror)
	}
	l.must("debootstrap", args...)
	if err := os.Rename(making, base); err != nil {
		l.t.Fatal(err)
	}
	return base
}

// Boot starts a host and waits until its systemd is up.
func (l *Lab) Boot(name string, number int) *Host {
	l.t.Helper()
	h := &Host{Name: name, Address: fmt.Sprintf("10.77.0.%d", number), lab: l, root: filepath.Join(l.dir, name, "root")}
	// A copy: a voter refuses to live on an overlay.
	if err := os.MkdirAll(filepath.Dir(h.root), 0o755); err != nil {
		l.t.Fatal(err)
	}
	l.must("cp", "-a", "--reflink=auto", l.base, h.root)
	netns := h.netns()
	l.must("ip", "netns", "add", netns)
	l.t.Cleanup(func() { l.try("ip", "netns", "del", netns) })
	l.must("ip", "-n", netns, "link", "add", "host0", "type", "veth", "peer", "name", name, "netns", l.id)
	l.must("ip", "-n", l.id, "link", "set", name, "master", "br0", "up")
	l.must("ip", "-n", netns, "link", "set", "lo", "up")
	l.must("ip", "-n", netns, "addr", "add", h.Address+"/24", "dev", "host0")
	l.must("ip", "-n", netns, "link", "set", "host0", "up")
	h.write("/etc/hostname", name+"\n")
	h.PowerOn()
	l.t.Cleanup(func() {
		if l.t.Failed() && h.leader != 0 {
			out, _ := h.Try("journalctl", "--no-pager", "-n", "30", "-u", "kahu*")
			l.t.Logf("the journal of %s:\n%s", h.Name, out)
		}
		h.PowerOff()
	})
	return h
}

func (h *Host) netns() string { return h.lab.id + "-" + h.Name }

// bootScript gives the host a cgroup of its own on a private cgroup2 mount, so
// that nothing inside reaches another host's units (TESTBED.md).
const bootScript = `
group=/sys/fs/cgroup/unified; [ -d $group ] || group=/sys/fs/cgroup
mkdir -p $group/$0 && echo $$ >$group/$0/cgroup.procs
exec unshare -m --propagation private sh -c '
	umount -R /sys/fs/cgroup
	mount -t cgroup2 none /sys/fs/cgroup || exit 9
	exec "$@"' boot "$@"`

// PowerOn boots the host, again after PowerOff.
func (h *Host) PowerOn() {
	t := h.lab.t
	t.Helper()
	h.nspawn = exec.Command("sh", "-c", bootScript, h.netns(),
		"systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--machine="+h.Name, "--directory="+h.root,
		"--network-namespace-path=/run/netns/"+h.netns(), "--console=pipe", "--boot")
	console, err := os.OpenFile(filepath.Join(h.lab.dir, h.Name+".console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	h.nspawn.Stdout, h.nspawn.Stderr = console, console
	h.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := h.nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	console.Close()
	h.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { // ends when nspawn does
		_ = cmd.Wait() // a power cut is no success
		close(ended)
	}(h.nspawn, h.ended)
	h.lab.until(30*time.Second, h.Name+" to boot", func() bool {
		h.leader = child(h.nspawn.Process.Pid)
		if h.leader == 0 {
			return false
		}
		out, err := h.Try("systemctl", "is-system-running")
		return err == nil || strings.TrimSpace(out) == "degraded"
	})
}

// child returns the first child of a process, 0 while there is none.
func child(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	n, _ := strconv.Atoi(first)
	return n
}

// PowerOff cuts the power: nothing on the host gets to do anything more.
func (h *Host) PowerOff() {
	if h.ended == nil {
		return
	}
	if h.leader != 0 {
		_ = syscall.Kill(h.leader, syscall.SIGKILL) // gone is what is wanted
	}
	_ = h.nspawn.Process.Kill()
	<-h.ended
	h.leader = 0
}

// Shutdown stops the host in order.
func (h *Host) Shutdown() {
	_, _ = h.Try("systemctl", "poweroff") // its connection may end with the host
	select {
	case <-h.ended:
	case <-time.After(60 * time.Second):
		h.lab.t.Fatalf("%s does not shut down", h.Name)
	}
	h.leader = 0
}

// Cut takes the host's cable out, or puts it back.
func (h *Host) Cut(cut bool) {
	state := "up"
	if cut {
		state = "down"
	}
	h.lab.must("ip", "-n", h.lab.id, "link", "set", h.Name, state)
}

// Try runs a command on the host, and returns what it printed to both streams.
func (h *Host) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(h.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

// Run is Try for what has to work. It returns the output without the last newline.
func (h *Host) Run(args ...string) string {
	h.lab.t.Helper()
	out, err := h.Try(args...)
	if err != nil {
		h.lab.t.Fatal(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// Shell is Run for a line of sh.
func (h *Host) Shell(line string) string {
	h.lab.t.Helper()
	return h.Run("sh", "-c", line)
}

// write makes a file on the host, readable by root alone when its name says secret.
func (h *Host) write(path, content string) {
	h.lab.t.Helper()
	full := filepath.Join(h.root, path)
	mode := os.FileMode(0o644)
	if strings.Contains(path, "secret") {
		mode = 0o600
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), mode)); err != nil {
		h.lab.t.Fatal(err)
	}
}

func (l *Lab) must(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (l *Lab) try(name string, args ...string) {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Logf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// until waits for a condition of real hosts, which nothing announces.
func (l *Lab) until(limit time.Duration, what string, ok func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %s in vain for %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond) // between two looks at another host
	}
}
