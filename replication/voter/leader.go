package voter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/pace"
	"github.com/kahu-sh/kahu/replication/proposer"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

const (
	// sweepLimit is how much one Sweep may end: an entry stays well under 10 ms.
	sweepLimit = 500
	// sweepPause is between two sweeps that were both worth proposing. The first one
	// after a while comes as soon as something is due: a read judges by the lease
	// clock of what was applied, so a key of one millisecond is there until then.
	sweepPause = 10 * time.Millisecond
	// leastSweepSleep is for a timer that ends before the lease clock has come as far.
	leastSweepSleep = time.Millisecond
	// maxSweepSleep bounds how long the sweeper trusts a timer, which stands still
	// while the host is suspended and may be slewed against lease time.
	maxSweepSleep = time.Second
	// dutyInterval is how often hash and feature level are looked at.
	dutyInterval = time.Second
	// openPause is between two attempts to open a term.
	openPause = 20 * time.Millisecond
)

// reign is one time of leading, from winning an election or from a restore
// until it is lost. It begins with an opening entry; only when that was applied
// does the voter serve.
type reign struct {
	ctx  context.Context // ends with the reign
	end  context.CancelFunc
	done sync.WaitGroup

	// Set before the reign is published as Voter.serving.
	term  uint64
	base  int64         // L₀: the lease clock when the opening entry was applied
	since time.Duration // t₀: this host's lease time, read after L₀
	began time.Time     // for how long peers have been silent
}

// leaseClock is τ (DESIGN.md: lease time is not wall time).
func (v *Voter) leaseClock(r *reign) int64 {
	return r.base + int64(v.cfg.LeaseNow()-r.since)
}

// lead follows Raft's changes of leadership until the voter stops. It is the
// only one that begins and ends reigns.
func (v *Voter) lead() {
	var current *reign
	end := func() {
		if current != nil {
			v.endReign(current)
			current = nil
		}
	}
	defer end()
	for {
		select {
		case leads := <-v.raft.LeaderCh():
			end()
			if leads {
				current = v.beginReign()
			} else {
				v.wakeWaiting()
			}
		case <-v.fsm.restored:
			// A restore on the leader: what was stamped before no longer holds.
			if current != nil {
				end()
				current = v.beginReign()
			}
		case <-v.stopping:
			return
		}
	}
}

func (v *Voter) beginReign() *reign {
	r := &reign{}
	r.ctx, r.end = context.WithCancel(context.Background())
	// Ends with the reign; endReign waits for it.
	r.done.Go(func() {
		defer v.wall.End()
		labelledAt := time.Duration(v.fsm.labelledAt.Load()) // before the label
		v.wall.Begin(r.ctx, v.fsm.position.Load().WallMS, labelledAt)
		if err := v.open(r); err != nil {
			return // the reign is over
		}
		r.done.Go(func() { v.wall.Watch(r.ctx) })
		v.duties(r)
	})
	return r
}

func (v *Voter) endReign(r *reign) {
	r.end()
	v.serving.CompareAndSwap(r, nil)
	v.proposer.Resign(v.leaderHint())
	v.gate.resign()
	r.done.Wait()
	// open may have published r in between.
	if v.serving.CompareAndSwap(r, nil) {
		v.proposer.Resign(v.leaderHint())
	}
	v.wakeWaiting()
}

// open proposes the opening entry until it is applied in the term that it was
// stamped in, sets the base of the lease clock, and starts serving.
func (v *Voter) open(r *reign) error {
	for {
		term := v.raft.CurrentTerm()
		err := v.proposeOpening(term)
		if err == nil {
			r.term = term
			// L₀ before t₀: what passes in between only lengthens leases.
			r.base = v.fsm.position.Load().LeaseClockNS
			r.since = v.cfg.LeaseNow()
			r.began = time.Now()
			break
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(openPause):
			v.cfg.Logger.Debug("opening a term", "node", v.cfg.NodeID, "term", term, "error", err)
		}
	}
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	v.proposer.Lead(proposer.Reign{
		Term:       r.term,
		LeaseClock: func() int64 { return v.leaseClock(r) },
		Level:      func() uint32 { return v.fsm.position.Load().Level },
	})
	v.serving.Store(r)
	v.wakeWaiting()
	v.cfg.Logger.Info("leading", "node", v.cfg.NodeID, "term", r.term, "index", v.fsm.applied.index.Load())
	return nil
}

