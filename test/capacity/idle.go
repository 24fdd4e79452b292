package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// holdTTL is the default of kahu exec, and renewedEvery what follows from it
// (DESIGN.md: a renewal every TTL/4).
const (
	holdTTL      = 30 * time.Second
	renewedEvery = holdTTL / 4
	// requestsRenewedEvery is the same for the session that carries the requests
	// of an agent that was used lately.
	requestsRenewedEvery = 15 * time.Second
)

// settling is until an agent has given back what its start took, and the first
// looks around are over.
const settling = 20 * time.Second

// holds measures agents that keep locks alive: a voter that follows, and a proxy.
func holds(ctx context.Context, s settings, r *report, binary string) (err error) {
	r.section("%d holds with a TTL of %s, watched for %s", s.holds, holdTTL, s.watch)
	c, err := cluster.Start(ctx, cluster.Options{Binary: binary, Dir: s.dir, Voters: s.voters, Proxies: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	for i, keeper := range []*cluster.Agent{follower(c, leader), c.Proxies()[0]} {
		if err := holdOn(ctx, s, r, keeper, leader, i+1); err != nil {
			return fmt.Errorf("on %s: %w", keeper.Name, err)
		}
	}
	return nil
}

// follower is a voter that does not lead, or the only one.
func follower(c *cluster.Cluster, leader *cluster.Agent) *cluster.Agent {
	for _, a := range c.Voters() {
		if a != leader {
			return a
		}
	}
	return leader
}

// holdOn takes the locks at one agent, watches it, and gives them back. So many
// agents were used until now, this one included: their sessions live on a while.
func holdOn(ctx context.Context, s settings, r *report, keeper, leader *cluster.Agent, agents int) error {
	c := keeper.Dial()
	defer c.Close()
	kept := make([]*client.Hold, s.holds)
	group, opening := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range kept {
		group.Go(func() (err error) {
			kept[i], err = c.Hold(opening, client.HoldOptions{Lock: fmt.Sprintf("capacity/%d", i), TTL: holdTTL, Wait: time.Minute})
			return err
		})
	}
	defer func() {
		for _, h := range kept {
			if h != nil {
				_ = h.Close() // always nil
			}
		}
	}()
	if err := group.Wait(); err != nil {
		return err
	}
	indexBefore, err := appliedIndex(ctx, leader)
	if err != nil {
		return err
	}
	renewedBefore, err := renewals(ctx, keeper)
	if err != nil {
		return err
	}
	used, took, err := watch(ctx, s.watch, keeper)
	if err != nil {
		return err
	}
	indexAfter, err := appliedIndex(ctx, leader)
	if err != nil {
		return err
	}
	renewed, err := renewals(ctx, keeper)
	if err != nil {
		return err
	}
	for i, h := range kept {
		if h.State() != wire.HoldHeld {
			return fmt.Errorf("hold %d is %q after %s", i, h.State(), took)
		}
	}
	m, err := memoryOf(keeper.Pid())
	if err != nil {
		return err
	}
	share := used.Seconds() / took.Seconds()
	r.limit(keeper.Name+": share of a core", percent(share), percent(maxHoldsShare), share >= maxHoldsShare)
	renewed -= renewedBefore
	most := uint64(took/renewedEvery) + 1 // the ends of the watch may cut an interval
	r.limit(fmt.Sprintf("%s: renewals for its %d holds", keeper.Name, s.holds), fmt.Sprint(renewed), fmt.Sprint(most), renewed == 0 || renewed > most)
	// Each renewal is an entry, and the leader's digest follows it as another.
	entries := indexAfter - indexBefore
	mostEntries := 2 * uint64(agents) * (most + uint64(took/requestsRenewedEvery) + 1)
	r.limit(fmt.Sprintf("%s: log entries of all sessions, with digests", keeper.Name), fmt.Sprint(entries), fmt.Sprint(mostEntries), entries > mostEntries)
	r.note("%s has %s resident, %s at most", keeper.Name, megabytes(m.resident), megabytes(m.peak))
	return nil
}

// idle measures agents that nobody asks for anything.
func idle(ctx context.Context, s settings, r *report, binary string) (err error) {
	r.section("idle agents, watched for %s", s.watch)
	c, err := cluster.Start(ctx, cluster.Options{Binary: binary, Dir: s.dir, Voters: s.voters, Proxies: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	// What starting cost is not what idling costs: the measure begins after it.
	if _, _, err := watch(ctx, settling, c.Agents...); err != nil {
		return err
	}
	agents := slices.Compact([]*cluster.Agent{leader, follower(c, leader), c.Proxies()[0]}) // a voter alone is both
	before := make([]time.Duration, len(agents))
	for i, a := range agents {
		if before[i], err = cpuOf(a.Pid()); err != nil {
			return err
		}
	}
	_, took, err := watch(ctx, s.watch, agents...)
	if err != nil {
		return err
	}
	for i, a := range agents {
		after, err := cpuOf(a.Pid())
		if err != nil {
			return err
		}
		m, err := memoryOf(a.Pid())
		if err != nil {
			return err
		}
		name, share, most := a.Name, (after-before[i]).Seconds()/took.Seconds(), int64(targetVoterBytes)
		if a == leader {
			name += ", leading"
		}
		if !a.Voter {
			most = targetProxyBytes
		}
		r.limit(name+": resident", megabytes(m.resident), megabytes(most), m.resident >= most)
		r.note("of that %s are its own, the rest are pages of the program", megabytes(m.own))
		r.target(name+": share of a core", percent(share), percent(targetVoterShare), share >= targetVoterShare)
	}
	return nil
}

// watch waits for d, which is what is measured here, and returns the processor
// time that the agents used in it, and how long it really was.
func watch(ctx context.Context, d time.Duration, agents ...*cluster.Agent) (used, took time.Duration, err error) {
	sum := func() (total time.Duration, err error) {
		for _, a := range agents {
			one, err := cpuOf(a.Pid())
			if err != nil {
				return 0, err
			}
			total += one
		}
		return total, nil
	}
	before, err := sum()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	}
	took = time.Since(began)
	after, err := sum()
	return after - before, took, err
}

// appliedIndex is how long the log is for a voter.
func appliedIndex(ctx context.Context, voter *cluster.Agent) (uint64, error) {
	s, err := voter.Status(ctx)
	if err != nil {
		return 0, err
	}
	if s.Voter == nil {
		return 0, fmt.Errorf("%s is no voter", voter.Name)
	}
	return s.Voter.AppliedIndex, nil
}
