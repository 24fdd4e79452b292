package stage

import (
	"errors"
	"os"
	"syscall"

	"github.com/kahu-sh/kahu/integrations/cgroup"
)

// An Init is a started init stage.
type Init struct {
	PID   int
	Pidfd int // owned by the caller
	Link  *Link
}

// Place says where an init lives.
type Place struct {
	Namespace bool          // in its own pid and mount namespace
	User      bool          // in a user namespace as well, which needs no privilege
	Trace     bool          // not in one, but tracing its tree
	Group     *cgroup.Group // optional: in a control group
}

// StartInit starts an init, which will run what Start says. Its first message is
// Ready or Failed. Inside a namespace it is killed with the calling thread: the
// caller locks its goroutine to the thread for as long as the init lives.
func StartInit(p Place) (*Init, error) {
	in := &Init{Pidfd: -1}
	sys := &syscall.SysProcAttr{PidFD: &in.Pidfd}
	if p.Namespace {
		sys.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
		sys.Pdeathsig = syscall.SIGKILL
	}
	c := claim{stage: initName, mode: reaping, ignored: inherited}
	switch {
	case p.User:
		c.mode = asUser
		sys.Cloneflags |= syscall.CLONE_NEWUSER
		sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		// To mount /proc, after the exec of a user who is not root.
		sys.AmbientCaps = []uintptr{capSysAdmin}
	case p.Namespace:
		c.mode = inNamespace
	case p.Trace:
		c.mode = tracing
	}
	if p.Group != nil {
		sys.UseCgroupFD, sys.CgroupFD, c.cgroup = true, p.Group.FD(), p.Group.Path()
	}
	var err error
	// The same words as ours: the command is among them (see Start), and is too
	// long for a message.
	in.PID, in.Link, err = start(c, os.Args[1:], sys)
	if err != nil {
		return nil, err
	}
	if in.Pidfd < 0 {
		in.Link.Close() // the init ends of it
		_, _ = syscall.Wait4(in.PID, nil, 0, nil)
		return nil, errors.New("the kernel has no pidfds: Linux 5.4 or newer is needed")
	}
	return in, nil
}

// early is an init that was started before anybody had asked for it, in a
// namespace, while the rest of this program is initialised.
var early *Init

// startEarly starts it where it is what most are asked for: by root, on the
// strongest rung. It is on the main thread, which lives as long as the process.
func startEarly() {
	if os.Geteuid() != 0 {
		return
	}
	for _, arg := range os.Args[1:] {
		if arg == "--" {
			break
		}
		if hasPrefix(arg, "--contain") || arg == "-h" || arg == "--help" {
			return
		}
	}
	early, _ = StartInit(Place{Namespace: true}) // whoever asks for one tries again, and says why
}

// TakeEarly returns the init that lives in a namespace already, once; nil when
// there is none. Its first message has not been read.
func TakeEarly() *Init {
	in := early
	early = nil
	return in
}

// DropEarly ends the init that lives in a namespace already, where another kind
// was asked for in another way than by a flag. It blocks until that has ended.
func DropEarly() {
	in := TakeEarly()
	if in == nil {
		return
	}
	_ = pidfdSendSignal(in.Pidfd, syscall.SIGKILL) // ESRCH: it could not begin
	in.Link.Close()
	_, _ = syscall.Wait4(in.PID, nil, 0, nil)
	_ = syscall.Close(in.Pidfd)
}
