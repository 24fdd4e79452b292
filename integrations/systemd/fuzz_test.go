package systemd_test

import (
	"testing"

	"github.com/kahu-sh/kahu/integrations/systemd"
)

// FuzzParseStored: whoever may start the agent names what it is passed.
func FuzzParseStored(f *testing.F) {
	for _, s := range []string{systemd.StoredName("0123456789abcdef", 3), "kahu", "hold-.0", "hold-a.-1", "hold-a.99999999999999999999", "hold-a.b.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hold, n, ok := systemd.ParseStored(s)
		if !ok {
			return
		}
		if hold == "" || n < 0 || n >= systemd.MaxStored {
			t.Fatalf("%q is number %d of the hold %q", s, n, hold)
		}
		if h, i, ok := systemd.ParseStored(systemd.StoredName(hold, n)); !ok || h != hold || i != n {
			t.Fatalf("%q is number %d of %q, and by its own name number %d of %q (%v)", s, n, hold, i, h, ok)
		}
	})
}
