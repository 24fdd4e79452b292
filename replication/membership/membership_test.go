package membership_test

import (
	"context"
	"errors"
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

func TestNodesThatMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("a", 1).start()
		w.add("b", 0, "a").start()
		w.await(10*time.Second, "two vote", func() bool { return w.allVote("a", "b") })
		w.hosts["b"].stop()
		if at, ok := w.hosts["a"].keeper.Address("b"); !ok || at != address("b") {
			t.Fatalf("b is at %q, %v", at, ok)
		}
		// It says so itself when it is back.
		w.hosts["b"].configure(func(c *membership.Config) { c.Address = "b2.test:7700" })
		w.hosts["b"].start()
		w.await(30*time.Second, "a knows where b is now", func() bool {
			at, _ := w.hosts["a"].keeper.Address("b")
			return at == "b2.test:7700"
		})
		// The book survives, and c, which never met b, hears of it from a.
		w.hosts["a"].stop()
		w.hosts["a"].start()
		if at, _ := w.hosts["a"].keeper.Address("b"); at != "b2.test:7700" {
			t.Fatalf("b is at %q after a restart of a", at)
		}
		w.addProxy("c", "a").start()
		w.cut("b", "c", true)
		w.await(30*time.Second, "c has heard of b", func() bool {
			at, _ := w.hosts["c"].keeper.Address("b")
			return at == "b2.test:7700"
		})
		if got := w.hosts["c"].keeper.Voters(); !slices.Contains(got, "a") {
			t.Fatalf("c knows the voters %v", got)
		}
	})
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for _, node := range []string{"a", "b", "c"} {
			w.add(node, 3, "a", "b", "c").start()
		}
		w.await(10*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		for _, node := range []string{"c", "a"} { // a follower, the leader
			if err := w.hosts[node].keeper.LeaveQuorum(t.Context()); err != nil {
				t.Fatalf("%s leaves: %v", node, err)
			}
		}
		w.hosts["c"].stop()
		w.hosts["c"].start()
		<-time.After(time.Minute)
		if !slices.Equal(w.voters, []string{"b"}) {
			t.Fatalf("voters %v", w.voters)
		}
		if got := w.hosts["c"].keeper.Status().Waiting; !strings.Contains(got, "removed from the quorum") {
			t.Fatalf("c waits for %q", got)
		}
	})
}

func TestRefusedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("b", 2, "a").start()
		k := w.hosts["b"].keeper
		a := link.Identity{Node: "a", Voter: true}
		ctx := t.Context()
		if _, err := k.Hello(ctx, a, &link.Hello{Self: &link.Peer{Node: "z"}}); !errors.Is(err, link.ErrRefused) {
			t.Errorf("somebody who says to be another: %v", err)
		}
		members := func(nodes ...string) (peers []*link.Peer) {
			for _, n := range nodes {
				peers = append(peers, &link.Peer{Node: n})
			}
			return peers
		}
		for name, r := range map[string]*link.PledgeRequest{
			"empty":          {},
			"no cluster":     {Members: members("a", "b"), BootstrapExpect: 2},
			"one too many":   {Cluster: "x", Members: members("a", "b", "c"), BootstrapExpect: 2},
			"unsorted":       {Cluster: "x", Members: members("b", "a"), BootstrapExpect: 2},
			"twice":          {Cluster: "x", Members: members("a", "a"), BootstrapExpect: 2},
			"without us":     {Cluster: "x", Members: members("a", "c"), BootstrapExpect: 2},
			"not its to ask": {Cluster: "x", Members: members("0", "b"), BootstrapExpect: 2},
		} {
			if answer, err := k.Pledge(ctx, a, r); !errors.Is(err, link.ErrRefused) {
				t.Errorf("%s: %v, %v", name, answer, err)
			}
		}
		pledge := func(cluster string) link.PledgeAnswer_State {
			answer, err := k.Pledge(ctx, a, &link.PledgeRequest{Cluster: cluster, Members: members("a", "b"), BootstrapExpect: 2})
			if err != nil {
				t.Fatal(err)
			}
			return answer.GetState()
		}
		if got := pledge("x"); got != link.PledgeAnswer_STATE_PLEDGED {
			t.Fatal(got)
		}
		if got := pledge("y"); got != link.PledgeAnswer_STATE_REFUSED {
			t.Errorf("a second pledge: %v", got)
		}
		w.hosts["b"].stop()
		w.hosts["b"].start()
		k = w.hosts["b"].keeper
		if got := pledge("y"); got != link.PledgeAnswer_STATE_REFUSED {
			t.Errorf("a second pledge after a restart: %v", got)
		}
		if got := pledge("x"); got != link.PledgeAnswer_STATE_PLEDGED {
			t.Errorf("the same pledge after a restart: %v", got)
		}
		if answer, err := k.Pledge(ctx, a, &link.PledgeRequest{Cluster: "x", Ask: true}); err != nil || answer.GetState() == link.PledgeAnswer_STATE_COMMITTED {
			t.Errorf("what became of it: %v, %v", answer, err)
		}
		for _, cluster := range []string{"", "x"} {
			if err := k.Join(ctx, a, &link.JoinRequest{Self: &link.Peer{Node: "a", Address: "a:1"}, Cluster: cluster}); !errors.Is(err, link.ErrRefused) {
				t.Errorf("joining cluster %q: %v", cluster, err)
			}
			if err := k.Leave(ctx, a, &link.LeaveRequest{Cluster: cluster}); !errors.Is(err, link.ErrRefused) {
				t.Errorf("leaving cluster %q: %v", cluster, err)
			}
		}
	})
}

