package kahuna

import pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"

// Health is what a readiness probe is told (ClusterHandlers.cs).
type Health struct {
	// Ready: a request that comes now would be served. Unlike in Kahuna a proxy,
	// which is no member, can be ready: that is what it is for.
	Ready, Initialized bool
	Role               pb.GrpcClusterMemberRole
	HostedPartitions   int32 // 1 on voters and learners, 0 on proxies
}

// Health answers from memory, and anybody: a probe has no credentials, and it
// learns nothing but the state of this agent.
func (s *Service) Health() Health {
	v := s.cfg.Cluster.View()
	h := Health{Ready: v.Ready && v.Initialized && v.Role != Leaving, Initialized: v.Initialized, Role: memberRole(v.Role)}
	if v.Initialized && (v.Role == Voter || v.Role == Learner) {
		h.HostedPartitions = 1
	}
	return h
}
