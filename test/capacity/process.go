package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// memory is what the kernel says about a process, in bytes.
type memory struct {
	peak     int64 // VmHWM: the most that was ever resident
	resident int64 // VmRSS
	own      int64 // RssAnon: of these, what no file backs
}

func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for name, to := range map[string]*int64{"VmHWM:": &m.peak, "VmRSS:": &m.resident, "RssAnon:": &m.own} {
		_, rest, ok := strings.Cut(string(text), name)
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			return memory{}, fmt.Errorf("/proc/%d/status has no %s", pid, name)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("/proc/%d/status: %s %w", pid, name, err)
		}
		*to = kib << 10
	}
	return m, nil
}

// ticksPerSecond is USER_HZ, the same on every Linux.
const ticksPerSecond = 100

// cpuOf is the processor time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name in parentheses may have spaces. Behind it, user and
	// system time are fields 12 and 13.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields behind the name", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}
