package voter

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// contacts knows when each peer last answered an AppendEntries of this voter,
// heartbeats included. That, and not gossip, tells whether a voter is there.
type contacts struct {
	mu   sync.Mutex
	last map[raft.ServerID]time.Time
}

func (c *contacts) heard(id raft.ServerID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[raft.ServerID]time.Time)
	}
	c.last[id] = time.Now()
}

// silence returns since when each of the servers has not answered, counted from
// since at the earliest. It forgets all others.
func (c *contacts) silence(servers []raft.Server, since time.Time) map[string]time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	silent := make(map[string]time.Duration, len(servers))
	kept := make(map[raft.ServerID]time.Time, len(servers))
	for _, s := range servers {
		last := since
		if at, ok := c.last[s.ID]; ok {
			kept[s.ID] = at
			if at.After(last) {
				last = at
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
		if !c.last[s.ID].After(since) {
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
