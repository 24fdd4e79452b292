package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/replication/membership"
	"github.com/kahu-sh/kahu/replication/voter"
)

// Recover makes the voter of cfg's data directory, which must not run, the only
// one of its cluster; see voter.Recover for what that costs. With dryRun nothing
// is written.
func Recover(cfg config.Config, version string, logger *slog.Logger, dryRun bool) (r voter.Recovery, err error) {
	if cfg.Role == config.Proxy || cfg.Dev {
		return r, &UnusableError{errors.New("only an agent that votes has anything to recover")}
	}
	id, err := openIdentity(cfg, version)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, id.close(context.Background())) }()
	r, err = voter.Recover(id.storage, id.node, logger, true)
	if err != nil || dryRun {
		return r, err
	}
	var others []string
	for _, s := range r.Servers {
		if s.ID != id.node {
			others = append(others, s.ID)
		}
	}
	// First, so that they are refused as soon as this one decides alone.
	if err := membership.MarkRemoved(id.dir, id.node, others); err != nil {
		return r, fmt.Errorf("noting that the others are gone: %w", err)
	}
	return voter.Recover(id.storage, id.node, logger, false)
}
