package kahuna

import pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"

// partition is the id of the one partition there is (decisions.md 51).
const partition = 1

// route is the hint of an answer: where the leader is. It is shared between
// answers and must not be changed. nil when nobody is known to lead, when the
// leader has no Kahuna listener, or when the request was not decided.
func (s *Service) route(undecided bool) *pb.GrpcRouteHint {
	if undecided {
		return nil
	}
	url, here := s.cfg.Cluster.Leader()
	if url == "" {
		return nil
	}
	provenance := pb.GrpcRouteProvenance_ROUTE_PROVENANCE_FORWARDED
	if here {
		provenance = pb.GrpcRouteProvenance_ROUTE_PROVENANCE_EXECUTED
	}
	if h := s.hint.Load(); h != nil && h.Endpoint == url && h.Provenance == provenance {
		return h
	}
	h := &pb.GrpcRouteHint{PartitionId: partition, Endpoint: url, Provenance: provenance}
	s.hint.Store(h)
	return h
}

// routes is the table of hints of a many-key answer, and the index that its items
// point with.
func (s *Service) routes(undecided bool) ([]*pb.GrpcRouteHint, int32) {
	h := s.route(undecided)
	if h == nil {
		return nil, 0
	}
	return []*pb.GrpcRouteHint{h}, 1
}
