package voter

import (
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// Fast shortens elections for tests.
func (c *Config) Fast() { c.SetTiming(150*time.Millisecond, 5*time.Millisecond) }

// SetTiming sets all of Raft's timeouts, and its commit timeout.
func (c *Config) SetTiming(timeout, commit time.Duration) {
	c.timing = timing{heartbeat: timeout, election: timeout, lease: timeout, commit: commit}
}

// VerifyLeader is what hashicorp/raft offers as a read barrier.
func (v *Voter) VerifyLeader() error { return v.raft.VerifyLeader().Error() }

// Snapshot flushes and cuts the log now.
func (v *Voter) Snapshot() error { return v.snapshot() }

// Position is where the state machine stands.
func (v *Voter) Position() statemachine.Position { return *v.fsm.position.Load() }

// ProposeEntry puts an entry into the log as it is.
func (v *Voter) ProposeEntry(e *replication.LogEntry) ([]*replication.Answer, error) {
	b, err := statemachine.EncodeEntry(e)
	if err != nil {
		return nil, err
	}
	f := v.entries.Apply(b, time.Second)
	if err := f.Error(); err != nil {
		return nil, err
	}
	answers, _ := f.Response().([]*replication.Answer)
	return answers, nil
}

// Corrupt changes a row behind the state machine's back.
func (v *Voter) Corrupt(fn func(s statemachine.Store)) {
	v.fsm.apply.Lock()
	defer v.fsm.apply.Unlock()
	v.fsm.store.Begin()
	fn(v.fsm.store)
	v.fsm.store.Commit(v.fsm.machine.Position().Index)
}

// LeaseClock is τ now, if this voter serves as a leader.
func (v *Voter) LeaseClock() (int64, bool) {
	r := v.serving.Load()
	if r == nil {
		return 0, false
	}
	return v.leaseClock(r), true
}

// CheckLog is what decides at start whether log and engine belong together.
var CheckLog = checkLog
