package voter

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// holdMost bounds how long entries are held back: the leader gives up a request
// after rpcTimeout, sends it again on another connection, and both would be held.
const holdMost = rpcTimeout / 2

// errBehind refuses entries that were held back for holdMost.
var errBehind = errors.New("this voter applies slower than entries come")

// intake stands between the network and Raft's loop. Raft takes in what others
// send as fast as it can store it, and keeps everything committed that is not
// applied yet in memory: up to 2,048 entries of a megabyte, on a voter that
// catches up faster than its engine takes changes. So entries wait here, one
// request per connection at most, while there is no room. Heartbeats do not
// come this way, and votes, snapshots and requests without entries pass at once:
// the commit index travels with them.
type intake struct {
	from <-chan raft.RPC
	to   chan raft.RPC
	room func(ctx context.Context) error // blocks until entries are welcome
	// refuse answers what this voter could not keep a promise to; nil: it can.
	refuse func(*raft.RequestPreVoteRequest) *raft.RequestPreVoteResponse

	stopping context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup
}

func newIntake(from <-chan raft.RPC) *intake {
	n := &intake{from: from, to: make(chan raft.RPC)}
	n.stopping, n.stop = context.WithCancel(context.Background())
	return n
}

// start lets requests in. Before it they wait with their senders.
func (n *intake) start(room func(ctx context.Context) error, refuse func(*raft.RequestPreVoteRequest) *raft.RequestPreVoteResponse) {
	n.room, n.refuse = room, refuse
	n.running.Go(n.run)
}

// close ends everything that start began. Raft must have stopped.
func (n *intake) close() {
	n.stop()
	n.running.Wait()
}

func (n *intake) run() {
	for {
		select {
		case rpc := <-n.from:
			if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && len(a.Entries) > 0 {
				// Ends with holdMost or close. The sender waits for the answer before
				// it sends the next on this connection, so order is not lost.
				n.running.Go(func() { n.hold(rpc) })
				continue
			}
			if asks, ok := rpc.Command.(*raft.RequestPreVoteRequest); ok {
				if no := n.refuse(asks); no != nil {
					rpc.Respond(no, nil)
					continue
				}
			}
			n.pass(rpc)
		case <-n.stopping.Done():
			return
		}
	}
}

// hold passes rpc on when there is room.
func (n *intake) hold(rpc raft.RPC) {
	ctx, cancel := context.WithTimeout(n.stopping, holdMost)
	defer cancel()
	if err := n.room(ctx); err != nil {
		rpc.Respond(nil, errBehind)
		return
	}
	a := rpc.Command.(*raft.AppendEntriesRequest)
	if first := decided(a); first != nil {
		n.pass(raft.RPC{Command: first, RespChan: make(chan raft.RPCResponse, 1)}) // nobody asks
	}
	n.pass(rpc)
}

// decided is the part of a that says what is committed, as a request of its own,
// or nil when there is none. Raft stores the entries of a request before it looks
// at its commit index, and so would apply only when the disk has them; when it is
// told first, it applies while the disk is at work. A leader might have sent the
// same. What a says of entries that come with it is left out, as of those between
// them: they may not be here yet.
func decided(a *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	commit := min(a.LeaderCommitIndex, a.PrevLogEntry)
	if commit == 0 {
		return nil
	}
	first := *a
	first.Entries = nil
	first.LeaderCommitIndex = commit
	return &first
}

func (n *intake) pass(rpc raft.RPC) {
	select {
	case n.to <- rpc:
	case <-n.stopping.Done():
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// cannotVote refuses a pre-vote while this voter's log hangs: a vote is written
// before it is given, so the promise would not be kept. Raft would make it, and
// whoever asked would begin a term, lose the election in it for want of an answer,
// and have kept the others from theirs for up to a second, several times over.
func (v *Voter) cannotVote(asks *raft.RequestPreVoteRequest) *raft.RequestPreVoteResponse {
	if v.log.WriteAge() <= v.cfg.StallAfter {
		return nil
	}
	v.cfg.Logger.Debug("promising no vote: the log could not store one", "node", v.cfg.NodeID, "asked_by", string(asks.ID))
	return &raft.RequestPreVoteResponse{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(v.cfg.NodeID), Addr: []byte(v.cfg.NodeID)},
		Term:      v.raft.CurrentTerm(),
	}
}

// awaitRoom blocks while more than Config.BacklogBytes of entries are committed
// and not applied. What is not known to be committed does not count: it is on
// disk, and only further requests can tell that it is committed.
func (v *Voter) awaitRoom(ctx context.Context) error {
	for {
		applied := v.fsm.applied.index.Load()
		if v.log.BytesBetween(applied, v.raft.CommitIndex()) <= v.cfg.BacklogBytes {
			return nil
		}
		if err := v.fsm.applied.wait(ctx, applied+1); err != nil {
			return err
		}
	}
}
