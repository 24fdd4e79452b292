package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/kahu-sh/kahu/test/cluster"
)

// lockName is the one lock of the demo.
const lockName = "invoices"

// workersEach is how many workers every agent has.
const workersEach = 2

// A crew is the workers: each runs kahu exec again and again until there is
// nothing left to do.
type crew struct {
	story   *story
	binary  string
	self    string
	workers []*worker
	end     context.CancelFunc
	group   sync.WaitGroup
}

// A worker runs one kahu exec at a time.
type worker struct {
	name  string
	agent *cluster.Agent

	mu     sync.Mutex
	guard  int            // pid of its kahu exec, 0 between two
	codes  map[int]int    // how often its kahu exec ended with which code
	said   map[int]string // the last that it said with that code
	failed error
}

func newCrew(s *story, binary string) *crew {
	c := &crew{story: s, binary: binary}
	for _, a := range s.cluster.Agents {
		for i := range workersEach {
			c.workers = append(c.workers, &worker{
				name: fmt.Sprintf("%s/worker%d", a.Name, i+1), agent: a,
				codes: map[int]int{}, said: map[int]string{},
			})
		}
	}
	return c
}

// start sends them off; they end with their work, with stop, or with ctx.
func (c *crew) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.self = self
	ctx, c.end = context.WithCancel(ctx)
	for _, w := range c.workers {
		c.group.Go(func() { w.failed = c.run(ctx, w) })
	}
	return nil
}

// stop ends whoever still works, and waits for them.
func (c *crew) stop() {
	if c.end != nil {
		c.end()
	}
	c.group.Wait()
}

// wait waits for the workers to find nothing more to do.
func (c *crew) wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() { // ends with the workers, which end with ctx
		c.group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the workers to end: %w", context.Cause(ctx))
	}
	var failed []error
	for _, w := range c.workers {
		if w.failed != nil {
			failed = append(failed, fmt.Errorf("%s: %w", w.name, w.failed))
		}
	}
	return errors.Join(failed...)
}

// run is one worker's day. A kahu exec that ends without having done a job, as
// when its agent is being killed, is simply run again.
func (c *crew) run(ctx context.Context, w *worker) error {
	for ctx.Err() == nil {
		var stderr bytes.Buffer
		cmd := w.agent.Command(ctx, "exec", "--lock", lockName, "--ttl", "15s", "--grace", "1s", "--wait", "forever", "--", c.self, "job")
		cmd.Stderr = &stderr
		cmd.Env = append(cmd.Env,
			ledgerVariable+"="+filepath.Join(c.story.dir, "ledger.sock"),
			busyVariable+"="+filepath.Join(c.story.dir, "busy"),
			workerVariable+"="+w.name,
			kahuVariable+"="+c.binary)
		code, err := w.exec(cmd)
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.codes[code]++
		if stderr.Len() > 0 {
			w.said[code] = string(bytes.TrimSpace(stderr.Bytes()))
		}
		w.mu.Unlock()
		switch code {
		case exitAllDone:
			return nil
		case exitDoubled:
			return fmt.Errorf("two owners lived at once: %s", stderr.String())
		}
	}
	return context.Cause(ctx)
}

// exec runs cmd and returns how it ended; -1 is death by a signal.
func (w *worker) exec(cmd *exec.Cmd) (int, error) {
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting kahu exec: %w", err)
	}
	w.setGuard(cmd.Process.Pid)
	err := cmd.Wait()
	w.setGuard(0)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("kahu exec: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

func (w *worker) setGuard(pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.guard = pid
}

// guardOf is the process id of a worker's kahu exec.
func (c *crew) guardOf(name string) (int, error) {
	for _, w := range c.workers {
		w.mu.Lock()
		pid := w.guard
		w.mu.Unlock()
		if w.name == name && pid > 0 {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("%s runs no kahu exec", name)
}
