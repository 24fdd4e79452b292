package voter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

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
		// The third voter may not have heard of the leader yet.
		eventually(t, id+" knows who leads", func() bool { return n.v.Load().Status().Leader != "" })
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

// forgetful is a transport whose first TimeoutNow fails, as by a connection that was
// kept over a restart of the other side.
type forgetful struct {
	*raft.NetworkTransport
	asked *atomic.Int64
}

func (f forgetful) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if f.asked.Add(1) == 1 {
		return errors.New("broken pipe")
	}
	return f.NetworkTransport.TimeoutNow(id, target, args, resp)
}

func TestHandOverIsTriedAgain(t *testing.T) {
	var asked atomic.Int64
	c := newCluster(t, three, func(cfg *voter.Config) {
		cfg.SetTiming(2*time.Second, 10*time.Millisecond)
		cfg.Transport = forgetful{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			ServerAddressProvider: resolver(cfg.Address), Stream: cfg.Stream, MaxPool: 3, Timeout: 10 * time.Second, MsgpackUseNewTimeFormat: true,
			Logger: hclog.NewNullLogger(),
		}), &asked}
	})
	c.client().put("k", "v")
	begun := time.Now()
	c.leader().stop(5 * time.Second)
	c.leader()
	if took := time.Since(begun); took > 2*time.Second || asked.Load() < 2 {
		t.Errorf("it took %v until the next leader served, asked %d times: an election, not a hand-over", took, asked.Load())
	}
}

// resolver implements raft.ServerAddressProvider.
type resolver func(node string) (string, bool)

func (r resolver) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	addr, ok := r(string(id))
	if !ok {
		return "", errors.New("no address")
	}
	return raft.ServerAddress(addr), nil
}

// Raft takes the first of those with the same log for the best, alive or not.
func TestASilentVoterIsNoHeir(t *testing.T) {
	c := newCluster(t, three, func(cfg *voter.Config) { cfg.SetTiming(2*time.Second, 10*time.Millisecond) })
	c.client().put("k", "v")
	old := c.leader()
	followers := c.followers(old)
	slices.SortFunc(followers, func(a, b *node) int { return strings.Compare(a.id, b.id) })
	silent, heir := followers[0], followers[1]
	eventually(t, "all have the whole log", func() bool {
		last := old.v.Load().Status().LastIndex
		return silent.v.Load().Status().LastIndex == last && heir.v.Load().Status().LastIndex == last
	})
	silent.net.hold()
	defer silent.net.release()
	eventually(t, "its silence shows", func() bool { return old.v.Load().Silence()[silent.id] > time.Second })
	begun := time.Now()
	if err := old.v.Load().TransferLeadership(t.Context(), ""); err != nil {
		t.Error(err)
	}
	eventually(t, "the other one leads", func() bool { return heir.v.Load().Status().Serving })
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %v until %s led", took, heir.id)
	}
}
