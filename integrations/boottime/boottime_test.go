package boottime_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/integrations/boottime"
)

const (
	victimVariable = "BOOTTIME_TEST_VICTIM" // makes the test binary a process to be killed

	// late tells a timer that fires from one that does not. How late it fires is
	// the machine's business: with all packages compiling it was 3 s once.
	late = 30 * time.Second
)

func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(victimVariable); ok {
		victim()
	}
	goleak.VerifyTestMain(m)
}

// victim arms its kill timer, moves it as it is told, and stops itself.
func victim() {
	t, err := boottime.NewKillTimer()
	if err != nil {
		panic(err)
	}
	var steps []time.Duration
	if err := json.Unmarshal([]byte(os.Getenv(victimVariable)), &steps); err != nil {
		panic(err)
	}
	for _, at := range steps {
		if at == 0 {
			err = t.Stop()
		} else {
			err = t.Set(at)
		}
		if err != nil {
			panic(err)
		}
	}
	if len(steps) > 0 && steps[len(steps)-1] == 0 {
		<-time.After(steps[0] - boottime.Boottime() + 50*time.Millisecond)
		os.Exit(3) // disarmed: nothing killed us when it was time
	}
	_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	select {}
}

func TestNowNeverGoesBack(t *testing.T) {
	// From several goroutines, each reading after having seen the last value.
	values := make(chan time.Duration, 1)
	values <- boottime.Now()
	done := make(chan error)
	for range 4 {
		go func() {
			for range 5000 {
				last := <-values
				now := boottime.Now()
				values <- now
				if now < last {
					done <- fmt.Errorf("lease time went from %v to %v", last, now)
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestNowIsOneClockForAllProcesses(t *testing.T) {
	var raw, boot, mono unix.Timespec
	before := boottime.Now()
	for clock, ts := range map[int32]*unix.Timespec{
		unix.CLOCK_MONOTONIC_RAW: &raw, unix.CLOCK_BOOTTIME: &boot, unix.CLOCK_MONOTONIC: &mono,
	} {
		if err := unix.ClockGettime(clock, ts); err != nil {
			t.Fatal(err)
		}
	}
	after := boottime.Now()
	asDefined := time.Duration(raw.Nano() + boot.Nano() - mono.Nano())
	if slack := after - before + time.Millisecond; asDefined < before-slack || asDefined > after+slack {
		t.Errorf("lease time is between %v and %v, its definition gives %v", before, after, asDefined)
	}
}

func TestBootIDIsTheKernels(t *testing.T) {
	id, err := boottime.BootID()
	if err != nil || len(id) != 36 {
		t.Errorf("the boot id is %q (%v), want 36 characters", id, err)
	}
}

func TestDeadlineAtLeavesRoomForSlew(t *testing.T) {
	for _, remains := range []time.Duration{time.Hour, 30 * time.Second, time.Second, time.Nanosecond, 0, -time.Minute} {
		want := remains
		if remains > 0 {
			want = time.Duration(float64(remains) / 1.1)
		}
		before := boottime.Boottime()
		got := boottime.DeadlineAt(boottime.Now() + remains)
		after := boottime.Boottime()
		if slack := after - before + time.Microsecond; got < before+want-slack || got > after+want+time.Microsecond {
			t.Errorf("with %v left the timer is set for %v from now, want %v", remains, got-before, want)
		}
	}
}

func TestTimerFiresAtItsInstant(t *testing.T) {
	timer, err := boottime.NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	defer timer.Close()
	at := boottime.Boottime() + 30*time.Millisecond
	if err := timer.Set(boottime.Boottime() + time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := timer.Set(at); err != nil { // moved
		t.Fatal(err)
	}
	wait(t, timer)
	if now := boottime.Boottime(); now < at || now > at+late {
		t.Errorf("fired %v after its instant", now-at)
	}
	for _, past := range []time.Duration{-time.Hour, 0, at} {
		if err := timer.Set(past); err != nil {
			t.Fatal(err)
		}
		wait(t, timer) // an instant in the past fires at once
	}
}

func wait(t *testing.T, timer *boottime.Timer) {
	t.Helper()
	select {
	case <-timer.C:
	case <-time.After(10 * time.Second):
		t.Fatal("the timer did not fire")
	}
}

func TestAStoppedTimerIsSilent(t *testing.T) {
	stopped, err := boottime.NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	other, err := boottime.NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	now := boottime.Boottime()
	for _, err := range []error{
		stopped.Set(now + 20*time.Millisecond), other.Set(now + 40*time.Millisecond), stopped.Stop(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	wait(t, other)
	select {
	case <-stopped.C:
		t.Error("a stopped timer fired")
	default:
	}
}

func TestTheKernelKillsAStoppedProcess(t *testing.T) {
	soon := boottime.Boottime() + 150*time.Millisecond
	tests := []struct {
		name  string
		steps []time.Duration
		at    time.Duration // 0: it exits by itself
	}{
		{"armed", []time.Duration{soon}, soon},
		{"moved away and back", []time.Duration{soon, soon + time.Hour, soon}, soon},
		// The first instants leave a busy machine the time to start the process.
		{"moved away", []time.Duration{soon + 3*time.Second, soon + 4*time.Second}, soon + 4*time.Second},
		{"in the past", []time.Duration{soon - time.Hour}, 1},
		{"disarmed", []time.Duration{soon + 3*time.Second, 0}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text, err := json.Marshal(test.steps)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), victimVariable+"="+string(text))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			watchdog := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Process.Signal(syscall.SIGCONT) })
			defer watchdog.Stop()
			_ = cmd.Wait()
			ended := boottime.Boottime()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if test.at == 0 {
				if status.ExitStatus() != 3 {
					t.Errorf("a disarmed timer: the process ended with %v", cmd.ProcessState)
				}
				return
			}
			if !status.Signaled() || status.Signal() != syscall.SIGKILL {
				t.Fatalf("the process ended with %v, want SIGKILL", cmd.ProcessState)
			}
			if ended < test.at || test.at > 1 && ended > test.at+late {
				t.Errorf("killed %v after its instant", ended-test.at)
			}
		})
	}
}

func BenchmarkNow(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		boottime.Now()
	}
}
