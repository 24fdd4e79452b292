package guard_test

import (
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/integrations/guard"
)

// FuzzFlags: what kahu exec is told on its command line is taken or refused in a
// line that names it.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{"term", "kill", "freeze", "signal:USR1", "signal:sigusr1", "signal:", "signal:99", "run:echo", "run:", "run:\x00", "auto", "pidns", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := guard.ParseOnLost(s)
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("--on-lost %q: %v", s, err)
		}
		if c, err := guard.ParseContainment(s); err == nil {
			if again, err := guard.ParseContainment(string(c)); err != nil || again != c {
				t.Errorf("--contain %q is %v, and that is %v (%v)", s, c, again, err)
			}
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("--contain %q: %v", s, err)
		}
	})
}
