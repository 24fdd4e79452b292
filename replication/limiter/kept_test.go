package limiter_test

import (
	"math"
	"testing"

	"github.com/kahu-sh/kahu/replication/limiter"
)

// TestKeptMS holds what is said of each script against its longest EX: the period at
// least, and not much more.
func TestKeptMS(t *testing.T) {
	const period = 30 * 24 * 3600 * 1000
	kept := func(text string, params []limiter.Param, err error) int64 {
		if err != nil {
			t.Fatal(err)
		}
		return limiter.KeptMS(text, func(name string) string {
			for _, p := range params {
				if p.Name == name {
					return p.Value
				}
			}
			return ""
		})
	}
	for _, persistent := range []bool{false, true} {
		for _, a := range limiter.Algorithms {
			take := limiter.Take{Algorithm: a, Key: "k", Rate: limiter.Rate{Permits: 7, PeriodMS: period}, Permits: 1, Persistent: persistent}
			if ms := kept(take.Script()); ms < period || ms > period*12/10 || ms <= math.MaxInt32 {
				t.Errorf("%s, persistent %v: %d ms for a period of %d", a, persistent, ms, period)
			}
		}
		lease := limiter.Lease{Bucket: "b", ID: "a", Limit: 2, Permits: 1, TTLMS: 5000, Persistent: persistent}
		if a, r := kept(lease.Acquire()), kept(lease.Renew()); a != 5000 || r != 5000 {
			t.Errorf("a lease of 5,000 ms is kept for %d, and renewed for %d", a, r)
		}
		if ms := kept(lease.Release()); ms != 0 {
			t.Errorf("a release keeps something for %d ms", ms)
		}
	}
}
