package e2e_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/test/clocks"
	"github.com/kahu-sh/kahu/test/cluster"
)

// Commands under one lock never run at once, and their tokens rise in the order
// in which they ran, while guards, commands and agents are killed and stopped
// for longer than the TTL, agents are restarted, and the quorum comes and goes.
// KAHU_OVERLAP=N (make overlap) goes on until N faults were done, and cuts agents
// off the network and steps their wall clocks as well.
func TestExecNeverOverlaps(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	length, faults := 25*time.Second, 0
	if soak() {
		length = 15 * time.Minute
	}
	o, net := cluster.Options{Voters: 3, Proxies: 1}, (*hosts)(nil)
	if text := os.Getenv("KAHU_OVERLAP"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n <= 0 {
			t.Fatalf("KAHU_OVERLAP is %q, not a number of faults", text)
		}
		length, faults = 2*time.Hour, n
		net, o.Places = newHosts(t, 4)
	}
	c := startCluster(t, o)
	k := newKennel(t, c)
	k.net, k.faults, k.until = net, faults, time.Now().Add(length)
	ctx := bounded(t, length+2*time.Minute)

	var workers sync.WaitGroup
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()
	for i, a := range c.Agents {
		for j, lock := range []string{"first", "second"} {
			w := &worker{kennel: k, agent: a, lock: lock, contain: []string{"pidns", "cgroup", "pgroup"}[(i+j)%3]}
			k.workers = append(k.workers, w)
		}
	}
	for _, w := range k.workers {
		workers.Go(func() { w.run(work, ctx) })
	}

	var chaos sync.WaitGroup
	chaos.Go(func() { k.hurtGuards(ctx) })
	chaos.Go(func() { k.hurtAgents(ctx) })
	chaos.Wait()
	stopWork()
	workers.Wait()
	k.waitNobodyRuns(ctx)
	k.judge()
}

// A kennel has workers, what they left behind, and what was done to them.
type kennel struct {
	t       *testing.T
	cluster *cluster.Cluster
	traces  string
	random  *rand.Rand // of hurtGuards alone
	workers []*worker
	runs    atomic.Int64
	net     *hosts // nil: nobody is cut off
	faults  int    // how many shall be done; 0: as many as come until then
	until   time.Time

	mu    sync.Mutex
	ends  map[int]int    // exit codes of kahu exec
	codes map[string]int // the same by run
	hurts map[string]int // what was done
	done  int            // sum of hurts

	stepped int // clocks of processes, there and back
}

// over reports whether enough was done.
func (k *kennel) over() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.faults > 0 && k.done >= k.faults {
		return true
	}
	late := time.Since(k.until)
	return late > time.Minute || late > 0 && k.commands() >= minCommands
}

// minCommands have to run for a run of the test to show anything. A busy machine is
// given a minute more for them.
const minCommands = 10

// commands is how many have begun so far.
func (k *kennel) commands() int {
	entries, err := os.ReadDir(k.traces)
	if err != nil {
		k.t.Error(err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if field := strings.Fields(e.Name()); len(field) > 1 {
			seen[field[0]+" "+field[1]] = true
		}
	}
	return len(seen)
}

func newKennel(t *testing.T, c *cluster.Cluster) *kennel {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	k := &kennel{t: t, cluster: c, traces: filepath.Join(c.Dir, "traces"), random: rand.New(rand.NewPCG(seed, 0)),
		ends: map[int]int{}, codes: map[string]int{}, hurts: map[string]int{}}
	if err := os.Mkdir(k.traces, 0o700); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *kennel) did(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hurts[what]++
	k.done++
}

// A worker runs one kahu exec after the other.
type worker struct {
	kennel  *kennel
	agent   *cluster.Agent
	lock    string
	contain string

	mu   sync.Mutex
	face int  // pid, 0 between two
	hurt bool // this one has been hurt already
}

// run starts guards until work ends, and returns when the last has ended.
func (w *worker) run(work, ctx context.Context) {
	k := w.kennel
	for i := 0; work.Err() == nil; i++ {
		ttl, grace := "2s", "200ms"
		if i%3 == 1 {
			ttl, grace = "6s", "500ms"
		}
		cmd := w.agent.Command(ctx, "exec", "--lock", w.lock, "--ttl", ttl, "--grace", grace, "--contain", w.contain, "--wait", "20s",
			"--", "/proc/"+strconv.Itoa(os.Getpid())+"/exe")
		if w.contain == "pidns" { // another /proc: by its path
			cmd.Args[len(cmd.Args)-1] = os.Args[0]
		}
		run := strconv.FormatInt(k.runs.Add(1), 10)
		cmd.Env = append(cmd.Env, jobDirVariable+"="+k.traces, jobRunVariable+"="+run,
			jobTimeVariable+"="+[]string{"30ms", "700ms", "4s"}[i%3])
		if i%2 == 1 {
			cmd.Env = append(cmd.Env, jobDeafVariable+"=1")
		}
		if err := cmd.Start(); err != nil {
			k.t.Errorf("starting kahu exec: %v", err)
			return
		}
		w.set(cmd.Process.Pid)
		ended := context.AfterFunc(work, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
		_ = cmd.Wait() // ends in every way there is
		ended()
		w.set(0)
		code := cmd.ProcessState.ExitCode()
		k.mu.Lock()
		k.ends[code]++
		k.codes[run] = code
		k.mu.Unlock()
		if code == 69 || code == 75 { // its agent is away
			pause(work, 100*time.Millisecond)
		}
	}
}

func (w *worker) set(face int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.face, w.hurt = face, false
}

// pause lets time pass: a fault has a length.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// A body is one process of a guard's tree.
type body struct {
	stage string // face, keeper, init or command
	pidfd int
}

// bodies opens pidfds of the worker's tree and all that is below it. Close them.
func (w *worker) bodies() (all []body) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.face == 0 || w.hurt && w.contain != "pidns" {
		// pgroup promises nothing when several stages are gone at once, and cgroup
		// nothing when the agent is gone with them.
		return nil
	}
	w.hurt = true
	for _, pid := range append([]int{w.face}, descendants(w.kennel.t, w.face)...) {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		b := body{"command", fd}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		switch {
		case pid == w.face:
			b.stage = "face"
		case err != nil:
			b.stage = ""
		case strings.HasPrefix(string(name), "kahu-"):
			b.stage = strings.TrimSpace(strings.TrimPrefix(string(name), "kahu-"))
		}
		all = append(all, b)
	}
	return all
}

// runsCommand reports whether the worker's command runs.
func (w *worker) runsCommand() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.face != 0 && len(descendants(w.kennel.t, w.face)) > 2 // more than keeper and init
}

