package stage

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// forwarded are the signals that a user sends to the face and means for the
// command. The stop signals of a terminal are not among them: they reach the
// whole job, and the face stops by the kernel's default like every member of it.
//
// Each costs its notify two switches between threads of the Go runtime, which
// is most of a stage's start: the many and rare ones are realTime.
func forwarded() []os.Signal {
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH,
	}
}

// realTimeAfter is how long a command has run when these are caught: one that ends
// sooner does not pay for them.
const realTimeAfter = 3 * time.Millisecond

// catchRealTime catches the rest of them, now that the command was started. Before that
// there is nobody to take them, and the runtime drops them.
func catchRealTime(c chan<- os.Signal, ignored uint64) {
	time.AfterFunc(realTimeAfter, func() { catch(c, ignored, realTime()) })
}

func realTime() []os.Signal {
	var s []os.Signal
	for n := 34; n <= 64; n++ { // 32 and 33 belong to libc and the runtime
		s = append(s, syscall.Signal(n))
	}
	return s
}

// ignoredSignals reads which signals this process ignores. For those that the Go
// runtime takes over at its start (all but HUP, INT and the stop signals) the
// answer is always "not": a signal other than these that the user's shell
// ignores is not ignored in the command. Every wrapper written in Go has this
// limit.
func ignoredSignals() uint64 {
	var mask uint64
	for n := 1; n <= 64; n++ {
		var is kernelSigaction
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(n), 0, uintptr(unsafe.Pointer(&is)), 8, 0, 0)
		if errno == 0 && is.handler == sigIgnore {
			mask |= 1 << (n - 1)
		}
	}
	return mask
}

func isIgnored(mask uint64, s os.Signal) bool {
	return mask&(1<<(s.(syscall.Signal)-1)) != 0
}

// notify delivers the signals to the returned channel, but for those in the mask:
// catching an ignored signal would un-ignore it for the command (HAZARDS-HOST 10).
func notify(ignored uint64, signals []os.Signal) chan os.Signal {
	c := make(chan os.Signal, 128) // a burst; os/signal drops what does not fit
	catch(c, ignored, signals)
	return c
}

// catch adds signals to a channel of notify.
func catch(c chan<- os.Signal, ignored uint64, signals []os.Signal) {
	for _, s := range signals {
		if isIgnored(ignored, s) {
			signal.Ignore(s)
			continue
		}
		signal.Notify(c, s)
	}
}

// kernelSigaction is the kernel's struct sigaction on amd64 and arm64 (arm64 has
// no restorer in it, and reads the first three words and the mask the same way
// because the field is reserved there too).
type kernelSigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const sigIgnore = 1 // SIG_IGN

// dieBy ends the process by the signal, so that whoever waits for it sees what
// the command died of. It goes past the Go runtime, which turns some signals
// into exit code 2 (HAZARDS-HOST 10), and leaves no core file in place of the
// command's. It returns only where the signal cannot end the process, as for
// PID 1 of a container.
func dieBy(s syscall.Signal) {
	runtime.LockOSThread()
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	if s != syscall.SIGKILL {
		var dfl kernelSigaction
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
		set := uint64(1) << (s - 1)
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigUnblock, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
	}
	_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), s)
}

// endsProcess says whether the default action of a signal ends a process.
func endsProcess(s syscall.Signal) bool {
	switch s {
	case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH,
		syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return false
	}
	return true
}
