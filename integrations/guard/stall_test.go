package guard_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

// A terminal or log reader that has stopped reading costs the user lines, and
// not the lock.
func TestAFullStderrDoesNotCostTheLock(t *testing.T) {
	a := newAgent(t)
	g := a.prepare(settings{Grace: 10 * time.Millisecond}, "sh", "-c", "echo ready >&3; while :; do sleep 1000; done")
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	fill(t, w)
	g.cmd.Stderr = w
	g.run()
	w.Close()
	p := a.accept()
	first := p.grant(time.Second)
	g.says("ready")
	s := g.stages()
	for range 2 {
		p.event(guard.Event{State: guard.AtRisk})
		p.event(until(guard.Renewed, 20*time.Second))
	}
	for boottime.Boottime() < first+50*time.Millisecond {
		if len(pollDead(t, 50*time.Millisecond, s.rest[0].pidfd)) == 0 {
			t.Fatal("the command died at its first deadline, although it was renewed")
		}
	}
	go io.Copy(io.Discard, r) // ends with r
	p.event(guard.Event{State: guard.Lost})
	g.exits(guard.ExitLeaseLost)
}

// fill writes until the pipe takes no more, and leaves it blocking.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	fd := int(w.Fd()) // blocking from here on
	must(t, unix.SetNonblock(fd, true))
	for {
		_, err := unix.Write(fd, make([]byte, 4096))
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		must(t, err)
	}
	must(t, unix.SetNonblock(fd, false))
}

// An init that is stopped takes no messages. The keeper goes on, and ends it when
// the lease is lost.
func TestAStoppedInitDoesNotHoldUpTheKeeper(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung, Grace: 100 * time.Millisecond}, "sh", "-c", stubborn)
		p := a.accept()
		p.grant(30 * time.Second)
		s := g.stubborn()
		g.kill(unix.SIGSTOP, s.init)
		for range 2000 { // each moves the deadline
			p.event(until(guard.Renewed, 31*time.Second))
		}
		p.event(guard.Event{State: guard.Lost, Reason: "broken by root"})
		g.exits(guard.ExitLeaseLost)
		g.dead(s.all()...)
	})
}
