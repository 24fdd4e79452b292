package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/storage/atomicfile"
)

const (
	stateFile   = "membership.json"
	stateFormat = 1
	// maxAborted is how many given-up proposals of its own a node remembers.
	// There is one for each conflict at the very beginning.
	maxAborted = 256
)

// state is what a Keeper never forgets: the file membership.json.
type state struct {
	Format int    `json:"format"`
	Node   string `json:"node"`
	// Cluster is the id of the cluster that this node belongs to, empty before.
	// It changes only by a recovery (recovered.go).
	Cluster string `json:"cluster,omitempty"`
	// Succeeds are the ids that the cluster had before it was recovered, oldest first.
	Succeeds []string `json:"succeeds,omitempty"`
	// Pledge is the one that this node has given and that was not aborted. Once
	// Cluster is its id, it was committed.
	Pledge *pledge `json:"pledge,omitempty"`
	// Bootstrapped says that the Raft configuration of the pledge was written.
	Bootstrapped bool `json:"bootstrapped,omitempty"`
	// Joined says that this node was seen to have a vote.
	Joined bool `json:"joined,omitempty"`
	// Left says that this node has asked to be removed, or an operator for it: it
	// does not join again by itself.
	Left bool `json:"left,omitempty"`
	// Wanted says that the leader, or an operator, has asked this node to take a
	// vote. It counts for a node with role auto.
	Wanted bool `json:"wanted,omitempty"`
	// Pinned says that an operator gave this node its vote: it is not taken back
	// for having more voters than needed.
	Pinned bool `json:"pinned,omitempty"`
	// Seated says that this node was seen in the Raft configuration since then.
	Seated bool `json:"seated,omitempty"`
	// Removed are nodes, sorted, that an operator has removed for good.
	Removed []string `json:"removed,omitempty"`
	// Aborted are the node's own proposals that it has given up.
	Aborted []string `json:"aborted,omitempty"`
	// Peers is the address book, sorted by node.
	Peers []peer `json:"peers,omitempty"`
}

// pledge is a promise to be part of a cluster of exactly these members.
type pledge struct {
	Cluster string   `json:"cluster"`
	Members []string `json:"members"` // node ids, sorted; the first is the proposer
	Expect  int      `json:"expect"`
}

func (p *pledge) proposer() string { return p.Members[0] }

func (p *pledge) equal(q *pledge) bool {
	return p.Cluster == q.Cluster && p.Expect == q.Expect && slices.Equal(p.Members, q.Members)
}

// peer is an entry of the address book: a voter.
type peer struct {
	Node    string `json:"node"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address"`
}

func (p peer) wire() *link.Peer {
	return &link.Peer{Node: p.Node, Name: p.Name, Address: p.Address, Role: link.Role_ROLE_VOTER}
}

// loadState reads the state of node in dir; a missing file is an empty state.
func loadState(dir, node string) (*state, error) {
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Format: stateFormat, Node: node}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the membership of this node: %w", err)
	}
	s := new(state)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it, or empty the data directory and let this host join as a new voter", path, err)
	}
	switch {
	case s.Format > stateFormat:
		return nil, fmt.Errorf("%s has format %d, this version of kahu knows up to %d: use a newer kahu", path, s.Format, stateFormat)
	case s.Format < 1:
		return nil, fmt.Errorf("%s is damaged (format %d): restore it, or empty the data directory and let this host join as a new voter", path, s.Format)
	case s.Node != node:
		return nil, fmt.Errorf("%s belongs to node %s, but this is node %s: was it copied?", path, s.Node, node)
	case s.Pledge != nil && len(s.Pledge.Members) == 0:
		return nil, fmt.Errorf("%s is damaged (a pledge without members): restore it, or empty the data directory and let this host join as a new voter", path)
	}
	return s, nil
}

// save replaces the file; it is durable when save returns nil.
func (s *state) save(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the membership of this node: %w", err)
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, stateFile), atomicfile.Options{}, append(text, '\n')); err != nil {
		return fmt.Errorf("storing the membership of this node: %w", err)
	}
	return nil
}
