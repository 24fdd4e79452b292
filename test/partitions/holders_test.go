package partitions_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
)

// holdTTL covers an election, so that none may cost a hold.
const holdTTL = 5 * time.Second

// A tenure is one time that a lock was held, as its holder saw it. Times are on
// the boot clock, which is one for all namespaces.
type tenure struct {
	lock       string
	host       *host
	token      int64
	from, till time.Duration // till 0: it goes on
	lost       bool
}

// A registry is all tenures of a cluster.
type registry struct {
	mu      sync.Mutex
	tenures []*tenure
}

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("reading the boot clock: %v", err)) // every Linux has it
	}
	return time.Duration(ts.Nano())
}

func (r *registry) begin(lock string, h *host, token int64) *tenure {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &tenure{lock: lock, host: h, token: token, from: boottime()}
	r.tenures = append(r.tenures, t)
	return t
}

// end notes that the holder has stopped. A holder that was told late, because
// this program was, must be judged by the deadline that the agent gave it.
func (r *registry) end(t *tenure, hold *client.Hold, lost bool) {
	now := boottime()
	if deadline, ok := hold.Deadline(); ok {
		now = min(now, deadline)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.till, t.lost = now, lost
}

// count is how many tenures are as asked.
func (r *registry) count(is func(*tenure) bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tenures {
		if is(t) {
			n++
		}
	}
	return n
}

// judge fails the test when two held a lock at once, or a token went back or
// was given twice.
func (r *registry) judge(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	byLock := map[string][]*tenure{}
	for _, one := range r.tenures {
		byLock[one.lock] = append(byLock[one.lock], one)
	}
	for lock, all := range byLock {
		slices.SortFunc(all, func(a, b *tenure) int { return cmp.Compare(a.from, b.from) })
		for i := 1; i < len(all); i++ {
			a, b := all[i-1], all[i]
			if a.till == 0 || a.till > b.from {
				t.Errorf("the lock %s is DOUBLED: %s held it with token %d from %s until %s, and %s with token %d from %s",
					lock, a.host.name, a.token, a.from, a.till, b.host.name, b.token, b.from)
			}
			if a.token >= b.token {
				t.Errorf("the lock %s: the token of %s is %d, and that of %s after it is %d", lock, a.host.name, a.token, b.host.name, b.token)
			}
		}
	}
}

// hold takes a lock again and again until ctx ends, each time for a while, or,
// when keep is set, for as long as it can.
func (r *registry) hold(ctx context.Context, h *host, lock string, keep bool) {
	c := h.agent.Dial()
	defer c.Close()
	for ctx.Err() == nil {
		// The open has a bound: on a host that is cut off the agent gives up.
		hold, err := c.Hold(ctx, client.HoldOptions{Lock: lock, TTL: holdTTL, Wait: -1})
		if err != nil {
			select {
			case <-time.After(100 * time.Millisecond): // not too often: the host may be cut off
			case <-ctx.Done():
			}
			continue
		}
		one := r.begin(lock, h, hold.Token())
		var over <-chan time.Time
		if !keep {
			over = time.After(time.Duration(20+rand.IntN(200)) * time.Millisecond)
		}
		lost := false
		select {
		case <-ctx.Done():
		case <-over:
		case <-hold.Lost():
			lost = true
		}
		r.end(one, hold, lost)
		if !lost {
			// Bounded: a host that is cut off cannot release, its agent goes on trying.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			if err := hold.Release(ctx); errors.Is(err, client.ErrLost) {
				r.mu.Lock()
				one.lost = true
				r.mu.Unlock()
			}
			cancel()
		}
		_ = hold.Close() // always nil
	}
}
