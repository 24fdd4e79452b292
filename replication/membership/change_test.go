package membership_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

// begun begins a cluster of hosts that vote because their operator says so.
func (w *world) begun(nodes ...string) {
	w.t.Helper()
	for _, node := range nodes {
		w.add(node, len(nodes), nodes...).start()
	}
	w.await(20*time.Second, "all vote", func() bool { return w.allVote(nodes...) })
}

// An operator may be quicker than the news to a new voter which cluster it is in.
func TestAskedRightAfterTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b")
		c := w.add("c", 0, "a", "b")
		w.cut("a", "c", true)
		w.cut("b", "c", true)
		c.start()
		w.mu.Lock()
		c.hasState = true // the leader's Raft has come through
		w.mu.Unlock()
		asked := make(chan error, 1)
		go func() { asked <- c.keeper.Ask(t.Context(), link.ChangeRequest_KIND_TRANSFER, "b") }()
		select {
		case err := <-asked:
			t.Fatalf("it ended before the news: %v", err)
		case <-time.After(time.Second):
		}
		w.cut("a", "c", false)
		w.cut("b", "c", false)
		if err := <-asked; err != nil {
			t.Error(err)
		}
	})
}

// Two operators at once: each change alone is safe, both together are not.
func TestChangesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b", "c", "d")
		w.hosts["d"].stop()
		<-time.After(10 * time.Second)
		var asking sync.WaitGroup
		var refused []error
		var mu sync.Mutex
		for _, node := range []string{"b", "c"} {
			asking.Go(func() {
				if err := w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, node); err != nil {
					mu.Lock()
					defer mu.Unlock()
					refused = append(refused, err)
				}
			})
		}
		asking.Wait()
		if len(refused) != 1 || !errors.Is(refused[0], link.ErrRefused) {
			t.Errorf("refused: %v; want the second", refused)
		}
		if got := w.config(); len(got) != 3 {
			t.Fatalf("%v vote, and d is down: that is no quorum", got)
		}
	})
}

// A leader that has just begun knows nobody's silence: who led before may be gone.
func TestANewLeaderTakesNoVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b", "c")
		w.mu.Lock()
		w.unheard = []string{"b"}
		w.mu.Unlock()
		w.hosts["b"].stop()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if err := w.hosts["a"].keeper.Ask(ctx, link.ChangeRequest_KIND_DEMOTE, "c"); err == nil || errors.Is(err, link.ErrRefused) {
			t.Errorf("demoting c: %v; want to be asked again", err)
		}
		if got := w.config(); len(got) != 3 {
			t.Fatalf("%v vote, and b is down: that is no quorum", got)
		}
		w.hosts["b"].start()
		w.mu.Lock()
		w.unheard = nil
		w.mu.Unlock()
		w.await(30*time.Second, "b is back", func() bool { return w.allVote("a", "b", "c") })
		if err := w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "c"); err != nil {
			t.Fatal(err)
		}
	})
}

// b ended a moment ago, and its silence does not tell yet: whoever takes a vote asks
// the others first. Demoting tells nobody, leaving is given up, and both can be done
// when b is back.
func TestAVoteIsNotTakenBesideOneThatHasJustEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b", "c")
		w.hosts["b"].stop()
		refusal := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, link.ErrRefused) || !strings.Contains(err.Error(), "only 1 did just now") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v; want one line that says that only 1 of 2 answered", what, err)
			}
			if got := w.config(); len(got) != 3 {
				t.Fatalf("%s: %v vote, and b is down: that is no quorum", what, got)
			}
		}
		refusal("demoting c", w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "c"))
		w.hosts["b"].start()
		w.await(30*time.Second, "b is back", func() bool { return w.allVote("a", "b", "c") })
		w.hosts["b"].stop()
		refusal("c leaves", w.hosts["c"].keeper.LeaveQuorum(t.Context()))
		w.hosts["b"].start()
		w.await(30*time.Second, "b is back", func() bool { return w.allVote("a", "b", "c") })
		<-time.After(time.Minute)
		if got := w.config(); len(got) != 3 {
			t.Fatalf("%v vote, and what nobody took was given up later", got)
		}
		if err := w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "c"); err != nil {
			t.Fatal(err)
		}
	})
}

