package hold

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// boottime reads CLOCK_BOOTTIME, the clock of deadlines.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("hold: clock_gettime(CLOCK_BOOTTIME): %v", err)) // in every kernel since 2.6.39
	}
	return time.Duration(ts.Nano())
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// bootOffset is what has to be added to the agent's boot time to get ours. The
// agent read its clock between sent and received on ours. When it shows the same
// clock there is no offset. Otherwise (one of us is in a time namespace) the
// reading is taken to be from the instant of sending: deadlines then come out
// too early by at most the round trip, never too late (HAZARDS.md 7).
func bootOffset(agent, sent, received time.Duration) time.Duration {
	if sent <= agent && agent <= received {
		return 0
	}
	return sent - agent
}

// alarm wakes a goroutine at an instant of CLOCK_BOOTTIME: Go's own timers stand
// still while the host sleeps.
type alarm struct{ file *os.File }

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	return &alarm{file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

// set moves the alarm. An instant that has passed rings at once.
func (a *alarm) set(at time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at, 1).Nanoseconds())}
	raw, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil) }); err != nil {
		return err
	}
	return failed
}

// wait blocks until the alarm rings, or fails after close.
func (a *alarm) wait() error {
	var ticks [8]byte
	_, err := a.file.Read(ticks[:])
	return err
}

func (a *alarm) close() { _ = a.file.Close() } // a timer has nothing to write
