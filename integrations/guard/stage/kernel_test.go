package stage

import (
	"os"
	"slices"
	"strings"
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

// A stage's environment is put back as it was found.
func TestFrugal(t *testing.T) {
	for _, f := range frugal {
		t.Setenv(f.name, "") // put back at the end
	}
	for _, had := range [][]string{
		nil,
		{"GOMAXPROCS=7", "GODEBUG=a=1,b=2", "MALLOC_ARENA_MAX="},
		{"GODEBUG=", "OTHER=GODEBUG=1"},
	} {
		env := beFrugal(append([]string{"HOME=/", "GODEBUGGER=1"}, had...))
		for _, want := range []string{"GOMAXPROCS=1", "MALLOC_ARENA_MAX=1", "HOME=/", "GODEBUGGER=1"} {
			if !slices.Contains(env, want) {
				t.Errorf("of %q: no %s in %q", had, want, env)
			}
		}
		before := os.Environ()
		os.Clearenv()
		for _, v := range env {
			if name := nameOf(v); os.Getenv(name) == "" {
				must(t, os.Setenv(name, v[len(name)+1:]))
			}
		}
		if got := os.Getenv("GODEBUG"); !strings.HasSuffix(got, "containermaxprocs=0") {
			t.Errorf("of %q: GODEBUG=%s", had, got)
		}
		beAsBefore()
		got := os.Environ()
		os.Clearenv()
		for _, v := range before {
			must(t, os.Setenv(nameOf(v), v[len(nameOf(v))+1:]))
		}
		slices.Sort(got)
		want := append([]string{"HOME=/", "GODEBUGGER=1"}, had...)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("of %q: %q is left", had, got)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
