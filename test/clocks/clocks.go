package clocks

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// helperVariable has what a helper process shall do: "SECONDS PID PID…".
const helperVariable = "KAHU_TEST_CLOCKS"

func init() { // before the tests, in a process that is a helper
	text, ok := os.LookupEnv(helperVariable)
	if !ok {
		return
	}
	n, err := help(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, n)
	os.Exit(0)
}

// Shift makes the wall clock of processes differ from the machine's by a number of
// whole seconds; 0 makes it right again. It returns how many were shifted: those that
// have ended are none, and no error. It blocks for some milliseconds, and may be
// called concurrently for different processes.
//
// It works in a process of its own, this program started again: ptrace's stops of
// a child would be taken for its end by whoever waits for it.
func Shift(ctx context.Context, by time.Duration, pids ...int) (int, error) {
	if by%time.Second != 0 {
		return 0, fmt.Errorf("a clock cannot be shifted by %s: only by whole seconds", by)
	}
	text := strconv.FormatInt(int64(by/time.Second), 10)
	for _, pid := range pids {
		text += " " + strconv.Itoa(pid)
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	// The race detector's runtime would have it wait for a second before it ends.
	cmd.Env = append(os.Environ(), helperVariable+"="+text, "GORACE=atexit_sleep_ms=0")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("shifting the clock of %v by %s: %w: %s", pids, by, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strconv.Atoi(strings.TrimSpace(out.String()))
}

// help is the helper process.
func help(text string) (shifted int, err error) {
	var numbers []int64
	for _, field := range strings.Fields(text) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s=%q: %w", helperVariable, text, err)
		}
		numbers = append(numbers, n)
	}
	if len(numbers) == 0 {
		return 0, fmt.Errorf("%s is empty", helperVariable)
	}
	for _, pid := range numbers[1:] {
		ok, err := shift(int(pid), numbers[0])
		if err != nil {
			return shifted, fmt.Errorf("process %d: %w", pid, err)
		}
		if ok {
			shifted++
		}
	}
	return shifted, nil
}
