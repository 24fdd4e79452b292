package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/integrations/cgroup"
	"github.com/kahu-sh/kahu/integrations/guard/stage"
	"golang.org/x/sys/unix"
)

// Containment says what keeps the command's tree together.
type Containment string

// The rungs of the ladder, strongest first; rungs is the one place to add one.
const (
	// Auto takes the strongest rung that works here.
	Auto Containment = "auto"
	// PIDNS is a pid namespace with a private /proc. It needs CAP_SYS_ADMIN.
	// Nothing survives it, not even kill -9 of the whole guard at once.
	PIDNS Containment = "pidns"
	// CGroup is a control group (v2), which ends also what runs as another user. It
	// needs root, or a unit with Delegate=. When the face, the keeper and the init
	// are killed at one instant, the agent ends the descendants; when it is killed
	// with them, its successor does, or the next guard here.
	CGroup Containment = "cgroup"
	// UserNS is PIDNS inside a user namespace, without privilege. In it sudo, other
	// setuid programs and supplementary groups have no effect. On request only.
	UserNS Containment = "userns"
	// Ptrace traces the tree, so that the kernel ends it with its tracer, the init:
	// nothing survives kill -9 of the whole guard. It needs no privilege. Setuid
	// programs do not get their user, and debuggers do not work. On request only.
	Ptrace Containment = "ptrace"
	// PGroup is a subreaper: every descendant is found by its parent links. It
	// needs no privilege, and leaves descendants behind when the face, the
	// keeper and the init are killed at one instant.
	PGroup Containment = "pgroup"
)

// rungs are tried in this order, from the one that is wanted on.
var rungs = []struct {
	name  Containment
	asked bool // only if it is the one that is wanted
	start func() (*stage.Init, *cgroup.Group, error)
}{
	{PIDNS, false, startInNamespace},
	{UserNS, true, startIn(stage.Place{Namespace: true, User: true})},
	{CGroup, false, startInGroup},
	{Ptrace, true, startIn(stage.Place{Trace: true})},
	{PGroup, false, startIn(stage.Place{})},
}

// namespaced says whether the init is PID 1 of a pid namespace.
func (c Containment) namespaced() bool { return c == PIDNS || c == UserNS }

func startIn(p stage.Place) func() (*stage.Init, *cgroup.Group, error) {
	return func() (*stage.Init, *cgroup.Group, error) {
		in, err := stage.StartInit(p)
		return in, nil, err
	}
}

func startInNamespace() (*stage.Init, *cgroup.Group, error) {
	if in := stage.TakeEarly(); in != nil {
		return in, nil, nil
	}
	in, err := stage.StartInit(stage.Place{Namespace: true})
	return in, nil, err
}

func startInGroup() (*stage.Init, *cgroup.Group, error) {
	group, err := cgroup.Make()
	if err != nil {
		return nil, nil, err
	}
	in, err := stage.StartInit(stage.Place{Group: group})
	if err != nil {
		_ = group.Remove() // nobody is in it
		_ = group.Close()
		return nil, nil, err
	}
	return in, group, nil
}

// ParseContainment reads the value of a flag.
func ParseContainment(s string) (Containment, error) {
	switch c := Containment(s); c {
	case Auto, PIDNS, UserNS, CGroup, Ptrace, PGroup:
		return c, nil
	}
	return "", fmt.Errorf("there is no containment %q; there is %s, %s, %s, %s, %s and %s", s, Auto, PIDNS, UserNS, CGroup, Ptrace, PGroup)
}

// A tree is the command's process tree, or the place for it: its init is there
// before the command.
type tree struct {
	rung     Containment
	init     *stage.Init
	pidfd    *os.File
	group    *cgroup.Group      // nil but on the rung of that name
	messages chan stage.Message // from the init; closed when it has ended
	gone     chan struct{}      // closed when nothing of the tree is left
}

