package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
)

// statusTimeout bounds one question, so that a stopped agent does not stop the
// asker.
const statusTimeout = time.Second

// WaitServing blocks until every agent is ready, and a quorum answers a read through it.
func (c *Cluster) WaitServing(ctx context.Context) error {
	for _, a := range c.Agents {
		if err := a.WaitServing(ctx); err != nil {
			return err
		}
	}
	return nil
}

// WaitServing blocks until the agent is ready and a quorum answers a read through it. It fails at once when the process
// has ended.
func (a *Agent) WaitServing(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return Wait(ctx, "agent "+a.Name+" serves", func(ctx context.Context) (bool, error) {
		if !a.Running() {
			err := fmt.Errorf("its process has ended: %w\n%s", a.exitError(), a.LogTail(15))
			cancel(err)
			return false, err
		}
		ctx, done := context.WithTimeout(ctx, statusTimeout)
		defer done()
		s, err := a.Status(ctx)
		if err != nil {
			return false, err
		}
		if !s.Ready {
			return false, fmt.Errorf("not ready: %s", s.NotReady)
		}
		return a.reads(ctx)
	})
}

// reads reports whether a linearizable read is answered, whatever the answer.
func (a *Agent) reads(ctx context.Context) (bool, error) {
	c := a.Dial()
	defer c.Close()
	if _, err := c.KVExists(ctx, "test/cluster/probe", client.ReadOptions{}); err != nil && !errors.Is(err, client.ErrNotFound) {
		return false, fmt.Errorf("reading through agent %s: %w", a.Name, err)
	}
	return true, nil
}

// exitError is how the process ended.
func (a *Agent) exitError() error {
	if a.process.Load() == nil {
		return fmt.Errorf("it was never started")
	}
	<-a.process.Load().exited
	if a.process.Load().err == nil {
		return fmt.Errorf("exit status 0")
	}
	return a.process.Load().err
}

// Leader blocks until a running voter says that it leads and serves, and
// returns it.
func (c *Cluster) Leader(ctx context.Context) (*Agent, error) {
	var leader *Agent
	err := Wait(ctx, "a voter leads", func(ctx context.Context) (bool, error) {
		var last error
		for _, a := range c.Voters() {
			if !a.Running() {
				continue
			}
			one, done := context.WithTimeout(ctx, statusTimeout)
			s, err := a.Status(one)
			done()
			if err != nil {
				last = err
				continue
			}
			if s.Voter != nil && s.Voter.Raft == "leader" && s.Voter.Serving {
				leader = a
				return true, nil
			}
		}
		return false, last
	})
	return leader, err
}
