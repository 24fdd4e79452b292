package boottime

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// A Timer wakes at an absolute boot time, also when that passed in suspend. Its
// methods may be called concurrently.
type Timer struct {
	// C receives after an armed instant was reached. A value may be older than
	// the last Set: the receiver reads the clock again before it acts.
	C <-chan struct{}

	file *os.File // a timerfd, watched by the runtime's poller
	done chan struct{}
}

// NewTimer returns a disarmed timer. It starts one goroutine, which Close ends.
func NewTimer() (*Timer, error) {
	// TFD_CLOEXEC and TFD_NONBLOCK are those of open(2).
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockBoottime, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return nil, fmt.Errorf("create a timerfd on CLOCK_BOOTTIME: %w", errno)
	}
	c := make(chan struct{}, 1)
	t := &Timer{C: c, file: os.NewFile(fd, "timerfd"), done: make(chan struct{})}
	go t.watch(c)
	return t, nil
}

// Set arms the timer for an absolute boot time (see Boottime), in place of what
// it was armed for. An instant in the past fires at once.
func (t *Timer) Set(at time.Duration) error {
	return t.settime(timerSpec{value: instant(at)})
}

// Stop disarms the timer; C may still hold a value.
func (t *Timer) Stop() error { return t.settime(timerSpec{}) }

// Close disarms the timer for good and waits for its goroutine.
func (t *Timer) Close() error {
	err := t.file.Close()
	<-t.done
	return err
}

func (t *Timer) settime(spec timerSpec) error {
	conn, err := t.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("set a boot time timer: %w", err)
	}
	var failed syscall.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, failed = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, timerAbsolute, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	})
	if failed != 0 {
		err = errors.Join(err, failed)
	}
	if err != nil {
		return fmt.Errorf("set a boot time timer: %w", err)
	}
	return nil
}

func (t *Timer) watch(c chan<- struct{}) {
	defer close(t.done)
	var expirations [8]byte
	for {
		if _, err := t.file.Read(expirations[:]); err != nil {
			return // closed
		}
		select {
		case c <- struct{}{}:
		default: // one wake-up is already there
		}
	}
}

// A KillTimer is the kernel's dead-man switch: at an absolute boot time it
// sends SIGKILL to its own process, also when that is stopped or frozen by the
// cgroup2 freezer (measured: within 2 ms). It is not inherited by children, and
// has no effect on PID 1 of a pid namespace. Its methods may be called
// concurrently.
type KillTimer struct {
	id int32 // the kernel's timer_t
}

// sigevent is the kernel's struct sigevent, the same on every 64-bit Linux:
// 64 bytes, of which a SIGEV_SIGNAL timer reads the first 16.
type sigevent struct {
	value  uint64
	signo  int32
	notify int32
	_      [48]byte
}

// timerSpec is the kernel's struct itimerspec.
type timerSpec struct{ interval, value syscall.Timespec }

const (
	sigevSignal   = 0 // SIGEV_SIGNAL
	timerAbsolute = 1 // TIMER_ABSTIME, TFD_TIMER_ABSTIME
)

// NewKillTimer returns a disarmed timer. It needs no privilege.
func NewKillTimer() (*KillTimer, error) {
	event := sigevent{signo: int32(syscall.SIGKILL), notify: sigevSignal}
	t := &KillTimer{}
	_, _, errno := syscall.Syscall(syscall.SYS_TIMER_CREATE, clockBoottime,
		uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&t.id)))
	if errno != 0 {
		return nil, fmt.Errorf("create a kill timer on CLOCK_BOOTTIME: %w", errno)
	}
	return t, nil
}

// Set arms the timer for an absolute boot time, in place of what it was armed
// for. An instant in the past kills at once.
func (t *KillTimer) Set(at time.Duration) error {
	return t.settime(timerSpec{value: instant(at)})
}

// Stop disarms the timer.
func (t *KillTimer) Stop() error { return t.settime(timerSpec{}) }

func (t *KillTimer) settime(spec timerSpec) error {
	_, _, errno := syscall.Syscall6(syscall.SYS_TIMER_SETTIME, uintptr(t.id), timerAbsolute,
		uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("set the kill timer: %w", errno)
	}
	return nil
}

// instant keeps a time in the past or at zero from disarming the timer, which
// is what zero means to the kernel.
func instant(at time.Duration) syscall.Timespec {
	return syscall.NsecToTimespec(int64(max(at, 1)))
}
