package guard_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/cgroup"
	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

// eachRung runs a test on every rung that works here.
func eachRung(t *testing.T, f func(t *testing.T, rung guard.Containment)) {
	for _, rung := range []guard.Containment{guard.PIDNS, guard.CGroup, guard.PGroup} {
		t.Run(string(rung), func(t *testing.T) {
			if rung == guard.PIDNS && os.Geteuid() != 0 {
				t.Skip("a pid namespace needs root")
			}
			if g, err := cgroup.Make(); rung == guard.CGroup && err != nil {
				t.Skip(err)
			} else if err == nil {
				must(t, g.Remove())
				must(t, g.Close())
			}
			f(t, rung)
		})
	}
}

func TestExitStatusIsTheCommands(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script") // no first line
	must(t, os.WriteFile(script, []byte("exit 5\n"), 0o755))
	plain := filepath.Join(t.TempDir(), "plain")
	must(t, os.WriteFile(plain, nil, 0o644))

	tests := []struct {
		name    string
		command []string
		code    int
		signal  syscall.Signal
		unasked bool // the lock is not even asked for
	}{
		{name: "true", command: []string{"true"}},
		{name: "false", command: []string{"false"}, code: 1},
		{name: "255", command: []string{"sh", "-c", "exit 255"}, code: 255},
		{name: "script", command: []string{script}, code: 5},
		{name: "not found", command: []string{"no-such-command"}, code: 127, unasked: true},
		{name: "not there", command: []string{"/no/such/command"}, code: 127, unasked: true},
		{name: "not executable", command: []string{plain}, code: 126, unasked: true},
		{name: "HUP", command: []string{"sh", "-c", "kill -HUP $$"}, signal: unix.SIGHUP},
		{name: "INT", command: []string{"sh", "-c", "kill -INT $$"}, signal: unix.SIGINT},
		{name: "QUIT", command: []string{"sh", "-c", "kill -QUIT $$"}, signal: unix.SIGQUIT},
		{name: "ABRT", command: []string{"sh", "-c", "kill -ABRT $$"}, signal: unix.SIGABRT},
		{name: "SEGV", command: []string{"sh", "-c", "kill -SEGV $$"}, signal: unix.SIGSEGV},
		{name: "PIPE", command: []string{"sh", "-c", "kill -PIPE $$"}, signal: unix.SIGPIPE},
		{name: "TERM", command: []string{"sh", "-c", "kill -TERM $$"}, signal: unix.SIGTERM},
		{name: "KILL", command: []string{"sh", "-c", "kill -KILL $$"}, signal: unix.SIGKILL},
		{name: "real-time", command: []string{"bash", "-c", "kill -40 $$"}, signal: 40},
	}
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				a := newAgent(t)
				g := a.start(settings{Contain: rung, Require: true}, test.command...)
				if !test.unasked {
					a.accept().serve()
				}
				s := g.wait()
				if test.signal != 0 {
					if !s.Signaled() || s.Signal() != test.signal {
						t.Errorf("ended with %s, want signal %v; stderr: %s", describe(s), test.signal, &g.stderr)
					}
				} else if !s.Exited() || s.ExitStatus() != test.code {
					t.Errorf("ended with %s, want exit code %d; stderr: %s", describe(s), test.code, &g.stderr)
				}
			})
		}
	})
}

func TestTheCommandSeesItsLockAndNothingOfTheGuard(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		t.Setenv("KAHU_FENCING_TOKEN", "of an outer guard")
		t.Setenv("WITH_NEWLINE", "a\nb")
		g := a.prepare(settings{Contain: rung},
			"sh", "-c", `echo "$KAHU_LOCK $KAHU_FENCING_TOKEN $KAHU_SOCKET"; env | grep -c KAHU_GUARD; echo "$WITH_NEWLINE"; cat; echo oops >&2; echo three >&3; ls -l /proc/self/fd | grep -c socket`)
		g.cmd.Stdin = strings.NewReader("from stdin\n")
		g.cmd.Stdout, g.cmd.Stderr = &g.stdout, &g.stderr
		g.run()
		a.accept().serve()
		g.says("three")
		g.exits(1) // of grep
		if want := "invoices 7 /run/kahu/test.sock\n0\na\nb\nfrom stdin\n0\n"; g.stdout.String() != want {
			t.Errorf("the command wrote %q, want %q", &g.stdout, want)
		}
		if g.stderr.String() != "oops\n" {
			t.Errorf("stderr is %q, want only the command's", &g.stderr)
		}
	})
}

