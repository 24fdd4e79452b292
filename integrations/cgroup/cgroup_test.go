package cgroup_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kahu-sh/kahu/integrations/cgroup"
)

func newGroup(t *testing.T) *cgroup.Group {
	t.Helper()
	g, err := cgroup.Make()
	if err != nil {
		if os.Geteuid() == 0 && os.Getenv("CI") == "" {
			t.Fatal(err)
		}
		t.Skip(err) // says which right or mount is missing
	}
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		g.Close()
	})
	return g
}

// start runs a script in the group until it has printed a line.
func start(t *testing.T, g *cgroup.Group, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Kill()
		_ = cmd.Wait() // killed, or waited for
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// What left its session and its parents is still in the group.
const escapes = `trap "" TERM HUP
setsid sh -c 'trap "" TERM; (nohup sleep 1000 >/dev/null 2>&1 &) ; nohup sleep 1000 >/dev/null 2>&1 &' 2>/dev/null
echo ready; sleep 1000`

func TestKillEndsWhateverEscaped(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		g := newGroup(t)
		start(t, g, escapes)
		if frozen {
			if err := g.Freeze(true); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Remove(); err == nil {
			t.Fatal("a group with processes in it was removed")
		}
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		procs, err := os.ReadFile(filepath.Join(g.Path(), "cgroup.procs"))
		if err != nil || len(procs) != 0 {
			t.Errorf("left in the group: %q, %v", procs, err)
		}
		// What the group's processes made below it does not keep it.
		if err := os.MkdirAll(filepath.Join(g.Path(), "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it is gone
			if err := g.Remove(); err != nil {
				t.Fatal(err)
			}
			if err := g.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A guard that was killed whole leaves its group; the next one on the host ends
// what runs there, and leaves alone what belongs to the living.
func TestMakeEndsWhatTheDeadLeft(t *testing.T) {
	g := newGroup(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	name := cgroup.NameForTest(t, dead.Process.Pid)
	path := filepath.Join(filepath.Dir(g.Path()), name)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	left, err := cgroup.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	cmd := start(t, left, escapes)
	mine := start(t, g, escapes)
	cgroup.Sweep(filepath.Dir(path))
	if err := cmd.Wait(); err == nil {
		t.Error("what the dead have left ended well")
	}
	if err := left.Wait(); err != nil {
		t.Error(err)
	}
	cgroup.Sweep(filepath.Dir(path)) // the first may have come too early to remove it
	if _, err := os.Stat(path); err == nil {
		t.Error("an empty group is left")
	}
	if err := mine.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the living's process: %v", err)
	}
}

func TestMounts(t *testing.T) {
	for _, test := range []struct {
		line, root, point string
		ok                bool
	}{
		{"35 24 0:29 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw", "/", "/sys/fs/cgroup/unified", true},
		{"35 24 0:29 /a\\040b /c\\134d rw - cgroup2 none rw", "/a b", `/c\d`, true},
		{"36 24 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids", "/", "/sys/fs/cgroup/pids", false},
		{"short", "", "", false},
		{"", "", "", false},
	} {
		root, point, ok := cgroup.MountOf(test.line)
		if root != test.root || point != test.point || ok != test.ok {
			t.Errorf("%q: %q %q %v", test.line, root, point, ok)
		}
	}
}

func FuzzMountOf(f *testing.F) {
	f.Add("35 24 0:29 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw")
	f.Fuzz(func(t *testing.T, line string) { cgroup.MountOf(line) })
}
