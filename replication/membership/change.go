package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

// goneFor is how long a node must have been silent before an operator may remove
// it for good.
const goneFor = 10 * time.Second

// askPause is between two attempts to find a leader for an operator.
const askPause = 200 * time.Millisecond

// Ask has the leader do what an operator wants with node, which may be this one.
// It blocks until that is committed, or ctx ends; a promotion until the node was
// told, which then catches up and gets its vote. Errors that wrap
// link.ErrRefused say why it is not done.
func (k *Keeper) Ask(ctx context.Context, kind link.ChangeRequest_Kind, node string) error {
	if !k.cfg.Voter {
		return fmt.Errorf("%w: this agent is a proxy: ask on a host whose agent can vote", link.ErrRefused)
	}
	for {
		err := k.askOnce(ctx, kind, node)
		if !undecided(err) || !pause(ctx, askPause) {
			return err
		}
	}
}

// undecided reports whether err says that a change was certainly not made: nobody
// leads, or it has just changed who does.
func undecided(err error) bool {
	var notLeader *replication.NotLeaderError
	return errors.As(err, &notLeader) || errors.Is(err, errNoLeader) || errors.Is(err, replication.ErrUnavailable)
}

// pause waits for d, and returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (k *Keeper) askOnce(ctx context.Context, kind link.ChangeRequest_Kind, node string) error {
	q, _ := k.quorum()
	k.mu.Lock()
	request := &link.ChangeRequest{Cluster: k.state.Cluster, Kind: kind, Node: node}
	leaders := k.leaders(q)
	k.mu.Unlock()
	switch {
	case request.Cluster == "" && len(q.Voters) > 0: // the leader's Raft was quicker than news of its cluster
		return fmt.Errorf("%w: this agent has not heard yet which cluster it belongs to", errNoLeader)
	case request.Cluster == "":
		return fmt.Errorf("%w: this agent belongs to no cluster yet", link.ErrRefused)
	}
	if q.Leader == k.cfg.Node {
		err := k.Change(ctx, link.Identity{Node: k.cfg.Node, Voter: true}, request)
		var notLeader *replication.NotLeaderError
		if !errors.As(err, &notLeader) {
			return err
		}
	}
	return k.askLeader(ctx, leaders, func(ctx context.Context, at string) error { return k.network.Change(ctx, at, request) })
}

// Change implements link.Members.
func (k *Keeper) Change(ctx context.Context, from link.Identity, r *link.ChangeRequest) error {
	raft, err := k.quorumFor(from, r.GetCluster())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	done, err := k.alone(ctx)
	if err != nil {
		return fmt.Errorf("%w: another change of the quorum is under way", replication.ErrUnavailable)
	}
	defer done()
	q := raft.Quorum()
	if q.Leader != k.cfg.Node || q.Silent == nil || q.isNew() {
		leader := q.Leader
		if leader == k.cfg.Node {
			leader = ""
		}
		return &replication.NotLeaderError{Leader: leader}
	}
	k.cfg.Logger.Info("an operator asks for a change of the quorum", "change", r.GetKind().String(), "node", r.GetNode(), "asked_by", from.Node)
	switch r.GetKind() {
	case link.ChangeRequest_KIND_PROMOTE:
		return k.promote(ctx, q, r.GetNode())
	case link.ChangeRequest_KIND_DEMOTE:
		return k.demote(ctx, raft, q, r.GetNode())
	case link.ChangeRequest_KIND_REMOVE:
		return k.remove(ctx, raft, q, r.GetNode())
	case link.ChangeRequest_KIND_TRANSFER:
		if r.GetNode() == k.cfg.Node {
			return nil
		}
		if r.GetNode() != "" && !slices.Contains(q.Voters, r.GetNode()) {
			return refused("node %s has no vote, so it cannot lead", r.GetNode())
		}
		if len(q.Voters) == 1 {
			return refused("node %s is the only voter: there is no other to lead", k.cfg.Node)
		}
		return raft.TransferLeadership(ctx, r.GetNode())
	}
	return refused("this version of kahu does not know the change %d", r.GetKind())
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", link.ErrRefused, fmt.Sprintf(format, args...))
}

func (k *Keeper) promote(ctx context.Context, q Quorum, node string) error {
	k.mu.Lock()
	seen := k.seen[node]
	removed := slices.Contains(k.state.Removed, node)
	k.mu.Unlock()
	switch {
	case slices.Contains(q.Voters, node):
		return refused("node %s has a vote already", node)
	case removed:
		return refused("node %s was removed for good: empty its data directory, so that its host joins as a new one", node)
	case seen == nil || time.Since(seen.at) >= 2*settledInterval:
		return refused("node %s has not been heard lately: is it running, and its id right?", node)
	case !seen.id.Voter:
		return refused("node %s has a proxy's secret or certificate, which can never vote: give its host a voter's, and role auto", node)
	}
	sound := 0
	for _, v := range q.Voters {
		if q.Silent[v] < shaky {
			sound++
		}
	}
	if n := len(q.Voters); sound+1 < majority(n+1) {
		return refused("of %d voters with node %s only %d would answer, and %d have to: bring the others back first", n+1, node, sound+1, majority(n+1))
	}
	return k.network.Vote(ctx, node, &link.VoteRequest{Cluster: k.cluster(), Take: true, Operator: true})
}