func TestAReaderSeesTheEndWhenTheCommandClosesItsOutput(t *testing.T) {
	a := newAgent(t)
	g := a.prepare(settings{}, "sh", "-c", "echo out; exec >&-; exec sleep 1000")
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	g.cmd.Stdout, g.cmd.Stderr = w, &g.stderr
	g.run()
	w.Close()
	p := a.accept()
	p.grant(time.Minute)
	must(t, r.SetReadDeadline(time.Now().Add(patience)))
	b, err := io.ReadAll(r)
	if string(b) != "out\n" || err != nil {
		t.Errorf("read %q (%v), want the output and its end", b, err)
	}
	must(t, g.cmd.Process.Signal(unix.SIGTERM))
	p.release()
	if s := g.wait(); !s.Signaled() || s.Signal() != unix.SIGTERM {
		t.Errorf("ended with %s, want SIGTERM", describe(s))
	}
}

func TestNothingRunsBeforeTheAckIsConfirmed(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung}, "sh", "-c", "echo ran >&3")
		p := a.accept()
		if len(p.pidfds) == 0 || p.request.TreeEnds != (rung == guard.PIDNS) {
			t.Errorf("witnesses are %d pidfds, tree ends: %v", len(p.pidfds), p.request.TreeEnds)
		}
		p.event(guard.Event{State: guard.Queued, Position: 1})
		p.event(until(guard.Held, time.Minute))
		p.expect("ack")
		// Too late: the grant went to the next.
		p.event(guard.Event{State: guard.Queued, Position: 3})
		p.event(until(guard.Held, time.Minute))
		p.expect("ack")
		if rest := g.stages().rest; len(rest) != 0 {
			t.Errorf("%v runs before the grant is confirmed", rest)
		}
		p.event(until(guard.Renewed, time.Minute))
		g.says("ran")
		p.release()
		g.exits(0)
	})
}

func TestNotGot(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{Wait: time.Second}, "true")
		p := a.accept()
		p.event(guard.Event{State: guard.Queued, Position: 2})
		p.event(guard.Event{State: guard.Released, Reason: "timeout"})
		g.exits(guard.ExitNotGot)
	})
	t.Run("refused", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{}, "true")
		a.accept().send(answer{Error: "refused"})
		g.exits(guard.ExitUsage)
		if !strings.Contains(g.stderr.String(), "too short") {
			t.Errorf("stderr is %q, want the agent's reason", &g.stderr)
		}
	})
	t.Run("denied", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{}, "true")
		a.accept().send(answer{Error: "denied"})
		g.exits(77)
	})
	t.Run("no agent", func(t *testing.T) {
		a := newAgent(t)
		a.stop()
		a.start(settings{}, "true").exits(guard.ExitUnavailable)
	})
	t.Run("no time left", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{}, "true")
		p := a.accept()
		p.event(until(guard.Held, -time.Second))
		p.release()
		g.exits(guard.ExitNotGot)
	})
	t.Run("another boot", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{}, "true")
		p := a.accept()
		e := until(guard.Held, time.Minute)
		e.BootID = "11111111-2222-3333-4444-555555555555"
		p.event(e)
		p.release()
		g.exits(guard.ExitUnavailable)
	})
	t.Run("another clock", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{TTL: 30 * time.Second}, "true")
		p := a.accept()
		p.event(until(guard.Held, 100000*time.Second))
		p.release()
		g.exits(guard.ExitUnavailable)
	})
	t.Run("interrupted", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{}, "true")
		p := a.accept()
		p.event(guard.Event{State: guard.Queued, Position: 2})
		must(t, g.cmd.Process.Signal(unix.SIGINT))
		p.release()
		if s := g.wait(); !s.Signaled() || s.Signal() != unix.SIGINT {
			t.Errorf("ended with %s, want SIGINT", describe(s))
		}
	})
	t.Run("lost its place", func(t *testing.T) {
		a := newAgent(t)
		g := a.start(settings{}, "true")
		a.accept().event(guard.Event{State: guard.Lost, Reason: "agent restarted"})
		a.accept().serve() // stands in line anew
		g.exits(0)
	})
}

// stubborn is a tree that does not want to end: it ignores SIGTERM, and has
// left its session, its parent and its terminal.
const stubborn = `trap '' TERM HUP INT
setsid sh -c 'trap "" TERM; echo a >&3; while :; do sleep 1000; done' &
(setsid nohup sh -c 'trap "" TERM; (echo b >&3; while :; do sleep 1000; done) & wait' >/dev/null 2>&1 &)
while :; do sleep 1000; done`

// ready waits for the stubborn tree.
func (g *guarded) stubborn() stages {
	g.t.Helper()
	got := map[string]bool{}
	for range 2 {
		s, err := g.report.ReadString('\n')
		if err != nil {
			g.t.Fatalf("the command's tree did not come: %v; stderr: %s", err, &g.stderr)
		}
		got[s] = true
	}
	if !got["a\n"] || !got["b\n"] {
		g.t.Fatalf("the command said %v", got)
	}
	return g.stages()
}

