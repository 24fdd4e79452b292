package membership_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

// All tests run in synctest's time: minutes of it take milliseconds.

func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("a", 1).start()
		w.await(time.Second, "one host votes alone", func() bool { return w.allVote("a") })
		w.hosts["a"].stop()
		w.hosts["a"].start()
		w.await(time.Second, "it votes again", func() bool { return w.allVote("a") })
		if len(w.bootstraps) != 1 {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
	})
}

func TestThreeBeginTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for _, node := range []string{"c", "a", "b"} {
			w.add(node, 3, "a", "b").start() // c is nobody's seed: it is met
		}
		w.await(10*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		if want := []string{"a,b,c", "a,b,c", "a,b,c"}; !slices.Equal(w.bootstraps, want) {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
		if got := w.hosts["a"].keeper.AnnouncedLevel(); got != 1 {
			t.Fatalf("announced level %d", got)
		}
	})
}

func TestLateHostsJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("m", 1).start()
		w.await(time.Second, "one votes", func() bool { return w.allVote("m") })
		w.mu.Lock()
		w.applied["m"] = 50_000
		w.mu.Unlock()
		w.add("d", 0, "m").start()
		w.await(10*time.Second, "d receives the log", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Contains(w.learners, "d")
		})
		// Minutes later it is still behind, and without a vote.
		<-time.After(5 * time.Minute)
		if w.allVote("d") {
			t.Fatal("a voter got its vote before it had caught up")
		}
		w.mu.Lock()
		w.applied["d"] = 49_500
		w.mu.Unlock()
		w.await(10*time.Second, "d votes", func() bool { return w.allVote("m", "d") })

		// Candidates that meet a cluster join it, whatever they expect.
		w.add("e", 3, "d").start()
		w.mu.Lock()
		w.applied["e"] = 50_000
		w.mu.Unlock()
		w.await(30*time.Second, "e votes", func() bool { return w.allVote("m", "d", "e") })
		if len(w.bootstraps) != 1 {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
	})
}

func TestDifferentExpectations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("a", 3, "b", "c").start()
		w.add("b", 3, "a").start()
		w.add("c", 2, "a", "b").start()
		<-time.After(time.Minute)
		if len(w.bootstraps) != 0 {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
		log := w.hosts["a"].log.String()
		if n := strings.Count(log, "bootstrap-expect differs"); n != 1 {
			t.Fatalf("said %d times:\n%s", n, log)
		}
		for _, part := range []string{"host-a", "bootstrap_expect=3", "host-c", "other_bootstrap_expect=2"} {
			if !strings.Contains(log, part) {
				t.Errorf("the line does not name %q:\n%s", part, log)
			}
		}
		// Corrected, it begins.
		w.hosts["c"].stop()
		w.hosts["c"].configure(func(c *membership.Config) { c.Expect = 3 })
		w.hosts["c"].start()
		w.await(20*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
	})
}

func TestTooManyCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		names := []string{"a", "b", "c", "d"}
		for _, node := range names {
			h := w.add(node, 2, names...)
			// They have met before they may act: cut, nobody counts two.
			for _, other := range names {
				w.cut(node, other, true)
			}
			h.start()
		}
		<-time.After(time.Minute)
		w.mu.Lock()
		clear(w.cuts)
		w.mu.Unlock()
		<-time.After(time.Minute)
		// Whoever met a second one first may have begun; two clusters never.
		if n := len(slices.Compact(slices.Sorted(slices.Values(w.bootstraps)))); n > 1 {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
	})
}

// With twice as many candidates as a cluster needs, nobody proposes.
func TestCouldBecomeTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.add("a", 1)
		k, err := membership.Open(h.config)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		z := &link.Hello{Self: &link.Peer{Node: "z"}, Candidate: true, BootstrapExpect: 1}
		if _, err := k.Hello(t.Context(), link.Identity{Node: "z", Voter: true}, z); err != nil {
			t.Fatal(err)
		}
		if err := k.Start(fakeNetwork{h}, fakeRaft{h}); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second)
		if got := k.Status(); got.Cluster != "" || !strings.Contains(got.Waiting, "which could become two") {
			t.Fatalf("%+v, bootstrapped %q", got, w.bootstraps)
		}
	})
}

