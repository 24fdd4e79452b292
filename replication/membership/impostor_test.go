package membership_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

// asProxy is what an agent gets for a certificate that the secret of proxies makes for
// any node.
func asProxy(node string) link.Identity { return link.Identity{Node: node} }

// goesOn fails the test when a host ends as a copy within a minute of the bubble.
func goesOn(t *testing.T, h *host) {
	t.Helper()
	ended := make(chan error, 1)
	keeper := h.keeper                          // read here: stop writes it
	go func() { ended <- keeper.AwaitCopy() }() // ends with the keeper at the latest
	select {
	case err := <-ended:
		t.Errorf("the voter ends: %v", err)
	case <-time.After(time.Minute):
	}
}

// The secret of proxies makes a certificate for any node id, a voter's too. With it
// nobody ends a voter by being its copy, ...
func TestAProxyIsNoCopyOfAVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _, _ := three(t)
		defer w.stop()
		h := &link.Hello{Self: &link.Peer{Node: "a", Address: address("evil"), Role: link.Role_ROLE_VOTER}, Instance: "evil", UptimeMs: time.Hour.Milliseconds() * 1000}
		if _, err := a.keeper.Hello(t.Context(), asProxy("a"), h); err == nil {
			t.Error("a proxy that has the id of the voter that it asks is answered")
		}
		goesOn(t, a)
	})
}

// ... also not by answering at an address where the voter is said to be.
func TestAProxyThatAnswersIsNoCopyOfAVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, _ := three(t)
		defer w.stop()
		evil := w.addHost("a", false, 0, nil)
		evil.config.Address = address("evil")
		w.mu.Lock()
		w.hosts["a"], w.hosts["evil"] = a, evil
		w.mu.Unlock()
		evil.start()
		time.Sleep(time.Minute) // of the bubble: it has run for longer than who is started now
		a.stop()
		a.start()
		h := &link.Hello{Self: &link.Peer{Node: "p"}, Peers: []*link.Peer{{Node: "a", Address: address("evil")}}}
		for _, id := range []link.Identity{asProxy("p"), {Node: "b", Voter: true}} { // what a voter tells is tried
			h.Self.Node = id.Node
			if id.Voter {
				h.Cluster, h.Self.Role, h.Self.Address = b.keeper.Status().Cluster, link.Role_ROLE_VOTER, address("b")
			}
			if _, err := a.keeper.Hello(t.Context(), id, h); err != nil {
				t.Fatal(err)
			}
			goesOn(t, a)
		}
	})
}

// A proxy that has a voter's id takes nothing from what others know of the voter.
func TestAProxyDoesNotSpeakForAVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _, _ := three(t)
		defer w.stop()
		for name, h := range map[string]*link.Hello{
			"it votes no more":         {Self: &link.Peer{Node: "b", Role: link.Role_ROLE_PROXY}, Cluster: a.keeper.Status().Cluster},
			"it has moved":             {Self: &link.Peer{Node: "b", Role: link.Role_ROLE_VOTER, Address: address("evil")}, Cluster: a.keeper.Status().Cluster},
			"it is of another cluster": {Self: &link.Peer{Node: "b", Role: link.Role_ROLE_VOTER, Address: address("evil")}, Cluster: "another"},
		} {
			_, _ = a.keeper.Hello(t.Context(), asProxy("b"), h) // may be refused
			if at, ok := a.keeper.Address("b"); !ok || at != address("b") {
				t.Errorf("%s: node b is at %q, %v", name, at, ok)
			}
			if level := a.keeper.AnnouncedLevel(); level != 1 {
				t.Errorf("%s: the voters announce level %d", name, level)
			}
			for _, m := range a.keeper.Heard() {
				if m.Node == "b" && !m.MayVote {
					t.Errorf("%s: node b counts as a proxy", name)
				}
			}
		}
	})
}

// What a proxy says of where others are does not keep a leader from its work.
func TestAProxyDoesNotHoldUpTheQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		seeds := []string{"a", "b", "c"}
		a, b, c := w.add("a", 3, seeds...), w.add("b", 3, seeds...), w.add("c", 3, seeds...)
		d := w.add("d", 0, seeds...)
		for _, h := range []*host{a, b, c, d} {
			h.configure(func(c *membership.Config) { c.Auto, c.Voters, c.ReplaceAfter = true, 3, time.Minute })
		}
		for _, h := range []*host{a, b, c, d} {
			h.start()
		}
		defer w.stop()
		w.await(10*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		time.Sleep(2 * time.Minute) // of the bubble: d is a stable standby
		w.mu.Lock()
		w.slow = true
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i := range 4000 {
			h := &link.Hello{Self: &link.Peer{Node: fmt.Sprintf("p%d", i)}}
			for j := range 4 {
				h.Peers = append(h.Peers, &link.Peer{Node: fmt.Sprintf("n%d-%d", i, j), Address: fmt.Sprintf("n%d-%d.test:1", i, j)})
			}
			if _, err := a.keeper.Hello(ctx, asProxy(h.Self.Node), h); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // of the bubble
		b.stop()
		w.await(5*time.Minute, "the one that is gone was replaced", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Contains(w.voters, "d") && !slices.Contains(w.voters, "b")
		})
	})
}
