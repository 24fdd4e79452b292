package clocks_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/clocks"
)

const tellVariable = "KAHU_TEST_CLOCKS_TELL"

func TestMain(m *testing.M) {
	if os.Getenv(tellVariable) != "" {
		tell()
		return
	}
	os.Exit(m.Run())
}

// tell reads its clocks for every line, with threads that do nothing else.
func tell() {
	for range 4 {
		go func() { // ends with the process
			for range time.Tick(time.Microsecond) {
				for range 100 {
					_ = time.Now()
				}
			}
		}()
	}
	began := time.Now()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		now := time.Now()
		fmt.Println(now.UnixMilli(), now.Sub(began).Milliseconds())
	}
}

func TestShift(t *testing.T) {
	if !clocks.Supported {
		t.Skipf("SKIPPED: no clock can be shifted on %s", runtime.GOARCH)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), tellVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	read := func() (ahead, since time.Duration) {
		t.Helper()
		before := time.Now()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() {
			t.Fatal("the process has ended")
		}
		var wall, ms int64
		if _, err := fmt.Sscan(lines.Text(), &wall, &ms); err != nil {
			t.Fatal(err)
		}
		return time.UnixMilli(wall).Sub(before), time.Duration(ms) * time.Millisecond
	}
	// A machine that is busy reads late, and no clock was stepped by that little.
	const minute = time.Minute
	_, last := read()
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour, -50 * 365 * 24 * time.Hour, 2 * minute, 0} {
		if n, err := clocks.Shift(t.Context(), by, cmd.Process.Pid); err != nil || n != 1 {
			t.Fatalf("shifted by %s: %d processes, %v", by, n, err)
		}
		ahead, since := read()
		if (ahead - by).Abs() > minute {
			t.Errorf("shifted by %s the clock is %s ahead", by, ahead)
		}
		if since < last || since > last+minute {
			t.Errorf("shifted by %s: %s have passed, %s before: the monotonic clock went along", by, since, last)
		}
		last = since
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process: %v", err)
	}
	if n, err := clocks.Shift(t.Context(), time.Hour, cmd.Process.Pid); err != nil || n != 0 {
		t.Errorf("of a process that has ended: %d, %v", n, err)
	}
	if _, err := clocks.Shift(t.Context(), time.Millisecond, os.Getpid()); err == nil {
		t.Error("a millisecond was taken")
	}
}
