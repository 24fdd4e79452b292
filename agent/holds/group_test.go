package holds_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
)

// groupDir makes a control group of its own at the top of the v2 tree.
func groupDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("to make a control group needs root")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		at, kind, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(kind, "cgroup2 ") {
			dir := filepath.Join(strings.Fields(at)[4], fmt.Sprintf("kahu-holds-test-%d", time.Now().UnixNano()))
			if err := os.Mkdir(dir, 0o700); errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				t.Skipf("a container without control groups of its own: %v", err)
			} else if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
				await(t, "the group to be removed", func() bool { return unix.Rmdir(dir) == nil })
			})
			return dir
		}
	}
	t.Skip("no cgroup v2 here")
	return ""
}

// startIn starts a sleep in the group: what a guard that was killed leaves behind.
func startIn(t *testing.T, dir string) process {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(d.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := process{cmd}
	t.Cleanup(p.kill)
	return p
}

// groupFiles are what a guard passes of its group.
func groupFiles(t *testing.T, dir string) []*os.File {
	t.Helper()
	kill, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		t.Skipf("cgroup.kill came with Linux 5.14: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	return []*os.File{kill, events}
}

// When the stages of a guard are gone, the agent ends what is left in the control
// group of its command, and only then is the lock free.
func TestWhatAGuardLeavesInItsGroupIsEnded(t *testing.T) {
	r := newProcessRig(t)
	dir := groupDir(t)
	guard, f := startProcess(t)
	left := startIn(t, dir)
	a := r.open(processRequest("l", false, append([]*os.File{f}, groupFiles(t, dir)...)...))
	r.want(a, soon, localapi.HoldHeld)
	b := r.open(request("l"))
	r.want(b, soon, localapi.HoldQueued)
	a.Disconnect()
	r.silent(b, 50*time.Millisecond) // the guard lives
	guard.kill()
	r.want(b, soon, localapi.HoldHeld)
	if state := left.state(); state != "Z" && state != "" {
		t.Errorf("the next has the lock, and what the guard left behind is %q", state)
	}
	b.Disconnect()
}

// state is the process's in /proc, empty when it is gone.
func (p process) state() string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}

// The end of the tree alone, while its guard lives, is the guard's to tell.
func TestAnEmptyGroupIsTheGuardsToTell(t *testing.T) {
	r := newProcessRig(t)
	dir := groupDir(t)
	_, f := startProcess(t)
	command := startIn(t, dir)
	a := r.open(processRequest("l", false, append([]*os.File{f}, groupFiles(t, dir)...)...))
	r.want(a, soon, localapi.HoldHeld)
	b := r.open(request("l"))
	r.want(b, soon, localapi.HoldQueued)
	command.kill()
	r.silent(b, 100*time.Millisecond)
	if err := a.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.want(b, soon, localapi.HoldHeld)
	b.Disconnect()
}

// A guard that was killed while no agent ran has its tree ended by the next agent.
func TestTheNextAgentEndsWhatWasLeftMeanwhile(t *testing.T) {
	for _, empty := range []bool{false, true} {
		r := crashed(t)
		dir := groupDir(t)
		guard, f := startProcess(t)
		left := startIn(t, dir)
		a := r.open(processRequest("l", false, append([]*os.File{f}, groupFiles(t, dir)...)...))
		r.want(a, soon, localapi.HoldHeld)
		a.Disconnect()
		r.h.Crash()
		guard.kill()
		if empty {
			left.kill()
		}
		r.h = r.newHolds()
		await(t, "the lock to be free", func() bool { return r.q.owner(t, "l") == "" })
		if state := left.state(); state != "Z" && state != "" {
			t.Errorf("the lock is free, and what the guard left behind is %q", state)
		}
	}
}
