package stage

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/integrations/cgroup"
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

	// Children of the shell that exec'd us are not ours to reap or to kill.
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == syscall.ECHILD {
		f.reaps = prctl(prSetChildSubreaper, 1) == nil
	}
	RestLater()
	for signals := (chan os.Signal)(nil); ; {
		pid, link, err := start(claim{stage: keeperName, ignored: f.ignored}, os.Args[1:], nil)
		if err != nil {
			fmt.Fprintf(os.Stderr, "kahu exec: %v\n", err)
			return exitOS
		}
		f.keeper.Store(link)
		if signals == nil {
			// While the keeper starts, since it takes a while. A signal that comes
			// before ends the face, and with it the keeper, which has asked for nothing.
			signals = notify(f.ignored, forwarded())
			go func() { // ends with the process
				for s := range signals {
					if s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGQUIT {
						f.asked.Store(true)
					}
					_ = f.keeper.Load().Send(Message{Kind: Signal, Number: int(s.(syscall.Signal))})
				}
			}()
		}
		_ = link.Send(Message{Kind: Listening}) // a keeper that is gone is seen by listen
		end := f.listen(link, func() { catchRealTime(signals, f.ignored) })
		code, again := f.ended(f.wait(pid), end)
		if !again || f.asked.Load() {
			return code
		}
		f.started, f.group, f.files = false, "", nil
	}
}

// ended ends the process as the keeper said, or returns the exit code; again says
// that the lease was lost and the command shall run again under another.
func (f *face) ended(status syscall.WaitStatus, end *Message) (code int, again bool) {
	if end == nil {
		code = f.abandoned(status)
		return code, f.restart && f.reaps && f.started && status.Signaled()
	}
	if end.Kind == Again {
		return exitLeaseLost, true
	}
	if end.BySig {
		s := syscall.Signal(end.Number)
		if endsProcess(s) {
			dieBy(s)
		}
		return 128 + end.Number, false
	}
	return end.Number, false
}

type face struct {
	asked   atomic.Bool // the user has sent a signal that asks for the end
	ignored uint64
	reaps   bool // it is a subreaper, and all its children are the guard's
	started bool // the command was, or is about to be, started
	restart bool // the keeper may ask for another
	keeper  atomic.Pointer[Link]
	group   string // path of the control group that the command is in, or empty
	files   Files  // what the keeper has made for the command
}

// listen returns the keeper's last word, or nil when it ended without one. It
// calls onStart when the command was started.
func (f *face) listen(link *Link, onStart func()) (end *Message) {
	for {
		m, err := link.Recv()
		if err != nil {
			return end
		}
		switch m.Kind {
		case Contained:
			f.group, f.restart = m.Text, m.Number == 1
			if !f.restart {
				ReleaseStdio(0, 1) // the next keeper would need them
			}
		case Started:
			f.started, f.files = true, parseFiles(m.Text)
			onStart()
		case Ended, Again:
			end = &m
		}
	}
}

// wait reaps the keeper.
func (f *face) wait(pid int) (status syscall.WaitStatus) {
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err != syscall.EINTR {
			return status
		}
	}
}

// abandoned ends the tree of a keeper that died, and finds the exit code.
func (f *face) abandoned(status syscall.WaitStatus) int {
	if status.Exited() {
		return status.ExitStatus() // help, a wrong flag: it never came to a hold
	}
	if f.group != "" {
		f.killGroup()
	}
	if f.reaps {
		KillDescendants(time.Time{})
	}
	f.files.Remove()
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
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return // held a little longer, no harm
	}
	defer syscall.Close(null)
	for _, fd := range fds {
		_ = syscall.Dup3(null, fd, 0)
	}
}
