package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/replication/membership"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage/datadir"
)

// RecoverOptions say how Recover goes about it.
type RecoverOptions struct {
	Version string
	Logger  *slog.Logger
	DryRun  bool
	// TokenFloor, optional, is the fencing token above which the cluster goes on,
	// for a host whose clock is doubted; 0: from the clock and what is known.
	TokenFloor int64
	Now        func() time.Time // optional: time.Now
}

// Recovered is what Recover found and did.
type Recovered struct {
	voter.Recovery
	Cluster  string `json:"cluster,omitempty"`  // new id; empty after a dry run
	Succeeds string `json:"succeeds,omitempty"` // the id before
	// Names are those of the nodes, as far as the address book has them.
	Names map[string]string `json:"names,omitempty"`
}

// Recover makes the voter of cfg's data directory, which must not run, the only
// one of its cluster, under a new cluster id; see voter.Recover for what that
// costs. With DryRun nothing is written.
func Recover(cfg config.Config, o RecoverOptions) (r Recovered, err error) {
	if cfg.Role == config.Proxy || cfg.Dev {
		return r, &UnusableError{errors.New("only an agent that votes has anything to recover")}
	}
	// Opening a data directory makes it, and a wrong path would be taken for a new one.
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "agent.json")); errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s holds no agent's state, and so was never in a quorum: name the data directory of this host's agent with --data-dir", cfg.DataDir)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	id, err := openDisk(cfg, o.Version)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, id.close(context.Background()), datadir.GiveToOwner(id.dir)) }()
	if r.Names, err = membership.Names(id.dir, id.node); err != nil {
		return r, err
	}
	options := voter.RecoverOptions{DryRun: true, Wall: o.Now(), TokenFloor: o.TokenFloor, MaxLevel: cfg.FeatureLevelCap}
	r.Recovery, err = voter.Recover(id.storage, id.node, o.Logger, options)
	if err != nil || o.DryRun {
		return r, err
	}
	var others []string
	for _, s := range r.Servers {
		if s.ID != id.node {
			others = append(others, s.ID)
		}
	}
	// First, so that they are refused, and another survivor is a stranger, as soon as
	// this one decides alone.
	r.Cluster, r.Succeeds, err = membership.MarkRecovered(id.dir, id.node, others)
	if err != nil {
		return r, fmt.Errorf("noting that the others are gone: %w", err)
	}
	options.DryRun = false
	r.Recovery, err = voter.Recover(id.storage, id.node, o.Logger, options)
	return r, err
}
