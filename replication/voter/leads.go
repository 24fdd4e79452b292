package voter

import (
	"context"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
)

// leadership is who leads in which term, as Raft of this voter knows. It never
// changes once published.
type leadership struct {
	term   uint64
	leader string             // node id, empty when unknown
	over   context.Context    // ends when another one was published
	end    context.CancelFunc // of over
}

func newLeadership(term uint64, leader string) *leadership {
	l := &leadership{term: term, leader: leader}
	l.over, l.end = context.WithCancel(context.Background())
	return l
}

// observed is how many observations of Raft may wait. More are dropped, which loses
// nothing: those that wait have this voter look at what is true by then.
const observed = 16

// observeLeader has Raft tell of each change of its leader, until stopping is closed.
func (v *Voter) observeLeader() {
	changes := make(chan raft.Observation, observed)
	observer := raft.NewObserver(changes, false, func(o *raft.Observation) bool {
		_, isLeader := o.Data.(raft.LeaderObservation)
		_, isState := o.Data.(raft.RaftState)
		return isLeader || isState
	})
	v.raft.RegisterObserver(observer)
	v.background.Go(func() {
		defer v.raft.DeregisterObserver(observer)
		for {
			v.publishLeader()
			select {
			case <-changes:
			case <-v.stopping:
				v.leads.Load().end()
				return
			}
		}
	})
}

// publishLeader tells who leads now, if that is new. Only observeLeader calls it.
func (v *Voter) publishLeader() {
	term, leader := v.whoLeads()
	now := v.leads.Load()
	if now.term == term && now.leader == leader {
		return
	}
	v.leads.Store(newLeadership(term, leader))
	now.end()
}

// whoLeads reads a term and the leader of that very term. Raft forgets the leader
// before it begins a term, so a leader that was read while the term stayed the
// same is of that term; but a heartbeat, which Raft takes in beside its loop, may
// bring back the last one. Whoever hears of two leaders of one term believes the
// one who says that it leads.
func (v *Voter) whoLeads() (term uint64, leader string) {
	for {
		term = v.raft.CurrentTerm()
		leader = v.leaderHint()
		if leader == v.cfg.NodeID && v.raft.State() != raft.Leader {
			leader = ""
		}
		if v.raft.CurrentTerm() == term {
			return term, leader
		}
	}
}

// FollowLeader calls fn with the term and the leader that this voter knows of, and
// again whenever either has changed, until ctx ends or the voter stops. A leader
// is empty while none is known; changes that follow each other fast may be told as
// one. fn is called from one goroutine, and the next change waits for it.
func (v *Voter) FollowLeader(ctx context.Context, fn func(term uint64, leader string)) error {
	for {
		now := v.leads.Load()
		fn(now.term, now.leader)
		select {
		case <-now.over.Done():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case <-v.stopping:
			return replication.ErrStopped
		default:
		}
	}
}
