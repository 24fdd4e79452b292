package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	peersFile   = "peers.json"
	peersFormat = 1
	// maxRemembered bounds the list; who was heard of least lately leaves first.
	maxRemembered = 2048
	// forgetAfter is for agents that came and went with their pods. Wall time, as
	// nothing depends on it.
	forgetAfter = 30 * 24 * time.Hour
	// maxPeersFileBytes is more than maxRemembered entries take.
	maxPeersFileBytes = 4 << 20
)

// remembered is an agent that was there once.
type remembered struct {
	Node    string `json:"node"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address"`
	Seen    int64  `json:"seen"` // Unix seconds, to the day; only to forget by
}

// peers is the agent's own list of others, in the file peers.json. It is for
// one goroutine.
type peers struct {
	path    string // empty: in memory only
	byNode  map[string]remembered
	changed bool
}

// openPeers reads the list. A file that cannot be used is an error and an empty
// list: it holds nothing that cannot be found again, and it is replaced.
func openPeers(dir string) (*peers, error) {
	p := &peers{byNode: make(map[string]remembered)}
	if dir == "" {
		return p, nil
	}
	p.path = filepath.Join(dir, peersFile)
	info, err := os.Stat(p.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		return p, fmt.Errorf("reading the list of other agents: %w", err)
	case info.Size() > maxPeersFileBytes:
		return p, fmt.Errorf("the list of other agents %s has %d bytes, more than it can have", p.path, info.Size())
	}
	text, err := os.ReadFile(p.path)
	if err != nil {
		return p, fmt.Errorf("reading the list of other agents: %w", err)
	}
	list, err := parsePeers(text)
	if err != nil {
		return p, fmt.Errorf("%s: %w", p.path, err)
	}
	for _, r := range list {
		p.byNode[r.Node] = r
	}
	return p, nil
}

func parsePeers(text []byte) ([]remembered, error) {
	var file struct {
		Format int          `json:"format"`
		Agents []remembered `json:"agents"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if file.Format != peersFormat {
		return nil, fmt.Errorf("its format is %d, and this version of kahu knows %d", file.Format, peersFormat)
	}
	return slices.DeleteFunc(file.Agents, func(r remembered) bool {
		return r.Node == "" || len(r.Node) > maxNodeBytes || CheckAddress(r.Address) != nil
	}), nil
}

// note enters an agent that is there now. An address belongs to who has it now.
func (p *peers) note(m Member, now time.Time) {
	day := now.Truncate(24 * time.Hour).Unix()
	r := remembered{Node: m.Node, Name: m.Name, Address: m.Address, Seen: day}
	if p.byNode[m.Node] == r {
		return
	}
	for node, other := range p.byNode {
		if other.Address == m.Address && node != m.Node {
			delete(p.byNode, node)
		}
	}
	p.byNode[m.Node] = r
	p.changed = true
	if len(p.byNode) > maxRemembered {
		all := p.list()
		slices.SortStableFunc(all, func(a, b remembered) int { return int(a.Seen - b.Seen) })
		delete(p.byNode, all[0].Node)
	}
}

// forget drops who was not there for long.
func (p *peers) forget(now time.Time) {
	for node, r := range p.byNode {
		if now.Sub(time.Unix(r.Seen, 0)) > forgetAfter {
			delete(p.byNode, node)
			p.changed = true
		}
	}
}

// list is sorted by node.
func (p *peers) list() []remembered {
	all := make([]remembered, 0, len(p.byNode))
	for _, r := range p.byNode {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b remembered) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// save replaces the file when something changed. It need not be durable: a lost
// list is found again.
func (p *peers) save() error {
	if !p.changed || p.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(map[string]any{"format": peersFormat, "agents": p.list()}, "", " ")
	if err != nil {
		return fmt.Errorf("encoding the list of other agents: %w", err)
	}
	next := p.path + ".new"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("storing the list of other agents: %w", err)
	}
	if err := os.Rename(next, p.path); err != nil {
		return fmt.Errorf("storing the list of other agents: %w", err)
	}
	p.changed = false
	return nil
}
