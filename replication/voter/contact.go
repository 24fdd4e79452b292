package voter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
)

// contacts knows when each peer last answered an AppendEntries of this voter,
// heartbeats included. That, and not gossip, tells whether a voter is there.
type contacts struct {
	mu   sync.Mutex
	last map[raft.ServerID]contact
}

// contact is the last answer of a peer.
type contact struct {
	at      time.Time     // zero: there was none
	lastLog uint64        // index at which the peer's log ended
	misses  uint64        // how often it has not answered in time, before and since
	miss    chan struct{} // closed at the next of them; nil: nobody waits
	hear    chan struct{} // closed at the next answer; nil: nobody waits

	ackedTerm, acked uint64 // up to where it has acknowledged the log, in that term
	forgot           bool   // its log ended before that, later
}

// heard takes in an answer, and returns for how long there was none before; at most
// since this process began to ask.
func (c *contacts) heard(id raft.ServerID, lastLog uint64) (silence time.Duration) {
	c.change(id, func(last *contact) {
		now := time.Now()
		if !last.at.IsZero() {
			silence = now.Sub(last.at)
		}
		last.at, last.lastLog = now, lastLog
		if last.hear != nil {
			close(last.hear)
			last.hear = nil
		}
	})
	return silence
}

// next is closed when a peer answers the next time.
func (c *contacts) next(id raft.ServerID) (heard <-chan struct{}) {
	c.change(id, func(last *contact) {
		if last.hear == nil {
			last.hear = make(chan struct{})
		}
		heard = last.hear
	})
	return heard
}

// missed takes in that a peer has not answered an AppendEntries, or not in time.
func (c *contacts) missed(id raft.ServerID) {
	c.change(id, func(last *contact) {
		last.misses++
		if last.miss != nil {
			close(last.miss)
			last.miss = nil
		}
	})
}

func (c *contacts) change(id raft.ServerID, how func(*contact)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[raft.ServerID]contact)
	}
	last := c.last[id]
	how(&last)
	c.last[id] = last
}

// misses returns how often a peer has not answered in time, and a channel that is
// closed when that happens again.
func (c *contacts) misses(id raft.ServerID) (n uint64, next <-chan struct{}) {
	c.change(id, func(last *contact) {
		if last.miss == nil {
			last.miss = make(chan struct{})
		}
		n, next = last.misses, last.miss
	})
	return n, next
}

// of returns the last contact with a peer, if there was one.
func (c *contacts) of(id raft.ServerID) (contact, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.last[id]
	return last, !last.at.IsZero()
}

// silence returns since when each of the servers has not answered, counted from
// since at the earliest. It forgets all others.
func (c *contacts) silence(servers []raft.Server, since time.Time) map[string]time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	silent := make(map[string]time.Duration, len(servers))
	kept := make(map[raft.ServerID]contact, len(servers))
	for _, s := range servers {
		last := since
		if heard, ok := c.last[s.ID]; ok {
			kept[s.ID] = heard
			if heard.at.After(last) {
				last = heard.at
			}
		}
		silent[string(s.ID)] = max(0, now.Sub(last))
	}
	c.last = kept
	return silent
}

// unheard returns which of the servers have not answered after since.
func (c *contacts) unheard(servers []raft.Server, since time.Time) (nodes []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range servers {
		if !c.last[s.ID].at.After(since) {
			nodes = append(nodes, string(s.ID))
		}
	}
	return nodes
}

// Unheard returns which other servers of the configuration have not answered this
// leader once since it began to lead: of those Silence says nothing yet. It is nil
// on a voter that does not lead.
func (v *Voter) Unheard() []string {
	r := v.serving.Load()
	if r == nil {
		return nil
	}
	nodes := v.transport.contacts.unheard(v.raft.GetConfiguration().Configuration().Servers, r.began)
	return slices.DeleteFunc(nodes, func(node string) bool { return node == v.cfg.NodeID })
}

// Confirm asks another voter, after it was called, whether it is in the term in which
// this one leads, and returns nil when it is. It blocks until the answer, or ctx ends.
func (v *Voter) Confirm(ctx context.Context, node string) error {
	r := v.serving.Load()
	if r == nil {
		return &replication.NotLeaderError{}
	}
	term, err := v.cfg.AskTerm(ctx, node)
	switch {
	case err != nil:
		return fmt.Errorf("asking node %s for its term: %w", node, err)
	case term != r.term:
		return fmt.Errorf("node %s is in term %d, and this one leads in term %d", node, term, r.term)
	}
	return nil
}

// Silence returns for how long each server of the configuration has not
// answered this leader, since it began to lead at most; 0 for itself. It is nil
// on a voter that does not lead.
func (v *Voter) Silence() map[string]time.Duration {
	r := v.serving.Load()
	if r == nil {
		return nil
	}
	silent := v.transport.contacts.silence(v.raft.GetConfiguration().Configuration().Servers, r.began)
	silent[v.cfg.NodeID] = 0
	return silent
}
