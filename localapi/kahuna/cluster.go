package kahuna

import (
	"context"
	"hash/fnv"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a client of kahuna-ts must find in routing metadata to use it
// (transactions-cluster.md 8).
const (
	routingSchema    = 1
	routingAlgorithm = "kahuna.placement-group-jump-xxh32-v1"
	sequenceKeys     = reservedSequences + "{0}"
)

// generation is that of the one range there is: it never changes.
const generation = 1

// GetMembership tells who the members are, from memory.
func (s *Service) GetMembership(ctx context.Context, _ *pb.GrpcGetMembershipRequest) (*pb.GrpcGetMembershipResponse, error) {
	if err := s.needSomewhere(ctx, policy.Read); err != nil {
		return nil, err
	}
	v := s.cfg.Cluster.View()
	out := &pb.GrpcGetMembershipResponse{MembershipVersion: v.Version, LocalRole: memberRole(v.Role), Initialized: v.Initialized}
	for _, m := range v.Members {
		out.Members = append(out.Members, &pb.GrpcClusterMember{Endpoint: m.Endpoint, NodeId: nodeID(m.Node), Role: memberRole(m.Role)})
	}
	return out, nil
}

func memberRole(r Role) pb.GrpcClusterMemberRole {
	switch r {
	case Voter:
		return pb.GrpcClusterMemberRole_CLUSTER_MEMBER_ROLE_VOTER
	case Learner:
		return pb.GrpcClusterMemberRole_CLUSTER_MEMBER_ROLE_LEARNER
	case Leaving:
		return pb.GrpcClusterMemberRole_CLUSTER_MEMBER_ROLE_LEAVING
	case NotMember:
	}
	return pb.GrpcClusterMemberRole_CLUSTER_MEMBER_ROLE_NOT_MEMBER
}

// nodeID makes a number of a node's id, as Kahuna does of a node's name.
func nodeID(node string) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(node)) // never fails
	return int32(h.Sum32() & (1<<31 - 1))
}

// GetPlacement tells where data is: one partition, with a replica on every voter.
func (s *Service) GetPlacement(ctx context.Context, _ *pb.GrpcGetPlacementRequest) (*pb.GrpcGetPlacementResponse, error) {
	if err := s.needSomewhere(ctx, policy.Read); err != nil {
		return nil, err
	}
	v := s.cfg.Cluster.View()
	out := &pb.GrpcGetPlacementResponse{Initialized: v.Initialized, LocalEndpoint: v.Endpoint}
	if !v.Initialized {
		return out, nil
	}
	here := v.Role == Voter || v.Role == Learner
	if here {
		out.HostedPartitionCount = 1
	}
	p := &pb.GrpcPartitionPlacement{PartitionId: partition, State: "Active", Generation: generation, HostedLocally: here}
	for _, m := range v.Members {
		role := pb.GrpcPartitionReplicaRole_PARTITION_REPLICA_ROLE_VOTER
		switch m.Role {
		case Learner:
			role = pb.GrpcPartitionReplicaRole_PARTITION_REPLICA_ROLE_LEARNER
		case Leaving:
			role = pb.GrpcPartitionReplicaRole_PARTITION_REPLICA_ROLE_REMOVING
		case Voter, NotMember:
		}
		p.Replicas = append(p.Replicas, &pb.GrpcPartitionReplica{Endpoint: m.Endpoint, Role: role})
	}
	out.Partitions = []*pb.GrpcPartitionPlacement{p}
	return out, nil
}

// SetReplicationFactor is refused: every voter has everything. To ask for what is
// so anyway succeeds.
func (s *Service) SetReplicationFactor(ctx context.Context, req *pb.GrpcSetReplicationFactorRequest) (*pb.GrpcSetReplicationFactorResponse, error) {
	if err := s.need(ctx, policy.Admin, ""); err != nil {
		return nil, err
	}
	switch {
	case req.GetPartitionId() <= 0 || req.GetReplicationFactor() < 0:
		return &pb.GrpcSetReplicationFactorResponse{Status: wordInvalid, Reason: "a partition id is above 0, and a factor is not below"}, nil
	case req.GetPartitionId() == partition && req.GetReplicationFactor() == 0:
		return &pb.GrpcSetReplicationFactorResponse{Success: true, Status: "Success", Generation: generation}, nil
	}
	return &pb.GrpcSetReplicationFactorResponse{Status: "Refused",
		Reason: "every voter has everything: add or remove voters instead"}, nil
}