// A pledge to a proposal that somebody else refuses becomes void.
func TestAbortedPledgeIsVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for _, node := range []string{"c", "b"} {
			w.add(node, 3, "a", "b", "c").start()
		}
		first := &link.PledgeRequest{Cluster: "first", BootstrapExpect: 3,
			Members: []*link.Peer{{Node: "0"}, {Node: "b"}, {Node: "c"}}}
		answer, err := w.hosts["c"].keeper.Pledge(t.Context(), link.Identity{Node: "0", Voter: true}, first)
		if err != nil || answer.GetState() != link.PledgeAnswer_STATE_PLEDGED {
			t.Fatal(answer, err)
		}
		w.add("a", 3, "b", "c").start()
		w.await(time.Minute, "b's pledge to a's proposal is void", func() bool {
			return strings.Contains(w.hosts["b"].log.String(), "a pledge is void")
		})
		if got := w.hosts["c"].keeper.Status().Pledged; got != "first" || len(w.bootstraps) != 0 {
			t.Fatalf("c has pledged to %q, bootstrapped %q", got, w.bootstraps)
		}
	})
}

// A proxy that was in a cluster keeps blank voters from beginning another.
func TestProxyVetoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("a", 1).start()
		w.addProxy("p", "a", "x", "y").start()
		w.await(10*time.Second, "p knows the cluster", func() bool { return w.hosts["p"].keeper.Status().Cluster != "" })
		w.hosts["a"].stop() // its disk is replaced: new ids, nothing on them
		w.add("x", 2, "p", "y").start()
		w.add("y", 2, "p", "x").start()
		<-time.After(10 * time.Minute)
		if len(w.bootstraps) != 1 {
			t.Fatalf("blank voters began a second cluster: %q\n%s", w.bootstraps, w)
		}
		if got := w.hosts["x"].keeper.Status().Waiting; !strings.Contains(got, "node p (host-p) belongs to cluster") {
			t.Fatalf("x waits for %q", got)
		}
		w.hosts["a"].start()
		w.await(time.Minute, "x and y join the old one", func() bool { return w.allVote("a", "x", "y") })
	})
}

// The proposer dies with all pledges in hand, decided or not; nothing begins
// until it is back, and then the same one.
func TestProposerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		lost := 0
		w.lose = func(from, to, what string) bool {
			if what == "Pledge" && from == "a" {
				// Before anybody is told, it is on disk: at the proposer, and at the member.
				for _, node := range []string{from, to} {
					if text, _ := os.ReadFile(filepath.Join(w.hosts[node].config.Dir, "membership.json")); !strings.Contains(string(text), `"pledge"`) {
						t.Errorf("%s speaks of a pledge that it has not stored: %s", node, text)
					}
				}
			}
			if what == "Pledge" && from == "a" && lost < 4 {
				lost++
				return true // the members have pledged, the proposer does not hear of it
			}
			return false
		}
		for _, node := range []string{"a", "b", "c"} {
			w.add(node, 3, "a", "b", "c").start()
		}
		w.await(10*time.Second, "b has pledged", func() bool { return w.hosts["b"].keeper.Status().Pledged != "" })
		pledged := w.hosts["b"].keeper.Status().Pledged
		w.hosts["a"].stop()
		w.hosts["b"].stop()
		w.hosts["b"].start()
		<-time.After(time.Hour)
		if got := w.hosts["b"].keeper.Status().Pledged; got != pledged || len(w.bootstraps) != 0 {
			t.Fatalf("the pledge to %s became %q, bootstrapped %q", pledged, got, w.bootstraps)
		}
		w.hosts["a"].start()
		w.await(10*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		if got := w.hosts["b"].keeper.Status().Cluster; got != pledged {
			t.Fatalf("cluster %s, pledged was %s", got, pledged)
		}
	})
}

// A member may receive the others' log before it hears that its own pledge was
// committed. Killed in between, it comes back as the member that it is.
func TestKilledBetweenPledgeAndCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		var pledged []byte // the file of b when it gave its pledge
		w.lose = func(from, to, what string) bool {
			if what == "Pledge" && from == "a" && to == "b" {
				pledged, _ = os.ReadFile(filepath.Join(w.hosts["b"].config.Dir, "membership.json"))
			}
			return false
		}
		for _, node := range []string{"a", "b", "c"} {
			w.add(node, 3, "a", "b", "c").start()
		}
		w.await(10*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		b := w.hosts["b"]
		b.stop()
		if !strings.Contains(string(pledged), `"pledge"`) || strings.Contains(string(pledged), `"bootstrapped"`) {
			t.Fatalf("b answered with this on its disk: %s", pledged)
		}
		if err := os.WriteFile(filepath.Join(b.config.Dir, "membership.json"), pledged, 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		w.await(10*time.Second, "b is back", func() bool {
			s := b.keeper.Status()
			return s.Cluster != "" && s.Cluster == w.hosts["a"].keeper.Status().Cluster && s.Waiting == ""
		})
		if len(w.bootstraps) > 3 {
			t.Errorf("bootstrapped %q", w.bootstraps)
		}
	})
}

