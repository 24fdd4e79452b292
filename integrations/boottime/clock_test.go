package boottime

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// host is a machine whose time goes on a little with every reading, sleeps when
// told to, and whose NTP daemon slews all but the raw clock.
type host struct {
	raw, mono, slept time.Duration
	step             func() time.Duration
	slew             float64
	sleepAt          int // readings until it sleeps for sleepFor
	sleepFor         time.Duration
}

func (h *host) read(clock int32) time.Duration {
	d := h.step()
	h.raw += d
	h.mono += time.Duration(float64(d) * h.slew)
	if h.sleepAt--; h.sleepAt == 0 {
		h.slept += h.sleepFor
	}
	switch clock {
	case unix.CLOCK_MONOTONIC_RAW:
		return h.raw
	case unix.CLOCK_MONOTONIC:
		return h.mono
	default:
		return h.mono + h.slept
	}
}

func TestLeaseTimeCountsSuspendAndNoSlew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &host{
			raw:   time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "raw")),
			mono:  time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "mono")),
			slept: time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "slept")),
			slew:  rapid.Float64Range(0.9, 1.1).Draw(t, "slew"),
			step: func() time.Duration {
				return time.Duration(rapid.SampledFrom([]int64{0, 1, 100, 1000, 50_000_000}).Draw(t, "step"))
			},
			sleepAt:  rapid.IntRange(0, 200).Draw(t, "sleepAt"),
			sleepFor: time.Duration(rapid.Int64Range(1e9, 1e14).Draw(t, "sleepFor")),
		}
		c := &suspendClock{read: h.read}
		var last time.Duration
		for range 30 {
			before := h.raw + h.slept
			got := c.lease()
			after := h.raw + h.slept
			// The offset was bracketed by readings of one call: it is never too
			// large, and too small by less than the slowest bracket.
			const width = 130 * time.Millisecond
			if got > after || got < before-width {
				t.Fatalf("lease time is %v, the host's went from %v to %v", got, before, after)
			}
			if got < last {
				t.Fatalf("lease time went back from %v to %v", last, got)
			}
			last = got
		}
	})
}

func TestDeadlineAtIsExact(t *testing.T) {
	for _, test := range []struct{ remains, want time.Duration }{
		{11 * time.Second, 10 * time.Second},
		{1100, 1000}, {11, 10}, {10, 9}, {1, 0}, {0, 0}, {-1, -1}, {-11 * time.Second, -11 * time.Second},
		{1<<62 - 1, (1<<62 - 1) / 11 * 10}, // no overflow
	} {
		got := deadlineAt(5+test.remains, 5, 7) - 7
		if d := got - test.want; d < 0 || d > 9 {
			t.Errorf("with %d left the timer is set %d ahead, want %d", test.remains, got, test.want)
		}
	}
}
