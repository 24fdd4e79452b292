package discovery

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

const (
	peersFile   = "peers.json"
	peersFormat = 1
	// serfFile was serf's own list, which nobody reads any more; see doc.go.
	serfFile = "serf.snapshot"
	// maxRemembered bounds the list; see trim for who stays.
	maxRemembered = 2048
	// forgetAfter is for agents that came and went with their pods.
	forgetAfter = 30 * 24 * time.Hour
	// alwaysRemembered is how many stay however long they were silent: an agent that
	// was off for months, or whose wall clock jumped, must find its way back.
	alwaysRemembered = 64
	// maxPeersFileBytes is more than maxRemembered entries take.
	maxPeersFileBytes = 4 << 20
)

// remembered is an agent that was there once.
type remembered struct {
	Node    string `json:"node"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address"`
	Role    string `json:"role,omitempty"`
	Seen    int64  `json:"seen"` // Unix seconds, to the day; only to forget by
}

// peers is the agent's own list of others, in the file peers.json. It is for
// one goroutine.
type peers struct {
	path    string // empty: in memory only
	byNode  map[string]remembered
	nodeAt  map[string]string // node by address
	changed bool
	stored  []byte // what was written last
}

// openPeers reads the list. A file that cannot be used is an error and an empty
// list: it holds nothing that cannot be found again, and it is replaced.
func openPeers(dir string) (*peers, error) {
	p := &peers{byNode: make(map[string]remembered), nodeAt: make(map[string]string)}
	if dir == "" {
		return p, nil
	}
	p.path = filepath.Join(dir, peersFile)
	_ = os.Remove(filepath.Join(dir, serfFile)) // it may stay, and is seldom there
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
		p.enter(r)
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

// note takes down an agent that is there now.
func (p *peers) note(m Member, now time.Time) {
	r := remembered{Node: m.Node, Name: m.Name, Address: m.Address, Role: m.Role, Seen: now.Truncate(24 * time.Hour).Unix()}
	if p.byNode[m.Node] != r {
		p.enter(r)
		p.changed = true
	}
}

// enter puts an agent on the list. An address belongs to who has it now.
func (p *peers) enter(r remembered) {
	if other, ok := p.nodeAt[r.Address]; ok && other != r.Node {
		delete(p.byNode, other)
	}
	if before, ok := p.byNode[r.Node]; ok && before.Address != r.Address {
		delete(p.nodeAt, before.Address)
	}
	p.byNode[r.Node], p.nodeAt[r.Address] = r, r.Node
}

// trim drops who was not there for long, and what is too much.
func (p *peers) trim(now time.Time) {
	old := func(r remembered) bool { return now.Sub(time.Unix(r.Seen, 0)) > forgetAfter }
	if len(p.byNode) <= alwaysRemembered {
		return
	}
	all := p.list()
	if len(all) <= maxRemembered && !slices.ContainsFunc(all, old) {
		return
	}
	// The most worth comes first: voters, and who was there lately.
	slices.SortStableFunc(all, func(a, b remembered) int {
		if a, b := a.Role == RoleVoter, b.Role == RoleVoter; a != b {
			if a {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Seen, a.Seen)
	})
	for i, r := range all {
		if i >= alwaysRemembered && (i >= maxRemembered || old(r)) {
			delete(p.byNode, r.Node)
			delete(p.nodeAt, r.Address)
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

// save stores the list when something changed.
func (p *peers) save() error {
	text, err := p.changes()
	if text == nil || err != nil {
		return err
	}
	return p.write(text)
}

// changes returns what is to be written, nil when nothing is.
func (p *peers) changes() ([]byte, error) {
	if !p.changed || p.path == "" {
		return nil, nil
	}
	text, err := json.MarshalIndent(map[string]any{"format": peersFormat, "agents": p.list()}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encoding the list of other agents: %w", err)
	}
	p.changed = false
	if bytes.Equal(text, p.stored) {
		return nil, nil
	}
	p.stored = text
	return text, nil
}

// write replaces the file. It may be called beside the other methods.
func (p *peers) write(text []byte) error {
	if err := atomicfile.WriteBytes(p.path, atomicfile.Options{}, append(text, '\n')); err != nil {
		return fmt.Errorf("storing the list of other agents: %w", err)
	}
	return nil
}
