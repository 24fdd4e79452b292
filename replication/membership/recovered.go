package membership

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// What a recovery makes of a cluster (voter.Recover).
//
// It gets a new id: a second survivor that is recovered as well, by mistake or
// from a copy of a disk, becomes a cluster of its own, and the agents of the two
// leave each other alone. The id before it is kept in state.Succeeds and told, so
// that agents without a state of their own (proxies, and standbys that never had a
// vote) go on with the successor they meet first, and with no other one after that.

// maxSucceeds bounds the list of former ids; the oldest are dropped.
const maxSucceeds = 16

// MarkRecovered notes on the disk of an agent that does not run that it alone goes
// on with its cluster, under a new id, and that the nodes lost were removed for
// good: it refuses them, and tells the others. It returns both ids.
func MarkRecovered(dir, node string, lost []string) (cluster, before string, err error) {
	s, err := loadState(dir, node)
	if err != nil {
		return "", "", err
	}
	if s.Cluster == "" {
		return "", "", errors.New("this node belongs to no cluster: there is nothing to recover")
	}
	for _, n := range lost {
		if !slices.Contains(s.Removed, n) {
			s.Removed = append(s.Removed, n)
		}
	}
	slices.Sort(s.Removed)
	before = s.Cluster
	s.Succeeds = trimSucceeds(append(s.Succeeds, before))
	s.Cluster, s.Pledge = randomID(), nil
	// The address book names the lost ones only; whoever joins is entered anew.
	s.Peers = slices.DeleteFunc(s.Peers, func(p peer) bool { return slices.Contains(s.Removed, p.Node) })
	return s.Cluster, before, s.save(dir)
}

// Names are the names of the nodes in the address book on the disk of an agent that
// does not run, by node id.
func Names(dir, node string) (map[string]string, error) {
	s, err := loadState(dir, node)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for _, p := range s.Peers {
		if p.Name != "" {
			names[p.Node] = p.Name
		}
	}
	return names, nil
}

func trimSucceeds(ids []string) []string { return ids[max(0, len(ids)-maxSucceeds):] }

// validSucceeds are the former ids that a peer tells, as far as they are ids.
func validSucceeds(h *link.Hello) []string {
	ids := slices.Clone(h.GetSucceeds())
	return trimSucceeds(slices.DeleteFunc(ids, func(id string) bool { return id == "" || len(id) > maxClusterID }))
}

// maxClusterID bounds the length of a cluster's id in bytes.
const maxClusterID = 64

// stranger takes in a hello of an agent of another cluster. It reports whether
// this node has followed it, and belongs to that cluster now. It needs mu.
func (k *Keeper) stranger(id link.Identity, h *link.Hello) (followed bool) {
	ids := validSucceeds(h)
	name, cluster, own := cut(h.GetSelf().GetName()), cut(h.GetCluster()), k.state.Cluster
	switch {
	case !id.Voter || !slices.Contains(ids, own):
		k.sayOnce("foreign "+id.Node, slog.LevelError, "an agent with the same secret belongs to another cluster: it is left alone",
			"node", id.Node, "name", name, "cluster", cluster, "own_cluster", own)
		k.forgetPeer(id.Node)
	case k.ledBy != "" && k.ledBy != id.Node || k.ownLeaderSeen(id.Node):
		k.sayOnce("second "+cluster, slog.LevelError, "an agent says that it was recovered from this cluster, which is at work: it is left alone; stop one of the two",
			"node", id.Node, "name", name, "cluster", cluster, "own_cluster", own)
	case !k.askedSince(h, id.Node):
		return false // they may have had no leader when they were heard last: see what they say now
	case k.state.Bootstrapped || k.state.Joined || k.state.Seated:
		k.successor = cluster
		k.sayOnce("recovered "+cluster, slog.LevelError, "the cluster of this node was recovered without it: empty its data directory, so that this host joins as a new node",
			"node", id.Node, "name", name, "cluster", cluster, "own_cluster", own, "data_dir", k.cfg.Dir)
	default:
		removed := h.GetRemoved()
		err := k.record(func(s *state) {
			s.Cluster, s.Succeeds = h.GetCluster(), ids
			s.Peers = slices.DeleteFunc(slices.Clone(s.Peers), func(p peer) bool { return slices.Contains(removed, p.Node) })
		})
		if err != nil {
			return false // logged; the next hello tries again
		}
		k.cfg.Logger.Warn("the cluster was recovered: this agent follows its new one",
			"node", id.Node, "name", name, "cluster", cluster, "before", own)
		return true
	}
	return false
}

// askedSince reports whether the voters of this node's own cluster, but for those that
// the successor has removed, were heard since it was met first, or cannot be reached.
// If not they are asked at once. It needs mu.
func (k *Keeper) askedSince(successor *link.Hello, except string) bool {
	met, again := k.met[successor.GetCluster()]
	if !again {
		if len(k.met) >= maxSucceeds {
			clear(k.met)
		}
		met = time.Now()
		k.met[successor.GetCluster()] = met
	}
	asked := true
	for _, p := range k.state.Peers {
		if p.Node == except {
			continue
		}
		t, s := k.tries[p.Address], k.seen[p.Node]
		if (t == nil || !t.failed && t.node == p.Node) && (s == nil || s.at.Before(met)) {
			asked = false
		}
	}
	if !asked {
		select {
		case k.kick <- struct{}{}:
		default:
		}
	}
	return asked
}

// ownLeaderSeen reports whether a voter of this node's own cluster, which is there,
// has told of a leader. It needs mu.
func (k *Keeper) ownLeaderSeen(except string) bool {
	for node, s := range k.seen {
		if node == except || !s.id.Voter || s.hello.GetCluster() != k.state.Cluster || s.hello.GetLeader() == "" ||
			s.hello.GetSelf().GetRole() != link.Role_ROLE_VOTER || time.Since(s.at) > seenFor+settledInterval {
			continue
		}
		if p := k.find(node); p == nil || k.tries[p.Address] == nil || !k.tries[p.Address].failed {
			return true
		}
	}
	return false
}

// forgetPeer takes a node out of the address book. It needs mu.
func (k *Keeper) forgetPeer(node string) {
	if k.find(node) == nil {
		return
	}
	k.state.Peers = slices.DeleteFunc(slices.Clone(k.state.Peers), func(p peer) bool { return p.Node == node })
	k.unsaved = true
}

// learnSucceeds takes over what a voter of the same cluster knows of its former
// ids. It needs mu.
func (k *Keeper) learnSucceeds(h *link.Hello) {
	if h.GetCluster() == "" || h.GetCluster() != k.state.Cluster {
		return
	}
	if ids := validSucceeds(h); len(ids) > len(k.state.Succeeds) {
		_ = k.record(func(s *state) { s.Succeeds = ids }) // logged; the next hello tries again
	}
}