// GetRanges lists the registered key spaces, each with one unbounded range.
func (s *Service) GetRanges(ctx context.Context, req *pb.GrpcGetRangesRequest) (*pb.GrpcGetRangesResponse, error) {
	if err := s.needSomewhere(ctx, policy.Read); err != nil {
		return nil, err
	}
	v := s.cfg.Cluster.View()
	out := &pb.GrpcGetRangesResponse{Initialized: v.Initialized, LocalEndpoint: v.Endpoint}
	if !v.Initialized {
		return out, nil
	}
	names, err := s.keySpaces(ctx, req.GetKeySpace())
	if err != nil {
		return nil, orUnavailable(err)
	}
	for _, name := range names {
		out.KeySpaces = append(out.KeySpaces, &pb.GrpcKeySpaceRanges{KeySpace: name, RoutingMode: routingRange,
			Descriptors: []*pb.GrpcRangeDescriptor{{PartitionId: partition, Generation: generation}}})
	}
	if name := req.GetKeySpace(); name != "" && len(names) == 0 {
		out.KeySpaces = []*pb.GrpcKeySpaceRanges{{KeySpace: name, RoutingMode: routingHash}}
	}
	return out, nil
}

// orUnavailable is a status for what has no code of its own that says "ask again".
func orUnavailable(err error) error {
	if retries(err) {
		return status.Error(codes.Unavailable, "no quorum answered in time")
	}
	return err
}

// SplitRange is refused: there is one partition, and no second to move keys to.
func (s *Service) SplitRange(ctx context.Context, req *pb.GrpcSplitRangeRequest) (*pb.GrpcSplitRangeResponse, error) {
	if badKeySpace(req.GetKeySpace()) || req.GetSplitKey() == "" {
		return &pb.GrpcSplitRangeResponse{Status: wordInvalid, Determinate: true, Reason: "a split names a key space, which does not end in /meta, and a key"}, nil
	}
	if err := s.need(ctx, policy.Admin, req.KeySpace); err != nil {
		return nil, err
	}
	names, err := s.keySpaces(ctx, req.KeySpace)
	if err != nil {
		return nil, orUnavailable(err)
	}
	if len(names) == 0 {
		return &pb.GrpcSplitRangeResponse{Status: "NoRange", Determinate: true, Reason: "the key space is not registered"}, nil
	}
	return &pb.GrpcSplitRangeResponse{Status: "PartitionCreationFailed", Determinate: true,
		Reason: "there is one partition, and it needs no splitting: all data is on every voter"}, nil
}

// MergeRanges has nothing to merge.
func (s *Service) MergeRanges(ctx context.Context, _ *pb.GrpcMergeRangesRequest) (*pb.GrpcMergeRangesResponse, error) {
	if err := s.need(ctx, policy.Admin, ""); err != nil {
		return nil, err
	}
	return &pb.GrpcMergeRangesResponse{Success: true, Status: "Completed", Determinate: true}, nil
}

// Leave takes this agent's voter out of the quorum.
func (s *Service) Leave(ctx context.Context, _ *pb.GrpcClusterLeaveRequest) (*pb.GrpcClusterLeaveResponse, error) {
	if err := s.need(ctx, policy.Admin, ""); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	left := s.cfg.Cluster.Leave(ctx)
	gone := left.Outcome == LeaveCommitted || left.Outcome == LeaveNotAMember
	return &pb.GrpcClusterLeaveResponse{Left: gone, Outcome: pb.GrpcLeaveClusterOutcome(left.Outcome),
		MembershipVersion: left.Version, Reason: left.Reason,
		Retryable: !gone && left.Outcome != LeaveInsufficientVoters}, nil
}

// GetRoutingMetadata tells a client of kahuna-ts where to send every request: to
// the leader of the one partition (decisions.md 51).
func (s *Service) GetRoutingMetadata(ctx context.Context, req *pb.GrpcGetRoutingMetadataRequest) (*pb.GrpcGetRoutingMetadataResponse, error) {
	if err := s.needSomewhere(ctx, policy.Read); err != nil {
		return nil, err
	}
	v := s.cfg.Cluster.View()
	leader, _ := s.cfg.Cluster.Leader()
	out := &pb.GrpcGetRoutingMetadataResponse{Initialized: v.Initialized, SchemaVersion: routingSchema,
		HashAlgorithm: routingAlgorithm, PrefixSeparator: "/", GroupSeparator: "|", HashPoolSize: 1,
		HashPartitionOffset: partition, SequenceStorageKeyFormat: sequenceKeys, ReservedKeyPrefix: reservedKeys,
		LocalEndpoint: v.URL, SnapshotVersion: v.Version, Coherent: true,
		Leaders: []*pb.GrpcPartitionLeader{{PartitionId: partition, Endpoint: leader}}}
	if !v.Initialized {
		return out, nil
	}
	names, err := s.keySpaces(ctx, req.GetKeySpace())
	if err != nil {
		if !retries(err) {
			return nil, err
		}
		out.Coherent = false // the client keeps what it has
	}
	for _, name := range names {
		out.KeySpaces = append(out.KeySpaces, &pb.GrpcRoutingKeySpace{KeySpace: name, RoutingMode: routingRange,
			Ranges: []*pb.GrpcRoutingRange{{PartitionId: partition, Generation: generation}}})
	}
	return out, nil
}
