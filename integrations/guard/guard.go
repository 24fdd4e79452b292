// Package guard runs a command that lives only while its lock is held: Run is
// `kahu exec`.
//
// It promises that the command starts only after the lock was granted and the
// grant was acknowledged, that the whole process tree has ended before the
// deadline at which the quorum could give the lock to another, whatever happens
// to the network, to the agent and to the guard itself, and that the lock is
// given back only once nothing of the tree is left.
//
// Three processes do this (DESIGN.md: the guard has three stages). The face,
// which the user started, and the init, which runs the command, are package
// stage. The keeper, here, owns the connection to the agent, the deadline and the
// ladder of containment. It is stopped and killed by nobody's job control: it is
// in a session of its own. Two timers watch over it. The kernel kills
// it at the deadline although it may be stopped, and its end is the tree's end;
// one grace earlier it asks the tree to end by itself.
//
// How the agent is reached is left to the caller (Agent), and the lock's lease to
// the agent.
//
// Who dies when, with a pid namespace:
//
//	face killed     the keeper sees the end of their link: SIGTERM, grace, SIGKILL
//	keeper killed   the init's parent-death signal ends it, and the kernel the rest
//	init killed     the kernel ends the namespace; exit code 137
//	all killed      as for the keeper: no code of ours has to run
//	all stopped     the kernel's timer kills the keeper at the deadline
//
// Without one (CGroup, PGroup), the init and after it the keeper and the face, subreapers
// all, kill the descendants in the place of the kernel. Killing the three of them
// at one instant leaves the command's descendants behind, but not the command. Of
// a control group the agent then ends the rest (Witnesses.Group), and keeps the
// lock until it has; in a container it leaves nothing when the container ends with
// them, and the agent sees that (Witnesses.LastEndsTree). On PGroup elsewhere they
// run on, and the lease ends without a renewal: only the fencing token tells them
// from the next holder. Nothing without privilege ends them: a parent-death signal is
// not inherited, the process group is the caller's as well, and the agent, a user of
// its own, may not send signals to other users' processes. UserNS and Ptrace are for
// whom that is not enough.
package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard/stage"
	"golang.org/x/sys/unix"
)

// Exit codes of the guard itself. Everything else is the command's own code, or
// 128 and the number of the signal that ended it.
const (
	ExitUsage       = 64  // refused as asked: a TTL that does not cover its margin
	ExitUnavailable = 69  // no agent answers on the socket
	ExitOS          = 71  // the guard could not be set up, or not as strictly as required
	ExitNotGot      = 75  // the lock was not got in time
	ExitLeaseLost   = 76  // the lease was lost and the command was stopped
	ExitCannotRun   = 126 // the command was found and cannot be run
	ExitNotFound    = 127 // the command was not found
)

// Options say what to guard, and how.
type Options struct {
	Lock    string        // the lock's name, for the command's environment and for messages
	TTL     time.Duration // the lease at the quorum: no deadline lies further away
	Wait    time.Duration // for the grant; negative: for ever
	Grace   time.Duration // between SIGTERM and SIGKILL
	Contain Containment
	// RequireContain refuses a weaker rung than Contain; with Auto, than PIDNS.
	RequireContain bool
	Command        []string // at least one word: the last ones of os.Args
	Socket         string   // the agent's, for the command's environment
	OnLost         OnLost
	// PIDFile and TokenFile, optional, have the face's pid and the fencing token
	// for as long as the command runs. They are replaced as a whole, and removed
	// once nothing of the tree is left.
	PIDFile, TokenFile string
	// Standby waits for an agent that does not answer as well.
	Standby bool
	// Restart stands in line again after a lost lease, and runs the command again
	// under its new token. It implies Standby.
	Restart bool
	Verbose bool // say when the lock is held, and what contains the command
	Agent   Agent
	Stderr  io.Writer // for what a user must know
}