// contain starts the init on the strongest rung that works and may be used. Each
// attempt happens in the child that would be the init, so that one that dies of it
// (a seccomp filter) costs nothing.
//
// ask is called once for the tree that is returned, and may have been called for
// others before: then what it returned was called as well, when they had ended.
func contain(want Containment, require bool, ask func(*tree) (forget func(), err error)) (*tree, error) {
	if want != Auto && want != PIDNS {
		stage.DropEarly()
	}
	var reasons []error
	reached := want == Auto
	for i, rung := range rungs {
		reached = reached || rung.name == want
		if !reached || rung.asked && rung.name != want {
			continue
		}
		last := i == len(rungs)-1 || require && (want == Auto || want == rung.name)
		in, group, err := rung.start()
		if err == nil {
			t := newTree(rung.name, in, group)
			if err = t.begin(ask, last); err == nil {
				return t, nil
			}
			_ = t.pidfd.Close()
		}
		if group != nil {
			_ = group.Remove() // its init was reaped
			_ = group.Close()
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", rung.name, err))
		if last {
			break
		}
	}
	return nil, fmt.Errorf("contain the command: %w", errors.Join(reasons...))
}

// begin waits until the init is ready, and asks for the lock in the meantime where
// that can be undone (see keeper.ask); last says that no other rung follows. When it
// fails nothing is left of either.
func (t *tree) begin(ask func(*tree) (forget func(), err error), last bool) error {
	if !last && !t.rung.namespaced() {
		err := t.ready()
		if err == nil {
			if _, err = ask(t); err != nil {
				t.giveUp()
			}
		}
		return err
	}
	forget, err := ask(t)
	if err != nil {
		t.giveUp()
		return err
	}
	if err := t.ready(); err != nil {
		forget()
		return err
	}
	return nil
}

// ready waits for the init's first message, and reaps it when that is not Ready.
func (t *tree) ready() error {
	m, err := t.init.Link.Recv()
	if err == nil && m.Kind == stage.Ready {
		return nil
	}
	status := t.giveUp()
	switch {
	case err == nil:
		return errors.New(m.Text)
	case errors.Is(err, io.EOF) && status.Signaled():
		return fmt.Errorf("its init died of %v", status.Signal())
	}
	return err
}

// giveUp ends the init of a tree that nothing has been started in.
func (t *tree) giveUp() unix.WaitStatus {
	_ = unix.Kill(t.init.PID, unix.SIGKILL)
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(t.init.PID, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	_ = t.init.Link.Close()
	return status
}

func newTree(rung Containment, in *stage.Init, group *cgroup.Group) *tree {
	_ = unix.SetNonblock(in.Pidfd, true) // so that the runtime's poller takes it
	return &tree{
		rung: rung, init: in, group: group,
		pidfd:    os.NewFile(uintptr(in.Pidfd), "pidfd of the init"),
		messages: make(chan stage.Message),
		gone:     make(chan struct{}),
	}
}

// watch starts the two goroutines that end with the tree.
func (t *tree) watch() {
	go func() {
		defer close(t.messages)
		for {
			m, err := t.init.Link.Recv()
			if err != nil {
				return
			}
			t.messages <- m
		}
	}()
	go func() {
		defer close(t.gone)
		t.awaitEnd()
		for {
			// In a namespace the kernel holds this back until the last process in it
			// is dead (HAZARDS-HOST 1).
			if _, err := unix.Wait4(t.init.PID, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
		if t.group != nil {
			_ = t.group.Kill() // whoever takes no signals of this user
		}
		if !t.rung.namespaced() {
			// An init that was killed leaves its tree to the keeper, a subreaper.
			stage.KillDescendants(time.Time{})
		}
		if t.group != nil && t.group.Wait() == nil {
			_ = t.group.Remove() // or the next guard does it
		}
	}()
}

// witnesses are for the agent. Without a namespace the end of the init and of the
// keeper proves little.
func (t *tree) witnesses() (Witnesses, error) {
	w := Witnesses{Pidfds: []*os.File{t.pidfd}, TreeEnds: t.rung.namespaced(), Contain: t.rung}
	if w.TreeEnds {
		return w, nil
	}
	if t.group != nil {
		var err error
		if w.Group, err = t.group.Files(); err != nil {
			return w, err
		}
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return w, fmt.Errorf("open a pidfd of the keeper: %w", err)
	}
	w.Pidfds = append(w.Pidfds, os.NewFile(uintptr(fd), "pidfd of the keeper"))
	if !inContainer() {
		return w, nil
	}
	if fd, err = unix.PidfdOpen(1, 0); err != nil {
		return w, fmt.Errorf("open a pidfd of the container's first process: %w", err)
	}
	w.Pidfds, w.LastEndsTree = append(w.Pidfds, os.NewFile(uintptr(fd), "pidfd of the container")), true
	return w, nil
}

// firstPIDNamespace is the inode of the one that the machine was started with
// (PROC_PID_INIT_INO of the kernel's proc_ns.h).
const firstPIDNamespace = 0xEFFFFFFC

// inContainer reports whether this process lives in a pid namespace that somebody
// made, a container's. Nothing in it outlives its PID 1, and PID 1 is not seen as
// dead before everybody else is (HAZARDS-HOST 1): whoever kills the container
// frees the lock, without a word from a guard.
func inContainer() bool {
	var s unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &s) == nil && s.Ino != firstPIDNamespace
}

// awaitEnd blocks until ended is true, without a thread and a processor of the Go
// runtime, of which the keeper has one. It may return sooner.
func (t *tree) awaitEnd() {
	if c, err := t.pidfd.SyscallConn(); err == nil {
		_ = c.Read(func(uintptr) bool { return t.ended() })
	}
}

// ended reports whether the init is dead; in a namespace, whether everything is.
// Unlike gone it does not lag behind what the agent sees through the same pidfd.
func (t *tree) ended() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(t.init.Pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// kill ends the tree without asking it. In a namespace and in a control group the
// kernel does the rest, otherwise the goroutine of watch.
func (t *tree) kill() {
	if t.group != nil && t.group.Kill() == nil {
		return
	}
	_ = unix.PidfdSendSignal(t.init.Pidfd, unix.SIGKILL, nil, 0)
}

// send tells the init. It never blocks: a stopped init must not keep the keeper
// from its deadlines, and is killed when it does not obey.
func (t *tree) send(m stage.Message) {
	_ = t.init.Link.TrySend(m) // an init that is gone is seen by watch
}

func (t *tree) forward(s syscall.Signal) {
	t.send(stage.Message{Kind: stage.Signal, Number: int(s)})
}
