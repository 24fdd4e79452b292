package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/test/cluster"
)

// Whatever happens to a guard or to its agent, the next command begins after the
// last instruction of the one before, which here is deaf to SIGTERM and has a
// grandchild in a session of its own.
func TestNextBeginsAfterTheLastInstruction(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a lease for each fault")
	}
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	proxy := c.Proxies()[0] // may go without the quorum's going
	signal := func(s syscall.Signal, stages ...string) func(*worker) error {
		return func(w *worker) error {
			bodies := w.bodies()
			defer closeBodies(bodies)
			for _, b := range bodies {
				if slices.Contains(stages, b.stage) {
					_ = unix.PidfdSendSignal(b.pidfd, s, nil, 0) // it may have died with another
				}
			}
			return nil
		}
	}
	guard := []string{"face", "keeper", "init"}
	for _, f := range []struct {
		name     string
		onlyPID1 bool // pgroup promises nothing when all stages are gone at once
		do       func(*worker) error
	}{
		{"face killed", false, signal(unix.SIGKILL, "face")},
		{"keeper killed", false, signal(unix.SIGKILL, "keeper")},
		{"init killed", false, signal(unix.SIGKILL, "init")},
		{"guard killed", true, signal(unix.SIGKILL, guard...)},
		{"keeper stopped", false, signal(unix.SIGSTOP, "keeper")},
		{"guard stopped", true, signal(unix.SIGSTOP, guard...)},
		{"agent stopped", false, func(*worker) error { return proxy.Pause() }},
		{"agent killed", false, func(*worker) error { return proxy.Kill() }},
		{"agent told to end", false, func(*worker) error { return proxy.Terminate() }},
	} {
		for _, rung := range []string{"pidns", "pgroup"} {
			if f.onlyPID1 && rung != "pidns" {
				continue
			}
			t.Run(f.name+"/"+rung, func(t *testing.T) { handOff(t, c, proxy, rung, f.do) })
		}
	}
}

func handOff(t *testing.T, c *cluster.Cluster, holder *cluster.Agent, rung string, fault func(*worker) error) {
	t.Helper()
	ctx := bounded(t, time.Minute)
	if !holder.Running() {
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := holder.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := holder.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	traces := t.TempDir()
	start := func(a *cluster.Agent, run int, length string) *exec.Cmd {
		cmd := a.Command(ctx, "exec", "--lock", "l", "--ttl", "2s", "--grace", "200ms", "--contain", rung, "--", os.Args[0])
		cmd.Env = append(cmd.Env, jobDirVariable+"="+traces, jobRunVariable+"="+strconv.Itoa(run), jobTimeVariable+"="+length, jobDeafVariable+"=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	first := start(holder, 1, "1h")
	waitTraces(ctx, t, traces, 2)
	second := start(c.Agents[0], 2, "50ms")
	waitForLine(ctx, t, c.Agents[0], "l", 1)

	w := &worker{kennel: &kennel{t: t}, contain: rung, face: first.Process.Pid}
	everybody := openPidfds(t, append([]int{w.face}, descendants(t, w.face)...))
	if err := fault(w); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the next: %v", err)
	}
	signalAll(everybody, unix.SIGCONT) // whoever is still there may end
	_ = first.Wait()                   // in the fault's way

	all, err := readTraces(traces)
	if err != nil {
		t.Fatal(err)
	}
	var last, next time.Duration
	for _, tr := range all {
		if tr.run == "1" {
			last = max(last, tr.last)
		} else if next == 0 || tr.first < next {
			next = tr.first
		}
	}
	if last == 0 || next == 0 || last >= next {
		t.Errorf("the first was seen last at %v, and the next began at %v: %v between them", last, next, next-last)
	}
}

// waitTraces waits until n processes of jobs have run.
func waitTraces(ctx context.Context, t *testing.T, dir string, n int) {
	t.Helper()
	err := cluster.Wait(ctx, "the job runs", func(context.Context) (bool, error) {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		return len(found) >= n, err
	})
	if err != nil {
		t.Fatal(err)
	}
}
