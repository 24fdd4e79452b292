package voter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/proposer"
	"github.com/kahu-sh/kahu/replication/raftlog"
	"github.com/kahu-sh/kahu/replication/reads"
	"github.com/kahu-sh/kahu/replication/wallclock"
)

// Voter is a running member of the quorum. Its methods may be called
// concurrently.
type Voter struct {
	cfg     Config
	started time.Time

	log       *raftlog.Log
	fsm       *fsm
	snapshots *snapshots
	transport *transport
	raft      *raft.Raft
	entries   *entries
	proposer  *proposer.Proposer
	wall      *wallclock.Clock     // of what this voter proposes while it leads
	local     *reads.Barrier       // read index, on the leader
	remote    *reads.Group[uint64] // read index from the leader, on a follower
	gate      *gate                // of transactions
	parked    atomic.Int64         // requests that wait for a transaction's lock
	space     space                // left on the disk

	serving atomic.Pointer[reign]      // nil: this voter does not lead, or not yet
	leads   atomic.Pointer[leadership] // who leads; never nil

	mu         sync.Mutex
	waiting    chan struct{} // closed and replaced when serving or leading changes
	stopErr    error
	stopOnce   sync.Once
	failOnce   sync.Once
	stopping   chan struct{} // closed when Shutdown begins
	raftGone   chan struct{} // closed when Raft has stopped
	background sync.WaitGroup
}

// Open starts a voter on its storage. A voter that was in a cluster takes part
// again; a new one waits for Bootstrap, or for a leader that adds it. Errors
// that wrap ErrRefused are not healed by a restart.
func Open(cfg Config) (*Voter, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("voter: %w", err)
	}
	v := &Voter{
		cfg:      cfg,
		started:  time.Now(),
		waiting:  make(chan struct{}),
		stopping: make(chan struct{}),
		raftGone: make(chan struct{}),
	}
	// What was opened is closed again in reverse, unless everything was.
	var opened []func() error
	undo := func(err error) (*Voter, error) {
		for i := len(opened) - 1; i >= 0; i-- {
			err = errors.Join(err, opened[i]())
		}
		return nil, err
	}

	if v.log, err = openLog(cfg, v.fail); err != nil {
		return undo(err)
	}
	opened = append(opened, v.log.Close)
	if v.fsm, err = newFSM(cfg, v.fail, v.markDiverged); err != nil {
		return undo(err)
	}
	opened = append(opened, v.fsm.close)
	if err = checkLog(v.log, *v.fsm.position.Load(), cfg.Logger); err != nil {
		return undo(err)
	}
	if err = forgetHalfBootstrap(v.log, *v.fsm.position.Load()); err != nil {
		return undo(err)
	}
	v.snapshots = newSnapshots(v.fsm, cfg)
	if v.transport, err = newTransport(cfg, v.log, func() bool { return v.stalledFor() > 0 }); err != nil {
		return undo(err)
	}
	opened = append(opened, v.transport.Close)
	if v.raft, err = raft.NewRaft(raftConfig(cfg), v.fsm, v.log, v.log, v.snapshots, v.transport); err != nil {
		return undo(fmt.Errorf("starting raft: %w", err))
	}
	v.log.RunAhead(v.leadsOthers)
	v.transport.hastenHeartbeats(v.followsIn)
	v.transport.watchReplication(v.replicatesTo)
	v.transport.intake.start(v.awaitRoom, v.cannotVote) // ends with Raft
	v.leads.Store(newLeadership(0, ""))
	v.entries = &entries{raft: v.raft, stopped: v.raftGone}
	v.wall = wallclock.New(wallclock.Config{
		Wall: cfg.Wall, Elapsed: cfg.Boottime, Self: cfg.NodeID, Voters: v.voterIDs, Ask: cfg.AskWall, Logger: cfg.Logger,
	})
	v.proposer = proposer.New(v.entries, v.wall.Now)
	v.local = reads.New(reads.Config{
		Self:        cfg.NodeID,
		Lead:        v.leadNow,
		CommitIndex: v.raft.CommitIndex,
		Term:        v.raft.CurrentTerm,
		AskTerm:     cfg.AskTerm,
	})
	v.remote = reads.NewGroup(v.askLeader)
	v.gate = newGate(cfg.MaxTransactions, func() int { return int(v.fsm.openTx.Load()) }, time.Now)
	// All end when stopping is closed.
	v.observeLeader()
	v.background.Go(v.lead)
	v.background.Go(v.compact)
	v.background.Go(v.watchStall)
	v.space.free.Store(-1)
	if cfg.FreeBytes != nil && cfg.MinFreeBytes > 0 {
		v.background.Go(v.watchSpace)
	}
	if cfg.MaxTransactions > 0 {
		v.background.Go(v.watchSlots)
	}
	return v, nil
}

// Shutdown stops the voter within about timeout, leadership first, so that the
// others need not notice its silence. With a timeout of 0 it stops as if it were
// killed: nothing is handed over and nothing flushed. The storage may be closed
// after it, unless it returns an error: then Raft hangs in the disk, and only
// the end of the process helps. A second call returns what the first did.
func (v *Voter) Shutdown(timeout time.Duration) error {
	v.stopOnce.Do(func() { v.stopErr = v.shutdown(timeout) })
	return v.stopErr
}

func (v *Voter) shutdown(timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	if timeout > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), timeout/2)
		if err := v.handOver(ctx); err != nil {
			v.cfg.Logger.Info("leadership was not handed over", "node", v.cfg.NodeID, "error", err)
		}
		cancel()
	}
	close(v.stopping)
	stopped := make(chan struct{})
	stop := v.raft.Shutdown()
	v.transport.cut()
	go func() { // ends when Raft's goroutines have, and no write is under way
		_ = stop.Error()   // always nil: a shutdown cannot fail, it can only hang
		_ = v.log.Settle() // Fatal was told
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(max(time.Until(deadline), minStop)):
		return errors.New("raft does not stop: its disk does not answer")
	}
	close(v.raftGone)
	v.background.Wait()
	v.proposer.Close()
	v.local.Close()
	v.remote.Close()
	var err error
	if timeout > 0 && v.log.Err() == nil {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		err = v.fsm.flush(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil // the log has it
		}
	}
	return errors.Join(err, v.fsm.close(), v.log.Close())
}

// minStop is how long Raft gets to stop, whatever the timeout.
const minStop = 5 * time.Second

// leadsOthers reports whether this voter leads and can decide nothing alone. While
// Raft stores an entry of its own it counts by this configuration, unless the
// entry is itself a newer one (doc.go).
func (v *Voter) leadsOthers() bool {
	if v.raft.State() != raft.Leader {
		return false
	}
	voters := 0
	for _, s := range v.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return voters > 1
}

// fail ends the process, once. It may run with locks held.
func (v *Voter) fail(err error) {
	v.failOnce.Do(func() { v.cfg.Fatal(fmt.Errorf("voter %s: %w", v.cfg.NodeID, err)) })
}

// markDiverged makes the next start refuse (start.go). It cannot be undone by a
// restart: the engine may have been flushed with the wrong state.
func (v *Voter) markDiverged(index uint64, err error) {
	_ = v.log.Set(divergedKey, fmt.Appendf(nil, "at index %d: %v", index, err))
}

// changed returns a channel that is closed when this voter begins or ceases to
// serve, or to lead.
func (v *Voter) changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.waiting
}

func (v *Voter) wakeWaiting() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.waiting)
	v.waiting = make(chan struct{})
}
