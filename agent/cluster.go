package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

// heardFor is how long an agent that has said hello counts as there.
const heardFor = 30 * time.Second

// silentFor is when a voter that does not answer its leader does not count as there.
const silentFor = 5 * time.Second

// minIDPrefix is how much of a node's id has to be named.
const minIDPrefix = 4

// cluster shows and changes who takes part, for operators.
type cluster struct{ a *agent }

var _ localapi.Cluster = cluster{}

// Members implements localapi.Cluster: what gossip, the link and Raft know.
func (c cluster) Members() wire.ClusterMembers {
	q := c.a.quorum
	out := wire.ClusterMembers{ClusterID: q.keeper.Status().Cluster, Leader: c.a.forward.Leader(), Members: []wire.ClusterMember{}}
	if l := q.keeper.Leader(); l != "" {
		out.Leader = l
	}
	byNode := make(map[string]*wire.ClusterMember)
	entry := func(node string) *wire.ClusterMember {
		if byNode[node] == nil {
			byNode[node] = &wire.ClusterMember{Node: node, Role: wire.MemberUnknown, Self: node == c.a.identity.node}
		}
		return byNode[node]
	}
	for _, p := range q.keeper.Status().Peers {
		m := entry(p.Node)
		m.Host, m.Address, m.Role, m.Alive = p.Name, p.Address, wire.MemberVoter, p.Seen
	}
	for _, g := range q.gossip.members() {
		m := entry(g.Node)
		m.Host, m.Address, m.Role, m.Zone, m.Version, m.KeyIDs = g.Name, g.Address, g.Role, g.Zone, g.Version, g.KeyIDs
		m.Alive = m.Alive || g.Alive
	}
	for _, h := range q.keeper.Heard() {
		if h.Heard > heardFor && byNode[h.Node] != nil {
			continue
		}
		m := entry(h.Node)
		m.Host, m.Zone, m.Version = h.Name, h.Zone, h.Version
		if m.KeyIDs == nil || m.Self { // gossip is sooner than a hello
			m.KeyIDs = h.KeyIDs
		}
		m.Alive = m.Alive || h.Heard <= heardFor
		if h.Address != "" {
			m.Address = h.Address
		}
		switch {
		case h.Standby:
			m.Role = wire.MemberStandby
		case !h.MayVote:
			m.Role = wire.MemberProxy
		case m.Role == wire.MemberUnknown:
			m.Role = wire.MemberVoter
		}
	}
	c.seats(&out, entry)
	entry(c.a.identity.node).Role = c.ownRole(byNode)
	for _, m := range byNode {
		m.Leader = m.Node == out.Leader && out.Leader != ""
		out.Members = append(out.Members, *m)
	}
	rank := map[string]int{wire.MemberVoter: 0, wire.MemberCatchingUp: 1, wire.MemberStandby: 2}
	slices.SortFunc(out.Members, func(a, b wire.ClusterMember) int {
		ra, aOK := rank[a.Role]
		rb, bOK := rank[b.Role]
		if !aOK {
			ra = 3
		}
		if !bOK {
			rb = 3
		}
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Node, b.Node))
	})
	return out
}

// seats corrects roles by the Raft configuration, where this agent is in it.
func (c cluster) seats(out *wire.ClusterMembers, entry func(string) *wire.ClusterMember) {
	q := c.a.quorum
	if q.voter == nil || q.keeper.Standby() {
		return
	}
	s := q.voter.Status()
	if s.Leader != "" {
		out.Leader = s.Leader
	}
	if len(s.Peers) == 0 {
		return
	}
	silence := q.voter.Silence()
	in := make(map[string]bool)
	for _, p := range s.Peers {
		m := entry(p.ID)
		in[p.ID] = true
		m.Role = wire.MemberCatchingUp
		if p.Voter {
			m.Role = wire.MemberVoter
		}
		if d, ok := silence[p.ID]; ok {
			ms := d.Milliseconds()
			m.SilentMS, m.Alive = &ms, d < silentFor
		}
	}
	for _, h := range q.keeper.Heard() {
		if m := entry(h.Node); !in[h.Node] && m.Role == wire.MemberVoter {
			m.Role = wire.MemberStandby // it may vote, and does not
		}
	}
}

