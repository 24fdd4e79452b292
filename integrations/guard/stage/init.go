package stage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/cgroup"
)

// initStage runs the command and has its tree in hand. In a pid namespace it is
// PID 1: whatever happens to it, the kernel ends the whole namespace with it.
// Without one it is a subreaper in the same place, and as long as it lives it ends
// the tree when the keeper is gone.
//
// It stays in the process group of the face, so it sees what a terminal or a
// shell sends to the whole job (see jobSignals).
type initStage struct {
	link *Link
	mode mode
	// group is the control group that this process and its tree are in, or nil.
	group *cgroup.Group

	timer   *boottime.KillTimer // without a namespace: ends a stopped init at the deadline
	command int                 // pid, 0 before the start
	running bool
	env     []string     // of the command
	traced  <-chan death // of a tracer: what reap reports otherwise
	main    chan func()  // what the main thread has to do
	job     jobSignals
}

// exitInit is what an init ends with whose keeper is gone; nobody reads it.
const exitInit = 1

// runInit is the life of an init. It has the main thread, which lives as long as the
// process: the command's death signal hangs on the thread that forked it. What does
// not start a process is elsewhere (see offMain).
func runInit(link *Link, how mode, group string) int {
	in := &initStage{link: link, mode: how, job: newJobSignals(), main: make(chan func())}
	err := in.contain()
	if err == nil && group != "" {
		in.group, err = cgroup.Open(group)
	}
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		_ = link.Send(Message{Kind: Failed, Number: int(errno), Text: err.Error()})
		return exitInit
	}
	if err := link.Send(Message{Kind: Ready}); err != nil {
		return exitInit
	}
	go func() { syscall.Exit(in.serve()) }()
	for f := range in.main { // until the end of the process
		f()
	}
	return exitInit
}

// serve is what follows when the place for the command is there. It reads no message
// before it catches signals.
func (in *initStage) serve() int {
	// The stop signals are caught so that a stopped job still has an init.
	signals := notify(inherited, append(forwarded(), syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU))
	messages := make(chan Message)
	go func() { // ends with the keeper, and then the process does
		for {
			m, err := in.link.Recv()
			if err != nil {
				close(messages)
				return
			}
			messages <- m
		}
	}()
	return in.loop(messages, signals)
}

// fork is syscall.ForkExec on the main thread.
func (in *initStage) fork(file string, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	done := make(chan struct{})
	in.main <- func() {
		defer close(done)
		pid, err = syscall.ForkExec(file, args, attr)
	}
	<-done
	return pid, err
}

func (in *initStage) loop(messages <-chan Message, signals chan os.Signal) int {
	RestLater()
	var reaped <-chan death
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				in.kill() // the keeper is gone
				return exitInit
			}
			if m.Kind == Start {
				if err := in.start(m); err != nil {
					return exitInit
				}
				c := in.traced
				if c == nil {
					ends := make(chan death)
					go reap(ends) // ends when no child is left, and then the process does
					c = ends
				}
				catchRealTime(signals, inherited)
				reaped = c
				continue
			}
			in.obey(m)
		case s := <-signals:
			in.job.saw(s.(syscall.Signal))
		case <-in.job.due():
			in.job.settle(in.send)
		case d, ok := <-reaped:
			if !ok {
				return 0 // the tree is gone
			}
			if d.pid != in.command {
				continue
			}
			in.running = false
			if in.link.Send(d.message()) != nil {
				in.kill()
				return exitInit
			}
		}
	}
}

// contain makes the process what the rung promises.
func (in *initStage) contain() error {
	if !in.mode.pid1() {
		if err := prctl(prSetChildSubreaper, 1); err != nil {
			return fmt.Errorf("become a subreaper: %w", err)
		}
		timer, err := boottime.NewKillTimer()
		in.timer = timer
		if err == nil && in.mode == tracing {
			err = canTrace()
		}
		return err
	}
	// What is mounted on the host later is still seen here, not the reverse.
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts apart from the host's: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount a private /proc: %w", err)
	}
	if in.mode == asUser {
		// The command gets none of it. This thread is the one that starts it.
		if err := prctl(prCapAmbient, prCapAmbientClearAll); err != nil {
			return fmt.Errorf("give up capabilities: %w", err)
		}
	}
	return nil
}