// Four hosts, of which two see another set of three each (HAZARDS.md 9c).
func TestOverlappingViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		names := []string{"a", "b", "c", "d"}
		for _, node := range names {
			w.add(node, 3, names...)
		}
		w.cut("a", "d", true) // a sees a, b, c; d sees b, c, d
		for _, node := range names {
			w.hosts[node].start()
		}
		<-time.After(time.Minute)
		w.mu.Lock()
		clear(w.cuts)
		w.mu.Unlock()
		w.await(time.Minute, "all four vote", func() bool { return w.allVote(names...) })
		for _, b := range w.bootstraps {
			if b != w.bootstraps[0] {
				t.Fatalf("bootstrapped %q", w.bootstraps)
			}
		}
	})
}

// Whatever starts, dies, comes back and is cut off in whichever order, one
// cluster begins at most; once all is well, exactly one, and all are in it.
func TestAtMostOneCluster(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		expect := rapid.IntRange(1, 3).Draw(rt, "expect")
		hosts := expect
		if expect > 1 {
			hosts = rapid.IntRange(expect, 2*expect-1).Draw(rt, "hosts")
		}
		names := []string{"a", "b", "c", "d", "e"}[:hosts]
		type event struct {
			afterMS, kind, a, b int
		}
		events := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) event {
			return event{rapid.IntRange(0, 400).Draw(rt, "ms"), rapid.IntRange(0, 3).Draw(rt, "kind"),
				rapid.IntRange(0, hosts-1).Draw(rt, "a"), rapid.IntRange(0, hosts-1).Draw(rt, "b")}
		}), 0, 40).Draw(rt, "events")
		losses := rapid.SliceOfN(rapid.Bool(), 0, 60).Draw(rt, "losses")
		failure := ""
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.stop()
			w.lose = func(string, string, string) bool {
				if len(losses) == 0 {
					return false
				}
				lose := losses[0]
				losses = losses[1:]
				return lose
			}
			for _, node := range names {
				w.add(node, expect, names...)
			}
			for _, e := range events {
				<-time.After(time.Duration(e.afterMS) * time.Millisecond)
				a, b := w.hosts[names[e.a]], names[e.b]
				switch e.kind {
				case 0, 1:
					if a.keeper == nil {
						a.start()
					} else {
						a.stop()
					}
				case 2:
					w.cut(a.config.Node, b, true)
				case 3:
					w.cut(a.config.Node, b, false)
				}
			}
			w.mu.Lock()
			clear(w.cuts)
			losses = nil
			w.mu.Unlock()
			for _, h := range w.hosts {
				if h.keeper == nil {
					h.start()
				}
			}
			deadline := time.Now().Add(2 * time.Minute)
			for !w.allVote(names...) && time.Now().Before(deadline) {
				<-time.After(100 * time.Millisecond)
			}
			if !w.allVote(names...) {
				failure = "not all vote in one cluster:\n" + w.String()
			}
			for _, b := range w.bootstraps {
				if b != w.bootstraps[0] {
					failure = fmt.Sprintf("bootstrapped %q", w.bootstraps)
				}
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// Somebody whom only one of the members sees has a veto: that is no reason to write
// proposal after proposal to the disks of all, and the cluster begins when it is gone.
func TestAVetoIsNotAskedForAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b, c := w.add("a", 3, "b", "c"), w.add("b", 3, "a", "c"), w.add("c", 3, "a", "b")
		for _, h := range []*host{a, b, c} {
			h.start()
		}
		defer w.stop()
		for range 600 { // c hears it once a second
			h := &link.Hello{Self: &link.Peer{Node: "p", Role: link.Role_ROLE_PROXY}, Cluster: "old"}
			if _, err := c.keeper.Hello(t.Context(), link.Identity{Node: "p"}, h); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // of the bubble
		}
		if n := strings.Count(a.log.String(), "a proposed cluster was given up"); n < 10 || n > 100 {
			t.Errorf("in ten minutes %d proposals were made", n)
		}
		w.await(11*time.Minute, "it is forgotten, and the cluster begins", func() bool { return w.allVote("a", "b", "c") })
	})
}

// A proxy of a cluster that was replaced by a restored one says what to do.
func TestAProxyOfAClusterThatIsNotThereAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old, p := w.add("a", 1), w.addProxy("p", "a", "b")
		old.start()
		p.start()
		defer w.stop()
		w.await(10*time.Second, "the proxy belongs to the old cluster", func() bool { return p.keeper.Status().Cluster != "" && p.keeper.Status().Waiting == "" })
		old.stop()
		w.mu.Lock()
		w.voters = nil
		w.mu.Unlock()
		restored := w.add("b", 1)
		restored.start()
		w.await(time.Minute, "it says that another cluster is there", func() bool {
			s := p.keeper.Status()
			return strings.Contains(s.Waiting, restored.keeper.Status().Cluster) && strings.Contains(s.Waiting, "empty the data directory "+p.config.Dir)
		})
	})
}
