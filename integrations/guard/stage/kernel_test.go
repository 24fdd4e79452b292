package stage

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The numbers that are written down here are the kernel's.
func TestKernelNumbers(t *testing.T) {
	for name, n := range map[string][2]int{
		"SYS_PIDFD_SEND_SIGNAL":    {sysPidfdSendSignal, unix.SYS_PIDFD_SEND_SIGNAL},
		"SYS_PIDFD_OPEN":           {sysPidfdOpen, unix.SYS_PIDFD_OPEN},
		"PR_SET_NAME":              {prSetName, unix.PR_SET_NAME},
		"PR_SET_CHILD_SUBREAPER":   {prSetChildSubreaper, unix.PR_SET_CHILD_SUBREAPER},
		"PR_CAP_AMBIENT":           {prCapAmbient, unix.PR_CAP_AMBIENT},
		"PR_CAP_AMBIENT_CLEAR_ALL": {prCapAmbientClearAll, unix.PR_CAP_AMBIENT_CLEAR_ALL},
		"CAP_SYS_ADMIN":            {capSysAdmin, unix.CAP_SYS_ADMIN},
		"PTRACE_SEIZE":             {ptraceSeize, unix.PTRACE_SEIZE},
		"PTRACE_LISTEN":            {ptraceListen, unix.PTRACE_LISTEN},
		"PTRACE_O_EXITKILL":        {ptraceExitKill, unix.PTRACE_O_EXITKILL},
		"SIG_UNBLOCK":              {sigUnblock, unix.SIG_UNBLOCK},
	} {
		if n[0] != n[1] {
			t.Errorf("%s is %d, not %d", name, n[1], n[0])
		}
	}
}
