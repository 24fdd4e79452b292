// Command compare puts kahu and etcd under the same loads on this machine, one
// after the other, and prints both with ratios. compare.sh builds what it needs.
//
// Each side has three members on loopback with fsync on. Both are asked through
// their leader by one client process; the loads are those of kahu bench.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
	"github.com/kahu-sh/kahu/test/bench/proc"
	"github.com/kahu-sh/kahu/test/cluster"
)

// A plan is what is measured on each side.
type plan struct {
	loads       []shape
	duration    time.Duration
	warmup      time.Duration
	valueBytes  int
	keys        int
	connections int
}

// A shape is one load.
type shape struct {
	name    string
	callers int
}

// options are the flags.
type options struct {
	plan
	etcd    string // folder with member and load
	storage string
	skip    string
	output  string
	quick   bool
	only    string
}

func (o options) names() []string { return strings.Split(o.only, ",") }

// etcd's members are killed by the kernel when the thread that forked them
// ends; main's own lasts as long as the program.
func init() { runtime.LockOSThread() }

func main() {
	var o options
	flag.StringVar(&o.etcd, "etcd", "", "`folder` with etcd's member and load")
	flag.StringVar(&o.storage, "storage", "sqlite", "kahu's engine")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "of each load")
	flag.DurationVar(&o.warmup, "warmup", 2*time.Second, "before each load")
	flag.IntVar(&o.valueBytes, "value-size", 128, "bytes")
	flag.IntVar(&o.keys, "keys", 10_000, "different keys")
	flag.IntVar(&o.connections, "connections", 1, "of the client, on both sides")
	flag.StringVar(&o.skip, "skip", "", "`kahu` or etcd: measure the other alone")
	flag.StringVar(&o.output, "output", "text", "text or json")
	flag.StringVar(&o.only, "loads", "put,get,lock,seq,script", "with commas; script is one counter that all callers increment: by script, and by etcd's STM")
	flag.BoolVar(&o.quick, "quick", false, "3 s a load, 64 callers only")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	callers := []int{1, 64, 256}
	if o.quick {
		o.duration, o.warmup, callers = 3*time.Second, time.Second, []int{64}
	}
	for _, n := range callers {
		for _, name := range o.names() {
			o.loads = append(o.loads, shape{name, n})
		}
	}
	dir, err := os.MkdirTemp("", "kahu-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var r report
	if o.skip != "kahu" {
		if err := o.kahu(ctx, dir, &r); err != nil {
			return err
		}
	}
	if o.skip != "etcd" {
		if err := o.measureEtcd(ctx, dir, &r); err != nil {
			return err
		}
	}
	if o.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(r.rows)
	}
	return r.write(os.Stdout, o.plan)
}

// arguments are the flags that both clients understand.
func (p plan) arguments(s shape) []string {
	return []string{
		"--callers", strconv.Itoa(s.callers),
		"--duration", p.duration.String(),
		"--warmup", p.warmup.String(),
		"--value-size", strconv.Itoa(p.valueBytes),
		"--keys", strconv.Itoa(p.keys),
		"--connections", strconv.Itoa(p.connections),
	}
}

// kahu measures kahu: the Go client's stream, and HTTP beside it.
func (o options) kahu(ctx context.Context, dir string, r *report) (err error) {
	binary, err := cluster.Build(ctx, dir)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{Binary: binary, Dir: dir, Voters: 3, Storage: o.storage})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	for _, mode := range []struct {
		side string
		args []string
	}{{sideStream, nil}, {sideHTTP, []string{"--http"}}} {
		for _, s := range o.loads {
			leader, err := c.Leader(ctx)
			if err != nil {
				return err
			}
			args := append([]string{"bench", s.name, "--output", "json"}, o.arguments(s)...)
			var pids []int
			for _, a := range c.Voters() {
				pids = append(pids, a.Pid())
			}
			result, cpu, err := loadResult(leader.Command(ctx, append(args, mode.args...)...), pids)
			if err != nil {
				return fmt.Errorf("kahu bench %s: %w", s.name, err)
			}
			unflushed := int64(0)
			for _, a := range c.Voters() {
				status, err := a.Status(ctx)
				if err != nil {
					return err
				}
				unflushed = max(unflushed, status.Voter.UnflushedBytes)
			}
			r.add(row{s.name, s.callers, mode.side, unflushed, cpu, result})
		}
	}
	return nil
}

// measureEtcd measures etcd.
func (o options) measureEtcd(ctx context.Context, dir string, r *report) error {
	m, err := startEtcd(ctx, filepath.Join(o.etcd, "member"), dir)
	if err != nil {
		return err
	}
	defer m.stop()
	for _, s := range o.loads {
		leader, err := m.leader(ctx)
		if err != nil {
			return err
		}
		args := append(o.arguments(s), "--endpoints", leader, s.name)
		var pids []int
		for _, cmd := range m.cmds {
			pids = append(pids, cmd.Process.Pid)
		}
		result, cpu, err := loadResult(exec.CommandContext(ctx, filepath.Join(o.etcd, "load"), args...), pids)
		if err != nil {
			return fmt.Errorf("etcd load %s: %w", s.name, err)
		}
		r.add(row{s.name, s.callers, sideEtcd, 0, cpu, result})
	}
	return nil
}

// loadResult runs a load client and reads what it measured, and the CPU time that
// the members and the client took meanwhile, for each operation: on a machine that
// others use it says more than a rate. Of the members also what the warm-up took
// is in it, so that it is divided by what was done in all that time.
func loadResult(cmd *exec.Cmd, members []int) (*load.Result, time.Duration, error) {
	before, err := cpuTime(members)
	if err != nil {
		return nil, 0, err
	}
	begun := time.Now()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, 0, err
	}
	took := time.Since(begun)
	after, err := cpuTime(members)
	if err != nil {
		return nil, 0, err
	}
	var result load.Result
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, 0, fmt.Errorf("reading its result: %w", err)
	}
	all := result.PerSecond * took.Seconds()
	if all < 1 {
		return &result, 0, nil
	}
	used := after - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return &result, time.Duration(float64(used) / all), nil
}

// cpuTime is what processes have used together.
func cpuTime(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		u, err := proc.Read(pid)
		if err != nil {
			return 0, err
		}
		sum += u.CPU
	}
	return sum, nil
}
