package kahuna

import "context"

// Cluster is what the agent knows of its cluster, from memory. Its methods may
// be called concurrently and do not block, but for Leave.
type Cluster interface {
	// Leader returns the URL of the leader's Kahuna listener (scheme, numeric
	// address, port), empty when nobody is known to lead or the leader has no such
	// listener, and whether this agent leads. It is asked for each answer.
	Leader() (url string, here bool)
	// View describes the cluster.
	View() View
	// Leave takes this agent's voter out of the quorum, and returns how that ended.
	// It blocks until it is committed or ctx ends.
	Leave(ctx context.Context) Left
}

// View is a cluster as one agent sees it.
type View struct {
	// Initialized: this agent belongs to a cluster that has begun.
	Initialized bool
	// Ready: a request would be answered now.
	Ready bool
	// Version rises with each change of the members. 0 when unknown: a proxy hears who
	// they are, and not since when.
	Version int64
	// Endpoint is this agent's address among agents, HOST:PORT.
	Endpoint string
	// URL is that of this agent's own Kahuna listener, empty without one.
	URL string
	// Role is this agent's own. A proxy is no member.
	Role Role
	// Members are the voters and learners, in order of their ids.
	Members []Member
}

// Member is one agent of the quorum's configuration.
type Member struct {
	Node     string // id
	Endpoint string // address among agents, HOST:PORT
	URL      string // of its Kahuna listener, empty when it has none or it is unknown
	Role     Role
	Leader   bool
}

// Role is an agent's part in the quorum.
type Role string

// The roles.
const (
	Voter     Role = "voter"
	Learner   Role = "learner"
	Leaving   Role = "leaving"
	NotMember Role = "not member"
)

// Left says how Leave ended.
type Left struct {
	Outcome LeaveOutcome
	Version int64  // of the members afterwards, 0 when unknown
	Reason  string // one line for people
}

// LeaveOutcome is one of Kahuna's outcomes of leaving (cluster.proto).
type LeaveOutcome int32

// The outcomes that kahu has. Left is true for the first two only.
const (
	LeaveCommitted          LeaveOutcome = 0
	LeaveNotAMember         LeaveOutcome = 1
	LeaveInsufficientVoters LeaveOutcome = 2
	LeaveNotInitialized     LeaveOutcome = 3
	LeaveNoLeader           LeaveOutcome = 4
	LeaveTimeout            LeaveOutcome = 5
)
