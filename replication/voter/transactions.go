package voter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

const (
	// parkMost is how long a plain write waits for a transaction's lock before its
	// caller is told (contract/decisions.md 24: up to 2 s; an agent gives up an
	// attempt at a leader after that, so it is less).
	parkMost = 1500 * time.Millisecond
	// parkTick is how often a parked request is proposed again although nobody has
	// given up a lock: the leases of locks end by themselves.
	parkTick = 100 * time.Millisecond
	// maxParked bounds the requests that wait; beyond, they are answered at once.
	maxParked = 1024
	// levelWait bounds the wait of a request for a feature level that a cluster of
	// this binary is about to reach.
	levelWait = 2 * time.Second
	// asOfAhead is how far ahead of the leader's labels a time may lie that a
	// read waits for (contract/decisions.md 5). Further ahead it gets the latest state.
	asOfAhead = statemachine.AsOfAheadMS * time.Millisecond
)

// signal wakes everybody who waits for something to have happened since.
type signal struct {
	mu *sync.Mutex
	c  chan struct{}
}

func newSignal() signal { return signal{mu: new(sync.Mutex), c: make(chan struct{})} }

// wait returns a channel that is closed at the next tell.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

func (s *signal) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.c)
	s.c = make(chan struct{})
}

// serveTransactions carries out what came with feature level 2.
func (v *Voter) serveTransactions(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if answer := v.awaitLevel(ctx, req.NeedsLevel()); answer != nil {
		return answer, nil
	}
	if t := asOf(req); t != nil {
		if err := v.reach(ctx, t); err != nil {
			return nil, err
		}
	}
	if start := req.GetTxStart(); start != nil && start.Refused != "" {
		return &replication.Answer{Code: replication.Code_CODE_INVALID, Detail: "only a leader refuses a transaction"}, nil
	} else if start != nil && v.gate.limit > 0 {
		admitted, answer, err := v.gate.enter(ctx, req, start)
		switch {
		case err != nil:
			return nil, err
		case !admitted:
			return v.refuseStart(ctx, req, answer)
		}
		defer v.gate.leave()
	}
	answer, err := v.proposer.Do(ctx, req)
	if err == nil && answer.GetCode() == replication.Code_CODE_LOCKED {
		return v.park(ctx, req, answer)
	}
	return answer, err
}

// refuseStart decides in the log that a start was not admitted. An earlier attempt
// of it whose answer was lost may have begun the transaction: then that answer is
// given, and else no later attempt begins it.
func (v *Voter) refuseStart(ctx context.Context, req *replication.Request, refused *replication.Answer) (*replication.Answer, error) {
	if v.fsm.position.Load().Level < statemachine.RefusedStartLevel {
		return refused, nil // voters of before the level would begin it
	}
	return v.proposer.Do(ctx, &replication.Request{
		Session: req.GetSession(), Number: req.GetNumber(), DoneBelow: req.GetDoneBelow(),
		Op: &replication.Request_TxStart{TxStart: &replication.TxStart{Refused: refused.GetDetail()}},
	})
}

// awaitLevel waits a moment for a feature level and returns nil when it is there.
func (v *Voter) awaitLevel(ctx context.Context, need uint32) *replication.Answer {
	if v.fsm.position.Load().Level >= need {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, levelWait)
	defer cancel()
	for {
		p := v.fsm.position.Load()
		if p.Level >= need {
			return nil
		}
		if v.fsm.applied.wait(ctx, p.Index+1) != nil {
			return &replication.Answer{Code: replication.Code_CODE_LIMIT, Detail: fmt.Sprintf(
				"this needs feature level %d, the cluster has %d until all voters run a version that knows it: upgrade them", need, p.Level)}
		}
	}
}

// park proposes a request again that met the lock of a transaction, until it
// goes through or its time is over. It has no receipt as long as it is LOCKED. What
// belongs to a transaction itself is never parked (contract/decisions.md 23).
func (v *Voter) park(ctx context.Context, req *replication.Request, answer *replication.Answer) (*replication.Answer, error) {
	switch req.GetOp().(type) {
	case *replication.Request_Write, *replication.Request_Script:
	default:
		return answer, nil
	}
	if v.parked.Add(1) > maxParked {
		v.parked.Add(-1)
		return answer, nil
	}
	defer v.parked.Add(-1)
	end := time.NewTimer(parkMost)
	defer end.Stop()
	tick := time.NewTicker(parkTick)
	defer tick.Stop()
	for {
		released := v.fsm.released.wait() // before proposing, so that none is missed
		again, err := v.proposer.Do(ctx, req)
		if err != nil || again.GetCode() != replication.Code_CODE_LOCKED {
			return again, err
		}
		answer = again
		select {
		case <-released:
		case <-tick.C:
		case <-end.C:
			return answer, nil
		case <-ctx.Done():
			return answer, nil // which is true: nothing was changed
		case <-v.stopping:
			return answer, nil
		}
	}
}

// asOf is the time as of which a request reads, nil for none.
func asOf(req *replication.Request) *replication.Timestamp {
	var t *replication.Timestamp
	switch op := req.GetOp().(type) {
	case *replication.Request_Get:
		t = op.Get.GetAsOf()
	case *replication.Request_Range:
		t = op.Range.GetAsOf()
	case *replication.Request_TxRead:
		t = op.TxRead.GetAsOf()
	case *replication.Request_TxStart:
		t = op.TxStart.GetReadTimestamp()
	}
	if t.GetPhysicalMs() == 0 && t.GetCounter() == 0 {
		return nil
	}
	return t
}

// reach makes sure that this voter's state has passed t, so that what is read as
// of t can never change (contract/decisions.md 5). The leader proposes an empty
// entry for that when t is at most asOfAhead ahead of its clock for labels; a follower
// sends on to it.
func (v *Voter) reach(ctx context.Context, t *replication.Timestamp) error {
	if t == nil || passed(v.fsm.position.Load(), t) {
		return nil
	}
	r := v.serving.Load()
	if r == nil {
		return &replication.NotLeaderError{Leader: v.otherLeader()}
	}
	if t.PhysicalMs > v.wall.Now().Add(asOfAhead).UnixMilli() || v.fsm.position.Load().Level < 2 {
		return nil // the latest state, as Kahuna answers
	}
	answer, err := v.proposer.Do(ctx, &replication.Request{
		Op: &replication.Request_Advance{Advance: &replication.Advance{AboveMs: t.PhysicalMs}},
	})
	if err != nil {
		return readError(err)
	}
	if err := answer.Refused(); err != nil {
		return fmt.Errorf("%w: bringing the labels above %d: %w", replication.ErrUnavailable, t.PhysicalMs, err)
	}
	return nil
}

// passed reports whether every command to come has a label above t.
func passed(p *statemachine.Position, t *replication.Timestamp) bool {
	return p.WallMS > t.PhysicalMs || p.WallMS == t.PhysicalMs && p.Counter >= t.Counter
}

// otherLeader is the presumed leader, empty when that is this voter.
func (v *Voter) otherLeader() string {
	if leader := v.leaderHint(); leader != v.cfg.NodeID {
		return leader
	}
	return ""
}
