package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
)

// benchExec measures what kahu exec costs a command that does nothing, and what a
// guard costs that waits.
type benchExec struct {
	runs, waiting int
	contain       string
	prefix        string
	socket        string
}

// execResult is what was measured. Times are milliseconds.
type execResult struct {
	Runs    int           `json:"runs"`
	Contain string        `json:"contain"`
	Bare    execTimes     `json:"bare"`    // the command alone
	Guarded execTimes     `json:"guarded"` // under kahu exec
	AddsMS  float64       `json:"adds_ms"` // median to median
	Waiting []stageMemory `json:"waiting"` // of one guard in line, the median one
}

type execTimes struct {
	MinMS float64 `json:"min_ms"`
	P50MS float64 `json:"p50_ms"`
	P90MS float64 `json:"p90_ms"`
	CPUMS float64 `json:"cpu_ms"` // user and system, of all processes; mean
}

// stageMemory is one stage's, in KiB. Private is what one more of it costs the
// host: the rest is the program's file, which the agent has in memory as well.
type stageMemory struct {
	Stage   string `json:"stage"`
	RSS     int    `json:"rss_kib"`
	PSS     int    `json:"pss_kib"`
	Private int    `json:"private_kib"`
}

// WriteText shows the result to people.
func (r *execResult) WriteText(w io.Writer) error {
	row := func(name string, t execTimes) string {
		return fmt.Sprintf("%-12s min %.2f ms, median %.2f ms, p90 %.2f ms, %.2f ms of CPU\n", name, t.MinMS, t.P50MS, t.P90MS, t.CPUMS)
	}
	text := row("true", r.Bare) + row("kahu exec", r.Guarded) + fmt.Sprintf("adds         %.2f ms (%d runs each, %s)\n", r.AddsMS, r.Runs, r.Contain)
	var sum stageMemory
	for _, m := range r.Waiting {
		text += fmt.Sprintf("waiting      %-7s private %d KiB, PSS %d KiB, RSS %d KiB\n", m.Stage, m.Private, m.PSS, m.RSS)
		sum = stageMemory{RSS: sum.RSS + m.RSS, PSS: sum.PSS + m.PSS, Private: sum.Private + m.Private}
	}
	if len(r.Waiting) > 0 {
		text += fmt.Sprintf("waiting      %-7s private %d KiB, PSS %d KiB, RSS %d KiB\n", "sum", sum.Private, sum.PSS, sum.RSS)
	}
	_, err := io.WriteString(w, text)
	return err
}

