package guard_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/cgroup"
	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

// delegated makes a control group that belongs to a user, as Delegate=yes does.
func delegated(t *testing.T, uid int) *cgroup.Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("to delegate a control group needs root")
	}
	g, err := cgroup.Make()
	if err != nil {
		t.Skip(err) // says which right or mount is missing
	}
	t.Cleanup(func() {
		must(t, g.Kill())
		must(t, g.Wait())
		must(t, g.Remove())
		must(t, g.Close())
	})
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		must(t, os.Chown(filepath.Join(g.Path(), name), uid, uid))
	}
	return g
}

// setuidSleep copies sleep to where it runs as root for everybody.
func setuidSleep(t *testing.T) string {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	program, err := os.ReadFile(sleep)
	must(t, err)
	dir, err := os.MkdirTemp("", "guard")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "sleep")
	must(t, os.WriteFile(path, program, 0o755))
	must(t, os.Chmod(path, 0o755|os.ModeSetuid))
	return path
}

// A child that runs as root takes no signal of a guard that does not. The control
// group ends it, whoever of the guard is killed or stopped.
func TestSetuidChildrenDoNotEscape(t *testing.T) {
	const nobody = 65534
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		to     func(s stages) []process
	}{
		{"the command ends", 0, nil},
		{"face killed", unix.SIGKILL, func(s stages) []process { return []process{s.face} }},
		{"keeper killed", unix.SIGKILL, func(s stages) []process { return []process{s.keeper} }},
		{"init killed", unix.SIGKILL, func(s stages) []process { return []process{s.init} }},
		{"keeper and init killed", unix.SIGKILL, func(s stages) []process { return []process{s.keeper, s.init} }},
		{"keeper and init stopped", unix.SIGSTOP, func(s stages) []process { return []process{s.keeper, s.init} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			group := delegated(t, nobody)
			a := newAgent(t)
			g := a.prepare(settings{Contain: guard.CGroup, Require: true, Grace: 100 * time.Millisecond}, "sh", "-c",
				fmt.Sprintf("setsid %s 1000 & echo ready >&3; read x", setuidSleep(t)))
			g.cmd.Stderr = &g.stderr
			g.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
			g.cmd.SysProcAttr.UseCgroupFD, g.cmd.SysProcAttr.CgroupFD = true, group.FD()
			g.run()
			p := a.accept()
			p.grant(1500 * time.Millisecond)
			g.says("ready")
			s := g.untilRoot()
			if test.to == nil {
				g.stdin.Close()
			} else {
				g.kill(test.signal, test.to(s)...)
			}
			a.stop() // the agent is dead, too
			_ = p.conn.Close()
			g.dead(s.rest...)
			g.wait()
			g.dead(s.all()...)
		})
	}
}

// untilRoot waits for the child that runs as root.
func (g *guarded) untilRoot() stages {
	g.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		s := g.stages()
		for _, p := range s.rest {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
			var uid int
			if _, rest, ok := strings.Cut(string(status), "\nUid:"); err == nil && ok {
				if _, err := fmt.Sscan(rest, &uid, &uid); err == nil && uid == 0 {
					return s
				}
			}
		}
	}
	g.t.Skip("setuid programs are not honoured here")
	return stages{}
}

// A guard that is killed whole has nobody left to end its tree: the next guard on
// the host does, before it stands in line.
func TestTheNextGuardEndsWhatAKilledOneLeft(t *testing.T) {
	if g, err := cgroup.Make(); err != nil {
		t.Skip(err) // says which right or mount is missing
	} else {
		must(t, g.Remove())
	}
	a := newAgent(t)
	g := a.start(settings{Contain: guard.CGroup, Require: true}, "sh", "-c", stubborn)
	p := a.accept()
	p.grant(time.Minute)
	s := g.stubborn()
	g.kill(unix.SIGKILL, s.face, s.keeper, s.init)
	g.dead(s.face, s.keeper, s.init)
	next := a.start(settings{Contain: guard.CGroup, Require: true}, "true")
	q := a.accept()
	g.dead(s.rest...)
	g.wait()
	q.serve()
	next.exits(0)
}