func TestALostLeaseEndsTheTreeBeforeTheRelease(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung, Grace: 200 * time.Millisecond}, "sh", "-c", stubborn)
		p := a.accept()
		p.grant(time.Minute)
		s := g.stubborn()
		if len(s.rest) < 4 {
			t.Fatalf("the tree is only %v", s.rest)
		}
		p.event(guard.Event{State: guard.Lost, Reason: "broken by root"})
		g.exits(guard.ExitLeaseLost)
		g.dead(s.all()...)
		if !strings.Contains(g.stderr.String(), "broken by root") {
			t.Errorf("stderr is %q, want the reason", &g.stderr)
		}
	})
}

func TestWhatTheCommandLeavesBehindEndsBeforeTheRelease(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung, Grace: 200 * time.Millisecond}, "sh", "-c",
			`(setsid sh -c 'trap "" TERM; echo a >&3; while :; do sleep 1000; done' >/dev/null 2>&1 &); (setsid sh -c 'trap "" TERM; echo b >&3; sleep 1000' &); read x; exit 3`)
		p := a.accept()
		p.grant(time.Minute)
		s := g.stubborn()
		g.stdin.Close()
		p.expect("release")
		if alive := pollDead(t, 0, fds(append(s.rest, s.init))...); len(alive) != 0 {
			t.Errorf("%d processes of the tree live at the release", len(alive))
		}
		if rung == guard.PIDNS && !p.gone(0) {
			t.Error("the witness lives after the tree")
		}
		p.event(guard.Event{State: guard.Released})
		g.exits(3)
		g.dead(s.all()...)
	})
}

func TestTheLockIsKeptOverAnAgentsRestart(t *testing.T) {
	a := newAgent(t)
	g := a.start(settings{}, "sh", "-c", "echo ready >&3; read x; exit 4")
	p := a.accept()
	p.grant(2 * time.Second)
	g.says("ready")
	a.stop()
	p.conn.Close()
	a.listen()
	p = a.accept()
	if p.request.Do != "attach" || p.request.Hold != "0123456789abcdef0123456789abcdef" || len(p.pidfds) != 1 {
		t.Fatalf("the guard came back with %+v and %d pidfds, want to attach with its witness", p.request, len(p.pidfds))
	}
	p.event(until(guard.Held, time.Minute))
	s := g.stages()
	if len(s.rest) != 1 {
		t.Errorf("the tree is %v, want the command alone", s.rest)
	}
	p.conn.Close()
	p = a.accept()
	p.send(answer{Error: "unknown"}) // and again: the deadline is far away
	p = a.accept()
	p.event(until(guard.Renewed, time.Minute))
	g.kill(unix.SIGTERM, s.face)
	p.release()
	if s := g.wait(); !s.Signaled() || s.Signal() != unix.SIGTERM {
		t.Errorf("ended with %s, want SIGTERM", describe(s))
	}
}

func TestASilentAgentCostsTheLockAtTheDeadline(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung, Grace: 300 * time.Millisecond}, "sh", "-c", stubborn)
		p := a.accept()
		p.grant(time.Second)
		p.event(until(guard.Renewed, 1500*time.Millisecond))
		deadline := until(guard.Renewed, time.Second).Deadline // earlier: has no effect
		s := g.stubborn()
		go p.conn.SetDeadline(time.Time{})
		g.exits(guard.ExitLeaseLost)
		if now := until("", 0).Deadline; now < deadline {
			t.Errorf("ended %v before the renewed deadline", deadline-now)
		}
		g.dead(s.all()...)
	})
}

// A grant to a job that its user has stopped is not taken: it goes to the next, and
// the job stands in line anew until it goes on.
func TestAStoppedJobTakesNoLock(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung, Verbose: true}, "sh", "-c", "echo ran >&3")
		p := a.accept()
		p.event(guard.Event{State: guard.Queued, Position: 1})
		p.event(until(guard.Held, time.Minute))
		p.expect("ack") // all stages are there and catch signals
		p.event(guard.Event{State: guard.Queued, Position: 1})
		s := g.stages()
		must(t, unix.Kill(-s.face.pid, unix.SIGTSTP)) // Ctrl-Z
		g.frozen(s.face)
		p.event(until(guard.Held, time.Minute))
		p.event(until(guard.Renewed, time.Minute))
		p.event(guard.Event{State: guard.Lost, Reason: "not acknowledged"})
		var r request
		must(t, p.conn.SetReadDeadline(time.Now().Add(patience)))
		if err := p.lines.Decode(&r); !errors.Is(err, io.EOF) {
			t.Errorf("the guard said %q (%v) while its job was stopped", r.Do, err)
		}
		p = a.accept()
		p.event(until(guard.Held, time.Minute))
		must(t, unix.Kill(-s.face.pid, unix.SIGCONT)) // fg
		p.expect("ack")
		p.event(until(guard.Renewed, time.Minute))
		g.says("ran")
		p.release()
		g.exits(0)
	})
}