func closeBodies(bodies []body) {
	for _, b := range bodies {
		unix.Close(b.pidfd)
	}
}

// hurtGuards kills and stops stages until the time is over.
func (k *kennel) hurtGuards(ctx context.Context) {
	var resumed sync.WaitGroup
	defer resumed.Wait()
	stages := []string{"face", "keeper", "init", "command", "all"}
	for !k.over() && ctx.Err() == nil {
		pause(ctx, time.Duration(k.random.IntN(400))*time.Millisecond)
		w := k.workers[k.random.IntN(len(k.workers))]
		if k.random.IntN(3) > 0 && !w.runsCommand() {
			continue // most of them stand in line, where little can happen
		}
		stage, stop := stages[k.random.IntN(len(stages))], k.random.IntN(2) == 0
		length := time.Duration(k.random.IntN(9000)) * time.Millisecond
		if stage == "all" && w.contain != "pidns" {
			continue // see bodies
		}
		bodies := w.bodies()
		signal, what := unix.SIGKILL, "kill "
		if stop {
			signal, what = unix.SIGSTOP, "stop "
		}
		hit := false
		for _, b := range bodies {
			if b.stage == stage || stage == "all" {
				hit = unix.PidfdSendSignal(b.pidfd, signal, nil, 0) == nil || hit
			}
		}
		if hit {
			k.did(what + stage)
		}
		resumed.Go(func() {
			defer closeBodies(bodies)
			if stop && hit {
				pause(ctx, length)
				for _, b := range bodies {
					_ = unix.PidfdSendSignal(b.pidfd, unix.SIGCONT, nil, 0) // it may be dead
				}
			}
		})
	}
}

// hurtAgents kills, stops, ends and restarts agents until the time is over, and
// leaves all of them serving.
func (k *kennel) hurtAgents(ctx context.Context) {
	random := rand.New(rand.NewPCG(uint64(k.until.UnixNano()), 1))
	kinds := 5
	if k.net != nil {
		kinds = 7
		if clocks.Supported {
			kinds = 9
		}
	}
	for !k.over() && ctx.Err() == nil {
		pause(ctx, time.Duration(random.IntN(1000))*time.Millisecond)
		a := k.victim(random)
		length := time.Duration(random.IntN(3500)) * time.Millisecond
		var err error
		switch random.IntN(kinds) {
		case 0:
			k.did("kill agent " + a.Name)
			err = a.Kill()
		case 1:
			k.did("end agent " + a.Name)
			err = a.Terminate()
		case 2:
			k.did("stop agent " + a.Name)
			err = k.stopAgents(ctx, length, a)
		case 3:
			k.did("stop the leader")
			if a, err = k.cluster.Leader(ctx); err == nil {
				err = k.stopAgents(ctx, length, a)
			}
		case 4:
			k.did("stop two voters")
			first := random.IntN(3)
			err = k.stopAgents(ctx, 2*length, k.cluster.Agents[first], k.cluster.Agents[(first+1)%3])
		case 5:
			k.did("cut off agent " + a.Name)
			err = k.cutOff(ctx, 2*length, slices.Index(k.cluster.Agents, a))
		case 6:
			k.did("cut off two voters")
			first := random.IntN(3)
			err = k.cutOff(ctx, 2*length, first, (first+1)%3)
		case 7:
			k.did("step the clock of " + a.Name)
			err = k.stepClocks(ctx, random, length, a)
		case 8:
			k.did("step all clocks")
			err = k.stepClocks(ctx, random, length, k.cluster.Agents...)
		}
		if err == nil && !a.Running() {
			pause(ctx, length)
			err = a.Start()
		}
		if err == nil {
			err = k.cluster.WaitServing(ctx)
		}
		if err != nil {
			k.t.Errorf("hurting agents: %v", err)
			return
		}
	}
}

