package hold

import (
	"testing"
	"time"
)

// The offset is zero for one clock, and never makes a deadline later than it is.
func TestBootOffset(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name                  string
		agent, sent, received time.Duration
		want                  time.Duration
	}{
		{"same clock", 1005 * ms, 1000 * ms, 1010 * ms, 0},
		{"at the edges", 1000 * ms, 1000 * ms, 1000 * ms, 0},
		{"agent far ahead", 101_005 * ms, 1000 * ms, 1010 * ms, -100_005 * ms},
		{"agent far behind", 5 * ms, 1000 * ms, 1010 * ms, 995 * ms},
	} {
		got := bootOffset(tc.agent, tc.sent, tc.received)
		if got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
		// The agent's reading was taken on our clock between sent and received: an
		// instant so much later must not come out after that.
		if late := tc.agent + time.Second + got; late > tc.received+time.Second {
			t.Errorf("%s: a deadline one second after the reading is at %v", tc.name, late)
		}
	}
}
