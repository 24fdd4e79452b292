package voter

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/pace"
)

// beat has the heartbeats of a leader to all its peers leave together: an idle
// process pays for each time that it is woken, far more than for what it then does.
//
// Raft pauses between HeartbeatTimeout/10 and twice that after a heartbeat, to each
// peer on its own. Here one waits for the next of the moments that lie every apart
// (pace.Next: whatever else is looked at then costs no wake of its own), unless it
// would then come later than every after the one before it. With twice
// HeartbeatTimeout/10 the longest pause is what Raft's own longest is.
type beat struct {
	every time.Duration

	mu   sync.Mutex
	last map[raft.ServerID]time.Time // when the last one to a peer left
}

func newBeat(every time.Duration) *beat {
	return &beat{every: every, last: make(map[raft.ServerID]time.Time)}
}

// await blocks until a heartbeat to id may leave, or ctx ends.
func (b *beat) await(ctx context.Context, id raft.ServerID) error {
	now := time.Now()
	wait := pace.Next(b.every)
	b.mu.Lock()
	late := now.Add(wait).Sub(b.last[id]) > b.every // or the first one
	b.mu.Unlock()
	if !late {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
			now = time.Now()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last[id] = now
	return nil
}

// heartbeats sends a heartbeat, and as long as Raft need not be asked the next ones
// too: between two of them Raft would sleep for a random time, and to wake for it was
// much of what an idle leader cost. It returns the last answer.
//
// Raft learns of the answers before that from the pipeline (pipeline.credit), at the
// moment when they come. When it cannot, or an answer is not a plain yes, it gets
// that one here. It also does after refresh: Raft's goroutine is to see before long
// that it should end, or that the peer is another one.
func (t *transport) heartbeats(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for began, rides := time.Now(), false; ; {
		if err := t.beat.await(t.stopping, id); err != nil {
			return err
		}
		sent := time.Now()
		if err := t.exchange(id, target, args, resp); err != nil {
			return err
		}
		p, ok := t.pipelines.Load(id)
		if !ok || time.Since(began) >= t.refresh || !p.(*pipeline).credit(sent, args, resp) {
			return nil
		}
		if !rides {
			rides = true
			t.riding.Add(1)
			defer t.riding.Add(-1)
		}
	}
}

// isHeartbeat reports whether Raft sends a as a heartbeat: it says nothing of the
// log, and the other side passes it by its loop.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return len(a.Entries) == 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && a.LeaderCommitIndex == 0
}

// SetHeartbeatHandler implements raft.Transport. handle takes in a heartbeat beside
// Raft's loop, which may be at the disk.
//
// hashicorp/raft 1.8 lets it also begin a term and end leadership there, while the
// loop reads both. A leader whose loop takes the next entry just then stores it
// under the term of another leader, and two logs differ in an entry that looks the
// same (hashicorp/raft issue 695). And of two newer terms, one of a heartbeat and
// one that the loop voted in, the lower one may be written last: a voter then
// acknowledges entries of a leader that its vote has deposed. Terms wait for what
// the log has not on disk yet, so there would be time for that.
//
// So only a heartbeat that changes nothing, of the term in which this voter follows,
// is taken in that way. Any other one waits for the loop, like other requests.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if handle == nil {
		t.Transport.SetHeartbeatHandler(nil)
		return
	}
	t.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		a, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if follows := t.follows.Load(); ok && follows != nil && (*follows)(a.Term) {
			handle(rpc)
			return
		}
		t.intake.pass(rpc)
	})
}

// hastenHeartbeats says how to know that this voter follows in a term. Until then
// all heartbeats wait for Raft's loop.
func (t *transport) hastenHeartbeats(follows func(term uint64) bool) { t.follows.Store(&follows) }

// followsIn reports whether this voter is a follower in term.
func (v *Voter) followsIn(term uint64) bool {
	return v.raft.State() == raft.Follower && v.raft.CurrentTerm() == term
}
