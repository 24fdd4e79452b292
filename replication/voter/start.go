package voter

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/raftlog"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// ErrRefused wraps the errors of Open that no restart heals: this voter's disk
// does not have what it once promised. It must be removed from the quorum and
// join again, as a new server, with an empty data directory.
var ErrRefused = errors.New("this voter must not vote any more: remove it from the cluster, and let it join again with an empty data directory")

// divergedKey marks, in the stable store, a voter whose state was found to be
// different from the leader's. It survives restarts.
var divergedKey = []byte("kahu/diverged")

// Where hashicorp/raft keeps its term, and that of its last vote, in the stable store.
var (
	currentTermKey  = []byte("CurrentTerm")
	lastVoteTermKey = []byte("LastVoteTerm")
)

// checkLog decides whether engine and log belong together (HAZARDS.md 16), and
// clears a log that an installed snapshot has replaced.
//
//	engine  ────────────────┤ position
//	log           ├───────────────────┤ last
//	              first  ≤ position+1
func checkLog(log *raftlog.Log, p statemachine.Position, logger *slog.Logger) error {
	if why, err := log.Get(divergedKey); err == nil && len(why) > 0 {
		return fmt.Errorf("%w (%s)", ErrRefused, why)
	}
	first, _ := log.FirstIndex()
	last, _ := log.LastIndex()
	// Raft makes a term durable before anything reaches log or engine. A stable
	// store without one has lost the vote with it, and a voter that forgot its vote
	// must not vote again under the same id (HAZARDS.md 9). The term may be below
	// the engine's: a leader that was just deposed streams its newest state under
	// its old term.
	term, err := log.GetUint64(currentTermKey)
	if err != nil && err.Error() != "not found" { // as raft reads its own keys
		return fmt.Errorf("reading raft's term: %w", err)
	}
	if term == 0 && p.Term > 0 {
		return fmt.Errorf("%w (the engine has entries of term %d, and the raft log knows of no term: its votes are gone)", ErrRefused, p.Term)
	}
	if recorded := log.RecordedIndex(); max(p.Index, last) < recorded {
		return fmt.Errorf("%w (the log was once durable up to index %d, now it ends at %d and the engine at %d)",
			ErrRefused, recorded, last, p.Index)
	}
	if last == 0 {
		return nil // normal after a snapshot was installed
	}
	if first > p.Index+1 {
		return fmt.Errorf("%w (the engine ends at index %d, and the log begins only at %d)", ErrRefused, p.Index, first)
	}
	// A crash between installing a snapshot and removing the log that it replaces
	// leaves a log that ends before the engine, or is of another history.
	replaced := last < p.Index
	if !replaced && first <= p.Index {
		var e raft.Log
		if err := log.GetLog(p.Index, &e); err != nil {
			return fmt.Errorf("reading the log at the engine's index %d: %w", p.Index, err)
		}
		replaced = e.Term != p.Term
	}
	if !replaced {
		return nil
	}
	logger.Info("removing the log that an installed snapshot has replaced", "first", first, "last", last, "index", p.Index)
	if err := log.Clear(); err != nil {
		return fmt.Errorf("removing the log that an installed snapshot has replaced: %w", err)
	}
	return nil
}

// forgetHalfBootstrap undoes a bootstrap that a crash cut short: Raft writes term
// 1, then the first configuration, and with the one alone would neither begin a
// cluster nor let itself be bootstrapped again. No vote was cast in term 1, and
// no leader has it. It runs before Raft does.
func forgetHalfBootstrap(log *raftlog.Log, p statemachine.Position) error {
	last, _ := log.LastIndex()
	term, termErr := log.GetUint64(currentTermKey)
	voted, votedErr := log.GetUint64(lastVoteTermKey)
	for _, err := range []error{termErr, votedErr} {
		if err != nil && err.Error() != "not found" { // as raft reads its own keys
			return fmt.Errorf("reading raft's term: %w", err)
		}
	}
	if term != 1 || voted != 0 || last != 0 || p.Index != 0 {
		return nil
	}
	return log.SetUint64(currentTermKey, 0)
}

// openLog opens the log of cfg's storage.
func openLog(cfg Config, fail func(error)) (*raftlog.Log, error) {
	o := raftlog.Options{Dir: cfg.Storage.LogDir(), Fatal: fail, Logger: cfg.Logger, WrapFiles: cfg.logFiles}
	if o.Dir == "" {
		return raftlog.OpenMemory(o)
	}
	return raftlog.Open(o)
}

// raftConfig is what Raft is started with.
func raftConfig(cfg Config) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(cfg.NodeID)
	c.HeartbeatTimeout = cfg.timing.heartbeat
	c.ElectionTimeout = cfg.timing.election
	c.LeaderLeaseTimeout = cfg.timing.lease
	c.CommitTimeout = cfg.timing.commit
	// An entry has up to 1 MiB, and so many go into one RPC when a voter catches up.
	c.MaxAppendEntries = 16
	// The engine is the snapshot: it is there already when Raft starts.
	c.NoSnapshotRestoreOnStart = true
	// compact.go decides when.
	c.SnapshotInterval = 1000 * time.Hour
	c.SnapshotThreshold = math.MaxUint64
	c.TrailingLogs = cfg.TrailingEntries
	// A voter that was removed stays a process that can be asked why.
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = raftlog.HCLog(cfg.Logger)
	return c
}