// A disk of which a part is gone must not vote again.
func TestLostDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.add("a", 1)
		h.start()
		w.await(time.Second, "one votes", func() bool { return w.allVote("a") })
		h.stop()
		open := func() error {
			k, err := membership.Open(h.config)
			if err != nil {
				return err
			}
			err = k.Start(fakeNetwork{h}, fakeRaft{h})
			k.Close()
			return err
		}
		h.hasState = false
		if err := open(); err == nil || !strings.Contains(err.Error(), "its Raft log is gone") {
			t.Errorf("without a log: %v", err)
		}
		h.hasState = true
		file := filepath.Join(h.config.Dir, "membership.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct{ text, says string }{
			"damaged": {string(text[:len(text)/2]), "is damaged"},
			"empty":   {"", "is damaged"},
			"foreign": {strings.Replace(string(text), `"node": "a"`, `"node": "b"`, 1), "was it copied?"},
			"newer":   {strings.Replace(string(text), `"format": 1`, `"format": 2`, 1), "use a newer kahu"},
		} {
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := open(); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := open(); err == nil || !strings.Contains(err.Error(), "membership.json with its cluster's id is gone") {
			t.Errorf("without the file: %v", err)
		}
	})
}

func TestCopiedDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		h := w.add("a", 1)
		h.start()
		other := &link.Hello{Self: &link.Peer{Node: "a", Address: "a2:1"}, Instance: "another process"}
		for range 3 {
			if _, err := h.keeper.Hello(context.Background(), link.Identity{Node: "a", Voter: true}, other); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(h.log.String(), "its data directory was copied"); n != 1 {
			t.Fatalf("said %d times:\n%s", n, h.log)
		}
	})
}

func TestBadConfig(t *testing.T) {
	good := newWorld(t).add("a", 1).config
	for name, spoil := range map[string]func(*membership.Config){
		"no node":         func(c *membership.Config) { c.Node = "" },
		"no address":      func(c *membership.Config) { c.Address = "" },
		"any address":     func(c *membership.Config) { c.Address = "0.0.0.0:7700" },
		"any v6":          func(c *membership.Config) { c.Address = "[::]:7700" },
		"no port":         func(c *membership.Config) { c.Address = "host" },
		"no host":         func(c *membership.Config) { c.Address = ":7700" },
		"bad seed":        func(c *membership.Config) { c.Seeds = []string{"x"} },
		"negative expect": func(c *membership.Config) { c.Expect = -1 },
	} {
		c := good
		spoil(&c)
		if _, err := membership.Open(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
