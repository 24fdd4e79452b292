package load

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// sleepUntil blocks the thread until t. The runtime's own timers are up to a
// millisecond late, which at a fixed rate would be measured as latency.
func sleepUntil(t time.Time) {
	for {
		left := time.Until(t)
		if left <= 0 {
			return
		}
		request := unix.NsecToTimespec(left.Nanoseconds())
		if err := unix.Nanosleep(&request, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
