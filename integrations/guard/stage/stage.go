// Package stage has the small stages of the guard: the face, which the user
// started, and the init, which runs the command and ends its tree. It runs them
// before the rest of the program is initialised, because `kahu exec true`
// otherwise pays three times for packages that none of the stages needs.
//
// # How a stage is dispatched
//
// Every stage is the same file, /proc/self/exe, which also works after an
// upgrade has deleted it. The package's init function looks who it is:
//
//   - os.Args[1] is "exec" and no marker is set: the face. It starts the keeper
//     with the same arguments and never returns to main.
//   - A marker is set, and what it claims is true (the parent's pid, a socket at
//     the descriptor): the keeper, which starts its init in the meantime where it
//     can, returns to whoever asks for Keeper, and gets at its face through that;
//     or the init, which never returns to main.
//   - Otherwise nothing happens. A marker whose claims are false, for instance
//     because it was copied by accident, is removed and has no other effect.
//
// Go initialises packages in the order of their import paths as soon as what
// they import is initialised (since Go 1.21; the order of import statements
// means nothing). So this package is early because it imports little: what needs
// package strings comes later, and with it encoding/gob, the CPU's features, "net",
// protobuf, sqlite and everything built on them, which is half of a stage's start.
// An import added here, or in packages boottime and cgroup, may end that
// (test/imports has the worst of them); GODEBUG=inittrace=1 shows the order.
//
// What a lease, a deadline and a lock are is left to package guard.
package stage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	// marker is the environment variable that makes a process a stage. It is
	// removed before anything else runs, so the command never sees it.
	marker = "KAHU_GUARD_STAGE"

	self = "/proc/self/exe"

	keeperName = "kahu-keeper"
	initName   = "kahu-init"

	// firstFD keeps the sockets between stages away from the descriptors that
	// the user passes to the command (3>file, sockets of systemd), and lowFD does
	// where the user may not have as many.
	firstFD = 200
	lowFD   = 10
)

// keeper is set by init in a process that a face started.
var keeper *Link

// facePID is the face's, in a keeper.
var facePID int

// FacePID is the pid of the face that started this keeper, whether it lives or not.
func FacePID() int { return facePID }

// Keeper returns the link to the face that started this process, or nil when
// this process is not a keeper.
func Keeper() *Link { return keeper }

// inherited is what the face found and the stages behind it have to restore:
// bit n−1 is set when signal n was ignored.
var inherited uint64

func init() {
	claim, marked := os.LookupEnv(marker)
	os.Unsetenv(marker)
	if !marked {
		if len(os.Args) > 1 && os.Args[1] == "exec" {
			offMain(Face)
		}
		return
	}
	m, err := parseClaim(claim)
	if err != nil || !m.holds() {
		return
	}
	syscall.CloseOnExec(m.fd)
	beAsBefore()
	inherited = m.ignored
	switch m.stage {
	case keeperName:
		setComm(keeperName)
		keeper, facePID = newLink(m.fd), m.parent
		startEarly()
	case initName:
		setComm(initName)
		syscall.Exit(runInit(newLink(m.fd), m.mode, m.cgroup))
	}
}

// offMain ends the process with what f returns. While packages are initialised the
// main goroutine is bound to its thread, and whatever it waits for costs two switches
// between threads; f runs on a goroutine that is bound to none.
func offMain(f func() int) {
	go func() { syscall.Exit(f()) }()
	select {} // until then
}

// A mode is how an init keeps its tree together.
type mode string

const (
	reaping     mode = "reaping"   // as a subreaper
	inNamespace mode = "namespace" // as PID 1 of a pid namespace
	asUser      mode = "user"      // the same in a user namespace, without privilege
	tracing     mode = "tracing"   // as a subreaper that traces all of it
)

// pid1 says whether the init is PID 1 of its own pid namespace.
func (m mode) pid1() bool { return m == inNamespace || m == asUser }

// A claim is the content of the marker.
type claim struct {
	stage   string
	fd      int    // one end of a socket pair to the parent
	parent  int    // the parent's pid; 0 from inside a new pid namespace
	mode    mode   // init: how it keeps its tree together
	ignored uint64 // see inherited
	cgroup  string // init: path of the control group that it is in, or empty
}

func (c claim) String() string {
	return fmt.Sprintf("%s=%s %d %d %s %x %s", marker, c.stage, c.fd, c.parent, cmp.Or(c.mode, reaping), c.ignored, c.cgroup)
}

func parseClaim(s string) (claim, error) {
	f := bytes.SplitN([]byte(s), []byte(" "), 6) // the last may have spaces
	if len(f) != 6 {
		return claim{}, fmt.Errorf("%q has %d fields, not 6", s, len(f))
	}
	if len(f[5]) > 0 && f[5][0] != '/' {
		return claim{}, fmt.Errorf("the control group %q has no absolute path", f[5])
	}
	c := claim{stage: string(f[0]), mode: mode(f[3]), cgroup: string(f[5])}
	switch c.mode {
	case reaping, inNamespace, asUser, tracing:
	default:
		return claim{}, fmt.Errorf("there is no mode %q", f[3])
	}
	var err [3]error
	c.fd, err[0] = strconv.Atoi(string(f[1]))
	c.parent, err[1] = strconv.Atoi(string(f[2]))
	c.ignored, err[2] = strconv.ParseUint(string(f[4]), 16, 64)
	for _, e := range err {
		if e != nil {
			return claim{}, e
		}
	}
	return c, nil
}

// holds says whether the claim is true of this process.
func (c claim) holds() bool {
	if c.fd < lowFD || os.Args[0] != c.stage {
		return false
	}
	if c.mode.pid1() != (os.Getpid() == 1 && os.Getppid() == 0) {
		return false
	}
	if !c.mode.pid1() && os.Getppid() != c.parent {
		return false // also when the parent has died meanwhile
	}
	kind, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
	return err == nil && kind == syscall.SOCK_SEQPACKET
}

// start runs /proc/self/exe as another stage. The child's end of the link is
// passed at a high descriptor and closed here.
func start(c claim, args []string, sys *syscall.SysProcAttr) (pid int, link *Link, err error) {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	defer syscall.Close(ends[1])
	link = newLink(ends[0])

	if c.fd, err = dupFrom(ends[1], firstFD); errors.Is(err, syscall.EINVAL) { // RLIMIT_NOFILE
		c.fd, err = dupFrom(ends[1], lowFD)
	}
	if err != nil {
		link.Close()
		return 0, nil, fmt.Errorf("pass a socket on: %w", err)
	}
	defer syscall.Close(c.fd)
	c.parent = os.Getpid()
	pid, err = syscall.ForkExec(self, append([]string{c.stage}, args...), &syscall.ProcAttr{
		Env:   append(beFrugal(os.Environ()), c.String()),
		Files: []uintptr{0, 1, 2},
		Sys:   sys,
	})
	if err != nil {
		link.Close()
		return 0, nil, fmt.Errorf("start %s: %w", c.stage, err)
	}
	return pid, link, nil
}

// setComm makes the process known by its stage in ps and top, where it would be
// "exe".
func setComm(name string) {
	if b, err := syscall.BytePtrFromString(name); err == nil {
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetName, uintptr(unsafe.Pointer(b)), 0)
	}
}
