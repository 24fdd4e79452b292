package rest

import (
	"context"
	"net/http"
	"strconv"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// membershipResponse is KahunaClusterMembershipResponse. Roles are names here (R26).
type membershipResponse struct {
	MembershipVersion int64    `json:"membershipVersion"`
	Members           []member `json:"members"`
	LocalRole         string   `json:"localRole"`
	Initialized       bool     `json:"initialized"`
}

type member struct {
	Endpoint      string `json:"endpoint"`
	NodeID        int32  `json:"nodeId"`
	Role          string `json:"role"`
	JoinedVersion int64  `json:"joinedVersion"`
}

// healthResponse is KahunaClusterHealthResponse.
type healthResponse struct {
	Ready            bool   `json:"ready"`
	Initialized      bool   `json:"initialized"`
	LocalRole        string `json:"localRole"`
	HostedPartitions int32  `json:"hostedPartitions"`
}

// placementResponse is KahunaClusterPlacementResponse.
type placementResponse struct {
	ReplicationFactor    int32       `json:"replicationFactor"`
	RebalancerEnabled    bool        `json:"rebalancerEnabled"`
	Initialized          bool        `json:"initialized"`
	LocalEndpoint        string      `json:"localEndpoint"`
	HostedPartitionCount int32       `json:"hostedPartitionCount"`
	Partitions           []partition `json:"partitions"`
}

type partition struct {
	PartitionID                int32     `json:"partitionId"`
	State                      string    `json:"state"`
	Generation                 int64     `json:"generation"`
	EffectiveReplicationFactor int32     `json:"effectiveReplicationFactor"`
	HostedLocally              bool      `json:"hostedLocally"`
	Replicas                   []replica `json:"replicas"`
}

type replica struct {
	Endpoint string `json:"endpoint"`
	Role     string `json:"role"`
}

// factorRequest is KahunaSetReplicationFactorRequest.
type factorRequest struct {
	PartitionID       int32Value `json:"partitionId"`
	ReplicationFactor int32Value `json:"replicationFactor"`
}

// factorResponse is KahunaSetReplicationFactorResponse.
type factorResponse struct {
	Success    bool    `json:"success"`
	Status     string  `json:"status"`
	Generation int64   `json:"generation"`
	Reason     *string `json:"reason"`
}

// leaveResponse is KahunaClusterLeaveResponse.
type leaveResponse struct {
	Left              bool   `json:"left"`
	Drained           bool   `json:"drained"`
	Outcome           string `json:"outcome"`
	MembershipVersion int64  `json:"membershipVersion"`
	Retryable         bool   `json:"retryable"`
	Reason            string `json:"reason"`
}

// routingResponse is what the newer clients read from /v1/cluster/routing.
type routingResponse struct {
	Initialized              bool           `json:"initialized"`
	SchemaVersion            int32          `json:"schemaVersion"`
	HashAlgorithm            string         `json:"hashAlgorithm"`
	PrefixSeparator          string         `json:"prefixSeparator"`
	GroupSeparator           string         `json:"groupSeparator"`
	HashPoolSize             int32          `json:"hashPoolSize"`
	HashPartitionOffset      int32          `json:"hashPartitionOffset"`
	SequenceStorageKeyFormat string         `json:"sequenceStorageKeyFormat"`
	ReservedKeyPrefix        string         `json:"reservedKeyPrefix"`
	LocalEndpoint            string         `json:"localEndpoint"`
	SnapshotVersion          int64          `json:"snapshotVersion"`
	Coherent                 bool           `json:"coherent"`
	KeySpaces                []routingSpace `json:"keySpaces"`
	Leaders                  []leader       `json:"leaders"`
}

type routingSpace struct {
	KeySpace    string       `json:"keySpace"`
	RoutingMode string       `json:"routingMode"`
	Ranges      []descriptor `json:"ranges"`
}

type leader struct {
	PartitionID int32  `json:"partitionId"`
	Endpoint    string `json:"endpoint"`
}

func clusterRoutes() []route {
	return []route{
		get("/v1/cluster/membership", 0, getMembership),
		get("/v1/cluster/health", 0, getHealth),
		get("/v1/cluster/placement", 0, getPlacement),
		get("/v1/cluster/routing", 0, getRouting),
		post("/v1/cluster/replication-factor", 0, setFactor),
		action("/v1/cluster/leave", leave),
	}
}

// name is an enum's number in Kahuna's words.
func name[E ~int32](names []string, e E) string {
	if int(e) < 0 || int(e) >= len(names) {
		return strconv.Itoa(int(e))
	}
	return names[e]
}

// The names of enums that REST shows as text. Voter is 1 among the members' roles,
// and 0 among the replicas'.
var (
	memberRoles   = []string{"Learner", "Voter", "Leaving", "NotMember"}
	replicaRoles  = []string{"Voter", "Learner", "Removing"}
	leaveOutcomes = []string{"Committed", "NotAMember", "RefusedInsufficientVoters", "NotInitialized", "NoLeader", "Timeout",
		"RefusedDrainInProgress", "DrainTimedOut"}
)

func getMembership(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.GetMembership(ctx, &pb.GrpcGetMembershipRequest{})
	if err != nil {
		return answer{}, err
	}
	body := membershipResponse{MembershipVersion: a.GetMembershipVersion(), Members: make([]member, 0, len(a.GetMembers())),
		LocalRole: name(memberRoles, a.GetLocalRole()), Initialized: a.GetInitialized()}
	for _, m := range a.GetMembers() {
		body.Members = append(body.Members, member{m.GetEndpoint(), m.GetNodeId(), name(memberRoles, m.GetRole()), m.GetJoinedVersion()})
	}
	return ok(body)
}

// getHealth is the readiness probe: 200 when requests are served here, else 503
// with the same body (R26).
func getHealth(_ context.Context, x *exchange) (answer, error) {
	h := x.h.svc.Health()
	body := healthResponse{h.Ready, h.Initialized, name(memberRoles, h.Role), h.HostedPartitions}
	if !body.Ready {
		return answer{http.StatusServiceUnavailable, body}, nil
	}
	return ok(body)
}

func getPlacement(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.GetPlacement(ctx, &pb.GrpcGetPlacementRequest{})
	if err != nil {
		return answer{}, err
	}
	body := placementResponse{ReplicationFactor: a.GetReplicationFactor(), RebalancerEnabled: a.GetRebalancerEnabled(),
		Initialized: a.GetInitialized(), LocalEndpoint: a.GetLocalEndpoint(), HostedPartitionCount: a.GetHostedPartitionCount(),
		Partitions: make([]partition, 0, len(a.GetPartitions()))}
	for _, p := range a.GetPartitions() {
		shown := partition{p.GetPartitionId(), p.GetState(), p.GetGeneration(), p.GetEffectiveReplicationFactor(), p.GetHostedLocally(), []replica{}}
		for _, r := range p.GetReplicas() {
			shown.Replicas = append(shown.Replicas, replica{r.GetEndpoint(), name(replicaRoles, r.GetRole())})
		}
		body.Partitions = append(body.Partitions, shown)
	}
	return ok(body)
}

func getRouting(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.GetRoutingMetadata(ctx, &pb.GrpcGetRoutingMetadataRequest{KeySpace: keySpaceOf(x.r)})
	if err != nil {
		return answer{}, err
	}
	body := routingResponse{Initialized: a.GetInitialized(), SchemaVersion: a.GetSchemaVersion(), HashAlgorithm: a.GetHashAlgorithm(),
		PrefixSeparator: a.GetPrefixSeparator(), GroupSeparator: a.GetGroupSeparator(), HashPoolSize: a.GetHashPoolSize(),
		HashPartitionOffset: a.GetHashPartitionOffset(), SequenceStorageKeyFormat: a.GetSequenceStorageKeyFormat(),
		ReservedKeyPrefix: a.GetReservedKeyPrefix(), LocalEndpoint: a.GetLocalEndpoint(), SnapshotVersion: a.GetSnapshotVersion(),
		Coherent: a.GetCoherent(), KeySpaces: make([]routingSpace, 0, len(a.GetKeySpaces())), Leaders: make([]leader, 0, len(a.GetLeaders()))}
	for _, s := range a.GetKeySpaces() {
		shown := routingSpace{s.GetKeySpace(), s.GetRoutingMode(), []descriptor{}}
		for _, r := range s.GetRanges() {
			shown.Ranges = append(shown.Ranges, descriptor{r.StartKey, r.EndKey, r.GetPartitionId(), r.GetGeneration()})
		}
		body.KeySpaces = append(body.KeySpaces, shown)
	}
	for _, l := range a.GetLeaders() {
		body.Leaders = append(body.Leaders, leader{l.GetPartitionId(), l.GetEndpoint()})
	}
	return ok(body)
}

// setFactor answers every refusal with 409, bad input included (R28).
func setFactor(ctx context.Context, s Service, in *factorRequest) (answer, error) {
	a, err := s.SetReplicationFactor(ctx, &pb.GrpcSetReplicationFactorRequest{PartitionId: int32(in.PartitionID), ReplicationFactor: int32(in.ReplicationFactor)})
	if err != nil {
		return answer{}, err
	}
	body := factorResponse{a.GetSuccess(), a.GetStatus(), a.GetGeneration(), orNull(a.GetReason())}
	if !body.Success {
		return answer{http.StatusConflict, body}, nil
	}
	return ok(body)
}

// leave takes any body, or none: .NET posts {} (R27).
func leave(ctx context.Context, x *exchange) (answer, error) {
	a, err := x.h.svc.Leave(ctx, &pb.GrpcClusterLeaveRequest{})
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	switch a.GetOutcome() {
	case pb.GrpcLeaveClusterOutcome_LEAVE_CLUSTER_OUTCOME_REFUSED_INSUFFICIENT_VOTERS:
		status = http.StatusConflict
	case pb.GrpcLeaveClusterOutcome_LEAVE_CLUSTER_OUTCOME_NOT_INITIALIZED, pb.GrpcLeaveClusterOutcome_LEAVE_CLUSTER_OUTCOME_NO_LEADER,
		pb.GrpcLeaveClusterOutcome_LEAVE_CLUSTER_OUTCOME_REFUSED_DRAIN_IN_PROGRESS:
		status = http.StatusServiceUnavailable
	case pb.GrpcLeaveClusterOutcome_LEAVE_CLUSTER_OUTCOME_TIMEOUT, pb.GrpcLeaveClusterOutcome_LEAVE_CLUSTER_OUTCOME_DRAIN_TIMED_OUT:
		status = http.StatusGatewayTimeout
	}
	return answer{status, leaveResponse{a.GetLeft(), a.GetDrained(), name(leaveOutcomes, a.GetOutcome()), a.GetMembershipVersion(), a.GetRetryable(), a.GetReason()}}, nil
}
