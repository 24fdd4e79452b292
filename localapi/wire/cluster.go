package wire

// ClusterPath has who takes part in the cluster; below it are the changes, each
// a POST with a ClusterChange.
const ClusterPath = "/kahu/v1/cluster"

// ClusterAction is a change of the quorum that an operator asks for.
type ClusterAction string

// The changes, as they stand in the path behind ClusterPath.
const (
	ClusterPromote  ClusterAction = "promote"             // give a node a vote
	ClusterDemote   ClusterAction = "demote"              // take its vote
	ClusterRemove   ClusterAction = "remove"              // of a node that is gone, for good
	ClusterTransfer ClusterAction = "transfer-leadership" // node may be empty: the best
	ClusterLeave    ClusterAction = "leave"               // demote this agent; no node
)

// ClusterActions are all of them.
var ClusterActions = []ClusterAction{ClusterPromote, ClusterDemote, ClusterRemove, ClusterTransfer, ClusterLeave}

// ClusterChange names the node: by id, the beginning of one, or host name.
type ClusterChange struct {
	Node string `json:"node,omitempty"`
}

// ClusterChanged answers a change.
type ClusterChanged struct {
	Action ClusterAction `json:"action"`
	Node   string        `json:"node,omitempty"` // id
	Detail string        `json:"detail"`         // one line: what was done, and what follows
}

// The roles of a ClusterMember.
const (
	MemberVoter      = "voter"
	MemberCatchingUp = "catching-up" // receives the log, and gets its vote then
	MemberStandby    = "standby"     // could vote
	MemberProxy      = "proxy"       // never votes
	MemberUnknown    = "unknown"     // nothing was heard of it
)

// ClusterMember is one agent.
type ClusterMember struct {
	Node    string `json:"node"`
	Host    string `json:"host,omitempty"`
	Address string `json:"address,omitempty"`
	Role    string `json:"role"`
	Leader  bool   `json:"leader,omitempty"`
	Self    bool   `json:"self,omitempty"` // the agent that was asked
	// Alive says that it was heard lately, by gossip or directly.
	Alive   bool     `json:"alive"`
	Zone    string   `json:"zone,omitempty"`
	Version string   `json:"version,omitempty"`
	KeyIDs  []string `json:"key_ids,omitempty"` // of the secrets it accepts, the one in use first
	// SilentMS is how long a server of the quorum has not answered Raft. Only the
	// leader knows.
	SilentMS *int64 `json:"silent_ms,omitempty"`
}

// ClusterMembers is everybody that an agent knows of.
type ClusterMembers struct {
	ClusterID string          `json:"cluster_id,omitempty"`
	Leader    string          `json:"leader,omitempty"`
	Members   []ClusterMember `json:"members"` // voters first, then by host and node
}
