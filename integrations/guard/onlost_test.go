package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

func TestOnLost(t *testing.T) {
	tests := []struct {
		onLost string
		says   []string
	}{
		{"term", []string{"signal 15"}},
		{"kill", nil},
		{"freeze", nil},
		{"signal:USR1", []string{"signal 10"}},
		{"signal:sighup", []string{"signal 1"}},
		{"run:kill -HUP $KAHU_COMMAND_PID; kill -TERM $KAHU_COMMAND_PID; sleep 1", []string{"signal 1", "signal 15"}},
	}
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		for _, test := range tests {
			t.Run(test.onLost, func(t *testing.T) {
				a := newAgent(t)
				grace := 300 * time.Millisecond
				if test.says != nil {
					grace = 5 * time.Second // it says so before that is over, on a busy machine too
				}
				g := a.start(settings{Contain: rung, Require: true, Grace: grace, OnLost: test.onLost},
					"/proc/self/exe", "helper", "signals")
				p := a.accept()
				p.grant(time.Minute)
				g.says("ready")
				s := g.stages()
				p.event(guard.Event{State: guard.Lost, Reason: "test"})
				// Two signals may be taken by two threads, in either order.
				for said := slices.Clone(test.says); len(said) > 0; {
					line, err := g.report.ReadString('\n')
					i := slices.Index(said, strings.TrimSuffix(line, "\n"))
					if err != nil || i < 0 {
						t.Fatalf("the command said %q (%v), want one of %q", line, err, said)
					}
					said = slices.Delete(said, i, i+1)
				}
				if test.says != nil {
					g.kill(unix.SIGUSR2, s.rest[0]) // it has said what it had to, and ends of this
					g.says("signal 12")
				}
				if test.onLost == "freeze" {
					g.frozen(s.rest[0])
				}
				g.exits(guard.ExitLeaseLost)
				g.dead(s.all()...)
				if rest, err := g.report.ReadString('\n'); err == nil {
					t.Errorf("the command got %q as well", rest)
				}
			})
		}
	})
}

// frozen waits until a process is stopped by a signal.
func (g *guarded) frozen(p process) {
	g.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			g.t.Fatalf("ended before it was seen frozen: %v", err)
		}
		if strings.Contains(string(b), ") T ") {
			return
		}
	}
	g.t.Fatal("not frozen")
}

func TestParseOnLost(t *testing.T) {
	for _, bad := range []string{"", "no", "signal:", "signal:NO", "run:", "run: ", "term:x:", "run:" + strings.Repeat("x", 9000)} {
		if o, err := guard.ParseOnLost(bad); err == nil {
			t.Errorf("%.20q was taken for %+v", bad, o)
		}
	}
}

// After a lost lease the command runs again under its new token, with the streams
// that the user gave, and once a user wants the end it does not.
func TestRestart(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		dir := t.TempDir()
		tokens, pids := filepath.Join(dir, "token"), filepath.Join(dir, "pid")
		g := a.start(settings{Contain: rung, Require: true, Restart: true, Verbose: true, Grace: 100 * time.Millisecond, TokenFile: tokens, PIDFile: pids},
			"sh", "-c", `echo "$KAHU_FENCING_TOKEN $(cat `+tokens+` `+pids+` | tr '\n' ' ')" | tee -a /dev/fd/3; exec sleep 1000`)
		face := g.cmd.Process.Pid
		for token := int64(1); token <= 3; token++ {
			p := a.accept()
			e := until(guard.Held, time.Minute)
			e.Token = token
			p.event(e)
			p.expect("ack")
			e.State = guard.Renewed
			p.event(e)
			g.says(fmt.Sprintf("%d %d %d ", token, token, face))
			s := g.stages()
			switch token {
			case 1:
				p.event(guard.Event{State: guard.Lost, Reason: "test"})
			case 2: // nobody says anything: the kernel ends it at the deadline
				g.kill(unix.SIGKILL, s.keeper)
			case 3:
				g.kill(unix.SIGTERM, s.face)
				p.release()
			}
			g.dead(append(s.rest, s.keeper, s.init)...)
		}
		if status := g.wait(); !status.Signaled() || status.Signal() != unix.SIGTERM {
			t.Errorf("the guard ended with %s", describe(status))
		}
		if out := g.stdout.String(); strings.Count(out, "\n") != 3 {
			t.Errorf("the command's output: %q", out)
		}
		if said := g.stderr.String(); !strings.Contains(said, "contained by "+string(rung)) {
			t.Errorf("the guard said: %q", said)
		}
		for _, file := range []string{tokens, pids} {
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s is left", file)
			}
		}
	})
}

func TestStandbyWaitsForTheAgent(t *testing.T) {
	a := newAgent(t)
	a.stop()
	must(t, os.RemoveAll(a.path))
	a2 := a.start(settings{}, "true")
	a2.exits(guard.ExitUnavailable)
	g := a.prepare(settings{Standby: true}, "true")
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	g.cmd.Stderr = w
	g.run()
	w.Close()
	said := make([]byte, 200)
	n, err := r.Read(said)
	if err != nil || !strings.Contains(string(said[:n]), "waiting") {
		t.Fatalf("the guard said %q, %v", said[:n], err)
	}
	a.listen()
	a.accept().serve()
	g.exits(0)
}

// The files are gone with the command, whoever of the guard was killed: a pid that is
// left behind is another's soon.
func TestAKilledStageLeavesNoFiles(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		for _, killed := range []string{"face", "keeper", "init"} {
			t.Run(killed, func(t *testing.T) {
				a := newAgent(t)
				dir := t.TempDir()
				g := a.start(settings{Contain: rung, Require: true, Grace: 100 * time.Millisecond,
					TokenFile: filepath.Join(dir, "token"), PIDFile: filepath.Join(dir, "pid")},
					"sh", "-c", "ls "+dir+" | tr '\\n' ' ' >&3; echo >&3; exec sleep 1000")
				p := a.accept()
				p.grant(time.Minute)
				g.says("pid token ")
				s := g.stages()
				g.kill(unix.SIGKILL, map[string]process{"face": s.face, "keeper": s.keeper, "init": s.init}[killed])
				if killed != "keeper" {
					p.release()
				}
				g.wait()
				g.dead(s.all()...)
				left, err := os.ReadDir(dir)
				must(t, err)
				if len(left) > 0 {
					t.Errorf("%v is left, and more", left[0])
				}
			})
		}
	})
}

// The sockets between the stages find a place where few descriptors may be open.
func TestFewDescriptors(t *testing.T) {
	a := newAgent(t)
	g := a.prepare(settings{}, "sh", "-c", "ulimit -n")
	g.cmd.Args = append([]string{"sh", "-c", `ulimit -n 50; exec "$0" "$@"`, ""}, g.cmd.Args[1:]...)
	self, err := os.Executable()
	must(t, err)
	g.cmd.Path, g.cmd.Args[3] = "/bin/sh", self
	g.cmd.Stdout, g.cmd.Stderr = &g.stdout, &g.stderr
	g.run()
	a.accept().serve()
	g.exits(0)
	if g.stdout.String() != "50\n" {
		t.Errorf("the command may have %q descriptors", &g.stdout)
	}
}
