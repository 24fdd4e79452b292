package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A guard in a pid namespace that the agent cannot see into, as in a container: here
// it is the one around the host. Systemd's store has the pidfds of its processes while
// no agent runs, so that the hold goes over a restart and over kill -9 of the agent,
// and is free at once when all of them died meanwhile. Without the store (the drop-in
// takes it away) the agent after has to wait for the end of the lease, a minute here.
func TestPidfdsInSystemdsStore(t *testing.T) {
	lab := NewLab(t)
	h := lab.Boot("store", 41)
	h.install(deb(t, "1.0.0"))
	h.write("/etc/systemd/system/kahu.service.d/slow.conf", "[Service]\nRestartSec=3\n")
	h.Run("systemctl", "daemon-reload")
	h.Run("kahu", "lock", "ls") // the agent is up
	if got := h.Run("systemctl", "show", "-P", "FileDescriptorStoreMax", "kahu"); got != "512" {
		t.Errorf("FileDescriptorStoreMax is %s", got)
	}
	stored := func() int {
		n, err := strconv.Atoi(h.Run("systemctl", "show", "-P", "NFileDescriptorStore", "kahu"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	main := func() string { return h.Run("systemctl", "show", "-P", "MainPID", "kahu") }
	token := func() string {
		return h.Shell("kahu lock info outside -o json 2>/dev/null | grep -o '\"fencing_token\": *[0-9]*'; true")
	}
	// again waits for the agent after the one with that pid.
	again := func(before string) {
		lab.until(30*time.Second, "another agent", func() bool { pid := main(); return pid != "0" && pid != before })
		lab.ready(h)
	}

	guard := h.outside(t)
	lab.until(10*time.Second, "the lock and the pidfds of its holder in the store", func() bool { return token() != "" && stored() > 0 })
	first, kept, tree := token(), stored(), guard.tree()
	same := func(after string) {
		t.Helper()
		lab.until(10*time.Second, "the guard to take up its hold", func() bool {
			return strings.Contains(h.Run("kahu", "status"), "1 held")
		})
		if got := token(); got != first {
			t.Errorf("after %s the token is %q, was %q", after, got, first)
		}
		if got := guard.tree(); !slices.Equal(got, tree) {
			t.Errorf("after %s the guard has the processes %v, had %v", after, got, tree)
		}
		if got := stored(); got != kept {
			t.Errorf("after %s there are %d pidfds in the store, were %d", after, got, kept)
		}
	}
	before := main()
	h.Run("systemctl", "restart", "kahu")
	again(before)
	same("systemctl restart kahu")
	before = main()
	h.Run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "kahu")
	again(before)
	same("kill -9 of the agent")

	// dies ends the agent, then the guard and its tree, and waits for the next agent.
	dies := func() {
		t.Helper()
		before := main()
		h.Run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "kahu")
		guard.kill(t)
		if now := main(); now != "0" && now != before {
			t.Fatal("the next agent was there before its holder was dead: this shows nothing")
		}
		again(before)
	}
	dies()
	lab.until(10*time.Second, "the lock of dead processes to be free", func() bool { return token() == "" })
	lab.until(10*time.Second, "the store to be empty", func() bool { return stored() == 0 })

	h.write("/etc/systemd/system/kahu.service.d/none.conf", "[Service]\nFileDescriptorStoreMax=0\n")
	h.Run("systemctl", "daemon-reload")
	h.Run("systemctl", "stop", "kahu")
	h.Run("systemctl", "start", "kahu")
	lab.ready(h)
	guard = h.outside(t)
	lab.until(10*time.Second, "the lock", func() bool { return token() != "" })
	second := token()
	if n := stored(); n != 0 {
		t.Errorf("%d pidfds in a store that is none", n)
	}
	dies()
	if got := token(); got != second {
		t.Errorf("without a store the lock of dead processes is not held to the end of its lease: %q, was %q", got, second)
	}
}

// An outsider is a guard that runs on this machine, and asks the agent of a host.
type outsider struct{ cmd *exec.Cmd }

// outside has the lock "outside" held for a minute at a time.
func (h *Host) outside(t *testing.T) *outsider {
	t.Helper()
	cmd := exec.Command(filepath.Join(h.root, "usr/bin/kahu"), "exec", "--socket", fmt.Sprintf("/proc/%d/root/run/kahu/kahu.sock", h.leader),
		"--lock", "outside", "--ttl", "60s", "--contain", "pidns", "--", "sleep", "600")
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &outsider{cmd: cmd}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			o.kill(t)
		}
		if t.Failed() {
			t.Logf("the guard outside said: %s", said.Bytes())
		}
	})
	return o
}

// tree lists its processes, the face first.
func (o *outsider) tree() []int {
	var all []int
	var visit func(pid int)
	visit = func(pid int) {
		all = append(all, pid)
		out, err := exec.Command("pgrep", "--parent", strconv.Itoa(pid)).Output()
		if err != nil {
			return // it has no children
		}
		for _, field := range strings.Fields(string(out)) {
			if child, err := strconv.Atoi(field); err == nil {
				visit(child)
			}
		}
	}
	visit(o.cmd.Process.Pid)
	return all
}

// kill ends all of it, and returns when none is more than a zombie.
func (o *outsider) kill(t *testing.T) {
	t.Helper()
	all := o.tree()
	ends := make([]unix.PollFd, 0, len(all))
	for _, pid := range all {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended by itself
		}
		defer func() { _ = unix.Close(fd) }() // only polled
		ends = append(ends, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have died with its parent
	}
	_ = o.cmd.Wait() // killed
	deadline := time.Now().Add(10 * time.Second)
	for i := range ends {
		for ends[i].Revents == 0 {
			_, err := unix.Poll(ends[i:i+1], max(0, int(time.Until(deadline).Milliseconds())))
			if time.Now().After(deadline) || err != nil && !errors.Is(err, unix.EINTR) {
				t.Fatalf("a process of the guard did not die of SIGKILL: %v", err)
			}
		}
	}
}
