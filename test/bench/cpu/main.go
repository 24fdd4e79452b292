// Command cpu says what one operation costs: the CPU time and the bytes written
// of each process of a cluster of three voters on loopback, divided by the
// operations that were done meanwhile. Wall-clock throughput on a machine that
// others use is noise; this is not. cpu.sh builds what it needs.
//
// With a binary that has the profiler in it (see cpu.sh --profile) it also says
// which part of the code the time went to.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
	"github.com/kahu-sh/kahu/test/bench/proc"
	"github.com/kahu-sh/kahu/test/cluster"
)

// options are the flags.
type options struct {
	binary, storage, loads, profiles string
	callers, keys, valueBytes        int
	duration                         time.Duration
}

// The agents are killed by the kernel when the thread that forked them ends;
// main's own lasts as long as the program.
func init() { runtime.LockOSThread() }

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "`path` of kahu")
	flag.StringVar(&o.storage, "storage", "sqlite", "the engine")
	flag.StringVar(&o.loads, "loads", "put,get,lock,seq,script", "of kahu bench, with commas")
	flag.StringVar(&o.profiles, "profiles", "", "`folder` for CPU profiles; the binary must have the profiler in it")
	flag.IntVar(&o.callers, "callers", 64, "operations at once")
	flag.IntVar(&o.keys, "keys", 10_000, "different keys")
	flag.IntVar(&o.valueBytes, "value-size", 128, "bytes")
	flag.DurationVar(&o.duration, "duration", 8*time.Second, "of each load")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cpu:", err)
		os.Exit(1)
	}
}

func (o *options) run(ctx context.Context) (err error) {
	co := cluster.Options{Binary: o.binary, Storage: o.storage}
	if o.profiles != "" {
		co.Env = []string{"PROFILER_DIR=" + o.profiles}
	}
	c, err := cluster.Start(ctx, co)
	if err != nil {
		return err
	}
	defer func() { _ = c.Stop() }() // the figures are there
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "load\tops/s\tCPU µs/op\tleader\tfollowers\t\tclient\tidle %\tp50 µs\tops/entry\tleader wrote B/op\tfollower\t")
	for _, name := range strings.Split(o.loads, ",") {
		if err := o.measure(ctx, c, name, out); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		out.Flush()
	}
	return nil
}

// measure puts one load on the leader and writes a line.
func (o *options) measure(ctx context.Context, c *cluster.Cluster, name string, out *tabwriter.Writer) error {
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	agents := []*cluster.Agent{leader}
	for _, a := range c.Voters() {
		if a != leader {
			agents = append(agents, a)
		}
	}
	before := make([]proc.Usage, len(agents))
	for i, a := range agents {
		if before[i], err = proc.Read(a.Pid()); err != nil {
			return err
		}
	}
	index, err := appliedIndex(ctx, leader)
	if err != nil {
		return err
	}
	idle, err := proc.Idle()
	if err != nil {
		return err
	}
	var profiled sync.WaitGroup
	profiles := make([]profile, len(agents))
	if o.profiles != "" {
		for i, a := range agents {
			profiled.Go(func() { profiles[i] = fetchProfile(ctx, o.profiles, a.Pid(), name, o.duration) })
		}
	}
	begun := time.Now()
	cmd := leader.Command(ctx, "bench", name, "--output", "json", "--warmup", "0s",
		"--duration", o.duration.String(), "--callers", strconv.Itoa(o.callers),
		"--keys", strconv.Itoa(o.keys), "--value-size", strconv.Itoa(o.valueBytes))
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	idleAfter, err := proc.Idle()
	if err != nil {
		return err
	}
	indexAfter, err := appliedIndex(ctx, leader)
	if err != nil {
		return err
	}
	var r load.Result
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("reading the result of kahu bench: %w", err)
	}
	n := float64(r.Operations)
	used := make([]proc.Usage, len(agents))
	total := us(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()) / n
	client := total
	for i, a := range agents {
		after, err := proc.Read(a.Pid())
		if err != nil {
			return err
		}
		used[i] = proc.Usage{CPU: after.CPU - before[i].CPU, Written: after.Written - before[i].Written}
		total += us(used[i].CPU) / n
	}
	fmt.Fprintf(out, "%s\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f\t%.1f\t%.0f\t%.0f\t\n", name, r.PerSecond, total,
		us(used[0].CPU)/n, us(used[1].CPU)/n, us(used[2].CPU)/n, client,
		100*(idleAfter-idle).Seconds()/took.Seconds()/float64(runtime.NumCPU()), float64(r.LatencyUS.P50), n/float64(indexAfter-index),
		float64(used[0].Written)/n, float64(used[1].Written)/n)
	profiled.Wait()
	if o.profiles == "" {
		return nil
	}
	out.Flush()
	return writeParts(os.Stdout, profiles, used, n)
}

func appliedIndex(ctx context.Context, a *cluster.Agent) (uint64, error) {
	s, err := a.Status(ctx)
	if err != nil {
		return 0, err
	}
	return s.Voter.AppliedIndex, nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
