package holdwire_test

import (
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/holdwire"
)

// FuzzTimes: what is taken is within its bounds.
func FuzzTimes(f *testing.F) {
	for _, s := range []string{"30s", "1h30m", "forever", "0", "-1s", "24h", "24h1ns", "1ns", "9223372036854775807ns", "1e3s", "NaN", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := holdwire.ParseTTL(s); err == nil && (d < holdwire.MinTTL || d > holdwire.MaxTTL) {
			t.Errorf("the TTL %q is %v", s, d)
		}
		if d, err := holdwire.ParseGrace(s); err == nil && (d < 0 || d > holdwire.MaxTTL) {
			t.Errorf("the grace %q is %v", s, d)
		}
		if d, err := holdwire.ParseWait(s); err == nil && d < 0 != (s == holdwire.Forever) {
			t.Errorf("the wait %q is %v", s, d)
		}
		if d, err := time.ParseDuration(s); err == nil && d >= 0 && len(s) <= 64 {
			if got, err := holdwire.ParseWait(s); err != nil || got != d {
				t.Errorf("the wait %q is %v (%v), want %v", s, got, err, d)
			}
		}
	})
}
