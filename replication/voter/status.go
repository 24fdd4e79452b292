package voter

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/wallclock"
)

// Status is what a voter knows about itself at one moment. For people and metrics.
type Status struct {
	NodeID string `json:"node_id"`
	Role   string `json:"role"`   // leader, follower, candidate, shutdown
	Leader string `json:"leader"` // node id, empty when unknown
	// Serving is true on a leader that has applied its opening entry.
	Serving      bool   `json:"serving"`
	Term         uint64 `json:"term"`
	FirstIndex   uint64 `json:"first_index"` // oldest entry in the log, 0 when empty
	LastIndex    uint64 `json:"last_index"`
	CommitIndex  uint64 `json:"commit_index"`
	AppliedIndex uint64 `json:"applied_index"` // of the state machine itself
	DurableIndex uint64 `json:"durable_index"` // synced in the engine
	// UnflushedBytes are changes applied but not yet in the engine: what write-
	// behind still owes.
	UnflushedBytes int64         `json:"unflushed_bytes"`
	LogBytes       int64         `json:"log_bytes"`
	LastContact    time.Duration `json:"last_contact_ns"` // since a leader was heard; 0 on a leader, -1: never
	LeaseClockNS   int64         `json:"lease_clock_ns"`
	Level          uint32        `json:"level"`
	// ConfigurationIndex is the log index of the servers that this voter has applied
	// last: it rises with each change of them.
	ConfigurationIndex uint64 `json:"configuration_index"`
	Hash               string `json:"hash"` // rolling hash at AppliedIndex, hex
	Peers              []Peer `json:"peers"`
	// Forgetful are ids of Peers that have forgotten what they acknowledged to this
	// voter, which leads or led: a disk was set back, or does not write what it says.
	Forgetful      []string `json:"forgetful,omitempty"`
	Restores       uint64   `json:"restores"` // snapshots installed since start
	Watchers       int      `json:"watchers"`
	QueuedRequests int      `json:"queued_requests"` // waiting at the proposer
	// Transactions are open; QueuedStarts wait at this leader for a slot, and
	// ParkedRequests for a lock of a transaction.
	Transactions   int `json:"transactions"`
	QueuedStarts   int `json:"queued_starts"`
	ParkedRequests int `json:"parked_requests"`
	// StalledFor is the age of a log write, flush or apply that is running longer
	// than Config.StallAfter: this voter is silent. 0 when healthy.
	StalledFor time.Duration `json:"stalled_ns"`
	// FreeBytes are left on the disk as of a second ago; -1: not known, or nobody
	// wanted to know (Config.MinFreeBytes).
	FreeBytes int64 `json:"free_bytes"`
	// WallClock says on a leader how its labels stand to its wall clock; elsewhere
	// there is nothing to say.
	WallClock wallclock.Status `json:"wall_clock"`
}

// Peer is one server of the latest Raft configuration.
type Peer struct {
	ID    string `json:"id"`
	Voter bool   `json:"voter"`
}

// Status reads where this voter stands. It does not block, not even when the
// disk hangs.
func (v *Voter) Status() Status {
	p := v.fsm.position.Load()
	stats := v.fsm.stats()
	first, last := v.logBounds()
	s := Status{
		NodeID:         v.cfg.NodeID,
		Role:           strings.ToLower(v.raft.State().String()),
		Leader:         v.leaderHint(),
		Serving:        v.serving.Load() != nil,
		Term:           v.raft.CurrentTerm(),
		FirstIndex:     first,
		LastIndex:      last,
		CommitIndex:    v.raft.CommitIndex(),
		AppliedIndex:   p.Index,
		DurableIndex:   stats.DurableIndex,
		UnflushedBytes: stats.UnflushedBytes,
		LogBytes:       v.log.Bytes(),
		LastContact:    -1,
		LeaseClockNS:   p.LeaseClockNS,
		Level:          p.Level,

		ConfigurationIndex: p.ConfigurationIndex,
		Hash:               hex.EncodeToString(p.Hash[:]),
		Peers:              v.Servers(),
		Restores:           v.fsm.restores.Load(),
		Watchers:           v.fsm.watchers.len(),
		QueuedRequests:     v.proposer.Queued(),
		Transactions:       int(v.fsm.openTx.Load()),
		QueuedStarts:       v.gate.waiting(),
		ParkedRequests:     int(v.parked.Load()),
		StalledFor:         v.stalledFor(),
		FreeBytes:          v.space.free.Load(),
		WallClock:          v.wall.Status(),
	}
	for _, p := range s.Peers {
		if v.transport.contacts.forgot(raft.ServerID(p.ID)) {
			s.Forgetful = append(s.Forgetful, p.ID)
		}
	}
	if contact := v.raft.LastContact(); v.raft.State() == raft.Leader {
		s.LastContact = 0
	} else if !contact.IsZero() {
		s.LastContact = max(0, time.Since(contact))
	}
	return s
}
