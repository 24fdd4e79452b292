package membership_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

// addAuto makes a host with role auto.
func (w *world) addAuto(node, zone string, expect int, seeds ...string) *host {
	h := w.add(node, expect, seeds...)
	h.configure(func(c *membership.Config) { c.Auto, c.Voters, c.Zone = true, 3, zone })
	return h
}

func (w *world) config() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.voters))
}

// The same configuration on ten hosts: those that it names begin the cluster,
// the rest stands by.
func TestSameConfigurationEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for i := range 10 {
			w.addAuto(fmt.Sprintf("n%d", i), "", 3, "n4", "n5", "n6").start()
		}
		w.await(20*time.Second, "the named three vote", func() bool { return w.allVote("n4", "n5", "n6") })
		<-time.After(5 * time.Minute)
		if got := w.config(); !slices.Equal(got, []string{"n4", "n5", "n6"}) {
			t.Fatalf("%v vote", got)
		}
		for _, node := range []string{"n0", "n9"} {
			if s := w.hosts[node].keeper.Status(); s.Cluster == "" || !s.Standby || s.Waiting != "" {
				t.Fatalf("%s: %+v", node, s)
			}
			if v := slices.Sorted(slices.Values(w.hosts[node].keeper.Voters())); !slices.Equal(v, []string{"n4", "n5", "n6"}) {
				t.Fatalf("%s asks %v", node, v)
			}
		}
		if len(w.bootstraps) != 3 {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
	})
}

func TestAVoterThatIsGoneIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		// Three hosts vote because their operator says so; two stand by.
		for _, node := range []string{"a", "b", "c"} {
			h := w.add(node, 3, "a", "b", "c")
			h.configure(func(c *membership.Config) { c.Voters, c.Zone = 3, node })
			h.start()
		}
		w.await(20*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		w.addAuto("s", "a", 0, "a").start()
		w.addAuto("z", "c", 0, "a").start()
		<-time.After(time.Minute)
		w.hosts["c"].stop()
		<-time.After(9 * time.Minute)
		if got := w.config(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Fatalf("after 9 minutes %v vote", got)
		}
		// z, since nobody in its zone votes any more.
		w.await(2*time.Minute, "z has replaced c", func() bool { return slices.Equal(w.config(), []string{"a", "b", "z"}) })
		<-time.After(10 * time.Minute)
		if got := w.config(); !slices.Equal(got, []string{"a", "b", "z"}) {
			t.Fatalf("then %v vote", got)
		}
		// The old one is back, with its disk.
		w.hosts["c"].start()
		w.await(2*time.Minute, "c votes again, and z stands by", func() bool { return slices.Equal(w.config(), []string{"a", "b", "c"}) })
		w.await(time.Minute, "z knows", func() bool { return w.hosts["z"].keeper.Status().Standby })
		// And z is as good as before.
		w.hosts["b"].stop()
		w.await(12*time.Minute, "somebody has replaced b", func() bool { return !slices.Contains(w.config(), "b") && len(w.config()) == 3 })
	})
}

func TestOneGrowsToThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.addAuto("a", "", 1).start()
		w.await(time.Second, "one votes", func() bool { return w.allVote("a") })
		w.addAuto("b", "", 0, "a").start()
		<-time.After(5 * time.Minute)
		if got := w.config(); len(got) != 1 {
			t.Fatalf("two hosts, and %v vote: either's end would stop both", got)
		}
		w.addAuto("c", "", 0, "a").start()
		w.addProxy("p", "a").start()
		w.await(3*time.Minute, "three vote", func() bool { return slices.Equal(w.config(), []string{"a", "b", "c"}) })
	})
}

func TestOperatorChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for _, node := range []string{"a", "b", "c", "d"} {
			w.addAuto(node, "", 3, "a", "b", "c").start()
		}
		w.addProxy("p", "a").start()
		w.await(20*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		<-time.After(time.Minute)
		ask := func(at string, kind link.ChangeRequest_Kind, node string) error {
			return w.hosts[at].keeper.Ask(t.Context(), kind, node)
		}
		refused := func(at string, kind link.ChangeRequest_Kind, node, says string) {
			t.Helper()
			if err := ask(at, kind, node); !errors.Is(err, link.ErrRefused) || !strings.Contains(err.Error(), says) {
				t.Fatalf("%v of %q: %v, want %q", kind, node, err, says)
			}
		}
		const promote, demote, remove = link.ChangeRequest_KIND_PROMOTE, link.ChangeRequest_KIND_DEMOTE, link.ChangeRequest_KIND_REMOVE
		refused("c", promote, "a", "has a vote already")
		refused("c", promote, "p", "proxy's secret")
		refused("c", promote, "nobody", "has not been heard")
		refused("d", demote, "d", "has no vote")
		refused("b", remove, "c", "answers")
		refused("b", remove, "x", "not in the quorum")
		refused("p", demote, "a", "is a proxy")
		refused("b", link.ChangeRequest_KIND_TRANSFER, "d", "has no vote")
		refused("b", link.ChangeRequest_Kind(77), "d", "does not know")

		// A follower gives up its vote, asked at another; the standby steps in.
		if err := ask("a", demote, "c"); err != nil {
			t.Fatal(err)
		}
		w.await(3*time.Minute, "d votes for c", func() bool { return slices.Equal(w.config(), []string{"a", "b", "d"}) })
		<-time.After(5 * time.Minute)
		if s := w.hosts["c"].keeper.Status(); !s.Standby || !strings.Contains(s.Waiting, "kahu cluster promote c") {
			t.Fatalf("c: %+v", s)
		}
		// Restarted it does not come back by itself, promoted it does, and the cluster
		// gives up one of those that it has chosen itself.
		w.hosts["c"].stop()
		w.hosts["c"].start()
		<-time.After(time.Minute)
		if slices.Contains(w.config(), "c") {
			t.Fatal("c came back by itself")
		}
		if err := ask("d", promote, "c"); err != nil {
			t.Fatal(err)
		}
		w.await(time.Minute, "c votes", func() bool { return slices.Contains(w.config(), "c") })
		w.await(3*time.Minute, "three vote", func() bool { return len(w.config()) == 3 })
		if got := w.config(); !slices.Contains(got, "c") {
			t.Fatalf("%v vote: whom an operator promoted was not kept", got)
		}

		// A node that is gone for good: it does not come back with its old disk.
		w.mu.Lock()
		leader := w.leader()
		w.mu.Unlock()
		gone := w.config()[2]
		if gone == leader {
			gone = w.config()[1]
		}
		w.hosts[gone].stop()
		<-time.After(15 * time.Second)
		if err := ask(leader, remove, gone); err != nil {
			t.Fatal(err)
		}
		refused(leader, remove, gone, "removed before")
		w.hosts[gone].start()
		w.await(time.Minute, "it knows that it was removed", func() bool {
			return strings.Contains(w.hosts[gone].keeper.Status().Waiting, "removed from the quorum")
		})
		refused(leader, promote, gone, "removed for good")

		// Leadership goes where it is wanted.
		next := w.config()[0]
		if err := ask(leader, link.ChangeRequest_KIND_TRANSFER, ""); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		now := w.leader()
		w.mu.Unlock()
		if now == leader {
			t.Fatalf("%s leads still, of %v", now, next)
		}
	})
}

func TestTheLastVotesAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for _, node := range []string{"a", "b", "c"} {
			w.add(node, 3, "a", "b", "c").start()
		}
		w.await(20*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		w.hosts["c"].stop()
		<-time.After(time.Minute)
		// Of a and c only a would answer: no quorum.
		err := w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "b")
		if !errors.Is(err, link.ErrRefused) || !strings.Contains(err.Error(), "only 1 of 2 voters would answer, and 2 have to") {
			t.Fatalf("demoting b: %v", err)
		}
		if err := w.hosts["b"].keeper.LeaveQuorum(t.Context()); !errors.Is(err, link.ErrRefused) {
			t.Fatalf("b leaves: %v", err)
		}
		if got := w.config(); len(got) != 3 {
			t.Fatalf("%v vote", got)
		}
	})
}

// Nothing is done where nobody else could lead, and that is certain.
func TestTheOnlyVoterLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("a", 1).start()
		w.await(20*time.Second, "one votes", func() bool { return w.allVote("a") })
		err := w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_TRANSFER, "")
		if !errors.Is(err, link.ErrRefused) || !strings.Contains(err.Error(), "only voter") {
			t.Fatalf("a is to let another lead: %v", err)
		}
	})
}

func TestOperatorMistakesAreNamedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("a", 2, "b").start()
		b := w.add("b", 2, "a")
		b.configure(func(c *membership.Config) { c.Name = "host-a" })
		b.start()
		<-time.After(time.Minute)
		// A host whose clock is a day ahead says hello.
		for range 3 {
			_, err := w.hosts["a"].keeper.Hello(t.Context(), link.Identity{Node: "z"}, &link.Hello{
				Self: &link.Peer{Node: "z", Name: "host-z"}, WallMs: time.Now().Add(24 * time.Hour).UnixMilli()})
			if err != nil {
				t.Fatal(err)
			}
		}
		log := w.hosts["a"].log.String()
		for _, line := range []string{"two agents have the same name", "the wall clocks of two hosts differ"} {
			if n := strings.Count(log, line); n != 1 {
				t.Errorf("%q was said %d times:\n%s", line, n, log)
			}
		}
		if !strings.Contains(log, "ahead_by=24h") {
			t.Errorf("by how much is not said:\n%s", log)
		}
	})
}

// Four hosts, of which each names the three others.
func TestEverybodyNamesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		all := []string{"a", "b", "c", "d"}
		for _, node := range all {
			var others []string
			for _, other := range all {
				if other != node {
					others = append(others, other)
				}
			}
			w.addAuto(node, "", 3, others...).start()
		}
		w.await(20*time.Second, "three vote", func() bool { return len(w.config()) == 3 && w.allVote(w.config()...) })
		if len(w.bootstraps) != 3 {
			t.Fatalf("bootstrapped %q", w.bootstraps)
		}
	})
}

// A host that wants to vote and cannot be reached does not keep the leader from
// replacing a voter that is gone.
func TestWhoNeverAnswersDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		seeds := []string{"a", "b", "c"}
		hosts := []*host{w.add("a", 3, seeds...), w.add("b", 3, seeds...), w.add("c", 3, seeds...), w.add("d", 0, seeds...)}
		for _, h := range hosts {
			h.configure(func(c *membership.Config) { c.Auto, c.Voters, c.ReplaceAfter = true, 3, time.Minute })
			h.start()
		}
		defer w.stop()
		w.await(10*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		w.mu.Lock()
		w.mute = "e"
		w.mu.Unlock()
		e := w.add("e", 0, seeds...)
		e.start()
		w.await(time.Minute, "it is let in", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return slices.Contains(w.learners, "e") })
		hosts[1].stop()
		w.await(5*time.Minute, "the one that is gone was replaced", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Contains(w.voters, "d") && !slices.Contains(w.voters, "b")
		})
		w.await(10*time.Second, "who never answers says why it has no vote", func() bool {
			return strings.Contains(e.keeper.Status().Waiting, "--advertise") && strings.Contains(e.keeper.Status().Waiting, address("e"))
		})
	})
}
