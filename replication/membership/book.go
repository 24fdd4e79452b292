package membership

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// maxPeers bounds the address book and what a peer may tell at once.
const maxPeers = 4096

// view is the address book as others read it. It never changes once published,
// so that who looks up an address waits for no disk and no lock.
type view struct {
	addresses map[string]string // by node
	voters    []string          // of the book, and this node if it votes
	levels    map[string]uint32 // by node: announced to this process
	kahuna    map[string]string // by node: URL for Kahuna's clients, announced to this process
}

// publish makes a new view. It needs mu, and is called after each change of
// what it is made of.
func (k *Keeper) publish() {
	v := &view{addresses: map[string]string{k.cfg.Node: k.cfg.Address}, levels: map[string]uint32{k.cfg.Node: k.cfg.FeatureLevel},
		kahuna: map[string]string{k.cfg.Node: k.kahuna}}
	for node, address := range k.hearsay {
		v.addresses[node] = address
	}
	if k.cfg.Voter && !k.standby.Load() {
		v.voters = append(v.voters, k.cfg.Node)
	}
	for _, p := range k.state.Peers {
		v.addresses[p.Node] = k.whereIs(p)
		v.voters = append(v.voters, p.Node)
	}
	for node, s := range k.seen {
		if !s.id.Voter {
			continue
		}
		v.levels[node] = s.hello.GetFeatureLevel()
		if url := s.hello.GetKahunaUrl(); len(url) <= maxURLBytes {
			v.kahuna[node] = url
		}
		// A standby is in nobody's book, and has to be reached to get a vote.
		if address := s.hello.GetSelf().GetAddress(); v.addresses[node] == "" && checkAddress(address) == nil {
			v.addresses[node] = address
		}
	}
	k.view.Store(v)
}

// whereIs returns what a node says of itself, unless it is not there and was
// found, or is said to be, somewhere else. It needs mu.
func (k *Keeper) whereIs(p peer) string {
	if t := k.tries[p.Address]; t == nil || !t.failed && t.node == p.Node {
		return p.Address
	}
	for address, t := range k.tries {
		if t.node == p.Node && !t.failed {
			return address
		}
	}
	if told, ok := k.hearsay[p.Node]; ok {
		return told
	}
	return p.Address
}

// Address tells where a node was last reached, or what it or others say. It is
// what a link.Pool and raft's stream layer resolve with. It does not block.
func (k *Keeper) Address(node string) (address string, ok bool) {
	address, ok = k.view.Load().addresses[node]
	return address, ok
}

// maxURLBytes bounds the URL that a peer tells.
const maxURLBytes = 300

// Announce tells the others, with the next hellos, where this agent listens for
// Kahuna's clients: a URL, empty for nowhere.
func (k *Keeper) Announce(kahunaURL string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kahuna = kahunaURL
	k.publish()
}

// KahunaURL returns where a voter, or this agent, listens for Kahuna's clients, as
// it said itself; empty when it does not, or was not heard lately. It does not
// block.
func (k *Keeper) KahunaURL(node string) string { return k.view.Load().kahuna[node] }

// Voters returns the node ids of all voters that this agent knows of, itself
// included: the quorum's where it is known, else the address book's.
func (k *Keeper) Voters() []string {
	// A standby that once voted knows an old quorum.
	if q, ok := k.quorum(); ok && (slices.Contains(q.Voters, k.cfg.Node) || slices.Contains(q.Learners, k.cfg.Node)) {
		return q.Voters
	}
	return slices.Clone(k.view.Load().voters)
}

// AnnouncedLevel returns the highest feature level that every voter of the
// quorum has announced to this process, 0 while one of them was not heard. Those
// that only receive the log count as far as they were heard: they would stop at
// the first entry of a level that they do not know.
func (k *Keeper) AnnouncedLevel() uint32 {
	q, ok := k.quorum()
	if !ok || len(q.Voters) == 0 {
		return 0
	}
	levels := k.view.Load().levels
	lowest := k.cfg.FeatureLevel
	for _, node := range q.Voters {
		lowest = min(lowest, levels[node])
	}
	for _, node := range q.Learners {
		if level, heard := levels[node]; heard {
			lowest = min(lowest, level)
		}
	}
	return lowest
}

