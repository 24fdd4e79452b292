package membership

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// A disk that was copied.
//
// Two processes with one node id would have two votes where the quorum counts one.
// Each process has an id of its own (Hello.instance), so that a node which meets
// itself knows that it is another: of the two the one that was started later ends, or
// the one with the higher id when they were started so near to each other that both
// may take themselves for the older one.
//
// So that it is found before it votes, a voter that has Raft state and peers takes
// no part in Raft until it is cleared: until so many voters as make a majority with
// it have told where they know this node, and nobody else with its id answers there.
// Without a majority that answers there would be nothing to vote for, so waiting
// costs nothing but a hello. Whoever has lately heard this node say another address
// tells both (moved).
//
// What stays: two copies that cannot reach each other, and are each reached by some
// of the others; then both are cleared, and the first hello between them, or the
// address that moves to and fro, ends one. And two copies of an only voter, which
// asks nobody.

const (
	// clearTimeout is when a voter that nobody has cleared takes part all the same:
	// it is longer than any hello takes, and shorter than an operator's patience.
	clearTimeout = 30 * time.Second
	// movedFor is how long the address is told that a node had before.
	movedFor = time.Minute
	// nearStart is how far apart two copies were started when it does not count which
	// was first: both could take themselves for it.
	nearStart = 100 * time.Millisecond
	// nearSlack is by how much a copy has to be older, beyond nearStart, to go on for
	// that reason: where the two disagree on what is near both end, and not neither.
	nearSlack = 100 * time.Millisecond
)

// clearing is how far this node is with it. Guarded by Keeper.mu.
type clearing struct {
	needed  bool            // by Start
	others  []string        // that vote besides this node, as its disk has them at the start
	told    map[string]bool // voters that were heard since the start
	tried   map[string]bool // addresses where this node was said to be; true: it is over
	refused bool            // a copy of this node is there, and stays
	over    bool            // Cleared is closed
}

// moved is where a node was before.
type moved struct {
	from string
	at   time.Time
}

// Cleared is closed when this node may take part in Raft: see above. It stays open
// when this node has to end (AwaitCopy), and when Close comes before.
func (k *Keeper) Cleared() <-chan struct{} { return k.cleared }

// beginClearing looks whether this node has to be cleared: if others vote besides it.
// It needs mu.
func (k *Keeper) beginClearing(others []string) {
	c := &k.clearing
	c.told, c.tried, c.others = make(map[string]bool), make(map[string]bool), others
	if len(others) == 0 {
		c.over = true
		close(k.cleared)
		return
	}
	c.needed = true
	k.running.Go(func() { // ends with the clearing, or with ctx
		timer := time.NewTimer(clearTimeout)
		defer timer.Stop()
		select {
		case <-k.cleared:
		case <-k.ctx.Done():
		case <-timer.C:
			k.mu.Lock()
			defer k.mu.Unlock()
			if !k.clearing.over && !k.clearing.refused {
				k.cfg.Logger.Warn("nobody could tell whether a copy of this node runs elsewhere: it votes all the same", "node", k.cfg.Node, "waited", clearTimeout)
				k.clearing.over = true
				close(k.cleared)
			}
		}
	})
}

// clear takes in that node has said what it knows, and goes on with the clearing. It
// needs mu.
func (k *Keeper) clear(node string) {
	c := &k.clearing
	if !c.needed || c.over || c.refused || k.ctx.Err() != nil {
		return
	}
	if node != "" { // and it has a voter's certificate
		c.told[node] = true
	}
	if at := k.elsewhere; at != "" {
		over, asked := c.tried[at]
		if !asked {
			c.tried[at] = false
			k.running.Go(func() { // ends within helloTimeout, or with ctx
				k.sayHello(at)
				k.mu.Lock()
				defer k.mu.Unlock()
				k.clearing.tried[at] = true
				k.clear("")
			})
		}
		if !over {
			return
		}
	}
	for _, over := range c.tried {
		if !over {
			return
		}
	}
	heard := 1
	for _, o := range c.others {
		if c.told[o] {
			heard++
		}
	}
	if heard >= majority(len(c.others)+1) {
		c.over = true
		close(k.cleared)
	}
}

// hasMoved notes that a node says another address than it had. It needs mu.
func (k *Keeper) hasMoved(node, from string) {
	now := time.Now()
	for n, m := range k.moves {
		if now.Sub(m.at) > movedFor {
			delete(k.moves, n)
		}
	}
	k.moves[node] = moved{from, now}
}

// whereElse adds to an answer where the asker was before, if it has moved lately:
// it finds a copy of itself there, or nobody. It needs mu.
func (k *Keeper) whereElse(asker string, answer *link.Hello) {
	if m, ok := k.moves[asker]; ok && time.Since(m.at) <= movedFor {
		answer.Peers = append(answer.Peers, &link.Peer{Node: asker, Address: m.from, Role: link.Role_ROLE_VOTER})
	}
}

// checkCopy looks at a hello with our own id, which came to us, or answers one that was
// sent at asked. Of two copies the one that was started later ends: two that vote under
// one id would count twice. It needs mu.
func (k *Keeper) checkCopy(h *link.Hello, address string, asked time.Time) {
	if h.GetInstance() == k.instance {
		return
	}
	k.sayOnce("copy "+h.GetInstance(), slog.LevelError,
		"another agent runs with the id of this node: its data directory was copied, and one of the two has to be emptied",
		"node", k.cfg.Node, "address", address)
	if h.GetUptimeMs() == 0 {
		return // it is too old to say
	}
	// What the other says of its age is from before now, and after it was asked: most is
	// by how much this one can be older, and least is by how much it is.
	theirs := time.Duration(h.GetUptimeMs()) * time.Millisecond
	most := time.Since(k.opened) - theirs
	least := most
	if !asked.IsZero() {
		least = asked.Sub(k.opened) - theirs
	}
	if least >= nearStart+nearSlack || most > -nearStart && k.instance < h.GetInstance() {
		return // it is for the other one to end
	}
	k.clearing.refused = true
	select {
	case k.copied <- fmt.Errorf("another agent runs with the id of this node (%s), at %s, and has run for longer, or began at the same time: the data directory %s was copied; empty it, so that this host joins as a new node, or stop the other agent for good",
		k.cfg.Node, address, k.cfg.Dir):
	default: // said already
	}
}

// AwaitCopy blocks until this agent has to end, since another one runs with a copy
// of its data directory, and returns why; or until Close, and returns nil.
func (k *Keeper) AwaitCopy() error {
	select {
	case err := <-k.copied:
		return err
	case <-k.ctx.Done():
		return nil
	}
}