// start runs the command.
func (in *initStage) start(m Message) error {
	in.deadline(m.At)
	file, set, _ := bytes.Cut([]byte(m.Text), []byte{0})
	args := os.Args[max(len(os.Args)-m.Number, 0):]
	var own []string
	for variable := range bytes.SplitSeq(set, []byte{0}) {
		own = append(own, string(variable))
	}
	in.env = environment(os.Environ(), own)
	attr := &syscall.ProcAttr{
		Env:   in.env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{},
	}
	if !in.mode.pid1() {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	fork := in.fork
	if in.mode == tracing {
		fork = in.forkTraced
	}
	pid, err := fork(string(file), args, attr)
	if errors.Is(err, syscall.ENOEXEC) {
		// A script without a first line: what execvp and every shell do.
		args = append([]string{"sh", string(file)}, args[1:]...)
		pid, err = fork("/bin/sh", args, attr)
	}
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		return errors.Join(err, in.link.Send(Message{Kind: Failed, Number: int(errno), Text: err.Error()}))
	}
	in.command, in.running = pid, true
	in.job.forget() // what came before the command was there did not reach it
	ReleaseStdio(0, 1, 2)
	return in.link.Send(Message{Kind: Started, Number: pid})
}

// environment replaces variables of env by those in set, each "NAME=value".
func environment(env, set []string) []string {
	out := make([]string, 0, len(env)+len(set))
	for _, v := range env {
		name := nameOf(v)
		replaced := false
		for _, s := range set {
			replaced = replaced || nameOf(s) == name
		}
		if !replaced {
			out = append(out, v)
		}
	}
	return append(out, set...)
}

// nameOf is what stands before the "=" of a variable.
func nameOf(variable string) string {
	for i := range len(variable) {
		if variable[i] == '=' {
			return variable[:i]
		}
	}
	return variable
}

func (in *initStage) obey(m Message) {
	switch m.Kind {
	case Signal:
		in.job.report(syscall.Signal(m.Number))
	case Deadline:
		in.deadline(m.At)
	case Stop:
		in.stop(m)
	}
}

// stop tells the tree that it has to end.
func (in *initStage) stop(m Message) {
	switch s := syscall.Signal(m.Number); {
	case m.Text != "" && in.command != 0:
		in.run(m.Text)
	case s == syscall.SIGSTOP:
		in.tree(s)
	default:
		if s == 0 {
			s = syscall.SIGTERM
		}
		in.tree(s, syscall.SIGCONT) // a stopped process cannot clean up
	}
}

// run has sh run a line in the tree, with the command's environment and its pid.
// Where that fails the tree is asked as always.
func (in *initStage) run(line string) {
	attr := &syscall.ProcAttr{
		Env:   environment(in.env, []string{"KAHU_COMMAND_PID=" + strconv.Itoa(in.command)}),
		Files: []uintptr{0, 1, 2}, // /dev/null, see start
		Sys:   &syscall.SysProcAttr{},
	}
	if !in.mode.pid1() {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	if _, err := in.fork("/bin/sh", []string{"sh", "-c", line}, attr); err != nil {
		in.tree(syscall.SIGTERM, syscall.SIGCONT)
	}
}

func (in *initStage) deadline(at time.Duration) {
	if in.timer != nil && at > 0 {
		_ = in.timer.Set(at) // fails only for a bad id or address
	}
}

// send passes a signal on to the command.
func (in *initStage) send(s syscall.Signal) {
	if in.running {
		_ = syscall.Kill(in.command, s)
	}
}

// tree sends signals to everybody below.
func (in *initStage) tree(signals ...syscall.Signal) {
	if in.command == 0 {
		return
	}
	if !in.mode.pid1() {
		signalDescendants(signals...)
		return
	}
	for _, s := range signals {
		_ = syscall.Kill(-1, s) // all of the namespace but PID 1
	}
}

// kill ends the tree. In a namespace the end of PID 1 does it again, in the
// kernel, which waits for the last process before anybody sees PID 1 as dead.
func (in *initStage) kill() {
	if in.mode.pid1() {
		in.tree(syscall.SIGKILL)
		return
	}
	if in.group != nil && in.group.Kill() == nil {
		return // this process is in the group, too
	}
	if in.command != 0 {
		KillDescendants(time.Time{})
	}
}

// A death is one reaped child.
type death struct {
	pid    int
	status syscall.WaitStatus
}

func (d death) message() Message {
	if d.status.Signaled() {
		return Message{Kind: Ended, BySig: true, Number: int(d.status.Signal())}
	}
	return Message{Kind: Ended, Number: d.status.ExitStatus()}
}

// reap reports every child that ends, adopted ones too, and closes the channel
// when there is none left. Every descendant has a chain of living parents up to
// this process, so then the tree is gone.
func reap(c chan<- death) {
	defer close(c)
	for {
		var d death
		var err error
		d.pid, err = syscall.Wait4(-1, &d.status, 0, nil)
		switch err {
		case nil:
			c <- d
		case syscall.EINTR:
		default:
			return
		}
	}
}