// quorum is what Raft says, when there is one.
func (k *Keeper) quorum() (Quorum, bool) {
	select {
	case <-k.started:
	default:
		return Quorum{}, false
	}
	if k.raft == nil {
		return Quorum{}, false
	}
	return k.raft.Quorum(), true
}

// find returns the entry of node, nil when there is none. It needs mu.
func (k *Keeper) find(node string) *peer {
	i, ok := slices.BinarySearchFunc(k.state.Peers, node, func(p peer, node string) int { return cmp.Compare(p.Node, node) })
	if !ok {
		return nil
	}
	return &k.state.Peers[i]
}

// note enters what a node says of itself. It needs mu.
func (k *Keeper) note(p peer) {
	i, ok := slices.BinarySearchFunc(k.state.Peers, p.Node, func(q peer, node string) int { return cmp.Compare(q.Node, node) })
	switch {
	case ok && k.state.Peers[i] == p:
		return
	case ok:
		if was := k.state.Peers[i].Address; was != p.Address {
			k.cfg.Logger.Info("node has moved", "node", p.Node, "name", p.Name, "from", was, "to", p.Address)
			k.hasMoved(p.Node, was)
		}
		k.state.Peers[i] = p
	case len(k.state.Peers) >= maxPeers:
		k.sayOnce("book full", slog.LevelWarn, "the address book is full", "limit", maxPeers)
		return
	default:
		k.state.Peers = slices.Insert(k.state.Peers, i, p)
	}
	k.unsaved = true
}

// heard takes in what a verified node, found at address (empty: it came to us),
// says of itself and of others. It needs mu.
func (k *Keeper) heard(id link.Identity, h *link.Hello, address string) {
	now := time.Now()
	since := now
	if before := k.seen[id.Node]; before != nil && now.Sub(before.at) < 2*settledInterval && before.hello.GetInstance() == h.GetInstance() {
		since = before.since
	}
	s := &sight{id: id, hello: remembered(h), at: now, since: since, ahead: aheadOf(h, now), timed: h.GetWallMs() != 0}
	k.see(s)
	k.checkClock(id.Node, s)
	k.checkName(id.Node, h, now)
	if h.GetCluster() != "" && k.state.Cluster != "" && h.GetCluster() != k.state.Cluster && !k.stranger(id, h) {
		return
	}
	// Only voters stand in the book: proxies come to us, and would be far too many.
	if id.Voter && h.GetSelf().GetRole() == link.Role_ROLE_VOTER {
		if announced := h.GetSelf().GetAddress(); checkAddress(announced) == nil {
			address = announced
		}
		if address != "" {
			k.note(peer{Node: id.Node, Name: cut(h.GetSelf().GetName()), Address: address})
			delete(k.hearsay, id.Node)
		}
	} else {
		// It votes no more: it comes to us, as all do that do not vote.
		k.forgetPeer(id.Node)
	}
	if id.Voter {
		k.learnRemoved(h.GetRemoved())
		k.learnSucceeds(h)
	}
	k.hearOfOthers(id, h, address == "")
}

// hearOfOthers takes in where others are, as a node says that has come to us or that
// we have asked. It needs mu.
func (k *Keeper) hearOfOthers(id link.Identity, h *link.Hello, came bool) {
	if came && !id.Voter {
		return // proxies come to ask; whoever needs theirs has asked them
	}
	for i, p := range h.GetPeers() {
		if i == maxPeers {
			break
		}
		if id.Voter && p.GetNode() == k.cfg.Node && p.GetAddress() != k.cfg.Address && checkAddress(p.GetAddress()) == nil {
			k.elsewhere = p.GetAddress() // before this node moved, or a copy of its disk
		}
		// Others may be wrong: it fills gaps, and is tried where the known address fails.
		if p.GetNode() == "" || p.GetNode() == k.cfg.Node || len(p.GetNode()) > 128 || checkAddress(p.GetAddress()) != nil {
			continue
		}
		if e := k.find(p.GetNode()); e == nil || e.Address != p.GetAddress() {
			k.hearsayOf(p.GetNode(), p.GetAddress())
		}
	}
}

