package voter

import "github.com/hashicorp/raft"

// A voter that has forgotten what it acknowledged.
//
// What a voter has acknowledged is on its disk for good, and the leader counts on it.
// A disk that was set back (an old snapshot of its virtual machine, a copy that was put
// back) or that had not written what it said breaks this: fewer disks than a majority
// may have an entry that is committed. The leader notices when such a voter answers
// again: its log ends before what it had acknowledged in the same term. It says so, and
// sends what is missing. A leader that was elected meanwhile cannot know.

// acknowledged takes in that a peer has the log up to index, for the leader of term.
func (c *contacts) acknowledged(id raft.ServerID, term, index uint64) {
	c.change(id, func(last *contact) {
		if term > last.ackedTerm || term == last.ackedTerm && index > last.acked {
			last.ackedTerm, last.acked = term, index
		}
	})
}

// acked returns up to where a peer has acknowledged the log in term.
func (c *contacts) acked(id raft.ServerID, term uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.last[id]; last.ackedTerm == term {
		return last.acked
	}
	return 0
}

// remember looks at an answer of a peer that had acknowledged the log up to acked
// before it was asked.
func (t *transport) remember(id raft.ServerID, acked uint64, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if resp.Success && len(args.Entries) > 0 {
		t.contacts.acknowledged(id, args.Term, args.PrevLogEntry+uint64(len(args.Entries)))
	}
	if resp.Term != args.Term || resp.LastLog >= acked {
		return
	}
	said := false
	t.contacts.change(id, func(last *contact) { said, last.forgot = last.forgot, true })
	if !said {
		t.logger.Error("a voter has forgotten what it acknowledged: its disk was set back, or does not write what it says; remove it from the quorum and empty its data directory",
			"node", string(id), "acknowledged", acked, "log_ends", resp.LastLog, "term", args.Term)
	}
}

// forgot reports whether a peer has forgotten what it acknowledged to this voter,
// since this process began or the peer came into the configuration.
func (c *contacts) forgot(id raft.ServerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[id].forgot
}
