package voter_test

import (
	"math"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication/voter"
)

// What is due ends at once when nothing has ended for a while, and together with
// others when much does.
func TestUntilSweep(t *testing.T) {
	const now = int64(time.Hour)
	at := func(d time.Duration) int64 { return now + int64(d) }
	for name, tc := range map[string]struct {
		due   int64
		since time.Duration
		want  time.Duration
	}{
		"nothing":                            {voter.DueNever, time.Hour, time.Hour},
		"due, none for a while":              {at(-time.Second), time.Second, time.Millisecond},
		"due, none ever":                     {at(0), math.MaxInt64, time.Millisecond},
		"due, one has just been":             {at(-time.Second), 0, 10 * time.Millisecond},
		"due, one was 4 ms ago":              {at(0), 4 * time.Millisecond, 6 * time.Millisecond},
		"in 2 ms, none for a while":          {at(2 * time.Millisecond), time.Second, 2 * time.Millisecond},
		"in 2 ms, one was 4 ms ago":          {at(2 * time.Millisecond), 4 * time.Millisecond, 6 * time.Millisecond},
		"in 8 ms, one was 4 ms ago":          {at(8 * time.Millisecond), 4 * time.Millisecond, 8 * time.Millisecond},
		"in a nanosecond":                    {at(1), time.Second, time.Millisecond},
		"in a minute: clocks are not one":    {at(time.Minute), time.Second, time.Second},
		"in a century: it does not run over": {math.MaxInt64 - 1, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := voter.UntilSweep(tc.due, now, tc.since); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
