package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kahu-sh/kahu/test/cluster"
)

// restartPatience is when a restart that does not end is given up.
const restartPatience = time.Minute

// million measures one engine.
func million(ctx context.Context, s settings, r *report, binary, storage string) (err error) {
	r.section("%d keys of %d bytes on %s, %d voters", s.keys, s.valueSize, storage, s.voters)
	c, err := cluster.Start(ctx, cluster.Options{Binary: binary, Dir: s.dir, Voters: s.voters, Storage: storage})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, c.Logs(15))
		}
		err = errors.Join(err, c.Stop())
	}()
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := fill(ctx, leader, s.keys, s.valueSize); err != nil {
		return err
	}
	took := time.Since(began)
	r.note("every key set once in %s, %.0f keys a second", seconds(took), float64(s.keys)/took.Seconds())
	if err := showMemory(ctx, r, c, "while keys were set"); err != nil {
		return err
	}
	if err := showDisk(ctx, r, c); err != nil {
		return err
	}
	if err := readBack(ctx, s, r, c, leader); err != nil {
		return err
	}
	if err := showMemory(ctx, r, c, "and while they were read"); err != nil {
		return err
	}
	if err := restarts(ctx, s, r, c); err != nil {
		return err
	}
	if err := absences(ctx, s, r, c); err != nil {
		return err
	}
	if err := readBack(ctx, s, r, c, c.Voters()[0]); err != nil {
		return err
	}
	return showMemory(ctx, r, c, "after the restarts, and reading once more")
}

// readBack reads every key in order and some at random.
func readBack(ctx context.Context, s settings, r *report, c *cluster.Cluster, a *cluster.Agent) error {
	began := time.Now()
	if err := readAll(ctx, a, s.keys, s.valueSize); err != nil {
		return err
	}
	r.note("every key listed through %s and compared in %s", a.Name, seconds(time.Since(began)))
	began = time.Now()
	other := follower(c, a)
	if err := readRandomly(ctx, other, s.keys, s.valueSize); err != nil {
		return err
	}
	r.note("%d keys read at random through %s in %s", randomReads, other.Name, seconds(time.Since(began)))
	return nil
}

// showMemory reports the most that each voter ever had.
func showMemory(ctx context.Context, r *report, c *cluster.Cluster, when string) error {
	for _, a := range c.Voters() {
		m, err := memoryOf(a.Pid())
		if err != nil {
			return err
		}
		r.limit(fmt.Sprintf("%s: peak resident %s", a.Name, when), megabytes(m.peak), megabytes(maxResidentBytes), m.peak >= maxResidentBytes)
		sys, err := metric(ctx, a, "go_memstats_sys_bytes")
		if err != nil {
			return err
		}
		released, err := metric(ctx, a, "go_memstats_heap_released_bytes")
		if err != nil {
			return err
		}
		r.note("%s has %s resident now: %s of files, %s of Go, the rest is the engine's",
			a.Name, megabytes(m.resident), megabytes(m.resident-m.own), megabytes(int64(sys-released)))
	}
	return nil
}

// showDisk reports what the agents keep on disk.
func showDisk(ctx context.Context, r *report, c *cluster.Cluster) error {
	for _, a := range c.Voters() {
		status, err := a.Status(ctx)
		if err != nil {
			return err
		}
		var total int64
		err = filepath.WalkDir(filepath.Join(a.Dir, "data"), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return ignoreMissing(err)
			}
			info, err := d.Info()
			if err == nil {
				total += info.Size()
			}
			return ignoreMissing(err)
		})
		if err != nil {
			return err
		}
		v := status.Voter
		r.note("%s: %s on disk, log %s (entries %d to %d), engine behind by %d entries, %s unflushed",
			a.Name, megabytes(total), megabytes(v.LogBytes), v.FirstIndex, v.LastIndex,
			v.AppliedIndex-v.DurableIndex, megabytes(v.UnflushedBytes))
	}
	return nil
}

// ignoreMissing lets files go while they are counted.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// restarts kills voters under load, stops them in order, and times their return.
func restarts(ctx context.Context, s settings, r *report, c *cluster.Cluster) error {
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	all := c.Voters()
	if len(all) > 1 {
		for _, one := range []struct {
			what string
			who  *cluster.Agent
		}{{"a follower", follower(c, leader)}, {"the leader", leader}} {
			stop := load(ctx, c, s.keys, s.valueSize)
			err := restart(ctx, s, r, []*cluster.Agent{one.who}, "kill -9 of "+one.what+" under load that goes on", (*cluster.Agent).Kill)
			stop()
			if err != nil {
				return err
			}
		}
	}
	stop := load(ctx, c, s.keys, s.valueSize)
	err = restart(ctx, s, r, all, "kill -9 of all voters under load", (*cluster.Agent).Kill)
	stop()
	if err != nil {
		return err
	}
	stop = load(ctx, c, s.keys, s.valueSize)
	err = restart(ctx, s, r, all, "an orderly stop of all voters under load", (*cluster.Agent).Terminate)
	stop()
	return err
}

// underLoad is how long the load runs before voters are ended: longer than a
// flush of the engine takes, so that there is something to replay.
const underLoad = 5 * time.Second

// restart ends agents at once, starts them again, and times how long each takes
// to serve after its start.
func restart(ctx context.Context, s settings, r *report, agents []*cluster.Agent, how string, end func(*cluster.Agent) error) error {
	if _, _, err := watch(ctx, underLoad); err != nil {
		return err
	}
	var ended errgroup.Group
	began := time.Now()
	for _, a := range agents {
		ended.Go(func() error { return end(a) })
	}
	if err := ended.Wait(); err != nil {
		return err
	}
	stopped := time.Since(began)
	ctx, cancel := context.WithTimeoutCause(ctx, restartPatience, fmt.Errorf("not served %s after the start", restartPatience))
	defer cancel()
	began = time.Now()
	for _, a := range agents {
		if err := a.Start(); err != nil {
			return err
		}
	}
	took := make([]time.Duration, len(agents))
	var served errgroup.Group
	for i, a := range agents {
		served.Go(func() error {
			err := serves(ctx, a, s.keys-1, s.valueSize)
			took[i] = time.Since(began)
			return err
		})
	}
	if err := served.Wait(); err != nil {
		return fmt.Errorf("after %s: %w", how, err)
	}
	r.note("%s: ended within %s", how, seconds(stopped))
	for i, a := range agents {
		r.limit(a.Name+": start to first read and write", seconds(took[i]), seconds(maxRestart), took[i] > maxRestart)
		m, err := memoryOf(a.Pid())
		if err != nil {
			return err
		}
		r.limit(a.Name+": peak resident of the start", megabytes(m.peak), megabytes(maxResidentBytes), m.peak >= maxResidentBytes)
	}
	return nil
}
