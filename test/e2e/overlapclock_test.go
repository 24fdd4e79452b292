package e2e_test

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/kahu-sh/kahu/test/clocks"
	"github.com/kahu-sh/kahu/test/cluster"
)

// stepClocks steps the wall clocks of hosts, each by its own, and back after a while:
// those of the agents, of all stages of their guards, and of what these run. Guards
// that start meanwhile have the right time, and so does an agent after a restart.
func (k *kennel) stepClocks(ctx context.Context, random *rand.Rand, length time.Duration, agents ...*cluster.Agent) error {
	hosts := make([][]int, len(agents))
	for i, a := range agents {
		hosts[i] = append(k.guards(a), a.Pid())
		by := clockSteps[random.IntN(len(clockSteps))]
		if err := k.stepClock(ctx, by, hosts[i]); err != nil {
			return err
		}
	}
	pause(ctx, length)
	for _, pids := range hosts {
		if err := k.stepClock(ctx, 0, pids); err != nil {
			return err
		}
	}
	return nil
}

// clockSteps are below a lease, about one, and beyond whatever anybody would expect.
var clockSteps = []time.Duration{
	-20 * 365 * 24 * time.Hour, -24 * time.Hour, -time.Minute, -3 * time.Second, -time.Second,
	time.Second, 3 * time.Second, time.Minute, 24 * time.Hour, 100 * 365 * 24 * time.Hour,
}

func (k *kennel) stepClock(ctx context.Context, by time.Duration, pids []int) error {
	n, err := clocks.Shift(ctx, by, pids...)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stepped += n
	return err
}

// guards are the processes of all guards that an agent serves.
func (k *kennel) guards(a *cluster.Agent) (pids []int) {
	for _, w := range k.workers {
		w.mu.Lock()
		if w.agent == a && w.face != 0 {
			pids = append(append(pids, w.face), descendants(k.t, w.face)...)
		}
		w.mu.Unlock()
	}
	return pids
}
