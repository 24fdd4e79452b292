package membership

import (
	"log/slog"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// Who speaks for a node.
//
// The secret of proxies makes a certificate for any node id, and who has a proxy's
// certificate of an own PKI says which node it is. So what a proxy says of itself
// counts as long as it does not have the id of a voter: it would end that voter as
// its copy, or take its address out of the others' books.

const (
	// maxSights bounds of how many agents it is remembered what they said.
	maxSights = 8192
	// maxSightBytes bounds what is remembered of an agent that does not vote.
	maxSightBytes = 4 << 10
)

// impostor reports whether who has shown a proxy's certificate, at address (empty: it
// came to us), has the id of a voter. One that has become a proxy is found out where
// it was known to be. It needs mu.
func (k *Keeper) impostor(id link.Identity, address string) bool {
	if id.Voter {
		return false
	}
	is := false
	if id.Node == k.cfg.Node {
		is = k.cfg.Voter
	} else if p := k.find(id.Node); p != nil {
		is = address == "" || address != p.Address
	} else if s := k.seen[id.Node]; s != nil && s.id.Voter && time.Since(s.at) < 2*settledInterval {
		is = address == "" || address != s.hello.GetSelf().GetAddress()
	}
	if is {
		k.sayOnce("impostor "+id.Node, slog.LevelWarn, "an agent with a proxy's certificate has the node id of a voter: what it says is not taken in; if it is not a voter that was made a proxy a moment ago, change the secret of the proxies",
			"node", id.Node, "address", address)
	}
	return is
}

// remembered is what of a hello is looked at later.
func remembered(h *link.Hello) *link.Hello {
	return &link.Hello{
		Self: h.GetSelf(), Cluster: h.GetCluster(), FeatureLevel: h.GetFeatureLevel(), Leader: h.GetLeader(),
		BootstrapExpect: h.GetBootstrapExpect(), Candidate: h.GetCandidate(), Instance: h.GetInstance(),
		Version: h.GetVersion(), Zone: h.GetZone(), Standby: h.GetStandby(), Pinned: h.GetPinned(),
		KeyIds: h.GetKeyIds(), KahunaUrl: h.GetKahunaUrl(),
	}
}

// see remembers what a node has said, and of too many forgets the one without a vote
// that was heard least lately. It needs mu.
func (k *Keeper) see(s *sight) {
	if !s.id.Voter && s.hello.SizeVT() > maxSightBytes {
		return
	}
	k.seen[s.id.Node] = s
	if len(k.seen) <= maxSights {
		return
	}
	var oldest *sight
	for _, other := range k.seen {
		if !other.id.Voter && (oldest == nil || other.at.Before(oldest.at)) {
			oldest = other
		}
	}
	if oldest != nil {
		delete(k.seen, oldest.id.Node)
	}
}

// voterOf is the node of a voter's certificate, and nothing of a proxy's.
func voterOf(id link.Identity) (node string) {
	if id.Voter {
		return id.Node
	}
	return ""
}
