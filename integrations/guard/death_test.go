package guard_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

func TestKillingAnyStageEndsTheTree(t *testing.T) {
	tests := []struct {
		name    string
		victims func(s stages) []process
		after   func(p *peer) // what the agent sees
		// pidnsOnly: without a namespace no code of ours is left to do it.
		pidnsOnly bool
		code      int // of the face, when it is not a victim; -1: SIGKILL
	}{
		{
			name:    "face",
			victims: func(s stages) []process { return []process{s.face} },
			after:   (*peer).release,
		},
		{
			name:    "keeper",
			victims: func(s stages) []process { return []process{s.keeper} },
			code:    guard.ExitLeaseLost,
		},
		{
			name:    "init",
			victims: func(s stages) []process { return []process{s.init} },
			after:   (*peer).release,
			code:    -1,
		},
		{
			name:    "face and keeper",
			victims: func(s stages) []process { return []process{s.face, s.keeper} },
		},
		{
			name:    "keeper and init",
			victims: func(s stages) []process { return []process{s.keeper, s.init} },
			code:    guard.ExitLeaseLost,
		},
		{
			name:      "all",
			victims:   func(s stages) []process { return []process{s.face, s.keeper, s.init} },
			pidnsOnly: true,
		},
	}
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		for _, test := range tests {
			if test.pidnsOnly && rung != guard.PIDNS {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				a := newAgent(t)
				g := a.start(settings{Contain: rung, Require: true, Grace: 100 * time.Millisecond}, "sh", "-c", stubborn)
				p := a.accept()
				p.grant(time.Minute)
				s := g.stubborn()
				victims := test.victims(s)
				g.kill(unix.SIGKILL, victims...)
				if test.after != nil {
					test.after(p)
				}
				g.dead(s.all()...)
				status := g.wait()
				switch {
				case victims[0] == s.face, test.code == -1:
					if !status.Signaled() || status.Signal() != unix.SIGKILL {
						t.Errorf("the face ended with %s, want SIGKILL", describe(status))
					}
				case status.ExitStatus() != test.code:
					t.Errorf("the face ended with %s, want exit code %d", describe(status), test.code)
				}
			})
		}
	})
}

// In a pid namespace the kernel says that the init is dead only after everybody
// in it is: that makes its pidfd a witness.
func TestTheWitnessOutlivesTheTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a pid namespace needs root")
	}
	for range 5 {
		a := newAgent(t)
		g := a.start(settings{Contain: guard.PIDNS, Require: true}, "sh", "-c", stubborn)
		p := a.accept()
		p.grant(time.Minute)
		s := g.stubborn()
		g.kill(unix.SIGKILL, s.face, s.keeper, s.init)
		if len(pollDead(t, patience, p.pidfds[0])) > 0 {
			t.Fatal("the witness lives on")
		}
		if alive := pollDead(t, 0, fds(s.rest)...); len(alive) > 0 {
			t.Errorf("%d processes of the tree outlived the witness", len(alive))
		}
		g.wait()
	}
}

// In a container the kernel ends everything with PID 1, here the face, and the
// agent has a pidfd of it.
func TestTheEndOfTheContainerIsSeen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a pid namespace needs root")
	}
	for _, stopped := range []bool{false, true} {
		a := newAgent(t)
		g := a.prepare(settings{Contain: guard.PGroup}, "sh", "-c", stubborn)
		g.cmd.Stderr = &g.stderr
		g.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
		g.run()
		p := a.accept()
		if !p.request.LastEnds || p.request.TreeEnds || len(p.pidfds) != 3 {
			t.Fatalf("the guard asks with %+v and %d pidfds; want a third one of PID 1", p.request, len(p.pidfds))
		}
		p.grant(time.Minute)
		s := g.stubborn()
		if stopped {
			g.kill(unix.SIGSTOP, s.keeper, s.init)
		}
		g.kill(unix.SIGKILL, s.face)
		if len(pollDead(t, patience, p.pidfds[2])) > 0 {
			t.Fatal("the witness lives on")
		}
		if alive := pollDead(t, 0, fds(append(s.rest, s.keeper, s.init))...); len(alive) > 0 {
			t.Errorf("%d processes of the container outlived the witness", len(alive))
		}
		g.wait()
	}
}

