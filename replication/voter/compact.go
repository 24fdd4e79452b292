package voter

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/pace"
)

// compactInterval is how often the log is looked at.
const compactInterval = time.Second

// compact cuts the log when enough was written since the last time. Raft's own
// rule counts entries, and an entry may have a hundred bytes or a megabyte
// (HAZARDS.md 13), so its timer is turned off and this one asks for a snapshot:
// a flush of the memtable, after which Raft drops what is below, except for the
// newest entries, for followers that lag.
func (v *Voter) compact() {
	tick := time.NewTimer(pace.Next(compactInterval))
	defer tick.Stop()
	var bytes int64
	_, entries := v.logBounds()
	for {
		select {
		case <-tick.C:
			tick.Reset(pace.Next(compactInterval))
		case <-v.stopping:
			return
		}
		_, last := v.logBounds()
		written := v.log.AppendedBytes() - bytes
		if written < v.cfg.CompactBytes && last < entries+v.cfg.TrailingEntries/2 && v.log.Bytes() < 2*v.cfg.TrailingBytes {
			continue
		}
		if err := v.snapshot(); err != nil {
			v.cfg.Logger.Debug("cutting the raft log", "node", v.cfg.NodeID, "error", err)
			continue
		}
		bytes, entries = v.log.AppendedBytes(), last
	}
}

// snapshot flushes the memtable and has Raft cut the log. It blocks for both.
func (v *Voter) snapshot() error {
	reload := v.raft.ReloadableConfig()
	// At least one: Raft cuts beside the goroutine that appends, and whoever
	// removes the last entry moves the end of the log (raftlog).
	reload.TrailingLogs = max(1, min(v.cfg.TrailingEntries, v.log.Newest(v.cfg.TrailingBytes)))
	if err := v.raft.ReloadConfig(reload); err != nil {
		return err
	}
	err := v.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// logBounds returns the first and the last index of the log; 0 and 0 when empty.
func (v *Voter) logBounds() (first, last uint64) {
	first, _ = v.log.FirstIndex() // never fails: they are in memory
	last, _ = v.log.LastIndex()
	return first, last
}