// proposeOpening proposes the first entry of term. It does not move the lease
// clock: what it starts from is not known before it is applied.
func (v *Voter) proposeOpening(term uint64) error {
	p := v.fsm.position.Load()
	entry, err := statemachine.EncodeEntry(&replication.LogEntry{
		Level:        p.Level,
		Term:         term,
		LeaseClockNs: p.LeaseClockNS,
		WallMs:       v.wall.Now().UnixMilli(),
		Requests: []*replication.Request{{
			Op: &replication.Request_Opening{Opening: &replication.Opening{Node: v.cfg.NodeID}},
		}},
	})
	if err != nil {
		return err
	}
	future := v.entries.Apply(entry, rpcTimeout)
	if err := future.Error(); err != nil {
		return err
	}
	answers, ok := future.Response().([]*replication.Answer)
	if !ok || len(answers) != 1 {
		return errors.New("the opening entry was not answered")
	}
	return answers[0].Refused()
}

// duties are what a leader owes the cluster besides answering: ends that are
// due, its hash, and the feature level. It returns when the reign ends.
func (v *Voter) duties(r *reign) {
	tick := time.NewTimer(pace.Next(dutyInterval))
	defer tick.Stop()
	sweep := time.NewTimer(0)
	defer sweep.Stop()
	var swept time.Time // the last time that something was due
	var digested uint64 // index of the last digest's own entry
	v.raiseLevel(r)     // a new cluster need not wait for it
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-v.fsm.dueMoved:
		case <-sweep.C:
			if v.sweep(r) {
				swept = time.Now()
			}
		case <-tick.C:
			tick.Reset(pace.Next(dutyInterval))
			digested = v.digest(r, digested)
			v.raiseLevel(r)
		}
		sweep.Reset(untilSweep(v.fsm.due.Load(), v.leaseClock(r), time.Since(swept)))
	}
}

// untilSweep is how long to sleep before a Sweep is worth proposing, so long after
// the last one. Lease times are in nanoseconds.
func untilSweep(due, now int64, since time.Duration) time.Duration {
	if due == dueNever {
		return time.Hour // dueMoved wakes earlier
	}
	wait := max(leastSweepSleep, sweepPause-since)
	if due > now {
		wait = max(wait, time.Duration(due-now))
	}
	return min(wait, maxSweepSleep)
}

// sweep proposes the end of what is due, if anything is, and reports whether it did.
func (v *Voter) sweep(r *reign) bool {
	if v.fsm.due.Load() > v.leaseClock(r) {
		return false
	}
	v.command(r, &replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: sweepLimit}}})
	return true
}

// digest publishes this voter's rolling hash if anything was applied since the
// last time, and returns the index of the entry that did.
func (v *Voter) digest(r *reign, last uint64) uint64 {
	p := v.fsm.position.Load()
	if p.Index <= last {
		return last
	}
	answer := v.command(r, &replication.Request{Op: &replication.Request_Digest{
		Digest: &replication.Digest{Index: p.Index, Hash: p.Hash[:]},
	}})
	if answer == nil {
		return last
	}
	return answer.GetIndex()
}

// raiseLevel proposes the feature level that all voters have announced.
func (v *Voter) raiseLevel(r *reign) {
	want := statemachine.KnownLevel(v.cfg.MaxLevel)
	if v.cfg.AnnouncedLevel != nil {
		want = min(want, v.cfg.AnnouncedLevel())
	}
	if want > v.fsm.position.Load().Level {
		v.command(r, &replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: want}}})
	}
}

// command proposes one of the service's own commands. It returns nil when that
// failed: the next round, or the next leader, does it again.
func (v *Voter) command(r *reign, req *replication.Request) *replication.Answer {
	answer, err := v.proposer.Do(r.ctx, req)
	if err == nil {
		err = answer.Refused()
	}
	if err != nil {
		if r.ctx.Err() == nil {
			v.cfg.Logger.Debug("leader's own command failed", "node", v.cfg.NodeID, "term", r.term,
				"command", fmt.Sprintf("%T", req.GetOp()), "error", err)
		}
		return nil
	}
	return answer
}

// entries is the proposer's way into Raft. An ApplyFuture of hashicorp/raft is
// never answered when Raft stops between handing the entry to the state machine
// and applying it; this one ends then, with an unknown outcome.
type entries struct {
	raft    *raft.Raft
	stopped <-chan struct{} // closed when Raft has stopped
}

// Apply implements proposer.Raft.
func (e *entries) Apply(entry []byte, timeout time.Duration) raft.ApplyFuture {
	f := &entryFuture{ApplyFuture: e.raft.Apply(entry, timeout), stopped: e.stopped, err: make(chan error, 1)}
	// Ends when Raft answers. One for each entry, not for each request.
	go func() { f.err <- f.ApplyFuture.Error() }()
	return f
}

type entryFuture struct {
	raft.ApplyFuture
	stopped <-chan struct{}
	err     chan error
}

// Error implements raft.Future. It is called once.
func (f *entryFuture) Error() error {
	select {
	case err := <-f.err:
		return err
	case <-f.stopped:
	}
	select {
	case err := <-f.err:
		return err
	default:
		return raft.ErrRaftShutdown
	}
}
