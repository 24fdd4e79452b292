package voter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
)

var three = []string{"a", "b", "c"}

func TestElectProposeRead(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("k", "v1")
	leader := c.leader()
	for id, n := range c.nodes {
		a, err := n.read("k")
		if err != nil {
			t.Fatalf("reading at %s: %v", id, err)
		}
		if got := value(t, a); got != "v1" {
			t.Fatalf("%s read %q after the write of v1 was acknowledged", id, got)
		}
	}
	// A follower refuses a change and names the leader.
	_, err := c.followers(leader)[0].v.Load().Serve(context.Background(), put("k", "v2"))
	var notLeader *replication.NotLeaderError
	if !errors.As(err, &notLeader) || notLeader.Leader != leader.id {
		t.Fatalf("a follower answered a change with %v", err)
	}
	if got := cl.get("k"); got != "v1" {
		t.Fatalf("a refused write was applied: %q", got)
	}
}

func TestKilledVotersReplayOnlyTheTail(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	for i := range 50 {
		cl.put(fmt.Sprintf("before-%d", i), "x")
	}
	leader := c.leader()
	if err := leader.v.Load().Snapshot(); err != nil {
		t.Fatal(err)
	}
	durable := leader.v.Load().Status().DurableIndex
	for i := range 20 {
		cl.put(fmt.Sprintf("after-%d", i), "y")
	}
	applied := leader.v.Load().Status().AppliedIndex
	for _, n := range c.nodes {
		n.stop(0)
	}
	leader.start()
	// Alone it cannot know what is committed: it stands where its engine does.
	if got := leader.v.Load().Position().Index; got < durable || got >= applied {
		t.Fatalf("a killed voter starts at index %d; its engine was flushed at %d, and %d was applied", got, durable, applied)
	}
	for _, n := range c.nodes {
		if n != leader {
			n.start()
		}
	}
	c.leader()
	for i := range 50 {
		if got := cl.get(fmt.Sprintf("before-%d", i)); got != "x" {
			t.Fatalf("before-%d is %q after a restart", i, got)
		}
	}
	for i := range 20 {
		if got := cl.get(fmt.Sprintf("after-%d", i)); got != "y" {
			t.Fatalf("after-%d is %q after a restart", i, got)
		}
	}
}

func TestGracefulShutdownHandsOver(t *testing.T) {
	c := newCluster(t, three, func(cfg *voter.Config) { cfg.SetTiming(2*time.Second, 10*time.Millisecond) })
	cl := c.client()
	cl.put("k", "v")
	old := c.leader()
	term := old.v.Load().Term()
	begun := time.Now()
	old.stop(5 * time.Second)
	next := c.leader()
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %v until the next leader served: an election, not a hand-over", took)
	}
	if got := next.v.Load().Term(); got != term+1 {
		t.Errorf("the term went from %d to %d", term, got)
	}
	if got := cl.get("k"); got != "v" {
		t.Errorf("k is %q after a hand-over", got)
	}
}