// demote takes a vote from a node that is there: it is told first, else it would
// ask for its vote again.
func (k *Keeper) demote(ctx context.Context, raft Raft, q Quorum, node string) error {
	if !slices.Contains(q.Voters, node) && !slices.Contains(q.Learners, node) {
		return refused("node %s has no vote", node)
	}
	if err := spare(q, node); err != nil {
		return err
	}
	if err := k.confirmed(ctx, raft, q, node); err != nil {
		return err // before it is told
	}
	if err := k.stepAside(ctx, raft, q, node); err != nil {
		return err // likewise: the next leader tells it
	}
	request := &link.VoteRequest{Cluster: k.cluster(), Operator: true}
	var err error
	if node == k.cfg.Node {
		err = k.Vote(ctx, link.Identity{Node: node, Voter: true}, request)
	} else {
		err = k.network.Vote(ctx, node, request)
	}
	if err != nil {
		return fmt.Errorf("telling node %s that it votes no more, which has to come first (kahu cluster remove is for nodes that are gone): %w", node, err)
	}
	return k.takeVote(ctx, raft, node)
}

// remove takes out a node that is gone, and remembers that it was.
func (k *Keeper) remove(ctx context.Context, raft Raft, q Quorum, node string) error {
	k.mu.Lock()
	already := slices.Contains(k.state.Removed, node)
	k.mu.Unlock()
	switch {
	case !slices.Contains(q.Voters, node) && !slices.Contains(q.Learners, node):
		if already {
			return refused("node %s was removed before; nothing is left to do", node)
		}
		return refused("node %s is not in the quorum; kahu cluster members shows who is", node)
	case q.Silent[node] < goneFor:
		return refused("node %s answers: let it go with kahu cluster demote, which it can follow; or stop it for good and ask again after %s", node, goneFor)
	}
	if err := k.takeVote(ctx, raft, node); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.learnRemoved([]string{node})
	if !slices.Contains(k.state.Removed, node) {
		return fmt.Errorf("node %s was removed from the quorum, but that could not be stored: it may come back by itself", node)
	}
	return nil
}

// Vote implements link.Members: it tells this node whether to take part.
func (k *Keeper) Vote(_ context.Context, from link.Identity, r *link.VoteRequest) error {
	if _, err := k.quorumFor(from, r.GetCluster()); err != nil {
		var notLeader *replication.NotLeaderError
		if errors.As(err, &notLeader) {
			return refused("node %s runs as a proxy: start it with role auto, and the voters' secret", k.cfg.Node)
		}
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case r.GetTake() && slices.Contains(k.state.Removed, k.cfg.Node):
		return refused("node %s was removed for good: empty its data directory", k.cfg.Node)
	case r.GetTake() && !r.GetOperator() && (k.state.Left || !k.cfg.Auto):
		return refused("node %s is not to vote by itself", k.cfg.Node)
	}
	left, pinned := k.state.Left, k.state.Pinned
	if r.GetOperator() {
		left, pinned = !r.GetTake(), r.GetTake()
	}
	if err := k.record(func(s *state) { s.Wanted, s.Seated, s.Left, s.Pinned = r.GetTake(), false, left, pinned }); err != nil {
		return err
	}
	if r.GetTake() {
		// It says so before it asks: its address has to be in the others' books.
		k.standby.Store(false)
	}
	select {
	case k.kick <- struct{}{}:
	default:
	}
	return nil
}

// Leader returns whom most voters that were heard lately take for the leader,
// empty when none says. It may be some seconds old.
func (k *Keeper) Leader() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	votes, best := make(map[string]int), ""
	for _, s := range k.seen {
		leader := s.hello.GetLeader()
		if leader == "" || len(leader) > 128 || !s.id.Voter || s.hello.GetCluster() != k.state.Cluster || time.Since(s.at) > 2*settledInterval {
			continue
		}
		if votes[leader]++; best == "" || votes[leader] > votes[best] || votes[leader] == votes[best] && leader < best {
			best = leader
		}
	}
	return best
}

// MemberInfo is what is known of an agent that was heard over the link.
type MemberInfo struct {
	Node, Name, Address string
	Zone, Version       string
	FeatureLevel        uint32
	KeyIDs              []string
	MayVote             bool // it has a voter's certificate
	Standby             bool
	Pinned              bool
	Heard               time.Duration // ago
}

// Heard returns what other agents have said of themselves to this one lately, in
// order of node id, and this agent.
func (k *Keeper) Heard() []MemberInfo {
	self := k.hello()
	k.mu.Lock()
	defer k.mu.Unlock()
	infos := []MemberInfo{infoOf(k.cfg.Node, k.cfg.Voter, self, 0)}
	for node, s := range k.seen {
		infos = append(infos, infoOf(node, s.id.Voter, s.hello, time.Since(s.at)))
	}
	slices.SortFunc(infos, func(a, b MemberInfo) int { return cmp.Compare(a.Node, b.Node) })
	return infos
}

func infoOf(node string, mayVote bool, h *link.Hello, ago time.Duration) MemberInfo {
	return MemberInfo{Node: node, Name: cut(h.GetSelf().GetName()), Address: h.GetSelf().GetAddress(),
		Zone: cut(h.GetZone()), Version: cut(h.GetVersion()), FeatureLevel: h.GetFeatureLevel(), KeyIDs: h.GetKeyIds(),
		MayVote: mayVote, Standby: h.GetStandby(), Pinned: h.GetPinned(), Heard: ago}
}
