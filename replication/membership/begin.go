package membership

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// act does what follows from what was seen. It reports whether there is nothing
// to hurry for.
func (k *Keeper) act() (settled bool) {
	if !k.cfg.Voter {
		return k.actAsProxy()
	}
	if k.cluster() == "" {
		k.begin()
	}
	if k.cluster() == "" {
		return false
	}
	return k.finishBootstrap() && k.join() && k.govern()
}

func (k *Keeper) cluster() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.Cluster
}

// record makes a durable change of the state, or none. It needs mu.
func (k *Keeper) record(f func(s *state)) error {
	next := *k.state
	f(&next)
	if err := next.save(k.cfg.Dir); err != nil {
		k.cfg.Logger.Error("membership cannot be stored, so nothing is decided", "error", err)
		return err
	}
	k.state, k.unsaved = &next, false
	return nil
}

// adopt makes this node one of a cluster that exists. It needs mu.
func (k *Keeper) adopt(cluster string) {
	if k.record(func(s *state) { s.Cluster = cluster }) == nil {
		k.cfg.Logger.Info("this node belongs to a cluster now", "cluster", cluster)
	}
}

// clusters returns the clusters that voters seen lately are in. It needs mu.
func (k *Keeper) clusters() []string {
	found := make(map[string]bool)
	for _, s := range k.seen {
		if c := s.hello.GetCluster(); c != "" && s.id.Voter && time.Since(s.at) < seenFor {
			found[c] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// veto returns why no cluster may begin: somebody was in one. It needs mu.
func (k *Keeper) veto(except string) string {
	for _, node := range slices.Sorted(maps.Keys(k.seen)) {
		if c := k.seen[node].hello.GetCluster(); c != "" && c != except {
			return fmt.Sprintf("node %s (%s) belongs to cluster %s", node, cut(k.seen[node].hello.GetSelf().GetName()), c)
		}
	}
	return ""
}

// actAsProxy remembers the cluster, so that this agent can veto another one.
func (k *Keeper) actAsProxy() (settled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := k.clusters()
	if k.state.Cluster == "" && len(found) == 1 {
		k.adopt(found[0])
	}
	if k.state.Cluster == "" {
		k.doing = "looking for a voter"
		return false
	}
	settled = slices.Contains(found, k.state.Cluster)
	k.doing = ""
	if !settled {
		k.doing = "looking for a voter of cluster " + k.state.Cluster
		if len(found) > 0 {
			k.doing += fmt.Sprintf("; what answers is cluster %s: if it has taken the other's place, as one that was restored from a backup does, empty the data directory %s",
				strings.Join(found, ", "), k.cfg.Dir)
		}
	}
	return settled
}

// begin brings a voter without a cluster into one, or a step nearer.
func (k *Keeper) begin() {
	k.mu.Lock()
	found, mine := k.clusters(), k.state.Pledge
	switch {
	case len(found) > 1:
		k.doing = "two clusters can be reached: " + strings.Join(found, ", ")
		k.sayOnce("two clusters", slog.LevelError, "voters of two clusters can be reached: this node joins neither, separate them first", "clusters", found)
	case len(found) == 1 && (mine == nil || mine.Cluster == found[0]):
		k.adopt(found[0]) // mine was committed, or there is none
	case mine == nil:
		if mine = k.makePledge(); mine == nil {
			break
		}
		fallthrough
	case mine.proposer() == k.cfg.Node:
		k.mu.Unlock()
		k.propose(mine)
		return
	default:
		k.doing = fmt.Sprintf("pledged to begin cluster %s with %s; node %s decides (if it is gone for good, empty this data directory)",
			mine.Cluster, strings.Join(mine.Members, ", "), mine.proposer())
		k.mu.Unlock()
		k.askProposer(mine)
		return
	}
	k.mu.Unlock()
}

// makePledge pledges this node to a proposal of its own, when it is the one to
// propose. It needs mu.
func (k *Keeper) makePledge() *pledge {
	n := k.cfg.Expect
	k.begins = k.begins || k.mayBegin() // once a candidate, always: the others see it
	if n > 0 && !k.begins {
		k.doing = "waiting for a cluster to join: the hosts that --join names begin it"
		return nil
	}
	if n == 0 {
		k.doing = "waiting for a cluster to join"
		k.sayOnce("waiting", slog.LevelInfo, "waiting for a cluster to join; --bootstrap-expect N would begin one", "seeds", k.cfg.Seeds)
		return nil
	}
	if time.Now().Before(k.gaveUp.until) {
		return nil // what kept it from beginning is hardly over; doing says what it was
	}
	if why := k.veto(""); why != "" {
		k.doing = "no new cluster is begun: " + why + ", whose voters cannot be reached"
		k.sayOnce("veto", slog.LevelWarn, "no new cluster is begun: an agent with this secret was in one, and its voters cannot be reached", "reason", why)
		return nil
	}
	candidates := []string{k.cfg.Node}
	for node, s := range k.seen {
		if !s.id.Voter || !s.hello.GetCandidate() || s.hello.GetBootstrapExpect() == 0 || time.Since(s.at) >= seenFor {
			continue
		}
		if int(s.hello.GetBootstrapExpect()) != n {
			k.doing = fmt.Sprintf("bootstrap-expect is %d here and %d on node %s (%s): make them the same",
				n, s.hello.GetBootstrapExpect(), node, cut(s.hello.GetSelf().GetName()))
			k.sayMismatch(node, s.hello.GetSelf().GetName(), s.hello.GetBootstrapExpect())
			return nil
		}
		candidates = append(candidates, node)
	}
	slices.Sort(candidates)
	switch {
	case len(candidates) < n:
		k.doing = fmt.Sprintf("waiting for %d more voters to begin a cluster of %d", n-len(candidates), n)
		k.sayOnce(k.doing, slog.LevelInfo, "waiting for voters to begin a cluster", "have", len(candidates), "bootstrap_expect", n)
		return nil
	case len(candidates) >= 2*n:
		k.doing = fmt.Sprintf("%d voters want to begin a cluster of %d, which could become two: start at most %d of them with bootstrap-expect", len(candidates), n, 2*n-1)
		k.sayOnce("too many", slog.LevelError, "too many voters want to begin a cluster, which could become two: start fewer of them with bootstrap-expect",
			"candidates", len(candidates), "bootstrap_expect", n, "at_most", 2*n-1)
		return nil
	}
	members := candidates[:n]
	if members[0] != k.cfg.Node {
		k.doing = fmt.Sprintf("waiting for node %s to propose a cluster of %d", members[0], n)
		return nil
	}
	p := &pledge{Cluster: randomID(), Members: members, Expect: n}
	if k.record(func(s *state) { s.Pledge = p }) != nil {
		return nil
	}
	return p
}

// mayBegin reports whether this node is a candidate. With role auto, the same
// configuration on any number of hosts begins one cluster: when --join names
// enough hosts, those begin it. Where everybody names only the others, too few of
// those that are named want to begin, and all may. That it becomes one cluster and
// not two does not depend on any of this. It needs mu.
func (k *Keeper) mayBegin() bool {
	if !k.cfg.Auto || len(k.cfg.Seeds) < k.cfg.Expect {
		return true
	}
	named, candidates := make(map[string]bool), 0
	for _, s := range append(slices.Clone(k.cfg.Seeds), k.cfg.Found()...) {
		t := k.tries[s]
		if s == k.cfg.Address || t != nil && !t.failed && t.node == k.cfg.Node {
			return true
		}
		if t == nil {
			continue
		}
		if seen := k.seen[t.node]; seen != nil && time.Since(seen.at) < seenFor && seen.hello.GetCluster() == "" && !named[t.node] {
			named[t.node] = true
			if seen.hello.GetCandidate() {
				candidates++
			}
		}
	}
	return k.begins || len(named) >= k.cfg.Expect && candidates < k.cfg.Expect
}

func (k *Keeper) sayMismatch(node, name string, theirs uint32) {
	k.sayOnce(fmt.Sprintf("expect %s %d", node, theirs), slog.LevelError, "bootstrap-expect differs between hosts: no cluster is begun until it is the same",
		"node", k.cfg.Node, "name", k.cfg.Name, "bootstrap_expect", k.cfg.Expect,
		"other_node", node, "other_name", cut(name), "other_bootstrap_expect", theirs)
}

// propose asks the members of this node's own proposal for their pledges, and
// decides when it can: all have pledged, or one refuses.
func (k *Keeper) propose(p *pledge) {
	request := &link.PledgeRequest{Cluster: p.Cluster, BootstrapExpect: uint32(p.Expect)}
	for _, node := range p.Members {
		request.Members = append(request.Members, &link.Peer{Node: node})
	}
	missing, refused := k.collect(p, request)

	k.mu.Lock()
	defer k.mu.Unlock()
	if refused == "" {
		refused = k.veto(p.Cluster)
	}
	switch {
	case refused != "":
		k.doing = "a proposal was given up: " + refused
		aborted := append(slices.Clone(k.state.Aborted), p.Cluster)
		aborted = aborted[max(0, len(aborted)-maxAborted):]
		k.gaveUp.wait = min(max(2*k.gaveUp.wait, restlessInterval), maxProposalWait)
		k.gaveUp.until = time.Now().Add(k.gaveUp.wait)
		if k.record(func(s *state) { s.Pledge, s.Aborted = nil, aborted }) == nil {
			k.cfg.Logger.Info("a proposed cluster was given up", "cluster", p.Cluster, "reason", refused)
		}
	case len(missing) > 0:
		k.doing = fmt.Sprintf("beginning cluster %s: no pledge from %s yet", p.Cluster, strings.Join(missing, ", "))
		k.sayOnce(k.doing, slog.LevelInfo, "waiting for pledges to begin a cluster", "cluster", p.Cluster, "missing", missing)
	default:
		if k.record(func(s *state) { s.Cluster = p.Cluster }) == nil {
			k.cfg.Logger.Info("a cluster begins", "cluster", p.Cluster, "members", p.Members)
		}
	}
}

// collect asks all other members at once. It returns who gave no answer, and
// why somebody refused.
func (k *Keeper) collect(p *pledge, request *link.PledgeRequest) (missing []string, refused string) {
	ctx, cancel := context.WithTimeout(k.ctx, helloTimeout)
	defer cancel()
	var asking sync.WaitGroup
	answers := make([]*link.PledgeAnswer, len(p.Members))
	for i, node := range p.Members {
		if node == k.cfg.Node {
			continue
		}
		asking.Go(func() {
			answer, err := k.network.Pledge(ctx, node, request)
			if err != nil {
				k.cfg.Logger.Debug("a member was not asked for its pledge", "node", node, "error", err)
				return
			}
			answers[i] = answer
		})
	}
	asking.Wait()
	for i, node := range p.Members {
		switch {
		case node == k.cfg.Node:
		case answers[i] == nil:
			missing = append(missing, node)
		case answers[i].GetState() == link.PledgeAnswer_STATE_PLEDGED:
		default:
			refused = fmt.Sprintf("node %s: %s", node, answers[i].GetReason())
		}
	}
	return missing, refused
}

// askProposer asks what became of a pledge that this node gave to another.
func (k *Keeper) askProposer(p *pledge) {
	ctx, cancel := context.WithTimeout(k.ctx, helloTimeout)
	defer cancel()
	answer, err := k.network.Pledge(ctx, p.proposer(), &link.PledgeRequest{Cluster: p.Cluster, Ask: true})
	if err != nil {
		k.cfg.Logger.Debug("the proposer was not asked", "node", p.proposer(), "cluster", p.Cluster, "error", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Cluster != "" || k.state.Pledge == nil || !k.state.Pledge.equal(p) {
		return
	}
	switch answer.GetState() {
	case link.PledgeAnswer_STATE_COMMITTED:
		k.adopt(p.Cluster)
	case link.PledgeAnswer_STATE_ABORTED:
		if k.record(func(s *state) { s.Pledge = nil }) == nil {
			k.cfg.Logger.Info("a pledge is void: its proposer has given up", "cluster", p.Cluster, "node", p.proposer())
		}
	}
}

// finishBootstrap writes the Raft configuration of a committed pledge, once. It
// reports whether there is nothing left of that to do.
func (k *Keeper) finishBootstrap() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.state.Pledge
	if p == nil || p.Cluster != k.state.Cluster || k.state.Bootstrapped {
		return true
	}
	// State is there already when we died in between, or when another member was
	// faster and has sent its log: it begins with the same configuration.
	if !k.raft.HasState() {
		if err := k.raft.Bootstrap(p.Members); err != nil {
			k.doing = "writing the first configuration failed"
			k.cfg.Logger.Error("the first configuration was not written", "cluster", p.Cluster, "error", err)
			return false
		}
	}
	return k.record(func(s *state) { s.Bootstrapped = true }) == nil
}

// pledgeOf reads and checks a proposal.
func pledgeOf(r *link.PledgeRequest) (*pledge, error) {
	p := &pledge{Cluster: r.GetCluster(), Expect: int(r.GetBootstrapExpect())}
	for _, m := range r.GetMembers() {
		p.Members = append(p.Members, m.GetNode())
	}
	switch {
	case p.Cluster == "" || len(p.Cluster) > maxClusterID:
		return nil, fmt.Errorf("a proposal with cluster id %q", p.Cluster)
	case len(p.Members) == 0 || len(p.Members) != p.Expect:
		return nil, fmt.Errorf("a proposal of %d members where %d are expected", len(p.Members), p.Expect)
	case !slices.IsSortedFunc(p.Members, func(a, b string) int {
		if a == b {
			return 1 // not twice
		}
		return cmp.Compare(a, b)
	}):
		return nil, fmt.Errorf("a proposal whose members are not sorted: %q", p.Members)
	}
	return p, nil
}
