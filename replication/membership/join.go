package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

// join brings this node into the quorum of its cluster, or a step nearer, if it
// is to vote. It reports whether it is where it belongs.
func (k *Keeper) join() (settled bool) {
	q := k.raft.Quorum()
	k.mu.Lock()
	isVoter := slices.Contains(q.Voters, k.cfg.Node)
	if isVoter {
		k.standby.Store(false)
		if !(k.state.Joined && k.state.Seated) && k.record(func(s *state) { s.Joined, s.Seated = true, true }) != nil {
			k.mu.Unlock()
			return false
		}
		k.doing = ""
		if q.Leader == "" {
			k.doing = "waiting for a leader"
		}
		left := k.state.Left
		k.mu.Unlock()
		if left && q.Leader != "" {
			return k.goOnLeaving(q)
		}
		return q.Leader != ""
	}
	isLearner := slices.Contains(q.Learners, k.cfg.Node)
	if k.cfg.Auto && k.state.Seated && !isLearner {
		// The leader has taken the vote back. A vote that was seen may also have been
		// in an entry that was never committed: then the leader asks again.
		_ = k.record(func(s *state) { s.Wanted, s.Seated = false, false }) // logged; the next round tries again
	}
	if isLearner && !k.state.Seated {
		_ = k.record(func(s *state) { s.Seated = true }) // as above
	}
	if k.stays(isLearner) {
		defer k.mu.Unlock()
		return true
	}
	k.standby.Store(false)
	k.doing = "joining cluster " + k.state.Cluster
	leaders := k.leaders(q)
	request := &link.JoinRequest{Self: k.self(), Cluster: k.state.Cluster, AppliedIndex: q.Applied, FeatureLevel: k.cfg.FeatureLevel}
	k.mu.Unlock()
	err := k.askLeader(k.ctx, leaders, func(ctx context.Context, node string) error { return k.network.Join(ctx, node, request) })
	if err != nil && k.ctx.Err() == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.doing = fmt.Sprintf("joining cluster %s: %v", k.state.Cluster, err)
		k.sayOnce(k.doing, slog.LevelInfo, "joining the cluster takes another attempt", "cluster", k.state.Cluster, "error", err)
	}
	return false
}

// stays reports whether this node is to stay without a vote, and says why. It
// needs mu.
func (k *Keeper) stays(isLearner bool) bool {
	switch {
	case slices.Contains(k.state.Removed, k.cfg.Node):
		k.doing = "removed from the quorum by an operator: empty the data directory, so that this host joins as a new voter"
		k.sayOnce("removed", slog.LevelWarn, "this node was removed from the quorum for good: empty its data directory, so that the host joins as a new one",
			"cluster", k.state.Cluster, "node", k.cfg.Node)
	case k.state.Left:
		k.doing = "removed from the quorum by an operator; it votes again after: kahu cluster promote " + k.cfg.Node
		k.sayOnce("left", slog.LevelInfo, "this node votes no more, until an operator promotes it", "cluster", k.state.Cluster, "node", k.cfg.Node)
	case k.cfg.Auto && !k.state.Wanted && !isLearner:
		k.doing = ""
	default:
		return false
	}
	k.standby.Store(true)
	return true
}

// leaders returns whom others, or Raft, take for the leader, the most named
// first, then any voter, which knows better. It needs mu.
func (k *Keeper) leaders(q Quorum) []string {
	votes := make(map[string]int)
	if q.Leader != "" {
		votes[q.Leader] += 2
	}
	for node, s := range k.seen {
		if !s.id.Voter || s.hello.GetCluster() != k.state.Cluster || time.Since(s.at) > seenFor+settledInterval {
			continue
		}
		votes[node] += 0
		if l := s.hello.GetLeader(); l != "" && len(l) <= 128 {
			votes[l]++
		}
	}
	delete(votes, k.cfg.Node)
	nodes := slices.Sorted(maps.Keys(votes))
	slices.SortStableFunc(nodes, func(a, b string) int { return votes[b] - votes[a] })
	return nodes[:min(len(nodes), 3)]
}

var errNoLeader = errors.New("no leader is known")

// askLeader asks those who may lead, and whom they name, until one does it.
func (k *Keeper) askLeader(ctx context.Context, nodes []string, ask func(ctx context.Context, node string) error) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	err := errNoLeader
	for asked := 0; len(nodes) > 0 && asked < 5 && ctx.Err() == nil; asked++ {
		node := nodes[0]
		nodes = nodes[1:]
		if err = ask(ctx, node); err == nil || errors.Is(err, link.ErrRefused) {
			return err
		}
		var notLeader *replication.NotLeaderError
		if errors.As(err, &notLeader) && notLeader.Leader != "" && notLeader.Leader != node && notLeader.Leader != k.cfg.Node {
			nodes = slices.Insert(slices.DeleteFunc(nodes, func(n string) bool { return n == notLeader.Leader }), 0, notLeader.Leader)
		}
	}
	return err
}

// LeaveQuorum asks the leader to take this node out of the quorum: it does not
// join again by itself, only when an operator promotes it. It blocks until that is committed, or
// ctx ends; then it may be called again. A leader hands over first.
func (k *Keeper) LeaveQuorum(ctx context.Context) error {
	q, isVoter := k.quorum()
	if !isVoter {
		return errors.New("this agent has no vote to give up")
	}
	k.mu.Lock()
	if err := k.record(func(s *state) { s.Left = true }); err != nil {
		k.mu.Unlock()
		return err
	}
	k.mu.Unlock()
	for {
		err := k.giveUpVote(ctx, q)
		if errors.Is(err, link.ErrRefused) {
			k.mu.Lock()
			defer k.mu.Unlock()
			return errors.Join(err, k.record(func(s *state) { s.Left = false }))
		}
		if !undecided(err) || !pause(ctx, askPause) {
			return err
		}
		q, _ = k.quorum()
	}
}

// giveUpVote has the leader take this node's vote.
func (k *Keeper) giveUpVote(ctx context.Context, q Quorum) error {
	if q.Leader == k.cfg.Node {
		done, err := k.alone(ctx)
		if err != nil {
			return err
		}
		err = k.takeVote(ctx, k.raft, k.cfg.Node)
		done()
		var notLeader *replication.NotLeaderError
		if !errors.As(err, &notLeader) {
			return err
		}
	}
	k.mu.Lock()
	leaders, cluster := k.leaders(q), k.state.Cluster
	k.mu.Unlock()
	return k.askLeader(ctx, leaders, func(ctx context.Context, node string) error {
		return k.network.Leave(ctx, node, &link.LeaveRequest{Cluster: cluster})
	})
}

// goOnLeaving asks again for what an operator wanted: the leader that was to take
// the vote has told this node first, and may have ended in between.
func (k *Keeper) goOnLeaving(q Quorum) (settled bool) {
	ctx, cancel := context.WithTimeout(k.ctx, changeTimeout)
	defer cancel()
	err := k.giveUpVote(ctx, q)
	if err == nil || k.ctx.Err() != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doing = fmt.Sprintf("leaving the quorum, as an operator wants: %v", err)
	return errors.Is(err, link.ErrRefused) // a leader has to have its turn to govern
}
