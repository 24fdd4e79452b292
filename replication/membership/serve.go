package membership

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

var _ link.Members = (*Keeper)(nil)

func (k *Keeper) self() *link.Peer {
	role := link.Role_ROLE_PROXY
	if k.cfg.Voter && !k.standby.Load() {
		role = link.Role_ROLE_VOTER
	}
	return &link.Peer{Node: k.cfg.Node, Name: k.cfg.Name, Address: k.cfg.Address, Role: role}
}

// pinned reports whether an operator made this node a voter. It needs mu.
func (k *Keeper) pinned() bool { return k.cfg.Voter && (!k.cfg.Auto || k.state.Pinned) }

// hello is what this agent says of itself now.
func (k *Keeper) hello() *link.Hello {
	q, _ := k.quorum()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ledBy = q.Leader
	h := &link.Hello{
		Self:            k.self(),
		Cluster:         k.state.Cluster,
		FeatureLevel:    k.cfg.FeatureLevel,
		Leader:          q.Leader,
		BootstrapExpect: uint32(k.cfg.Expect),
		Candidate:       k.cfg.Voter && k.state.Cluster == "" && k.mayBegin(),
		Instance:        k.instance,
		Version:         k.cfg.Version,
		Zone:            k.cfg.Zone,
		Standby:         k.standby.Load() && k.cfg.Auto && !k.state.Left,
		Pinned:          k.pinned(),
		KeyIds:          k.cfg.KeyIDs(),
		WallMs:          time.Now().UnixMilli(),
		Removed:         k.state.Removed,
		Succeeds:        k.state.Succeeds,
		KahunaUrl:       k.kahuna,
		UptimeMs:        max(1, time.Since(k.opened).Milliseconds()),
	}
	if p := k.state.Pledge; p != nil && k.state.Cluster == "" {
		h.Pledged = p.Cluster
	}
	for _, p := range k.state.Peers {
		h.Peers = append(h.Peers, p.wire())
	}
	return h
}

// Hello implements link.Members.
func (k *Keeper) Hello(_ context.Context, from link.Identity, h *link.Hello) (*link.Hello, error) {
	if node := h.GetSelf().GetNode(); node != from.Node {
		return nil, fmt.Errorf("%w: node %s says it is %q", link.ErrRefused, from.Node, node)
	}
	k.mu.Lock()
	if k.impostor(from, "") {
		k.mu.Unlock()
		return nil, fmt.Errorf("%w: node %s is known as a voter, and this is a proxy's certificate for it", link.ErrRefused, from.Node)
	}
	if from.Node == k.cfg.Node {
		k.checkCopy(h, h.GetSelf().GetAddress(), time.Time{})
	} else {
		k.heard(from, h, "")
		k.clear(voterOf(from))
		k.publish()
	}
	k.mu.Unlock()
	answer := k.hello()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.whereElse(from.Node, answer)
	return answer, nil
}

// quorumFor returns Raft for a change that from asks for in cluster.
func (k *Keeper) quorumFor(from link.Identity, cluster string) (Raft, error) {
	select {
	case <-k.started:
	default:
		return nil, &replication.NotLeaderError{} // not yet
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.raft == nil:
		return nil, &replication.NotLeaderError{} // never: a proxy
	case cluster == "" || cluster != k.state.Cluster:
		return nil, fmt.Errorf("%w: node %s asks for cluster %q, this is cluster %q", link.ErrRefused, from.Node, cluster, k.state.Cluster)
	}
	return k.raft, nil
}

// Join implements link.Members: a node without a vote gets the log first, and
// the vote when it asks again and has caught up.
func (k *Keeper) Join(ctx context.Context, from link.Identity, r *link.JoinRequest) error {
	raft, err := k.quorumFor(from, r.GetCluster())
	if err != nil {
		return err
	}
	if node := r.GetSelf().GetNode(); node != from.Node {
		return fmt.Errorf("%w: node %s says it is %q", link.ErrRefused, from.Node, node)
	}
	if err := checkAddress(r.GetSelf().GetAddress()); err != nil {
		return fmt.Errorf("%w: node %s: %w", link.ErrRefused, from.Node, err)
	}
	level := raft.Quorum().Level
	k.mu.Lock()
	if slices.Contains(k.state.Removed, from.Node) {
		k.mu.Unlock()
		return fmt.Errorf("%w: an operator has removed node %s for good: empty its data directory, so that its host joins as a new one", link.ErrRefused, from.Node)
	}
	if err := k.tooOld(from.Node, r, level); err != nil {
		k.mu.Unlock()
		return err
	}
	k.note(peer{Node: from.Node, Name: cut(r.GetSelf().GetName()), Address: r.GetSelf().GetAddress()})
	k.publish()
	err = k.saveBook() // before Raft has to find it after a restart
	k.mu.Unlock()
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
	switch {
	case slices.Contains(q.Voters, from.Node):
		return nil
	case !slices.Contains(q.Learners, from.Node):
		if err := k.mayLearn(from.Node, r.GetSelf().GetAddress()); err != nil {
			return err
		}
		k.cfg.Logger.Info("a new voter is to catch up", "node", from.Node, "name", cut(r.GetSelf().GetName()))
		return raft.AddLearner(ctx, from.Node)
	case r.GetAppliedIndex()+caughtUpEntries < q.Applied:
		return nil
	case q.Silent == nil:
		return &replication.NotLeaderError{} // and does not know whom it reaches
	}
	if answers, err := k.answersRaft(q, from.Node, r.GetSelf().GetAddress()); !answers {
		return err
	}
	k.cfg.Logger.Info("a new voter gets its vote", "node", from.Node, "name", cut(r.GetSelf().GetName()))
	return raft.AddVoter(ctx, from.Node)
}

