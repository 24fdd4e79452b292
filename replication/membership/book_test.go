package membership_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

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

// A node sees the entry that gives it a vote before that is committed, and the
// next leader may not have it.
func TestVoteThatWasNotCommittedIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.add("m", 1).start()
		w.await(time.Second, "one votes", func() bool { return w.allVote("m") })
		w.add("d", 0, "m").start()
		w.await(time.Minute, "d votes", func() bool { return w.allVote("m", "d") })
		<-time.After(time.Minute) // d has noted that it has a vote
		w.mu.Lock()
		w.voters, w.learners = []string{"m"}, []string{"d"}
		w.mu.Unlock()
		w.await(time.Minute, "d votes again", func() bool { return w.allVote("m", "d") })
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

// Two run with one disk: the later one ends, and says why in one line; the earlier
// one goes on. They find each other by what a third one tells.
func TestTheLaterCopyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		original, third := w.add("a", 1), w.add("b", 0, "a")
		original.start()
		third.start()
		w.await(10*time.Second, "both vote", func() bool { return w.allVote("a", "b") })
		time.Sleep(time.Minute) // of the bubble
		// The copy is at another address, and knows b alone.
		copied := w.addHost("a", true, 1, []string{"b"})
		copied.config.Address, copied.hasState = address("copy"), true
		if err := os.CopyFS(copied.config.Dir, os.DirFS(original.config.Dir)); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.hosts["a"], w.hosts["copy"] = original, copied
		w.mu.Unlock()
		ended := make(chan error, 1)
		copied.start()
		later := copied.keeper                     // read here: stop writes it
		go func() { ended <- later.AwaitCopy() }() // ends with the keeper at the latest
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "has run for longer") || !strings.Contains(err.Error(), address("a")) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the copy ends with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the copy goes on")
		}
		if isCleared(copied) || !isCleared(original) || !isCleared(third) {
			t.Errorf("may vote: the copy %v, the original %v, the third %v", isCleared(copied), isCleared(original), isCleared(third))
		}
		goesOn := make(chan error, 1)
		earlier := original.keeper
		go func() { goesOn <- earlier.AwaitCopy() }() // ends with the keeper
		time.Sleep(time.Minute)                       // of the bubble
		select {
		case err := <-goesOn:
			t.Errorf("the original ends with %v", err)
		default:
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
