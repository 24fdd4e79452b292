package stage

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// A tracer needs no privilege, and its end ends all that it traces, in the kernel
// (PTRACE_O_EXITKILL): nothing of the tree outlives kill -9 of the whole guard. The
// price is that nobody else can trace in there, and that setuid has no effect.
//
// All of a tracer's calls come from one thread, whose end would be the tracer's.

const traceOptions = ptraceExitKill | syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK | syscall.PTRACE_O_TRACECLONE

// ptraceEventStop is PTRACE_EVENT_STOP.
const ptraceEventStop = 128

// forkTraced is syscall.ForkExec for a command whose whole tree is traced from its
// first instruction on. From then on in.traced reports who has ended.
func (in *initStage) forkTraced(file string, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	started := make(chan struct{})
	ends := make(chan death)
	go func() { // ends when nothing is left, and then the process does
		runtime.LockOSThread()
		pid, err = startTraced(file, args, attr)
		close(started)
		if err == nil {
			trace(ends)
		}
	}()
	<-started
	if err == nil {
		in.traced = ends
	}
	return pid, err
}

// startTraced starts a process that stands before its first instruction, seized.
// The caller is locked to its thread.
func startTraced(file string, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	sys := *attr.Sys
	sys.Ptrace = true
	own := *attr
	own.Sys = &sys
	if pid, err = syscall.ForkExec(file, args, &own); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, syscall.WALL, nil)
		}
	}()
	// It was stopped by its own exec. That kind of tracing knows no stopped jobs, so
	// it is stopped by a signal in place of it, and seized.
	if _, err = waitFor(pid); err != nil {
		return 0, err
	}
	if err = ptrace(syscall.PTRACE_DETACH, pid, uintptr(syscall.SIGSTOP)); err != nil {
		return 0, fmt.Errorf("stop the command at its start: %w", err)
	}
	if err = ptrace(ptraceSeize, pid, traceOptions); err != nil {
		return 0, fmt.Errorf("trace the command: %w", err)
	}
	if err = syscall.Kill(pid, syscall.SIGCONT); err != nil {
		return 0, fmt.Errorf("start the command: %w", err)
	}
	return pid, nil
}

func waitFor(pid int) (status syscall.WaitStatus, err error) {
	for {
		_, err = syscall.Wait4(pid, &status, syscall.WALL, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil && !status.Stopped() {
		err = errors.New("the command ended before it began")
	}
	return status, err
}

// trace lets everybody go on who stops for the tracer, and reports who has ended,
// threads too. It closes the channel when nobody is left.
func trace(ends chan<- death) {
	defer close(ends)
	for {
		var d death
		var err error
		d.pid, err = syscall.Wait4(-1, &d.status, syscall.WALL, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return
		case !d.status.Stopped():
			ends <- d
		default:
			goOn(d.pid, d.status)
		}
	}
}

// goOn answers one stop. Errors mean that the process was killed meanwhile.
func goOn(pid int, status syscall.WaitStatus) {
	stop := status.StopSignal()
	switch event := int(status>>16) & 0xff; {
	case event == ptraceEventStop && (stop == syscall.SIGSTOP || stop == syscall.SIGTSTP || stop == syscall.SIGTTIN || stop == syscall.SIGTTOU):
		_ = ptrace(ptraceListen, pid, 0) // a stopped job stays so, until SIGCONT
	case event != 0:
		_ = ptrace(syscall.PTRACE_CONT, pid, 0) // it forked, or begins
	default:
		_ = ptrace(syscall.PTRACE_CONT, pid, uintptr(stop)) // a signal for it
	}
}

func ptrace(request, pid int, data uintptr) error {
	if _, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, uintptr(request), uintptr(pid), 0, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// canTrace tries it on a process that is killed before it does anything.
func canTrace() error {
	pid, err := startTraced(self, []string{"kahu-probe"}, &syscall.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return err
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil && err != syscall.EINTR || err == nil && !status.Stopped() {
			return nil
		}
	}
}