// ownRole is this agent's role: what it says of itself, unless Raft knows better.
func (c cluster) ownRole(byNode map[string]*wire.ClusterMember) string {
	if m := byNode[c.a.identity.node]; m != nil && m.Role == wire.MemberCatchingUp {
		return m.Role
	}
	return c.a.quorum.role()
}

// kinds says which change an action is.
var kinds = map[wire.ClusterAction]link.ChangeRequest_Kind{
	wire.ClusterPromote:  link.ChangeRequest_KIND_PROMOTE,
	wire.ClusterDemote:   link.ChangeRequest_KIND_DEMOTE,
	wire.ClusterLeave:    link.ChangeRequest_KIND_DEMOTE,
	wire.ClusterRemove:   link.ChangeRequest_KIND_REMOVE,
	wire.ClusterTransfer: link.ChangeRequest_KIND_TRANSFER,
}

// Change implements localapi.Cluster.
func (c cluster) Change(ctx context.Context, action wire.ClusterAction, name string) (wire.ClusterChanged, error) {
	changed := wire.ClusterChanged{Action: action}
	kind, ok := kinds[action]
	if !ok {
		return changed, wire.Refuse(wire.Invalid, fmt.Sprintf("there is no change %q", action))
	}
	known := c.Members()
	members := known.Members
	node, err := findNode(members, name)
	switch {
	case action == wire.ClusterLeave:
		node = c.a.identity.node
	case name == "" && action == wire.ClusterTransfer:
	case err != nil:
		return changed, err
	}
	changed.Node = node
	err = c.a.quorum.keeper.Ask(ctx, kind, node)
	var notLeader *replication.NotLeaderError
	switch {
	case err == nil:
		changed.Detail = outcome(action, label(members, node))
		if action == wire.ClusterTransfer && node != "" && node == known.Leader {
			changed.Detail = label(members, node) + " leads already"
		}
		return changed, nil
	case errors.Is(err, link.ErrRefused):
		return changed, wire.Refuse(wire.Aborted, refusal(err))
	case errors.As(err, &notLeader), errors.Is(err, replication.ErrUnavailable):
		return changed, wire.Refuse(wire.Unavailable, "no leader was found that could do it: "+oneLine(err))
	}
	return changed, wire.Refuse(wire.UnknownOutcome, "it may have been done, see kahu cluster members: "+oneLine(err))
}

func outcome(action wire.ClusterAction, node string) string {
	switch action {
	case wire.ClusterPromote:
		return node + " was asked to take a vote: it catches up first, and gets it then; kahu cluster members tells when it is a voter"
	case wire.ClusterDemote:
		return node + " votes no more, and stays an agent; kahu cluster promote gives it back"
	case wire.ClusterLeave:
		return "this agent votes no more, also not after a restart; kahu cluster promote gives it back"
	case wire.ClusterRemove:
		return node + " was removed for good; its host can join as a new node, with an empty data directory"
	}
	return "leadership was handed over"
}

// refusal is the reason alone: who refused, and that it did, is of no use.
func refusal(err error) string {
	text := oneLine(err)
	if i := strings.LastIndex(text, link.ErrRefused.Error()+": "); i >= 0 {
		return text[i+len(link.ErrRefused.Error()+": "):]
	}
	return text
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func label(members []wire.ClusterMember, node string) string {
	for _, m := range members {
		if m.Node == node && m.Host != "" {
			return m.Host + " (" + node[:min(len(node), 8)] + ")"
		}
	}
	return node
}

// findNode turns what an operator wrote into a node id: the id, the beginning of
// one, or a host name, when only one agent is meant.
func findNode(members []wire.ClusterMember, name string) (string, error) {
	var found []wire.ClusterMember
	for _, m := range members {
		switch {
		case m.Node == name:
			return name, nil
		case m.Host == name, len(name) >= minIDPrefix && strings.HasPrefix(m.Node, name):
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return "", wire.Refuse(wire.NotFound, fmt.Sprintf("no agent %.100q is known; kahu cluster members lists them", name))
	case 1:
		return found[0].Node, nil
	}
	// A host that lost its data directory comes back as another node.
	var which []string
	for _, m := range found {
		state := "not heard"
		if m.Alive {
			state = "alive"
		}
		which = append(which, fmt.Sprintf("%s (%s, %s)", m.Node, m.Role, state))
	}
	return "", wire.Refuse(wire.Invalid, fmt.Sprintf("%.100q can be %s; give the id", name, strings.Join(which, " or ")))
}
