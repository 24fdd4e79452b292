package limiter_test

import (
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/limiter"
)

// FuzzParseRate: what is taken for a rate is one, and is written as it is read.
func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"100/1m", "5/s", "1/250ms", "1/366d", "0/s", "1/0s", "1/-5s", "-1/s", "1/", "/", "1/1", "1/9223372036854775807d", "1/-9188997895698905d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := limiter.ParseRate(s)
		if err != nil {
			return
		}
		if r.Permits < 1 || r.Permits > limiter.MaxPermits || r.PeriodMS < 1 || r.PeriodMS > limiter.MaxPeriod {
			t.Fatalf("%q is %+v, which is out of bounds", s, r)
		}
		if strings.Contains(s, "-") {
			t.Fatalf("%q is %+v, and less than nothing", s, r)
		}
		if again, err := limiter.ParseRate(r.String()); err != nil || again != r {
			t.Fatalf("%q is %+v, written as %s, which is %+v (%v)", s, r, r, again, err)
		}
	})
}

// FuzzAnswers: whatever a script in the limiter's place answers.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{"1:5", "0:250", "0:250:3", "1:", ":", "2:1", "1:-1", "0:9223372036854775808"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := limiter.Parse(b); err == nil && (a.Left < 0 || a.RetryMS < 0) {
			t.Errorf("%q is %+v", b, a)
		}
		if a, err := limiter.ParseLease(b); err == nil && (a.Left < 0 || a.RetryMS < 0 || a.Held < 0) {
			t.Errorf("%q is %+v", b, a)
		}
	})
}