// Run runs the command under the lock and returns the exit code for the process.
// It is called once, on the goroutine that called main: in the process that the
// user started it becomes the face, starts this program again with the same
// arguments, and may end the process by a signal in place of returning; in that
// second process it is the keeper. Import package stage in main for a face that
// costs little.
func Run(o Options) int {
	face := stage.Keeper()
	if face == nil {
		return stage.Face()
	}
	// The init is killed when the thread that forked it ends (PDEATHSIG).
	runtime.LockOSThread()
	o.Standby = o.Standby || o.Restart
	end := run(o, face)
	if end.text != "" {
		fmt.Fprintf(o.Stderr, "kahu exec: %s\n", end.text)
	}
	if end.lost && o.Restart {
		_ = face.Send(stage.Message{Kind: stage.Again})
		return ExitLeaseLost
	}
	// A face that is gone needs no answer.
	_ = face.Send(stage.Message{Kind: stage.Ended, BySig: end.bySignal, Number: end.number})
	if end.bySignal {
		return 128 + end.number
	}
	return end.number
}

// An outcome is how the guard ends.
type outcome struct {
	number   int  // exit code, or signal
	bySignal bool // the face dies by it
	text     string
	lost     bool // the lease was, and with it the right to run
}

func failure(code int, format string, a ...any) outcome {
	return outcome{number: code, text: fmt.Sprintf(format, a...)}
}

func lost(format string, a ...any) outcome {
	o := failure(ExitLeaseLost, format, a...)
	o.lost = true
	return o
}

func run(o Options, face *stage.Link) outcome {
	file, err := lookPath(o.Command[0])
	if errors.Is(err, os.ErrPermission) {
		return failure(ExitCannotRun, "%v", err)
	}
	if err != nil {
		return failure(ExitNotFound, "%v", err)
	}
	if len(o.Command) > len(os.Args) || !slices.Equal(o.Command, os.Args[len(os.Args)-len(o.Command):]) {
		return failure(ExitOS, "the command %q is not what this program was started with", o.Command[0])
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return failure(ExitOS, "become a subreaper: %v", err)
	}
	if m, err := face.Recv(); err != nil || m.Kind != stage.Listening {
		return failure(ExitLeaseLost, "") // it was killed at its start, and nobody hears this
	}
	k := &keeper{Options: o, face: face, file: file}
	t, err := contain(o.Contain, o.RequireContain, k.ask)
	if err != nil {
		return failure(ExitOS, "%v", err)
	}
	defer t.pidfd.Close()
	contained := stage.Message{Kind: stage.Contained}
	if t.group != nil {
		contained.Text = t.group.Path()
	}
	if o.Restart {
		contained.Number = 1
	}
	_ = face.Send(contained)
	leaveJob()

	k.tree = t
	if err := k.arm(); err != nil {
		t.kill()
		return failure(ExitOS, "%v", err)
	}
	// On a goroutine that is bound to no thread: there is much to wait for.
	end := make(chan outcome)
	go func() { end <- k.run() }()
	return <-end
}

// leaveJob takes the keeper out of the shell's job, now that the init is in it,
// so that Ctrl-C and Ctrl-Z pass it by.
//
// It leaves the session as well (DESIGN.md has it stay, in a process group of its
// own). As the init's parent in another group of the same session it would be what
// keeps the caller's group from being an orphan, and by its end make it one: when
// a member of the group is stopped at that moment, the kernel hangs up on all of
// it, the caller too (POSIX, seen in test/e2e TestCallerOutlivesAStoppedFace).
func leaveJob() {
	if _, err := unix.Setsid(); err != nil { // fails for a group's leader, which a forked child is not
		_ = unix.Setpgid(0, 0)
	}
	signal.Ignore(unix.SIGTTOU, unix.SIGTTIN, unix.SIGTSTP,
		// A service manager sends these to every process of the unit. The command
		// decides when it ends, and the keeper follows.
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE,
		unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM)
	stage.ReleaseStdio(0, 1)
}

// environment is what the command gets besides ours.
func (o *Options) environment(token int64) string {
	return "KAHU_LOCK=" + o.Lock +
		"\x00KAHU_FENCING_TOKEN=" + strconv.FormatInt(token, 10) +
		"\x00KAHU_SOCKET=" + o.Socket
}

// checkDeadline finds an agent whose clock is not ours.
func checkDeadline(e Event, ttl time.Duration) error {
	id, err := boottime.BootID()
	if err != nil {
		return err
	}
	if e.BootID != id {
		return fmt.Errorf("the agent's deadline is of boot %s, this is boot %s", e.BootID, id)
	}
	if left := e.Deadline - boottime.Boottime(); left > ttl {
		return fmt.Errorf("the agent's deadline is %v away, with a TTL of %v: it lives in another time namespace", left, ttl)
	}
	return nil
}