// hearsayOf notes where others say that a node is. What is noted for any other gives
// way when there is too much. It needs mu.
func (k *Keeper) hearsayOf(node, address string) {
	if _, ok := k.hearsay[node]; !ok && len(k.hearsay) >= maxPeers {
		for other := range k.hearsay {
			delete(k.hearsay, other)
			break
		}
	}
	k.hearsay[node] = address
}

// Hint takes in where nodes are said to be, by gossip. Whoever answers there
// still has to show that it is that node. It does not block.
func (k *Keeper) Hint(addresses map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for node, address := range addresses {
		if node == "" || node == k.cfg.Node || len(node) > 128 || checkAddress(address) != nil {
			continue
		}
		if e := k.find(node); e == nil || e.Address != address {
			k.hearsayOf(node, address)
		}
	}
	k.publish()
}

// checkName tells of two agents with one name, which people would take for one.
// It needs mu.
func (k *Keeper) checkName(node string, h *link.Hello, now time.Time) {
	name := h.GetSelf().GetName()
	if name == "" {
		return
	}
	other := ""
	if name == k.cfg.Name {
		other = k.cfg.Node
	}
	for n, s := range k.seen {
		if n != node && s.hello.GetSelf().GetName() == name && now.Sub(s.at) < 2*settledInterval {
			other = n
		}
	}
	if other != "" {
		k.sayOnce("name "+name, slog.LevelWarn, "two agents have the same name: give each its own --node-name, or stop the one whose data directory was emptied",
			"name", cut(name), "node", node, "other_node", other)
	}
}

// maxRemoved bounds the list of removed nodes; the lowest ids are dropped.
const maxRemoved = 1024

// learnRemoved takes over what other voters know of removed nodes. It needs mu.
func (k *Keeper) learnRemoved(nodes []string) {
	all := slices.Clone(k.state.Removed)
	for _, n := range nodes[:min(len(nodes), maxRemoved)] {
		if n != "" && len(n) <= 128 && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	if len(all) == len(k.state.Removed) {
		return
	}
	slices.Sort(all)
	all = all[max(0, len(all)-maxRemoved):]
	if slices.Equal(all, k.state.Removed) {
		return
	}
	_ = k.record(func(s *state) { s.Removed = all }) // logged; the next hello tries again
}

func cut(name string) string { return name[:min(len(name), 256)] }

// due returns the addresses to say hello at now: those that this agent knows, and
// those that it was only told of.
func (k *Keeper) due() (known, told []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	asked := make(map[string]bool)
	list := &known
	add := func(address string) {
		if address == k.cfg.Address || asked[address] {
			return
		}
		if t := k.tries[address]; t != nil && now.Before(t.retryAt) {
			return
		}
		asked[address] = true
		*list = append(*list, address)
	}
	for _, a := range k.cfg.Seeds {
		add(a)
	}
	for _, a := range k.cfg.Found() {
		add(a)
	}
	for _, p := range k.state.Peers {
		add(p.Address)
	}
	if k.elsewhere != "" {
		add(k.elsewhere)
	}
	list = &told
	for node, address := range k.hearsay {
		if e := k.find(node); e == nil {
			add(address)
		} else if t := k.tries[e.Address]; t != nil && (t.failed || t.node != node) {
			add(address)
		}
	}
	return known, told
}

// saveBook stores what changed. It needs mu.
func (k *Keeper) saveBook() error {
	if !k.unsaved {
		return nil
	}
	if err := k.state.save(k.cfg.Dir); err != nil {
		return err
	}
	k.unsaved = false
	return nil
}