// A stopped guard cannot do anything. The kernel's timer does it.
func TestAStoppedGuardEndsAtTheDeadline(t *testing.T) {
	const grace = 200 * time.Millisecond
	tests := []struct {
		name    string
		stopped func(s stages) []process
	}{
		{"keeper", func(s stages) []process { return []process{s.keeper} }},
		{"init", func(s stages) []process { return []process{s.init} }},
		{"keeper and init", func(s stages) []process { return []process{s.keeper, s.init} }},
		{"all", func(s stages) []process { return []process{s.face, s.keeper, s.init} }},
	}
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, "clock")
				a := newAgent(t)
				g := a.start(settings{Contain: rung, Require: true, Grace: grace},
					"/proc/self/exe", "helper", "clock", file)
				p := a.accept()
				deadline := p.grant(1500 * time.Millisecond)
				g.says("ready")
				s := g.stages()
				g.kill(unix.SIGSTOP, test.stopped(s)...)
				g.dead(s.rest...)
				last := lastInstruction(t, file)
				t.Logf("the last instruction was %v after the deadline", last-deadline)
				if last > deadline+killTime {
					t.Errorf("the command ran for %v beyond its deadline", last-deadline)
				}
				if last < deadline-killEarly {
					t.Errorf("the command was ended %v before its deadline", deadline-last)
				}
				// The agent's word comes too late to change anything.
				_ = p.conn.Close()
				g.kill(unix.SIGCONT, s.face)
				if status := g.wait(); status.ExitStatus() != guard.ExitLeaseLost {
					t.Errorf("the face ended with %s, want %d", describe(status), guard.ExitLeaseLost)
				}
				g.dead(s.all()...)
			})
		}
	})
}

const (
	// killEarly is how much before its deadline a tree may be killed.
	killEarly = 150 * time.Millisecond
	// killTime is how long the kernel may take; the agent's margin has a second.
	killTime = 50 * time.Millisecond
)

// lastInstruction reads what the clock helper wrote last.
func lastInstruction(t *testing.T, file string) time.Duration {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return time.Duration(binary.LittleEndian.Uint64(b))
}

func TestARenewalMovesTheDeadlineInTheKernel(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		file := filepath.Join(t.TempDir(), "clock")
		a := newAgent(t)
		g := a.start(settings{Contain: rung, Grace: 10 * time.Millisecond},
			"/proc/self/exe", "helper", "clock", file)
		p := a.accept()
		first := p.grant(time.Second)
		g.says("ready")
		s := g.stages()
		var second time.Duration
		for range 3 {
			e := until(guard.Renewed, 2*time.Second)
			second = e.Deadline
			p.event(e)
		}
		// The keeper has read it when it asks for nothing more: a signal goes the
		// same way, through the keeper's one loop, after the event.
		for boottime.Boottime() < first+50*time.Millisecond {
			if len(pollDead(t, 50*time.Millisecond, s.rest[0].pidfd)) == 0 {
				t.Fatal("the command died at its first deadline")
			}
		}
		g.kill(unix.SIGSTOP, s.keeper, s.init)
		g.dead(s.rest...)
		if last := lastInstruction(t, file); last > second+killTime || last < second-killEarly {
			t.Errorf("the last instruction was %v after the second deadline", last-second)
		}
		g.exits(guard.ExitLeaseLost)
		g.dead(s.all()...)
	})
}

// Without privilege the ladder ends at the process group, and everything but the
// one promise that needs a namespace holds.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("every other test of the fallback runs unprivileged then")
	}
	credential := &syscall.Credential{Uid: 65534, Gid: 65534}
	t.Run("falls back", func(t *testing.T) {
		a := newAgent(t)
		g := a.prepare(settings{Grace: 100 * time.Millisecond}, "sh", "-c", stubborn)
		g.cmd.SysProcAttr.Credential = credential
		g.cmd.Stderr = &g.stderr
		g.run()
		p := a.accept()
		if p.request.TreeEnds || len(p.pidfds) != 2 {
			t.Errorf("tree ends: %v, %d witnesses; want those of the weaker rung", p.request.TreeEnds, len(p.pidfds))
		}
		p.grant(time.Minute)
		s := g.stubborn()
		g.kill(unix.SIGKILL, s.keeper)
		g.exits(guard.ExitLeaseLost)
		g.dead(s.all()...)
		if left := pollDead(t, 0, p.pidfds...); len(left) != 0 {
			t.Errorf("%d witnesses live on", len(left))
		}
	})
	t.Run("refuses to", func(t *testing.T) {
		a := newAgent(t)
		g := a.prepare(settings{Require: true}, "true")
		g.cmd.SysProcAttr.Credential = credential
		g.cmd.Stderr = &g.stderr
		g.run()
		g.exits(guard.ExitOS)
	})
}
