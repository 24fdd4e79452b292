package voter

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

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
	Done         bool   `json:"done"`          // false: nothing was written
}

// Recover makes a voter that does not run the only one of its cluster: the last
// resort when a majority of the voters is lost for good. Everything that this
// voter has becomes decided; what only the lost ones had is lost. They must never
// run again with their disks: a majority of them would go on without this one.
// With dryRun it only looks.
func Recover(storage Storage, node string, logger *slog.Logger, dryRun bool) (r Recovery, err error) {
	var broken error
	cfg := Config{NodeID: node, Storage: storage, Logger: logger}
	fail := func(err error) { broken = errors.Join(broken, err) }
	log, err := openLog(cfg, fail)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, log.Close(), broken) }()
	f, err := newFSM(cfg, fail, func(uint64, error) {})
	if err != nil {
		return r, err
	}
	p := *f.position.Load()
	if err := f.close(); err != nil {
		return r, fmt.Errorf("closing the state: %w", err)
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
	if dryRun {
		return r, nil
	}
	// A term that no leader of the old quorum had: what it may yet have sent of this
	// index is not of the same history.
	if err := log.SetUint64(currentTermKey, term+1); err != nil {
		return r, fmt.Errorf("writing raft's term: %w", err)
	}
	entry := &raft.Log{Index: r.LastIndex + 1, Term: term + 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{server(node)}})}
	if err := log.StoreLog(entry); err != nil {
		return r, fmt.Errorf("writing the new configuration: %w", err)
	}
	r.Done = true
	return r, nil
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
