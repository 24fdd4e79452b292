// Package boottime has the clocks that leases are decided on, and timers that
// fire although the host slept or the process is stopped.
//
// It promises two things. Now is the host's lease time: it counts suspend, and
// no NTP daemon slews or steps it. Timer and KillTimer are absolute on
// CLOCK_BOOTTIME, which is the only clock that counts suspend and on which the
// kernel lets a process arm a timer. BOOTTIME may be slewed against lease time
// (chrony: by up to 8 %), so DeadlineAt turns a lease deadline into a boot time
// that is early enough; whoever is woken by a Timer reads the clock again.
//
// What a deadline means, and when a lease ends, is left to others.
package boottime

import (
	"bytes"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// What remains of a lease is divided by 1.1 when it becomes an absolute
// BOOTTIME: until then BOOTTIME may run slower than lease time (by 8 % under
// chrony's largest slew), and a timer must still fire before the lease time is
// reached (DESIGN.md: the kernel holds the hard deadline).
const (
	slewDividend = 10
	slewDivisor  = 11
)

// The kernel's numbers. This package does without golang.org/x/sys/unix for the
// sake of package stage, which waits for what it imports.
const (
	clockMonotonic    = 1
	clockMonotonicRaw = 4
	clockBoottime     = 7
)

// Now returns the host's lease time: CLOCK_MONOTONIC_RAW plus the time spent in
// suspend (CLOCK_BOOTTIME − CLOCK_MONOTONIC). It starts near the boot, never
// goes back within a process, and is comparable between the processes of one
// boot to within a few microseconds. Safe for concurrent use; costs well under
// a microsecond and does not allocate.
func Now() time.Duration { return hostClock.lease() }

// Boottime returns CLOCK_BOOTTIME, the clock of Timer and KillTimer. It may be
// slewed: never decide a lease by it across hosts.
func Boottime() time.Duration { return read(clockBoottime) }

// BootID returns the kernel's random id of this boot. Deadlines on
// CLOCK_BOOTTIME mean nothing under another id.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// DeadlineAt turns a deadline in lease time (see Now) into the absolute boot
// time at which a timer has to be armed for it: what remains, divided by 1.1. A
// deadline that has passed stays in the past by as much.
func DeadlineAt(lease time.Duration) time.Duration {
	// Boot time first: being preempted between the two makes the result earlier.
	boot := Boottime()
	return deadlineAt(lease, Now(), boot)
}

func deadlineAt(lease, now, boot time.Duration) time.Duration {
	remains := lease - now
	if remains > 0 {
		remains = remains/slewDivisor*slewDividend + remains%slewDivisor*slewDividend/slewDivisor
	}
	return boot + remains
}

// suspendClock measures how long the host has slept. The offset between
// BOOTTIME and MONOTONIC changes only in suspend, but the two cannot be read at
// one instant: so a measured offset is kept for as long as new readings do not
// contradict it, and lease time then advances exactly as MONOTONIC_RAW does.
//
// The one instance is a cache of a property of the host, not state of a caller.
type suspendClock struct {
	read  func(clock int32) time.Duration
	sleep atomic.Pointer[offset]
}

// offset is a measured BOOTTIME − MONOTONIC: the true one is in
// [low, low+width].
type offset struct{ low, width time.Duration }

var hostClock = &suspendClock{read: read}

// lease linearizes: its result is a lease time of some instant during the call,
// also when the host is suspended in the middle of it.
func (c *suspendClock) lease() time.Duration {
	o := c.sleep.Load()
	seen := c.observe()
	// Two intervals for one constant overlap. When they do not, the host slept.
	if o == nil || seen.low > o.low+o.width || seen.low+seen.width < o.low {
		o = c.measure(seen)
	}
	return c.read(clockMonotonicRaw) + o.low
}

// observe brackets the offset between two readings of MONOTONIC.
func (c *suspendClock) observe() offset {
	before := c.read(clockMonotonic)
	boot := c.read(clockBoottime)
	after := c.read(clockMonotonic)
	return offset{low: boot - after, width: after - before}
}

// measure keeps the tightest of a few brackets: a preempted reading is wide.
func (c *suspendClock) measure(best offset) *offset {
	for range 16 {
		if o := c.observe(); o.width < best.width || o.low > best.low+best.width {
			best = o
		}
	}
	for {
		kept := c.sleep.Load()
		// Suspend only adds: a slower goroutine must not put an older offset back.
		if kept != nil && kept.low >= best.low {
			return kept
		}
		if c.sleep.CompareAndSwap(kept, &best) {
			return &best
		}
	}
}

// read panics when the kernel lacks a clock that it has had since 2.6.39: no
// lease can be decided without it.
func read(clock int32) time.Duration {
	var ts syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		panic(fmt.Sprintf("boottime: clock_gettime(%d): %v", clock, errno))
	}
	return time.Duration(ts.Nano())
}
