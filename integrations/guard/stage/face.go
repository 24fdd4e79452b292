package stage

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/integrations/cgroup"
	"golang.org/x/sys/unix"
)

// Exit codes of the guard that a face decides on (DESIGN.md; the whole table is
// in cmd/kahu).
const (
	exitOS        = 71 // EX_OSERR: the guard could not start
	exitLeaseLost = 76
)

// Face is what the user started: it stays in the shell's job, starts the keeper,
// passes signals on, and ends as the command ended, by the same signal if it was
// one. It returns the exit code otherwise.
//
// It is also the last who looks after the command's tree: when the keeper dies
// before it has said how the command ended, the face, a subreaper, kills whatever
// is left below it and returns only when nothing is.
func Face() int {
	f := face{ignored: ignoredSignals()}
	signals := notify(f.ignored, forwarded())

	// Children of the shell that exec'd us are not ours to reap or to kill.
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err == unix.ECHILD {
		f.reaps = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil
	}
	pid, link, err := start(claim{stage: keeperName, ignored: f.ignored}, os.Args[1:], nil)
	if err != nil {
		fmt.Fprintf(os.Stderr, "kahu exec: %v\n", err)
		return exitOS
	}
	ReleaseStdio(0, 1)

	go func() { // ends with the process
		for s := range signals {
			_ = link.Send(Message{Kind: Signal, Number: int(s.(syscall.Signal))})
		}
	}()
	end := f.listen(link, func() { catch(signals, f.ignored, realTime()) })
	status := f.wait(pid)
	if end == nil {
		return f.abandoned(status)
	}
	if end.BySig {
		s := syscall.Signal(end.Number)
		if endsProcess(s) {
			dieBy(s)
		}
		return 128 + end.Number
	}
	return end.Number
}

type face struct {
	ignored uint64
	reaps   bool   // it is a subreaper, and all its children are the guard's
	started bool   // the command was, or is about to be, started
	group   string // path of the control group that the command is in, or empty
}

// listen returns the keeper's last word, or nil when it ended without one. It
// calls onStart in a goroutine when the command was started.
func (f *face) listen(link *Link, onStart func()) (end *Message) {
	for {
		m, err := link.Recv()
		if err != nil {
			return end
		}
		switch m.Kind {
		case Contained:
			f.group = m.Text
		case Started:
			f.started = true
			go onStart()
		case Ended:
			end = &m
		}
	}
}

// wait reaps the keeper.
func (f *face) wait(pid int) (status unix.WaitStatus) {
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != unix.EINTR {
			return status
		}
	}
}

// abandoned ends the tree of a keeper that died, and finds the exit code.
func (f *face) abandoned(status unix.WaitStatus) int {
	if status.Exited() {
		return status.ExitStatus() // help, a wrong flag: it never came to a hold
	}
	if f.group != "" {
		f.killGroup()
	}
	if f.reaps {
		KillDescendants(time.Time{})
	}
	if !f.started {
		return 128 + int(status.Signal())
	}
	fmt.Fprintf(os.Stderr, "kahu exec: the guard was ended by %v, at its deadline or by somebody; "+
		"the command was stopped with it\n", status.Signal())
	return exitLeaseLost
}

// killGroup ends what is in the command's control group, which may be processes
// that take no signals of this user.
func (f *face) killGroup() {
	g, err := cgroup.Open(f.group)
	if err != nil {
		return // it is gone
	}
	defer g.Close()
	if g.Kill() == nil && g.Wait() == nil {
		_ = g.Remove() // or the next guard does it
	}
}

// ReleaseStdio points descriptors at /dev/null, so that the command alone holds
// what the user gave it: a reader of its output sees the end when it closes it.
func ReleaseStdio(fds ...int) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return // held a little longer, no harm
	}
	defer unix.Close(null)
	for _, fd := range fds {
		_ = unix.Dup3(null, fd, 0)
	}
}
