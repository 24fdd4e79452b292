package e2e_test

import (
	bytesOf "encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A job is a guarded command that leaves a trace of when it ran. It is this test
// binary, started again with jobDirVariable set.
//
// It writes the first and the latest CLOCK_BOOTTIME at which it ran an
// instruction, the latest anew every millisecond: a file survives SIGKILL, and a
// stopped process writes nothing. A grandchild, in a session of its own and deaf
// to SIGTERM, leaves its own trace.
const (
	jobDirVariable  = "KAHU_E2E_JOB_DIR"
	jobRunVariable  = "KAHU_E2E_JOB_RUN"  // which kahu exec it is of
	jobTimeVariable = "KAHU_E2E_JOB_TIME" // how long it runs by itself
	jobDeafVariable = "KAHU_E2E_JOB_DEAF" // set: it does not end of SIGTERM
	jobOnlyVariable = "KAHU_E2E_JOB_ONLY" // set: no grandchild
)

func init() { // before the tests, in a process that is a job
	if os.Getenv(jobDirVariable) != "" {
		if err := runJob(); err != nil {
			fmt.Fprintln(os.Stderr, "job:", err)
			os.Exit(3)
		}
		os.Exit(0)
	}
}

func runJob() error {
	first := boottime()
	length, err := time.ParseDuration(os.Getenv(jobTimeVariable))
	if err != nil {
		return err
	}
	if os.Getenv(jobDeafVariable) != "" {
		signal.Ignore(syscall.SIGTERM)
	}
	name := fmt.Sprintf("%s %s %s %d", os.Getenv("KAHU_LOCK"), os.Getenv("KAHU_FENCING_TOKEN"), os.Getenv(jobRunVariable), first)
	file, err := os.Create(filepath.Join(os.Getenv(jobDirVariable), name))
	if err != nil {
		return err
	}
	var stamp [16]byte
	bytesOf.LittleEndian.PutUint64(stamp[:8], uint64(first))
	if os.Getenv(jobOnlyVariable) == "" {
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), jobOnlyVariable+"=1", jobDeafVariable+"=1", jobTimeVariable+"=1h")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return err
		}
	}
	for {
		now := boottime()
		bytesOf.LittleEndian.PutUint64(stamp[8:], uint64(now))
		if _, err := file.WriteAt(stamp[:], 0); err != nil {
			return err
		}
		if now-first >= length {
			return nil
		}
		time.Sleep(time.Millisecond) // the resolution of its trace
	}
}

// A trace is what one process of a job left behind.
type trace struct {
	lock, run   string
	token       int64
	first, last time.Duration // CLOCK_BOOTTIME
}

// readTraces reads what the jobs in dir have left so far.
func readTraces(dir string) ([]trace, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []trace
	for _, e := range entries {
		field := strings.Fields(e.Name())
		if len(field) != 4 {
			return nil, fmt.Errorf("%q is no trace", e.Name())
		}
		token, err := strconv.ParseInt(field[1], 10, 64)
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if len(b) < 16 {
			continue // killed before it ran for long enough to say so
		}
		all = append(all, trace{
			lock: field[0], token: token, run: field[2],
			first: time.Duration(bytesOf.LittleEndian.Uint64(b)), last: time.Duration(bytesOf.LittleEndian.Uint64(b[8:])),
		})
	}
	return all, nil
}

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // Linux has this clock
	}
	return time.Duration(ts.Nano())
}
