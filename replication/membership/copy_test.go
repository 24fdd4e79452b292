package membership_test

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// isCleared reports whether a host may take part in Raft.
func isCleared(h *host) bool {
	select {
	case <-h.keeper.Cleared():
		return true
	default:
		return false
	}
}

// three are voters of one cluster for some time.
func three(t *testing.T) (w *world, a, b, c *host) {
	w = newWorld(t)
	a, b, c = w.add("a", 3, "b", "c"), w.add("b", 3, "a", "c"), w.add("c", 3, "a", "b")
	for _, h := range []*host{a, b, c} {
		h.start()
	}
	w.await(10*time.Second, "all vote", func() bool { return w.allVote("a", "b", "c") })
	time.Sleep(time.Minute) // of the bubble
	return w, a, b, c
}

// The copy of a disk was started while its original was away. When that comes back
// it ends, and has not voted.
func TestTheOriginalEndsWhenItsCopyRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, original, _, _ := three(t)
		defer w.stop()
		original.stop()
		copied := w.addHost("a", true, 3, []string{"b", "c"})
		copied.config.Address, copied.hasState = address("copy"), true
		if err := os.CopyFS(copied.config.Dir, os.DirFS(original.config.Dir)); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.hosts["a"], w.hosts["copy"] = original, copied
		w.mu.Unlock()
		copied.start() // for the others it is the same node, which has moved
		w.await(helloAndMore, "the copy may vote, since nobody is where it was", func() bool { return isCleared(copied) })
		time.Sleep(10 * time.Minute) // of the bubble: nobody remembers the other address
		original.start()
		ended := make(chan error, 1)
		go func() { ended <- original.keeper.AwaitCopy() }() // ends with the keeper at the latest
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), address("copy")) {
				t.Errorf("the original ends with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the original goes on")
		}
		if isCleared(original) {
			t.Error("the original may vote beside its copy")
		}
	})
}

// helloAndMore is more than one hello takes to a host that does not answer.
const helloAndMore = 5 * time.Second

// A voter is cleared by as many as make a majority with it, whoever is away, and
// not before.
func TestAVoterIsClearedByAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := three(t)
		defer w.stop()
		for _, h := range []*host{a, b, c} {
			if !isCleared(h) {
				t.Errorf("%s, which began the cluster, may not vote", h.config.Node)
			}
		}
		for _, h := range []*host{a, b, c} {
			h.stop()
		}
		a.start()
		time.Sleep(20 * time.Second) // of the bubble
		if isCleared(a) {
			t.Error("one of three, which is alone, may vote")
		}
		b.start()
		w.await(helloAndMore, "two of three may vote", func() bool { return isCleared(a) && isCleared(b) })
	})
}

// Nothing waits for ever, and an only voter for nobody.
func TestClearingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := three(t)
		defer w.stop()
		for _, h := range []*host{a, b, c} {
			h.stop()
		}
		a.start()
		w.await(31*time.Second, "it votes all the same", func() bool { return isCleared(a) })
		if !strings.Contains(a.log.String(), "nobody could tell whether a copy") {
			t.Error("it does not say so")
		}
		w.mu.Lock()
		w.voters = []string{"b"}
		w.mu.Unlock()
		b.start()
		if !isCleared(b) {
			t.Error("an only voter waits")
		}
		b.stop()
		w.mu.Lock()
		w.voters = []string{"a", "b", "c"}
		w.mu.Unlock()
	})
}

// copyOf makes a host with the disk of another one, which is down, under a name and
// an address of its own.
func (w *world) copyOf(original *host, name string, seeds ...string) *host {
	c := w.addHost(original.config.Node, true, original.config.Expect, seeds)
	c.config.Address, c.hasState = address(name), true
	if err := os.CopyFS(c.config.Dir, os.DirFS(original.config.Dir)); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[original.config.Node], w.hosts[name] = original, c
	return c
}

// ends reports on the channel what ends a host as a copy.
func ends(h *host) <-chan error {
	ended, k := make(chan error, 1), h.keeper
	go func() { ended <- k.AwaitCopy() }() // ends with the keeper at the latest
	return ended
}

// Of two copies that were started at one moment, nearer to each other than a message
// is on its way, one ends.
func TestOneOfTwoCopiesEndsThatWereStartedAtOnce(t *testing.T) {
	for _, c := range []struct{ apart, far time.Duration }{
		{0, 0}, {time.Millisecond, 0}, {20 * time.Millisecond, 0}, {150 * time.Millisecond, 0}, {time.Second, 0},
		{0, time.Second}, {time.Millisecond, time.Second}, {500 * time.Millisecond, time.Second}, {2 * time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, original, _, _ := three(t)
			defer w.stop()
			original.stop()
			copied := w.copyOf(original, "copy", "b", "c")
			w.mu.Lock()
			w.far = map[string]time.Duration{address("a"): c.far, address("copy"): c.far}
			w.mu.Unlock()
			original.start()
			time.Sleep(c.apart) // of the bubble
			copied.start()
			one, other := ends(original), ends(copied)
			left := 2
			for deadline := time.After(time.Minute); left == 2; {
				select {
				case err := <-one:
					one, left = nil, left-1
					t.Logf("the original ends: %v", err)
				case err := <-other:
					other, left = nil, left-1
					t.Logf("the copy ends: %v", err)
				case <-deadline:
					t.Fatalf("both go on, and may vote: %v and %v", isCleared(original), isCleared(copied))
				}
			}
		})
	}
}

// Who is told of two addresses waits for both: somebody who has its id may be at the
// one that is slower to answer.
func TestAVoterIsClearedWhenAllWhereItIsSaidToBeHaveAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, original, b, c := three(t)
		defer w.stop()
		w.mu.Lock()
		w.far = map[string]time.Duration{address("a"): time.Second}
		w.mu.Unlock()
		original.stop()
		copied := w.copyOf(original, "copy")
		original.start()
		time.Sleep(time.Minute) // of the bubble
		copied.start()
		for _, told := range []struct {
			by *host
			at string
		}{{b, address("a")}, {c, address("nobody")}} {
			h := &link.Hello{Self: &link.Peer{Node: told.by.config.Node, Address: told.by.config.Address, Role: link.Role_ROLE_VOTER},
				Cluster: told.by.keeper.Status().Cluster, Peers: []*link.Peer{{Node: "a", Address: told.at, Role: link.Role_ROLE_VOTER}}}
			if _, err := copied.keeper.Hello(t.Context(), link.Identity{Node: told.by.config.Node, Voter: true}, h); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-ends(copied):
		case <-time.After(helloAndMore):
			t.Error("it goes on")
		}
		if isCleared(copied) {
			t.Error("it may vote beside its original, which was slower than nobody")
		}
	})
}
