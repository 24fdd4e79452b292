package stage

import (
	"syscall"
)

// What package syscall lacks. golang.org/x/sys/unix has it all, and would have
// every stage wait for a third of the program (see the package comment).

// Numbers of the kernel's, the same on amd64 and arm64; a test compares them with
// those of golang.org/x/sys/unix.
const (
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434

	prSetName            = 15
	prSetChildSubreaper  = 36
	prCapAmbient         = 47
	prCapAmbientClearAll = 4
	capSysAdmin          = 21

	ptraceSeize    = 0x4206
	ptraceListen   = 0x4208
	ptraceExitKill = 0x100000

	sigUnblock = 1
)

func prctl(option, argument uintptr) error {
	_, _, errno := syscall.Syscall6(syscall.SYS_PRCTL, option, argument, 0, 0, 0, 0)
	return asError(errno)
}

// asError keeps a zero errno from being an error.
func asError(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func pidfdOpen(pid int) (fd int, err error) {
	n, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	return int(n), asError(errno)
}

func pidfdSendSignal(fd int, s syscall.Signal) error {
	_, _, errno := syscall.Syscall6(sysPidfdSendSignal, uintptr(fd), uintptr(s), 0, 0, 0, 0)
	return asError(errno)
}

// dupFrom duplicates a descriptor to the lowest free one that is not below first,
// not closed on exec.
func dupFrom(fd, first int) (int, error) {
	n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD, uintptr(first))
	return int(n), asError(errno)
}

// hasPrefix is that of package strings, which starts as late.
func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }
