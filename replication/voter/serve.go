package voter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/reads"
	"github.com/kahu-sh/kahu/storage/memtable"
)

// openWait bounds how long a request waits at a voter that has won an election
// and whose opening entry is not applied yet.
const openWait = time.Second

// followerWait bounds how long a read waits at a follower that is behind the
// leader's commit index, before it is sent on to the leader.
const followerWait = 2 * time.Millisecond

// Serve answers one request. A change is answered by the leader alone, a read by
// every voter that is not behind, and linearizably unless req.Stale. It blocks until the answer is
// there or ctx ends, and keeps req for as long as it may be proposed: the
// caller must not change it any more.
//
// Errors: *replication.NotLeaderError, replication.ErrUnavailable and
// replication.ErrStopped say that nothing was applied;
// replication.ErrUnknownOutcome that something may have been.
func (v *Voter) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	switch {
	case req.GetOp() == nil || req.IsInternal():
		return &replication.Answer{Code: replication.Code_CODE_INVALID, Detail: "this request may not come from outside"}, nil
	case req.IsRead():
		return v.read(ctx, req)
	}
	if size := req.SizeVT(); size > replication.MaxRequestBytes {
		return &replication.Answer{Code: replication.Code_CODE_INVALID,
			Detail: fmt.Sprintf("the request has %d bytes, at most %d are allowed", size, replication.MaxRequestBytes)}, nil
	}
	if _, err := v.awaitReign(ctx); err != nil {
		return nil, err
	}
	if refused := v.refusedForSpace(req); refused != nil {
		return refused, nil
	}
	if req.NeedsLevel() > 1 {
		return v.serveTransactions(ctx, req)
	}
	answer, err := v.proposer.Do(ctx, req)
	if err == nil && answer.GetCode() == replication.Code_CODE_LOCKED {
		return v.park(ctx, req, answer)
	}
	return answer, err
}

// read answers a read from this voter's own state, once that is recent enough.
func (v *Voter) read(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if !req.GetStale() {
		if err := v.barrier(ctx); err != nil {
			return nil, err
		}
		if err := v.reach(ctx, asOf(req)); err != nil {
			return nil, err
		}
	}
	var answer *replication.Answer
	err := v.fsm.withView(func(view *memtable.View) error {
		prepared, err := v.fsm.prepare(view)
		if err != nil {
			return err
		}
		answer = prepared.Read(view, req)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: reading: %w", replication.ErrUnavailable, err)
	}
	if req.GetStale() {
		answer.AgeMs = v.contactAge().Milliseconds()
	}
	return answer, nil
}

// barrier blocks until a read of this voter's own state is linearizable,
// counted from the call.
func (v *Voter) barrier(ctx context.Context) error {
	index, err := v.readIndex(ctx)
	if err != nil {
		return err
	}
	if v.fsm.applied.index.Load() >= index {
		return nil
	}
	if leader := v.leaderHint(); leader != "" && leader != v.cfg.NodeID {
		// Under load the next entry brings the commit index along within a
		// millisecond. When the cluster is idle a follower learns it only after
		// Raft's CommitTimeout, and asking the leader takes less.
		short, cancel := context.WithTimeout(ctx, followerWait)
		defer cancel()
		if v.fsm.applied.wait(short, index) == nil {
			return nil
		}
		if ctx.Err() == nil {
			return &replication.NotLeaderError{Leader: leader}
		}
	}
	if err := v.fsm.applied.wait(ctx, index); err != nil {
		return fmt.Errorf("%w: waiting until index %d is applied: %w", replication.ErrUnavailable, index, err)
	}
	return nil
}

// readIndex takes the barrier here when this voter leads, and asks the leader
// otherwise.
func (v *Voter) readIndex(ctx context.Context) (uint64, error) {
	if v.serving.Load() == nil && v.raft.State() != raft.Leader {
		index, err := v.remote.Do(ctx)
		if err != nil {
			return 0, readError(err)
		}
		return index, nil
	}
	return v.ReadIndex(ctx)
}

// ReadIndex returns an index such that a read of a state which has applied it is
// linearizable, counted from the call. It returns a *replication.NotLeaderError
// when this voter does not lead.
func (v *Voter) ReadIndex(ctx context.Context) (uint64, error) {
	if _, err := v.awaitReign(ctx); err != nil {
		return 0, err
	}
	index, err := v.local.ReadIndex(ctx)
	if err != nil {
		return 0, readError(err)
	}
	return index, nil
}

// readError makes sure that an error of a read says that nothing was applied,
// and that a stopped voter says so.
func readError(err error) error {
	var notLeader *replication.NotLeaderError
	switch {
	case errors.As(err, &notLeader), errors.Is(err, replication.ErrUnavailable), errors.Is(err, replication.ErrStopped):
		return err
	case errors.Is(err, reads.ErrClosed):
		return replication.ErrStopped
	}
	return fmt.Errorf("%w: %w", replication.ErrUnavailable, err)
}

// askLeader asks the presumed leader for a read index, once for everybody who
// waits (reads.Group). A leader that is cut off is silent: it is given up as soon
// as this voter hears of another, who is named.
func (v *Voter) askLeader(ctx context.Context) (uint64, error) {
	now := v.leads.Load()
	if now.leader == "" || now.leader == v.cfg.NodeID {
		return 0, &replication.NotLeaderError{}
	}
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	defer context.AfterFunc(now.over, cancel)()
	index, err := v.cfg.AskReadIndex(ctx, now.leader)
	if err != nil && now.over.Err() != nil {
		return 0, v.notLeader()
	}
	return index, err
}

// Term returns the current Raft term. It is durable before this voter votes in
// it, so it may be counted by a leader's read barrier.
func (v *Voter) Term() uint64 { return v.raft.CurrentTerm() }

// leadNow is what the read barrier needs to know at the start of a round.
func (v *Voter) leadNow() reads.Lead {
	r := v.serving.Load()
	if r == nil {
		return reads.Lead{Leader: v.leaderHint()}
	}
	return reads.Lead{Term: r.term, Voters: v.voterIDs()}
}

// voterIDs are the servers of the latest configuration that vote.
func (v *Voter) voterIDs() (nodes []string) {
	for _, s := range v.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			nodes = append(nodes, string(s.ID))
		}
	}
	return nodes
}

// awaitReign returns the reign under which this voter serves. A voter that has
// just won waits for its opening entry; one that does not lead says so at once.
func (v *Voter) awaitReign(ctx context.Context) (*reign, error) {
	if r := v.serving.Load(); r != nil {
		return r, nil
	}
	var timeout <-chan time.Time
	for {
		changed := v.changed()
		if r := v.serving.Load(); r != nil {
			return r, nil
		}
		if v.raft.State() != raft.Leader {
			return nil, v.notLeader()
		}
		if timeout == nil {
			t := time.NewTimer(openWait)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-changed:
		case <-timeout:
			return nil, &replication.NotLeaderError{}
		case <-v.stopping:
			return nil, replication.ErrStopped
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", replication.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// notLeader is the answer of a voter that does not lead.
func (v *Voter) notLeader() error {
	select {
	case <-v.stopping:
		return replication.ErrStopped
	default:
	}
	leader := v.leaderHint()
	if leader == v.cfg.NodeID {
		leader = ""
	}
	return &replication.NotLeaderError{Leader: leader}
}

// leaderHint is the node id of the presumed leader, or empty.
func (v *Voter) leaderHint() string {
	_, id := v.raft.LeaderWithID()
	return string(id)
}

// contactAge is the time since this voter last heard from a leader: 0 when it
// leads, and the time since it started when it never did.
func (v *Voter) contactAge() time.Duration {
	if v.raft.State() == raft.Leader {
		return 0
	}
	last := v.raft.LastContact()
	if last.IsZero() {
		last = v.started
	}
	return max(0, time.Since(last))
}
