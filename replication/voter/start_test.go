package voter_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/raftlog"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
)

// The directory of the log is gone and the engine is there: the vote was lost
// with the log, and whatever was acknowledged beyond the engine.
func TestLostLogIsRefused(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("k", "v")
	f := c.followers(c.leader())[0]
	eventually(t, "the follower has everything", func() bool {
		return f.v.Load().Status().AppliedIndex >= c.leader().v.Load().Status().AppliedIndex
	})
	f.stop(time.Second) // flushes the engine
	if err := os.RemoveAll(f.dir + "/log"); err != nil {
		t.Fatal(err)
	}
	if err := f.tryStart(); !errors.Is(err, voter.ErrRefused) || !strings.Contains(err.Error(), "votes are gone") {
		t.Fatalf("a voter that lost its vote started: %v", err)
	}
}

// An entry of a newer kahu ends a voter, which goes on from there once it is
// upgraded: nothing of it was applied, so nothing is wrong with its state.
func TestEntryOfANewerKahuDoesNotCondemnTheVoter(t *testing.T) {
	c := newCluster(t, three[:1], nil)
	cl := c.client()
	cl.put("k", "v")
	n := c.leader()
	go func() {
		_, _ = n.v.Load().ProposeEntry(&replication.LogEntry{Level: statemachine.CurrentLevel + 1, Term: n.v.Load().Term()})
	}()
	if err := <-n.fatal; !errors.Is(err, statemachine.ErrNewer) {
		t.Fatalf("the voter ended with %v", err)
	}
	n.stop(0)
	if err := n.tryStart(); err != nil {
		t.Fatalf("the voter refuses to start, and would after an upgrade: %v", err)
	}
	// This one is not upgraded: it meets the entry again.
	if err := <-n.fatal; !errors.Is(err, statemachine.ErrNewer) {
		t.Fatalf("the voter ended with %v", err)
	}
}

// A voter stops at once although another one, which is frozen or cut off without
// a word, owes it answers, or the rest of a snapshot.
func TestShutdownDoesNotWaitForSilentPeers(t *testing.T) {
	for name, graceful := range map[string]time.Duration{"killed": 0, "terminated": 4 * time.Second} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, three, nil)
			cl := c.client()
			cl.put("k", "v")
			leader := c.leader()
			followers := c.followers(leader)
			followers[0].net.hold()
			eventually(t, "the leader misses its follower's answers", func() bool { return followers[0].net.withheld() > 0 })
			began := time.Now()
			leader.stop(graceful) // complains when Raft does not stop
			if took := time.Since(began); took > 4*time.Second {
				t.Fatalf("it took %v", took)
			}
		})
	}
}

// Killed between the two writes of a bootstrap, a voter begins its cluster at the
// next start.
func TestHalfBootstrapIsDoneAgain(t *testing.T) {
	c := newCluster(t, nil, nil)
	n := c.add("a")
	n.stop(0)
	log, err := raftlog.Open(raftlog.Options{Dir: n.dir + "/log", Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.SetUint64([]byte("CurrentTerm"), 1), log.Close()); err != nil {
		t.Fatal(err)
	}
	n.start()
	if n.v.Load().HasState() {
		t.Fatal("half a bootstrap counts as state, so nobody would finish it")
	}
	if err := n.v.Load().Bootstrap([]string{"a"}); err != nil {
		t.Fatal(err)
	}
	c.client().put("k", "v")
}
