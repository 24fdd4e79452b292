package voter

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/raftlog"
)

// What a voter needs beside its engine when that was filled from a backup: its
// state stands at index 1 of term 1 (statemachine.Restorer.Finish), as if a
// cluster of this voter alone had decided all of it in one entry.

// FoundingConfiguration is the Raft configuration of a voter that is alone, as
// the state machine keeps it.
func FoundingConfiguration(node string) []byte {
	return raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: raft.ServerID(node), Address: raft.ServerAddress(node)}}})
}

// FoundLog makes the Raft log of such a voter in an empty directory: no entries,
// and the term that its state is of.
func FoundLog(dir string, logger *slog.Logger) (err error) {
	var failed error
	log, err := raftlog.Open(raftlog.Options{Dir: dir, Logger: logger, Fatal: func(err error) { failed = err }})
	if err != nil {
		return fmt.Errorf("making the raft log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if last, err := log.LastIndex(); err != nil || last != 0 {
		return errors.Join(err, fmt.Errorf("the raft log in %s has entries up to index %d: it is not new", dir, last))
	}
	if err := log.SetUint64(currentTermKey, 1); err != nil {
		return fmt.Errorf("making the raft log: %w", err)
	}
	return failed
}
