package voter

import "github.com/hashicorp/raft"

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
