package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

// The rungs that are used on request only promise what a pid namespace does, and
// without privilege: nothing is left when the whole guard is killed or stopped.
func TestRungsOnRequest(t *testing.T) {
	for _, rung := range []guard.Containment{guard.UserNS, guard.Ptrace} {
		for _, uid := range []uint32{0, 65534} {
			if os.Geteuid() != 0 && uid != 0 {
				continue // once, as who this is
			}
			t.Run(fmt.Sprintf("%s/%d", rung, uid), func(t *testing.T) {
				r := requested{t, rung, uid}
				r.needs()
				t.Run("exit code", r.exitCode)
				t.Run("signal", r.signal)
				t.Run("all killed", r.allKilled)
				t.Run("all stopped", r.allStopped)
				t.Run("stop and go on", r.stopAndGoOn)
				t.Run("lost", r.lost)
			})
		}
	}
}

type requested struct {
	t    *testing.T
	rung guard.Containment
	uid  uint32
}

func (r requested) start(t *testing.T, a *fakeAgent, command ...string) *guarded {
	t.Helper()
	g := a.prepare(settings{Contain: r.rung, Require: true, Grace: 100 * time.Millisecond}, command...)
	if os.Geteuid() == 0 {
		g.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.uid, Gid: r.uid}
	}
	g.cmd.Stdout, g.cmd.Stderr = &g.stdout, &g.stderr
	g.run()
	return g
}

// needs skips where the kernel does not allow the rung.
func (r requested) needs() {
	a := newAgent(r.t)
	g := r.start(r.t, a, "true")
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		if conn, err := a.listener.AcceptUnix(); err == nil {
			grantAll(conn)
		}
	}()
	s := g.wait()
	a.stop()
	<-done
	if s.ExitStatus() == guard.ExitOS {
		r.t.Skip(g.stderr.String())
	}
	if s.ExitStatus() != 0 {
		r.t.Fatalf("ended with %s: %s", describe(s), &g.stderr)
	}
}

func (r requested) exitCode(t *testing.T) {
	script := filepath.Join(os.TempDir(), fmt.Sprintf("guard-script-%d", time.Now().UnixNano())) // no first line
	must(t, os.WriteFile(script, []byte("(exit 1); exec sh -c 'exit 5'\n"), 0o755))
	t.Cleanup(func() { os.Remove(script) })
	a := newAgent(t)
	g := r.start(t, a, script)
	p := a.accept()
	if p.request.TreeEnds != (r.rung == guard.UserNS) {
		t.Errorf("tree ends: %v", p.request.TreeEnds)
	}
	p.serve()
	g.exits(5)
}

func (r requested) signal(t *testing.T) {
	a := newAgent(t)
	g := r.start(t, a, "sh", "-c", "kill -USR1 $$")
	a.accept().serve()
	if s := g.wait(); !s.Signaled() || s.Signal() != unix.SIGUSR1 {
		t.Errorf("ended with %s, want SIGUSR1", describe(s))
	}
}

func (r requested) allKilled(t *testing.T) {
	a := newAgent(t)
	g := r.start(t, a, "sh", "-c", stubborn)
	p := a.accept()
	p.grant(time.Minute)
	s := g.stubborn()
	g.kill(unix.SIGSTOP, s.face, s.keeper, s.init)
	g.kill(unix.SIGKILL, s.face, s.keeper, s.init)
	g.dead(s.all()...)
	g.wait()
	// What was forked since: the kernel has killed it, and it may be about to die.
	for end := time.Now().Add(patience); len(g.processes()) > 0 && time.Now().Before(end); {
		g.dead(g.processes()...)
	}
}

func (r requested) allStopped(t *testing.T) {
	a := newAgent(t)
	g := r.start(t, a, "sh", "-c", stubborn)
	p := a.accept()
	p.grant(1500 * time.Millisecond)
	s := g.stubborn()
	g.kill(unix.SIGSTOP, s.face, s.keeper, s.init)
	g.dead(append(s.rest, s.keeper, s.init)...)
	g.kill(unix.SIGCONT, s.face)
	g.exits(guard.ExitLeaseLost)
}

func (r requested) stopAndGoOn(t *testing.T) {
	a := newAgent(t)
	g := r.start(t, a, "/proc/self/exe", "helper", "signals")
	p := a.accept()
	p.grant(time.Minute)
	g.says("ready")
	s := g.stages()
	for range 3 {
		g.kill(unix.SIGTSTP, s.rest[0])
		g.waitState(s.rest[0], "Tt")
		g.kill(unix.SIGHUP, s.face) // waits until it goes on
		g.kill(unix.SIGCONT, s.rest[0])
		g.says("signal 1")
	}
	g.kill(unix.SIGUSR2, s.face)
	g.says("signal 12")
	p.release()
	g.exits(0)
}

// waitState waits until a process is in one of the states of /proc/PID/stat.
func (g *guarded) waitState(p process, states string) {
	g.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			g.t.Fatalf("ended before it was in state %s: %v", states, err)
		}
		if _, state, _ := strings.Cut(string(stat), ") "); strings.Contains(states, state[:1]) {
			return
		}
	}
	g.t.Fatalf("not in state %s", states)
}

func (r requested) lost(t *testing.T) {
	a := newAgent(t)
	g := r.start(t, a, "sh", "-c", stubborn)
	p := a.accept()
	p.grant(time.Minute)
	s := g.stubborn()
	p.event(guard.Event{State: guard.Lost, Reason: "test"})
	g.exits(guard.ExitLeaseLost)
	g.dead(s.all()...)
}

// The lock is asked for while the init starts. Where that fails, the request is taken
// back before the next rung asks again: it would stand in line behind itself.
func TestARungThatFailsGivesItsPlaceBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to change the root directory")
	}
	a := newAgent(t)
	g := a.prepare(settings{Verbose: true}, "true")
	self, err := os.Executable()
	must(t, err)
	// A root that is no mount point: a pid namespace can be made, and its mounts not
	// be kept apart.
	g.cmd.Path = "/usr/bin/unshare"
	g.cmd.Args = append([]string{"unshare", "--mount", "sh", "-ec", `
		mount -t tmpfs none "$root"; mkdir "$root/root"
		for d in /*; do
			[ -d "$d" ] || continue
			mkdir "$root/root$d"
			if [ -L "$d" ]; then rmdir "$root/root$d"; cp -P "$d" "$root/root$d"; else mount --rbind "$d" "$root/root$d"; fi
		done
		exec chroot "$root/root" "$0" "$@"`, self}, g.cmd.Args[1:]...)
	g.cmd.Env = append(g.cmd.Env, "root="+t.TempDir())
	g.cmd.Stdout, g.cmd.Stderr = &g.stdout, &g.stderr
	g.run()
	p := a.accept()
	if !p.request.TreeEnds {
		t.Fatal("it did not try a pid namespace")
	}
	p.event(guard.Event{State: guard.Queued, Position: 1})
	p.release()
	p = a.accept()
	if p.request.TreeEnds {
		t.Error("it is in a pid namespace in spite of all")
	}
	p.serve()
	g.exits(0)
	if !strings.Contains(g.stderr.String(), "contained by") {
		t.Errorf("it said %q", &g.stderr)
	}
}