// The leader told c that it votes no more, and ended before it took the vote.
func TestADemotionIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b", "c")
		for i, node := range []string{"c", "a"} { // a follower, and the leader itself
			k := w.hosts[node].keeper
			request := &link.VoteRequest{Cluster: k.Status().Cluster, Operator: true}
			if err := k.Vote(t.Context(), link.Identity{Node: "b", Voter: true}, request); err != nil {
				t.Fatal(err)
			}
			w.await(30*time.Second, node+" votes no more", func() bool { return !slices.Contains(w.config(), node) && len(w.config()) == 2-i })
			w.await(30*time.Second, node+" stands by", k.Standby)
		}
	})
}

// A leader that is to lose its vote hands over first, whoever asks for that: if it took
// its own, nobody would lead until the others had waited for it.
func TestALeaderHandsOverBeforeItLosesItsVote(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(t *testing.T, w *world) error
	}{
		{"demoted at its own host", func(t *testing.T, w *world) error {
			return w.hosts["a"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "a")
		}},
		{"demoted at another", func(t *testing.T, w *world) error {
			return w.hosts["b"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "a")
		}},
		{"it leaves", func(t *testing.T, w *world) error { return w.hosts["a"].keeper.LeaveQuorum(t.Context()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.stop()
				w.begun("a", "b", "c")
				if err := c.begin(t, w); err != nil {
					t.Fatal(err)
				}
				w.await(30*time.Second, "a votes no more", func() bool { return !slices.Contains(w.config(), "a") && len(w.config()) == 2 })
				w.await(30*time.Second, "a stands by", w.hosts["a"].keeper.Standby)
				w.mu.Lock()
				defer w.mu.Unlock()
				if len(w.ownVotes) > 0 {
					t.Errorf("%v took its own vote while it led", w.ownVotes)
				}
			})
		})
	}
}

// When nobody takes over, the leader loses its vote all the same, as an operator wants,
// and says that it costs an election.
func TestALeaderLosesItsVoteAlsoWhenNobodyTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b", "c")
		w.mu.Lock()
		w.noHeir = true
		w.mu.Unlock()
		if err := w.hosts["b"].keeper.Ask(t.Context(), link.ChangeRequest_KIND_DEMOTE, "a"); err != nil {
			t.Fatal(err)
		}
		w.await(30*time.Second, "a votes no more", func() bool { return slices.Equal(w.config(), []string{"b", "c"}) })
		w.await(30*time.Second, "a stands by", w.hosts["a"].keeper.Standby)
		if log := w.hosts["a"].log.String(); !strings.Contains(log, "leadership was not handed over before") {
			t.Errorf("it says nothing of the election:\n%s", log)
		}
	})
}

// Who meets nobody says where nobody answers, until somebody does.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		a, b, p := w.add("a", 0, "b", "c"), w.add("b", 1), w.addProxy("p", "b")
		own := w.add("d", 0, "d")
		a.start()
		p.start()
		own.start()
		waits := func(h *host, what string) func() bool {
			return func() bool { return strings.Contains(h.keeper.Status().Waiting, what) }
		}
		w.await(30*time.Second, "a says that nobody answers", waits(a, "no agent answers at "+b.config.Address+" (it cannot be talked to) and 1 more"))
		w.await(30*time.Second, "the proxy says so", waits(p, "no agent answers at "+b.config.Address))
		w.await(30*time.Second, "d says that it names itself", waits(own, "join names only this agent itself"))
		for _, h := range []*host{a, p} {
			w.await(time.Minute, "the log has it", func() bool { return strings.Contains(h.log.String(), "no agent answers at an address") })
		}
		<-time.After(10 * time.Minute)
		if got := strings.Count(p.log.String(), "no agent answers at an address"); got != 1 {
			t.Errorf("the log of the proxy says %d times that nobody answers, want once", got)
		}
		b.start()
		w.await(time.Minute, "the proxy has met somebody", func() bool { return p.keeper.Status().Waiting == "" })
	})
}

// A host that was removed for good, and runs again, is not in the way of others.
func TestARemovedHostIsNotInvited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		for _, node := range []string{"a", "b", "c"} {
			h := w.add(node, 3, "a", "b", "c")
			h.configure(func(c *membership.Config) { c.Voters = 3 })
			if err := membership.MarkRemoved(h.config.Dir, node, []string{"s"}); err != nil {
				t.Fatal(err)
			}
			h.start()
		}
		w.await(20*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
		w.addAuto("s", "", 0, "a").start()
		w.addAuto("z", "", 0, "a").start()
		<-time.After(time.Minute)
		w.hosts["c"].stop()
		w.await(15*time.Minute, "z has replaced c", func() bool { return slices.Equal(w.config(), []string{"a", "b", "z"}) })
	})
}
