package voter

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// HasState reports whether this voter ever was in a cluster, or voted for one.
// When its disk cannot tell, that ends the process.
func (v *Voter) HasState() bool {
	has, err := raft.HasExistingState(v.log, v.log, v.snapshots)
	if err != nil {
		v.fail(fmt.Errorf("looking for existing state: %w", err))
		return true
	}
	return has
}

// Bootstrap makes the first configuration of a new cluster, of exactly these
// node ids. Every one of them must write the same (HAZARDS.md 9), and it works
// once: a voter that has state refuses.
func (v *Voter) Bootstrap(nodes []string) error {
	var c raft.Configuration
	for _, n := range nodes {
		c.Servers = append(c.Servers, server(n))
	}
	if err := v.raft.BootstrapCluster(c).Error(); err != nil {
		return fmt.Errorf("bootstrapping a cluster of %d voters: %w", len(nodes), err)
	}
	return nil
}

// server is how a node stands in Raft's configuration: its address is its id.
func server(node string) raft.Server {
	return raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(node), Address: raft.ServerAddress(node)}
}

// Servers lists the latest configuration, committed or not.
func (v *Voter) Servers() []Peer {
	var peers []Peer
	for _, s := range v.raft.GetConfiguration().Configuration().Servers {
		peers = append(peers, Peer{ID: string(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	return peers
}

// AddVoter gives node a vote. It blocks until the change is committed or ctx
// ends; in the latter case it may still be. It works on the leader only, and
// errors there are a *replication.NotLeaderError or Raft's own.
func (v *Voter) AddVoter(ctx context.Context, node string) error {
	return v.change(ctx, "adding voter "+node, func() raft.Future {
		return v.raft.AddVoter(raft.ServerID(node), raft.ServerAddress(node), 0, timeLeft(ctx))
	})
}

// AddLearner has node receive the log without a vote, so that it can catch up
// before AddVoter. Otherwise as AddVoter.
func (v *Voter) AddLearner(ctx context.Context, node string) error {
	return v.change(ctx, "adding learner "+node, func() raft.Future {
		return v.raft.AddNonvoter(raft.ServerID(node), raft.ServerAddress(node), 0, timeLeft(ctx))
	})
}

// RemoveServer takes node out of the configuration. Otherwise as AddVoter.
func (v *Voter) RemoveServer(ctx context.Context, node string) error {
	return v.change(ctx, "removing "+node, func() raft.Future {
		return v.raft.RemoveServer(raft.ServerID(node), 0, timeLeft(ctx))
	})
}

// change runs a change of the quorum. Raft's futures know no context: one that
// is not waited for any more ends with Raft.
func (v *Voter) change(ctx context.Context, what string, start func() raft.Future) error {
	if v.raft.State() != raft.Leader {
		return v.notLeader()
	}
	done := make(chan error, 1)
	go func() { done <- start().Error() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-v.raftGone:
		return fmt.Errorf("%s: %w", what, raft.ErrRaftShutdown)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
}

// timeLeft is what ctx leaves for enqueueing; 0 is for ever.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}
