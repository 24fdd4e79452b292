package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/replication/membership"
	"github.com/kahu-sh/kahu/replication/voter"
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
}

// Recover makes the voter of cfg's data directory, which must not run, the only
// one of its cluster, under a new cluster id; see voter.Recover for what that
// costs. With DryRun nothing is written.
func Recover(cfg config.Config, o RecoverOptions) (r Recovered, err error) {
	if cfg.Role == config.Proxy || cfg.Dev {
		return r, &UnusableError{errors.New("only an agent that votes has anything to recover")}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	id, err := openIdentity(cfg, o.Version)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, id.close(context.Background())) }()
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