func newBenchExecCommand(g *globals, o *benchOptions) *cobra.Command {
	var b benchExec
	cmd := &cobra.Command{
		Use: "exec", Short: "Run true under kahu exec and without, and measure what a waiting guard needs", Args: arguments(),
		Long: `Run true under kahu exec and without, in turn, and show what the guard adds:
the start of its three processes, the lock, and its release. Then let guards wait
in line, and show the memory of one of them.

Run it on an idle machine: other programs show in every number.`,
		Example: `  kahu bench exec
  kahu bench exec --runs 200 --contain cgroup --output json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.runs < 1 || b.waiting < 0 || b.waiting > 1000 {
				return usageError("--runs is above zero, and --waiting between 0 and 1000")
			}
			b.socket, b.prefix = client.DefaultSocket(g.socket), o.prefix
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			r, err := b.measure(ctx)
			if err != nil {
				return err
			}
			return g.show(r, r.WriteText)
		},
	}
	cmd.Flags().IntVar(&b.runs, "runs", 50, "of each")
	cmd.Flags().IntVar(&b.waiting, "waiting", 5, "guards in line while memory is measured; 0: it is not")
	cmd.Flags().StringVar(&b.contain, "contain", "auto", "as of kahu exec")
	hideFlags(cmd, "callers", "rate", "duration", "warmup", "connections", "value-size", "keys", "http", "kahuna", "streams", "ephemeral", "kahuna-skip-verify")
	return cmd
}

// hideFlags leaves flags of other loads out of a command's help.
func hideFlags(cmd *cobra.Command, names ...string) {
	show := cmd.HelpFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		for _, name := range names {
			if f := cmd.InheritedFlags().Lookup(name); f != nil {
				f.Hidden = true
			}
		}
		show(cmd, args)
	})
}

// guarded is a command line under kahu exec.
func (b *benchExec) guarded(ctx context.Context, lock string, command ...string) *exec.Cmd {
	args := append([]string{"exec", "--socket", b.socket, "--lock", b.prefix + lock, "--contain", b.contain, "--"}, command...)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.Stderr = os.Stderr
	return cmd
}

func (b *benchExec) measure(ctx context.Context) (*execResult, error) {
	r := &execResult{Runs: b.runs, Contain: b.contain}
	var bare, guarded []time.Duration
	for i := range b.runs + 1 {
		one, cpu1, err := timed(exec.CommandContext(ctx, "true"))
		if err != nil {
			return nil, fmt.Errorf("running true: %w", err)
		}
		two, cpu2, err := timed(b.guarded(ctx, "exec", "true"))
		if err != nil {
			return nil, fmt.Errorf("running true under kahu exec: %w", err)
		}
		if i == 0 {
			continue // opens the agent's session
		}
		bare, guarded = append(bare, one), append(guarded, two)
		r.Bare.CPUMS += inMS(cpu1) / float64(b.runs)
		r.Guarded.CPUMS += inMS(cpu2) / float64(b.runs)
	}
	r.Bare.sorted(bare)
	r.Guarded.sorted(guarded)
	r.AddsMS = r.Guarded.P50MS - r.Bare.P50MS
	var err error
	if b.waiting > 0 {
		r.Waiting, err = b.memory(ctx)
	}
	return r, err
}

func timed(cmd *exec.Cmd) (wall, cpu time.Duration, err error) {
	begun := time.Now()
	err = cmd.Run()
	wall = time.Since(begun)
	if s := cmd.ProcessState; s != nil {
		if u, ok := s.SysUsage().(*syscall.Rusage); ok {
			cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return wall, cpu, err
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (t *execTimes) sorted(d []time.Duration) {
	slices.Sort(d)
	t.MinMS, t.P50MS, t.P90MS = inMS(d[0]), inMS(d[len(d)/2]), inMS(d[len(d)*9/10])
}

// restTime is until a waiting guard has given back what only its start needed.
const restTime = 3 * time.Second

// memory lets guards wait behind one that holds the lock.
func (b *benchExec) memory(ctx context.Context) ([]stageMemory, error) {
	var all []*exec.Cmd
	defer func() {
		for _, cmd := range all {
			_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended with ctx
		}
		for _, cmd := range all {
			_ = cmd.Wait() // by the signal
		}
	}()
	for range b.waiting + 1 {
		cmd := b.guarded(ctx, "memory", "sleep", "3600")
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("starting kahu exec: %w", err)
		}
		all = append(all, cmd)
	}
	select {
	case <-time.After(restTime):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var guards [][]stageMemory
	for _, cmd := range all {
		var stages []stageMemory
		for _, pid := range stagesOf(cmd.Process.Pid) {
			m, err := memoryOf(pid)
			if err != nil {
				return nil, err
			}
			stages = append(stages, m)
		}
		if len(stages) == 3 { // the one that holds the lock has its command as well
			guards = append(guards, stages)
		}
	}
	if len(guards) == 0 {
		return nil, fmt.Errorf("none of %d guards waits in line", b.waiting)
	}
	private := func(stages []stageMemory) (sum int) {
		for _, m := range stages {
			sum += m.Private
		}
		return sum
	}
	slices.SortFunc(guards, func(a, b []stageMemory) int { return private(a) - private(b) })
	return guards[len(guards)/2], nil
}

// stagesOf lists a process and its descendants, each before its children.
func stagesOf(pid int) []int {
	all := []int{pid}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil // it has ended
	}
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, stagesOf(child)...)
			}
		}
	}
	return all
}

func memoryOf(pid int) (m stageMemory, err error) {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return m, fmt.Errorf("looking at a stage: %w", err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, fmt.Errorf("looking at a stage: %w", err)
	}
	m.Stage = "face"
	if stage, ok := strings.CutPrefix(strings.TrimSpace(string(name)), "kahu-"); ok {
		m.Stage = stage
	}
	for line := range bytes.Lines(text) {
		var key string
		var kib int
		if n, _ := fmt.Sscanf(string(line), "%s %d kB", &key, &kib); n != 2 {
			continue
		}
		switch key {
		case "Rss:":
			m.RSS = kib
		case "Pss:":
			m.PSS = kib
		case "Private_Clean:", "Private_Dirty:":
			m.Private += kib
		}
	}
	return m, nil
}
