package membership_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/membership"
)

// recoverAlone makes a host that is down the only voter of its cluster, as
// voter.Recover does on a disk.
func (h *host) recoverAlone(lost ...string) (cluster, before string) {
	h.w.t.Helper()
	cluster, before, err := membership.MarkRecovered(h.config.Dir, h.config.Node, lost)
	if err != nil {
		h.w.t.Fatal(err)
	}
	return cluster, before
}

// quorumOf makes nodes the voters of the world's one quorum.
func (w *world) quorumOf(nodes ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.voters, w.learners = nodes, nil
}

func begun(t *testing.T) (w *world, cluster string) {
	w = newWorld(t)
	for _, node := range []string{"a", "b", "c"} {
		w.add(node, 3, "a", "b", "c").start()
	}
	w.addProxy("p", "a", "b", "c").start()
	w.await(20*time.Second, "three vote", func() bool { return w.allVote("a", "b", "c") })
	cluster = w.hosts["a"].keeper.Status().Cluster
	w.await(20*time.Second, "the proxy knows its cluster", func() bool { return w.hosts["p"].keeper.Status().Cluster == cluster })
	// Who has just begun, and has heard of no leader, follows whom it meets first.
	w.await(20*time.Second, "the proxy knows that it is led", func() bool { return w.hosts["p"].keeper.Leader() != "" })
	return w, cluster
}

// A cluster that was recovered has a new id. Its proxy follows, also over a restart,
// and is not taken over by a second survivor that was recovered as well; the two
// leave each other alone, and so do voters with a state of the old cluster.
func TestTwoRecoveriesAreTwoClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, old := begun(t)
		defer w.stop()
		a, b, c, p := w.hosts["a"], w.hosts["b"], w.hosts["c"], w.hosts["p"]
		for _, h := range []*host{a, b, c} {
			h.stop()
		}
		first, before := a.recoverAlone("b", "c")
		if before != old || first == old {
			t.Fatalf("cluster %s became %s, the old one was %s", before, first, old)
		}
		w.quorumOf("a")
		a.start()
		w.await(time.Minute, "the proxy follows", func() bool { return p.keeper.Status().Cluster == first })
		w.await(time.Minute, "the recovered voter waits for nobody", func() bool { return a.keeper.Status().Waiting == "" })

		second, _ := b.recoverAlone("a", "c")
		if second == first {
			t.Fatal("two recoveries have one id")
		}
		b.start()
		p.stop()
		p.start()
		c.start()
		w.await(time.Minute, "the proxy leaves the second one alone", func() bool {
			return strings.Contains(p.log.String(), "it is left alone") && strings.Contains(p.log.String(), second)
		})
		w.await(time.Minute, "a voter of the old cluster is told what to do", func() bool {
			return strings.Contains(c.log.String(), "empty its data directory")
		})
		for h, want := range map[*host]string{a: "", c: c.keeper.Status().Successor} {
			if got := h.keeper.Status().Successor; got != want || h == c && got != first && got != second {
				t.Errorf("%s says that it was recovered as %q", h.config.Node, got)
			}
		}
		<-time.After(time.Minute)
		for h, want := range map[*host]string{a: first, b: second, c: old, p: first} {
			if got := h.keeper.Status().Cluster; got != want {
				t.Errorf("%s belongs to %s, want %s", h.config.Node, got, want)
			}
		}
		for _, peer := range p.keeper.Voters() {
			if peer != "a" {
				t.Errorf("the proxy asks %s", peer)
			}
		}
	})
}

// Who was recovered by mistake, while the others are at work, takes nobody with it.
func TestRecoveryBesideAClusterAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, old := begun(t)
		defer w.stop()
		<-time.After(time.Minute) // the proxy has heard of a leader from all of them: what it heard first may be older
		w.hosts["c"].stop()
		w.hosts["c"].recoverAlone("a", "b")
		w.hosts["c"].start()
		p := w.hosts["p"]
		w.await(time.Minute, "the proxy says so", func() bool { return strings.Contains(p.log.String(), "which is at work") })
		w.await(time.Minute, "so does a voter", func() bool { return strings.Contains(w.hosts["a"].log.String(), "which is at work") })
		<-time.After(3 * time.Minute)
		for _, node := range []string{"a", "b"} {
			if got := w.hosts[node].keeper.Status().Successor; got != "" || strings.Contains(w.hosts[node].log.String(), "empty its data directory") {
				t.Errorf("%s, which is at work, is told to empty its data directory: recovered as %q", node, got)
			}
		}
		if got := p.keeper.Status().Cluster; got != old {
			t.Errorf("the proxy belongs to %s, want %s", got, old)
		}
	})
}

// A node whose kahu could not read the log is not let in, and says so itself.
func TestTooOldToJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := begun(t)
		defer w.stop()
		w.mu.Lock()
		w.level = 2
		w.mu.Unlock()
		d := w.add("d", 0, "a") // it announces level 1
		d.start()
		w.await(time.Minute, "it is refused in one line", func() bool {
			s := d.keeper.Status().Waiting
			return strings.Contains(s, "feature level 2") && strings.Contains(s, "knows up to 1") && !strings.Contains(s, "\n")
		})
		d.stop()
		d.configure(func(c *membership.Config) { c.FeatureLevel = 2 })
		d.start()
		w.await(time.Minute, "upgraded, it votes", func() bool { return w.allVote("a", "b", "c", "d") })
	})
}