// victim chooses an agent, more often one for which a command runs.
func (k *kennel) victim(random *rand.Rand) *cluster.Agent {
	if random.IntN(3) > 0 {
		for _, i := range random.Perm(len(k.workers)) {
			if w := k.workers[i]; w.runsCommand() {
				return w.agent
			}
		}
	}
	return k.cluster.Agents[random.IntN(len(k.cluster.Agents))]
}

func (k *kennel) stopAgents(ctx context.Context, length time.Duration, agents ...*cluster.Agent) error {
	for _, a := range agents {
		if err := a.Pause(); err != nil {
			return err
		}
	}
	pause(ctx, length)
	for _, a := range agents {
		if err := a.Resume(); err != nil {
			return err
		}
	}
	return nil
}

// cutOff takes hosts off the network for a while.
func (k *kennel) cutOff(ctx context.Context, length time.Duration, hosts ...int) (err error) {
	for _, in := range []bool{false, true} {
		for _, i := range hosts {
			err = errors.Join(err, k.net.cable(i, in))
		}
		if !in {
			pause(ctx, length)
		}
	}
	return err
}

// waitNobodyRuns waits until no job is left: a guard that was killed has nobody
// else who waits for its tree.
func (k *kennel) waitNobodyRuns(ctx context.Context) {
	err := cluster.Wait(ctx, "no job runs any more", func(context.Context) (bool, error) {
		pids, err := withEnvironment(jobDirVariable + "=" + k.traces)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("the processes %v run", pids)
		}
		return err == nil, err
	})
	if err != nil {
		k.t.Error(err)
	}
}

// withEnvironment lists the processes, zombies apart, whose environment has a
// variable, this one apart.
func withEnvironment(variable string) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && slices.Contains(strings.Split(string(env), "\x00"), variable) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// judge checks what the jobs have left.
func (k *kennel) judge() {
	t := k.t
	all, err := readTraces(k.traces)
	if err != nil {
		t.Fatal(err)
	}
	tokens := 0
	var margins, afterFault []time.Duration // between the last instant of one and the first of the next
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, lock := range []string{"first", "second"} {
		byToken := map[int64]*trace{}
		for _, tr := range all {
			if tr.lock != lock {
				continue
			}
			whole := byToken[tr.token]
			if whole == nil {
				byToken[tr.token] = &tr
				continue
			}
			if whole.run != tr.run {
				t.Errorf("the lock %s: token %d was given to run %s and to run %s", lock, tr.token, whole.run, tr.run)
			}
			whole.first, whole.last = min(whole.first, tr.first), max(whole.last, tr.last)
		}
		var order []*trace
		for _, tr := range byToken {
			order = append(order, tr)
		}
		slices.SortFunc(order, func(a, b *trace) int { return cmp.Compare(a.token, b.token) })
		for i := 1; i < len(order); i++ {
			a, b := order[i-1], order[i]
			margins = append(margins, b.first-a.last)
			if k.codes[a.run] != 0 { // it did not end by itself
				afterFault = append(afterFault, b.first-a.last)
			}
			if a.last >= b.first {
				t.Errorf("the lock %s: run %s with token %d was seen at %v, after run %s with token %d had begun at %v (%v too late)",
					lock, a.run, a.token, a.last, b.run, b.token, b.first, a.last-b.first)
			}
		}
		tokens += len(order)
	}
	t.Logf("%d guards started, %d commands ran; exit codes: %v; %d faults done to them: %v", k.runs.Load(), tokens, k.ends, k.done, k.hurts)
	t.Logf("the wall clocks of %d processes were stepped", k.stepped)
	t.Logf("from the last instant of a command to the first of the next under its lock, %d times: %s", len(margins), spread(margins))
	t.Logf("of these, after one that did not end by itself, %d times: %s", len(afterFault), spread(afterFault))
	if tokens < minCommands || len(k.hurts) < 8 || len(afterFault) == 0 {
		t.Errorf("only %d commands ran, only %d kinds of faults happened, and %d commands followed one that was ended by them: this shows nothing",
			tokens, len(k.hurts), len(afterFault))
	}
	if k.faults > 0 && k.net != nil && clocks.Supported && k.stepped < k.faults/10 {
		t.Errorf("only %d clocks were stepped: this shows nothing of clocks", k.stepped)
	}
	if k.faults > 0 && (k.done < k.faults || tokens < k.faults/4 || len(afterFault) < k.faults/20) {
		t.Errorf("%d faults of %d, %d commands, %d after a fault: this shows too little", k.done, k.faults, tokens, len(afterFault))
	}
}