// mayLearn notes that a node begins to catch up, and refuses one that was given up a
// moment ago at this address: as long as it is let in nothing else of the quorum changes.
func (k *Keeper) mayLearn(node, address string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.learners[node]; l != nil && l.address == address && time.Since(l.givenUp) < learnAgain {
		return unanswered(k.cfg.Node, node, address)
	}
	if len(k.learners) >= maxPeers {
		clear(k.learners)
	}
	k.learners[node] = &learner{address: address, began: time.Now()}
	return nil
}

func unanswered(leader, node, address string) error {
	return refused("the leader %s gets no answer from node %s at %s: set --advertise to an address at which the voters reach this host, and let TCP through to it", leader, node, address)
}

// answersRaft reports whether a learner answers this leader's Raft: that it has come to
// ask does not show that it is reached where it says, and with its vote the quorum may
// need its answer. The error, after some time, says what is wrong.
func (k *Keeper) answersRaft(q Quorum, node, address string) (answers bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(q.Unheard, node) && q.Silent[node] < shaky {
		delete(k.unanswered, node)
		return true, nil
	}
	since, ok := k.unanswered[node]
	if !ok {
		if len(k.unanswered) >= maxPeers {
			clear(k.unanswered)
		}
		since = time.Now()
		k.unanswered[node] = since
	}
	if time.Since(since) < shaky {
		return false, nil // it has only just been added
	}
	k.sayOnce("unanswered "+node, slog.LevelWarn, "a new voter does not answer this leader, and gets no vote: its address has to be one that all voters reach",
		"node", node, "address", address)
	return false, unanswered(k.cfg.Node, node, address)
}

// tooOld refuses a node that could not read the log: what is decided now is above
// the highest feature level that it understands. It needs mu.
func (k *Keeper) tooOld(node string, r *link.JoinRequest, level uint32) error {
	knows, version := r.GetFeatureLevel(), ""
	if s := k.seen[node]; s != nil {
		version = cut(s.hello.GetVersion())
		if knows == 0 { // asked by a version that does not say it here
			knows = s.hello.GetFeatureLevel()
		}
	}
	if knows == 0 || knows >= level {
		return nil
	}
	return fmt.Errorf("%w: the cluster has feature level %d, and kahu %q of node %s knows up to %d: install the version that the voters run, or a newer one, on its host",
		link.ErrRefused, level, version, node, knows)
}

// Leave implements link.Members.
func (k *Keeper) Leave(ctx context.Context, from link.Identity, r *link.LeaveRequest) error {
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
	return k.takeVote(ctx, raft, from.Node)
}

func refuse(format string, args ...any) *link.PledgeAnswer {
	return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_REFUSED, Reason: fmt.Sprintf(format, args...)}
}

// Pledge implements link.Members: it pledges this node to a proposal, or tells
// a member what became of this node's own. It waits until this node has looked
// around once, so that it cannot miss a cluster which it could have found.
func (k *Keeper) Pledge(ctx context.Context, from link.Identity, r *link.PledgeRequest) (*link.PledgeAnswer, error) {
	select {
	case <-k.looked:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-k.ctx.Done():
		return nil, replication.ErrStopped
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.GetAsk() {
		return k.whatBecameOf(r.GetCluster()), nil
	}
	p, err := pledgeOf(r)
	if err != nil {
		return nil, fmt.Errorf("%w: node %s sends %w", link.ErrRefused, from.Node, err)
	}
	if from.Node != p.proposer() || !slices.Contains(p.Members, k.cfg.Node) {
		return nil, fmt.Errorf("%w: node %s proposes a cluster that is not for it, or us, to begin: %q", link.ErrRefused, from.Node, p.Members)
	}
	switch {
	case k.state.Cluster == p.Cluster:
		return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_PLEDGED}, nil
	case k.state.Cluster != "":
		return refuse("it belongs to cluster %s", k.state.Cluster), nil
	case !k.cfg.Voter || k.cfg.Expect == 0 || !k.mayBegin():
		return refuse("it begins no cluster"), nil
	case p.Expect != k.cfg.Expect:
		k.sayMismatch(from.Node, "", uint32(p.Expect))
		return refuse("bootstrap-expect is %d on %s and %d on %s", k.cfg.Expect, k.cfg.Node, p.Expect, from.Node), nil
	case k.state.Pledge != nil && k.state.Pledge.equal(p):
		return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_PLEDGED}, nil
	case k.state.Pledge != nil:
		return refuse("it has pledged to cluster %s of node %s", k.state.Pledge.Cluster, k.state.Pledge.proposer()), nil
	}
	if why := k.veto(p.Cluster); why != "" {
		return refuse("%s", why), nil
	}
	if err := k.record(func(s *state) { s.Pledge = p }); err != nil {
		return nil, err
	}
	return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_PLEDGED}, nil
}

// whatBecameOf answers for a proposal of this node's own. It needs mu.
func (k *Keeper) whatBecameOf(cluster string) *link.PledgeAnswer {
	switch {
	case cluster != "" && k.state.Cluster == cluster:
		return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_COMMITTED}
	case k.state.Pledge != nil && k.state.Pledge.Cluster == cluster:
		return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_PLEDGED}
	case slices.Contains(k.state.Aborted, cluster):
		return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_ABORTED}
	}
	return refuse("it knows of no such proposal")
}
