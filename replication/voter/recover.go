package voter

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/raftlog"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// Recovery is what Recover found, and what it makes of it.
type Recovery struct {
	Node         string `json:"node"`
	Term         uint64 `json:"term"`          // before
	AppliedIndex uint64 `json:"applied_index"` // in the engine
	LastIndex    uint64 `json:"last_index"`    // in the log; entries above applied become decided
	Servers      []Peer `json:"servers"`       // of the configuration that is given up
	// TokenFloor is what every fencing token is above from now on.
	TokenFloor int64 `json:"token_floor"`
	Done       bool  `json:"done"` // false: nothing was written
}

// RecoverOptions say how Recover goes about it.
type RecoverOptions struct {
	DryRun   bool      // only look
	Wall     time.Time // wall clock of now, of which the token floor is made
	MaxLevel uint32    // see Config.MaxLevel
	// TokenFloor, optional, is an operator's own, for a host whose clock is doubted.
	TokenFloor int64
}

// Recover makes a voter that does not run the only one of its cluster: the last
// resort when a majority of the voters is lost for good. Everything that this
// voter has becomes decided; what only the lost ones had is lost, tokens that they
// had granted among it: so the first thing that is decided anew is a token floor
// above them. They must never run again with their disks: a majority of them would
// go on without this one.
func Recover(storage Storage, node string, logger *slog.Logger, o RecoverOptions) (r Recovery, err error) {
	if statemachine.KnownLevel(o.MaxLevel) < tokenFloorLevel {
		return r, fmt.Errorf("a recovery needs feature level %d, and this agent is told to know no more than %d: leave out feature-level-cap, the recovered voter is alone with its version", tokenFloorLevel, o.MaxLevel)
	}
	var broken error
	cfg := Config{NodeID: node, Storage: storage, Logger: logger}
	fail := func(err error) { broken = errors.Join(broken, err) }
	log, err := openLog(cfg, fail)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, log.Close(), broken) }()
	p, highest, err := lastState(cfg, fail)
	if err != nil {
		return r, err
	}
	if err := checkLog(log, p, logger); err != nil {
		return r, err
	}
	configuration, err := latestConfiguration(log, p)
	if err != nil {
		return r, err
	}
	last, err := log.LastIndex()
	if err != nil {
		return r, fmt.Errorf("reading the log: %w", err)
	}
	term, err := log.GetUint64(currentTermKey)
	if err != nil {
		return r, fmt.Errorf("reading raft's term: %w", err)
	}
	r = Recovery{Node: node, Term: term, AppliedIndex: p.Index, LastIndex: max(last, p.Index)}
	for _, s := range configuration.Servers {
		r.Servers = append(r.Servers, Peer{ID: string(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	if len(r.Servers) == 0 {
		return r, errors.New("this voter was never in a quorum: there is nothing to recover")
	}
	if r.TokenFloor, err = statemachine.TokenFloor(highest, o.Wall.UnixMilli(), o.TokenFloor); err != nil || o.DryRun {
		return r, err
	}
	// A term that no leader of the old quorum had: what it may yet have sent of this
	// index is not of the same history.
	if err := log.SetUint64(currentTermKey, term+1); err != nil {
		return r, fmt.Errorf("writing raft's term: %w", err)
	}
	first, err := recoveredEntry(p, term+1, r.TokenFloor, statemachine.KnownLevel(o.MaxLevel))
	if err != nil {
		return r, err
	}
	if err := log.StoreLogs([]*raft.Log{
		{Index: r.LastIndex + 1, Term: term + 1, Type: raft.LogConfiguration,
			Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{server(node)}})},
		{Index: r.LastIndex + 2, Term: term + 1, Type: raft.LogCommand, Data: first},
	}); err != nil {
		return r, fmt.Errorf("writing the new configuration: %w", err)
	}
	r.Done = true
	return r, nil
}

// tokenFloorLevel is the feature level of replication.TokenFloor.
var tokenFloorLevel = (&replication.Request{Op: &replication.Request_TokenFloor{}}).NeedsLevel()

// lastState reads where the engine stands, and the highest token that it knows of.
func lastState(cfg Config, fail func(error)) (p statemachine.Position, highest int64, err error) {
	f, err := newFSM(cfg, fail, func(uint64, error) {})
	if err != nil {
		return p, 0, err
	}
	p, highest = *f.position.Load(), f.machine.HighestToken()
	if err := f.close(); err != nil {
		return p, 0, fmt.Errorf("closing the state: %w", err)
	}
	return p, highest, nil
}

// recoveredEntry is what the recovered voter decides first. It is alone, so the
// level that it knows is the cluster's, if that is not above it already. The lease clock stands as it stood.
func recoveredEntry(p statemachine.Position, term uint64, floor int64, known uint32) ([]byte, error) {
	return statemachine.EncodeEntry(&replication.LogEntry{
		Level: p.Level, Term: term, LeaseClockNs: p.LeaseClockNS, WallMs: p.WallMS,
		Requests: []*replication.Request{
			{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: max(p.Level, known)}}},
			{Op: &replication.Request_TokenFloor{TokenFloor: &replication.TokenFloor{Floor: floor}}},
		},
	})
}

// latestConfiguration is the newest one in the log, else the engine's.
func latestConfiguration(log *raftlog.Log, p statemachine.Position) (raft.Configuration, error) {
	var c raft.Configuration
	if len(p.Configuration) > 0 {
		c = raft.DecodeConfiguration(p.Configuration)
	}
	first, _ := log.FirstIndex()
	last, err := log.LastIndex()
	if err != nil {
		return c, fmt.Errorf("reading the log: %w", err)
	}
	for i := max(first, p.Index+1); i <= last && i > 0; i++ {
		var e raft.Log
		if err := log.GetLog(i, &e); err != nil {
			return c, fmt.Errorf("reading the log at index %d: %w", i, err)
		}
		if e.Type == raft.LogConfiguration {
			c = raft.DecodeConfiguration(e.Data)
		}
	}
	return c, nil
}
