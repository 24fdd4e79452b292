package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// absences has a voter miss changes: fewer than stay in the log for it, so that
// it replays them, and more, so that it gets a snapshot.
func absences(ctx context.Context, s settings, r *report, c *cluster.Cluster) error {
	if len(c.Voters()) < 3 {
		return nil // the others would be no quorum
	}
	for _, missed := range []int{s.keys / 5, s.keys / 2} {
		if err := absence(ctx, s, r, c, missed); err != nil {
			return fmt.Errorf("a voter that missed %d keys: %w", missed, err)
		}
	}
	return nil
}

// absence kills a follower, sets keys again, and starts it.
func absence(ctx context.Context, s settings, r *report, c *cluster.Cluster, missed int) error {
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	away := follower(c, leader)
	if err := away.Kill(); err != nil {
		return err
	}
	if err := fill(ctx, leader, missed, s.valueSize); err != nil {
		return err
	}
	until, err := appliedIndex(ctx, leader)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := away.Start(); err != nil {
		return err
	}
	if err := serves(ctx, away, s.keys-1, s.valueSize); err != nil {
		return err
	}
	served := time.Since(began)
	var restores uint64
	ctx, cancel := context.WithTimeout(ctx, 2*restartPatience)
	defer cancel()
	err = cluster.Wait(ctx, away.Name+" has caught up", func(ctx context.Context) (bool, error) {
		status, err := away.Status(ctx)
		if err != nil || status.Voter == nil {
			return false, err
		}
		restores = status.Voter.Restores
		return status.Voter.AppliedIndex >= until, fmt.Errorf("it has applied %d of %d entries", status.Voter.AppliedIndex, until)
	})
	if err != nil {
		return err
	}
	r.note("%s was away while %d keys were set: caught up in %s, with %d snapshots", away.Name, missed, seconds(time.Since(began)), restores)
	r.limit(away.Name+": start to first read and write", seconds(served), seconds(maxRestart), served > maxRestart)
	return showMemory(ctx, r, c, "and catching up")
}
