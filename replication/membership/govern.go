package membership

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

// govern does the next step that keeps the quorum as large as it should be, on
// the leader. It reports whether there is nothing to hurry for.
func (k *Keeper) govern() (settled bool) {
	if k.cfg.Voters == 0 {
		return true
	}
	done, err := k.alone(k.ctx)
	if err != nil {
		return true // it ends
	}
	defer done()
	q := k.raft.Quorum()
	if q.Leader != k.cfg.Node || q.Silent == nil || q.isNew() {
		return true
	}
	s := decide(k.picture(q), patience{gone: k.cfg.ReplaceAfter, stable: min(stableFor, k.cfg.ReplaceAfter)})
	if s.kind == stay {
		return true
	}
	ctx, cancel := context.WithTimeout(k.ctx, changeTimeout)
	defer cancel()
	k.cfg.Logger.Info("the quorum changes", "step", s.kind.String(), "node", s.node, "reason", s.why)
	switch s.kind {
	case invite:
		err = k.network.Vote(ctx, s.node, &link.VoteRequest{Cluster: k.cluster(), Take: true})
	case removeVoter:
		if err = k.takeVote(ctx, k.raft, s.node); err == nil {
			k.giveUp(s.node)
		}
	case moveLead:
		err = k.raft.TransferLeadership(ctx, s.node)
	}
	if err != nil && k.ctx.Err() == nil {
		k.cfg.Logger.Warn("the quorum was not changed; it is tried again", "step", s.kind.String(), "node", s.node, "error", err)
	}
	return true // at the next round: a step takes effect before another is decided
}

// picture is what this leader knows of the quorum and of those who stand by.
func (k *Keeper) picture(q Quorum) picture {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := picture{want: k.cfg.Voters}
	in := make(map[string]bool)
	seatOf := func(node string) seat {
		in[node] = true
		s := seat{node: node, silent: q.Silent[node], leads: node == k.cfg.Node}
		if node == k.cfg.Node {
			s.zone, s.pinned = k.cfg.Zone, k.pinned()
		} else if seen := k.seen[node]; seen != nil && seen.id.Voter {
			s.zone, s.pinned = cut(seen.hello.GetZone()), seen.hello.GetPinned()
		} else {
			s.pinned = true // until it has said otherwise
		}
		return s
	}
	for _, node := range q.Voters {
		p.voters = append(p.voters, seatOf(node))
	}
	for _, node := range q.Learners {
		s := seatOf(node)
		if l := k.learners[node]; l != nil { // its silence counts from then on, not from when this node began to lead
			s.silent = min(s.silent, time.Since(l.began))
			if s.silent >= neverAnswered && slices.Contains(q.Unheard, node) {
				s.silent = k.cfg.ReplaceAfter
			}
		}
		p.learners = append(p.learners, s)
	}
	now := time.Now()
	level := k.announced(q)
	for node, s := range k.seen {
		h := s.hello
		if in[node] || slices.Contains(k.state.Removed, node) || !s.id.Voter || !h.GetStandby() || h.GetCluster() != k.state.Cluster || now.Sub(s.at) >= 2*settledInterval || h.GetFeatureLevel() < level {
			continue
		}
		p.standbys = append(p.standbys, standby{node: node, zone: cut(h.GetZone()), stable: s.at.Sub(s.since)})
	}
	return p
}

// learner is a node that this leader has let catch up.
type learner struct {
	address        string
	began, givenUp time.Time
}

// giveUp notes that a node was taken out of the quorum, if it was to catch up.
func (k *Keeper) giveUp(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.learners[node]; l != nil {
		l.givenUp = time.Now()
	}
}

// announced is the lowest feature level of the voters, so far as they have told:
// a new one has to know as much. It needs mu.
func (k *Keeper) announced(q Quorum) uint32 {
	level := k.cfg.FeatureLevel
	for _, node := range q.Voters {
		if s := k.seen[node]; s != nil && s.id.Voter {
			level = min(level, s.hello.GetFeatureLevel())
		}
	}
	return level
}

// spare says why the vote of node cannot be taken without costing the quorum,
// or nothing. Only a leader knows.
func spare(q Quorum, node string) error {
	if q.Silent == nil {
		return nil // Raft says who leads
	}
	left, sound := 0, 0
	for _, v := range q.Voters {
		if v == node {
			continue
		}
		left++
		if q.Silent[v] < shaky {
			sound++
		}
	}
	switch {
	case left == len(q.Voters):
		return nil
	case left == 0:
		return fmt.Errorf("%w: node %s is the only voter: give another a vote first (kahu cluster promote)", link.ErrRefused, node)
	case sound < majority(left):
		return fmt.Errorf("%w: without node %s only %d of %d voters would answer, and %d have to: bring the others back, or add a voter first", link.ErrRefused, node, sound, left, majority(left))
	}
	return nil
}

// confirmed has the other voters say now that they are there, and returns an error
// that wraps link.ErrRefused when too few do for a quorum without node. How long
// they have been silent (spare) does not tell of one that ended a moment ago.
func (k *Keeper) confirmed(ctx context.Context, raft Raft, q Quorum, node string) error {
	if q.Silent == nil || !slices.Contains(q.Voters, node) {
		return nil // Raft says who leads; and a learner is not counted
	}
	var others []string // to ask
	there, left := 0, len(q.Voters)-1
	for _, v := range q.Voters {
		switch v {
		case node:
		case k.cfg.Node:
			there++
		default:
			others = append(others, v)
		}
	}
	asking, cancel := context.WithTimeout(ctx, confirmTimeout)
	answers := make(chan bool, len(others)) // room for all: nobody is left behind
	var askers sync.WaitGroup
	for _, v := range others {
		askers.Go(func() { answers <- confirm(asking, raft, v) }) // ends with asking
	}
	defer askers.Wait()
	defer cancel()
	for range others {
		if there >= majority(left) {
			break // the others need not be waited for
		}
		if <-answers {
			there++
		}
	}
	if there < majority(left) {
		return fmt.Errorf("%w: without node %s %d of %d voters have to answer, and only %d did just now: bring the others back, or add a voter first", link.ErrRefused, node, majority(left), left, there)
	}
	return nil
}

// confirm asks one voter until it says that it is there, or ctx ends: the connection
// to it may be an old one.
func confirm(ctx context.Context, raft Raft, node string) bool {
	for {
		if raft.Confirm(ctx, node) == nil {
			return true
		}
		timer := time.NewTimer(askPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// takeVote takes a server out of the configuration, unless that could cost the
// quorum. The caller is alone.
func (k *Keeper) takeVote(ctx context.Context, raft Raft, node string) error {
	q := raft.Quorum()
	if q.isNew() {
		return &replication.NotLeaderError{} // certainly not done: ask again
	}
	if q.Silent != nil && !slices.Contains(q.Voters, node) && !slices.Contains(q.Learners, node) {
		return nil // done already
	}
	if err := spare(q, node); err != nil {
		return err
	}
	if err := k.confirmed(ctx, raft, q, node); err != nil {
		return err
	}
	if err := k.stepAside(ctx, raft, q, node); err != nil {
		return err
	}
	return raft.RemoveServer(ctx, node)
}

// stepAside hands over leadership when it is this leader that is to lose its vote, and
// returns a *replication.NotLeaderError then: the next one takes it. A leader that
// takes its own vote just stops, and nothing is decided until the others have waited
// for it in vain. When nobody takes over it has to do that all the same.
func (k *Keeper) stepAside(ctx context.Context, raft Raft, q Quorum, node string) error {
	if node != k.cfg.Node || q.Silent == nil || len(q.Voters) < 2 || !slices.Contains(q.Voters, node) {
		return nil
	}
	if err := raft.TransferLeadership(ctx, ""); err != nil {
		k.cfg.Logger.Info("leadership was not handed over before the leader loses its vote: writes pause for an election", "node", node, "error", err)
		return nil
	}
	return &replication.NotLeaderError{}
}

// alone waits until nobody else changes the quorum here: what was found safe stays
// so until it is done. done lets the next one.
func (k *Keeper) alone(ctx context.Context) (done func(), err error) {
	select {
	case k.change <- struct{}{}:
		return func() { <-k.change }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
