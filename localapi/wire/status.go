package wire

import "time"

// Status is what an agent tells about itself.
type Status struct {
	Node      string `json:"node"` // node id
	Host      string `json:"host"` // node name, for people
	Role      string `json:"role"` // voter, proxy, standby; upstream in front of a Kahuna cluster
	Version   string `json:"version"`
	ClusterID string `json:"cluster_id,omitempty"`
	// Successor is the id of the cluster that this one was recovered as, without this
	// agent (kahu cluster peers-recover).
	Successor string `json:"successor,omitempty"`
	Advertise string `json:"advertise,omitempty"`
	Socket    string `json:"socket"`
	Dev       bool   `json:"dev,omitempty"`
	UptimeMS  int64  `json:"uptime_ms"`
	Storage   string `json:"storage,omitempty"` // voters
	// Ready says that a quorum answered lately; NotReady is why not, in one line.
	Ready    bool       `json:"ready"`
	NotReady string     `json:"not_ready,omitempty"`
	Leader   string     `json:"leader,omitempty"` // node id, as far as this agent knows
	Peers    []Peer     `json:"peers,omitempty"`
	Holds    HoldCounts `json:"holds"`
	// DataDirGone: the files of the data directory were taken away beneath this agent.
	DataDirGone bool `json:"data_dir_gone,omitempty"`
	// ClockProblem says in one line that the wall clocks of this host and of other
	// agents differ by more than a minute. No lease depends on them.
	ClockProblem string `json:"clock_problem,omitempty"`
	// NeedsRestart are settings that were changed in the file and count after a
	// restart; ConfigProblem is why the file could not be taken over, in one line.
	// Both are of the last reload.
	NeedsRestart  []string     `json:"needs_restart,omitempty"`
	ConfigProblem string       `json:"config_problem,omitempty"`
	Voter         *VoterStatus `json:"voter,omitempty"` // voters
	// Kahuna is where Kahuna's clients come over TCP; absent when only the socket
	// speaks their wire.
	Kahuna *KahunaStatus `json:"kahuna,omitempty"`
	// Upstream are the servers of the Kahuna cluster that this agent stands in front
	// of (upstream mode).
	Upstream []UpstreamServer `json:"upstream,omitempty"`
}

// UpstreamServer is one server of a Kahuna cluster, as this agent sees it.
type UpstreamServer struct {
	URL       string `json:"url"`
	Healthy   bool   `json:"healthy"`           // its last word was an answer, not long ago
	InUse     bool   `json:"in_use"`            // it is asked first
	Failure   string `json:"failure,omitempty"` // of the last call, when that was not answered
	LatencyMS int64  `json:"latency_ms"`        // of the last probe
}

// KahunaStatus describes the TCP listeners of the Kahuna wire.
type KahunaStatus struct {
	Listen    []string `json:"listen"`              // addresses that are listened on
	Advertise string   `json:"advertise,omitempty"` // URL that hints name
	// Insecure: everybody is trusted, also in clear text. Otherwise who has a
	// certificate of ClientCA, or one of so many Tokens of TokenFile.
	Insecure  bool   `json:"insecure"`
	ClientCA  string `json:"client_ca,omitempty"`
	TokenFile string `json:"token_file,omitempty"`
	Tokens    int    `json:"tokens,omitempty"`
	// CertificateSHA256 is that of the certificate shown, in hexadecimal: clients
	// may pin it.
	CertificateSHA256  string    `json:"certificate_sha256"`
	CertificateExpires time.Time `json:"certificate_expires"`
	Warnings           []string  `json:"warnings,omitempty"` // one line each
}

// HoldCounts counts the holds of one agent by state.
type HoldCounts struct {
	Held   int `json:"held"`
	Queued int `json:"queued"`
	AtRisk int `json:"at_risk"`
	// Contain counts those of kahu exec by what keeps their processes together.
	Contain map[string]int `json:"contain,omitempty"`
}

// Peer is another agent that this one knows.
type Peer struct {
	Node      string `json:"node"`
	Host      string `json:"host,omitempty"`
	Address   string `json:"address,omitempty"`
	Role      string `json:"role,omitempty"`
	Connected bool   `json:"connected"`
}

// VoterStatus is what a voter knows about its part in the quorum.
type VoterStatus struct {
	Raft           string `json:"raft"` // leader, follower, candidate, stopped
	Serving        bool   `json:"serving"`
	Term           uint64 `json:"term"`
	FirstIndex     uint64 `json:"first_index"`
	LastIndex      uint64 `json:"last_index"`
	CommitIndex    uint64 `json:"commit_index"`
	AppliedIndex   uint64 `json:"applied_index"`
	DurableIndex   uint64 `json:"durable_index"` // synced in the engine
	UnflushedBytes int64  `json:"unflushed_bytes"`
	LogBytes       int64  `json:"log_bytes"`
	LastContactMS  int64  `json:"last_contact_ms"` // since a leader was heard; 0 on a leader, -1: never
	LeaseClockNS   int64  `json:"lease_clock_ns"`
	Level          uint32 `json:"level"`
	Hash           string `json:"hash,omitempty"`
	Restores       uint64 `json:"restores"`
	Watchers       int    `json:"watchers"`
	QueuedRequests int    `json:"queued_requests"`
	StalledMS      int64  `json:"stalled_ms,omitempty"`
	// FreeBytes are left on the disk of the data directory, absent when that is not
	// known. Below MinFreeBytes a leader refuses what needs room; 0: never.
	FreeBytes    *int64 `json:"free_bytes,omitempty"`
	MinFreeBytes int64  `json:"min_free_bytes,omitempty"`
	// WallClock is there on a leader whose wall clock does not count.
	WallClock     *WallClock     `json:"wall_clock,omitempty"`
	Configuration []QuorumMember `json:"configuration,omitempty"` // Raft's
}

// QuorumMember is a node of Raft's configuration.
type QuorumMember struct {
	Node string `json:"node"`
	Host string `json:"host,omitempty"`
	Role string `json:"role"` // voter, or staging: it catches up
	// Forgot is true of one that has forgotten what it acknowledged to this agent,
	// which leads or led: its disk was set back, or does not write what it says.
	Forgot bool `json:"forgot,omitempty"`
}

// WallClock says why the times that a leader gives to changes do not follow its
// host's wall clock. No lease depends on it.
type WallClock struct {
	// AheadMS is how far the wall clock is ahead of those times; negative: behind.
	AheadMS int64  `json:"ahead_ms"`
	Problem string `json:"problem"` // one line, with what to do
}
