package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of /proc/PID/stat and /proc/stat, on every Linux that Go knows.
const tick = time.Second / 100

// usage is what a process has used since it started.
type usage struct {
	cpu     time.Duration // user and system
	written int64         // bytes that it caused to be written
}

func readUsage(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	// The command's name may hold anything; fields are counted behind it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return usage{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	if err != nil {
		return usage{}, err
	}
	system, err := strconv.ParseInt(string(fields[12]), 10, 64)
	if err != nil {
		return usage{}, err
	}
	u := usage{cpu: time.Duration(user+system) * tick}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return usage{}, err
	}
	for line := range bytes.Lines(text) {
		if number, ok := bytes.CutPrefix(line, []byte("write_bytes: ")); ok {
			u.written, err = strconv.ParseInt(string(bytes.TrimSpace(number)), 10, 64)
		}
	}
	return u, err
}

// idleTime is how long all cores together have been idle since boot.
func idleTime() (time.Duration, error) {
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
