// Package proc reads what processes have used, for benchmarks that count CPU time
// and bytes and not seconds of a machine that others use as well.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of /proc/PID/stat and /proc/stat, on every Linux that Go knows.
const tick = time.Second / 100

// Usage is what a process has used since it started.
type Usage struct {
	CPU     time.Duration // user and system
	Written int64         // bytes that it caused to be written
}

// Read returns the usage of a process so far.
func Read(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	// The command's name may hold anything; fields are counted behind it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	if err != nil {
		return Usage{}, err
	}
	system, err := strconv.ParseInt(string(fields[12]), 10, 64)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{CPU: time.Duration(user+system) * tick}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return Usage{}, err
	}
	for line := range bytes.Lines(text) {
		if number, ok := bytes.CutPrefix(line, []byte("write_bytes: ")); ok {
			u.Written, err = strconv.ParseInt(string(bytes.TrimSpace(number)), 10, 64)
		}
	}
	return u, err
}

// Idle is how long all cores together have been idle since boot.
func Idle() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 6 || string(fields[0]) != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", fields[0])
	}
	idle, err := strconv.ParseInt(string(fields[4]), 10, 64)
	if err != nil {
		return 0, err
	}
	wait, err := strconv.ParseInt(string(fields[5]), 10, 64)
	return time.Duration(idle+wait) * tick, err
}
