package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	"github.com/kahu-sh/kahu/replication"
)

// kahunaCluster is the cluster as Kahuna's clients see it.
type kahunaCluster struct{ a *agent }

var _ kahuna.Cluster = kahunaCluster{}

// leader is the presumed leader's node id, empty when unknown. The forwarder knows
// it from the last answer; before the first one the voter may.
func (k kahunaCluster) leader() string {
	if node := k.a.forward.Leader(); node != "" {
		return node
	}
	if v := k.a.quorum.voter; v != nil {
		return v.Status().Leader
	}
	return ""
}

// Leader implements kahuna.Cluster.
func (k kahunaCluster) Leader() (url string, here bool) {
	node := k.leader()
	if node == "" {
		return "", false
	}
	return k.a.quorum.keeper.KahunaURL(node), node == k.a.identity.node
}

// View implements kahuna.Cluster.
func (k kahunaCluster) View() kahuna.View {
	a, keeper := k.a, k.a.quorum.keeper
	s := a.status()
	v := kahuna.View{Initialized: s.ClusterID != "", Ready: s.Ready, Endpoint: a.quorum.advertise,
		URL: keeper.KahunaURL(a.identity.node), Role: kahuna.NotMember}
	leader := k.leader()
	add := func(node string, role kahuna.Role) {
		address, _ := keeper.Address(node)
		v.Members = append(v.Members, kahuna.Member{Node: node, Endpoint: address, URL: keeper.KahunaURL(node), Role: role, Leader: node == leader})
		if node == a.identity.node {
			v.Role = role
		}
	}
	if a.quorum.voter == nil {
		for _, node := range keeper.Voters() {
			add(node, kahuna.Voter)
		}
	} else {
		voter := a.quorum.voter.Status()
		v.Version = int64(voter.ConfigurationIndex)
		for _, p := range voter.Peers {
			role := kahuna.Learner
			if p.Voter {
				role = kahuna.Voter
			}
			add(p.ID, role)
		}
	}
	slices.SortFunc(v.Members, func(x, y kahuna.Member) int {
		if x.Node < y.Node {
			return -1
		}
		return 1
	})
	return v
}

// Leave implements kahuna.Cluster.
func (k kahunaCluster) Leave(ctx context.Context) kahuna.Left {
	v := k.View()
	voters := 0
	for _, m := range v.Members {
		if m.Role == kahuna.Voter {
			voters++
		}
	}
	switch {
	case !v.Initialized:
		return kahuna.Left{Outcome: kahuna.LeaveNotInitialized, Reason: "this agent belongs to no cluster yet"}
	case v.Role != kahuna.Voter && v.Role != kahuna.Learner:
		return kahuna.Left{Outcome: kahuna.LeaveNotAMember, Reason: "this agent has no vote"}
	case v.Role == kahuna.Voter && voters < 2:
		return kahuna.Left{Outcome: kahuna.LeaveInsufficientVoters, Reason: "this agent is the only voter, and would take the state with it"}
	}
	err := k.a.quorum.keeper.LeaveQuorum(ctx)
	var notLeader *replication.NotLeaderError
	switch {
	case err == nil:
		return kahuna.Left{Outcome: kahuna.LeaveCommitted, Version: k.View().Version}
	case ctx.Err() != nil:
		return kahuna.Left{Outcome: kahuna.LeaveTimeout, Reason: "the quorum did not confirm it in time; ask again"}
	case errors.As(err, &notLeader):
		return kahuna.Left{Outcome: kahuna.LeaveNoLeader, Reason: "no leader is known; ask again"}
	}
	return kahuna.Left{Outcome: kahuna.LeaveInsufficientVoters, Reason: err.Error()}
}
