package membership_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Everybody, proxies included, learns where each voter listens for Kahuna's
// clients, and when that changes.
func TestKahunaURLTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		voters := []string{"a", "b", "c"}
		for _, node := range voters {
			w.add(node, 3, voters...).start()
		}
		w.addProxy("p", "a", "b", "c").start()
		w.await(20*time.Second, "three vote", func() bool { return w.allVote(voters...) })
		everybody := func(node, want string) bool {
			for _, h := range w.hosts {
				if h.keeper.KahunaURL(node) != want {
					return false
				}
			}
			return true
		}
		w.hosts["a"].keeper.Announce("https://192.0.2.1:2071")
		w.hosts["b"].keeper.Announce("https://192.0.2.2:2071")
		w.hosts["p"].keeper.Announce("https://192.0.2.9:2071")
		w.await(time.Minute, "all know a, b and that c has none", func() bool {
			return everybody("a", "https://192.0.2.1:2071") && everybody("b", "https://192.0.2.2:2071") && everybody("c", "")
		})
		if got := w.hosts["a"].keeper.KahunaURL("p"); got != "" {
			t.Errorf("a sends clients to a proxy at %q", got)
		}
		w.hosts["a"].keeper.Announce("")
		w.hosts["b"].keeper.Announce("https://" + strings.Repeat("x", 300))
		w.await(time.Minute, "all know that a has none any more", func() bool { return everybody("a", "") })
		if got := w.hosts["c"].keeper.KahunaURL("b"); len(got) > 300 {
			t.Errorf("c took a URL of %d bytes", len(got))
		}
	})
}
