package suspend_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

const ttl = 8 * time.Second

// guard starts the command under a guard of the machine, and waits for its first beat.
func (m *machine) guard(ctx context.Context, lock, contain string) (token string) {
	m.t.Helper()
	m.do(ctx, ": >"+printed)
	m.do(ctx, fmt.Sprintf("(%s=beat kahu exec --lock %s --ttl %s --grace 1s --contain %s --require-contain -- /bin/worker; echo guard $?) >>%s 2>&1 &",
		workerVariable, lock, ttl, contain, printed))
	token, _, _ = strings.Cut(m.printed(ctx, "beat "), " ")
	return token
}

// beatsWith are the times at which the command ran under this token.
func (m *machine) beatsWith(ctx context.Context, token string) (at []time.Duration) {
	m.t.Helper()
	for _, l := range m.lines(ctx, "beat") {
		if l.value == token {
			at = append(at, l.at[0])
		}
	}
	return at
}

// next has somebody outside take the lock as soon as it can be had. The lock is free
// again at the end of the test.
func next(ctx context.Context, t *testing.T, a *cluster.Agent, lock string) *client.Hold {
	t.Helper()
	c := a.Dial()
	h, err := c.Hold(ctx, client.HoldOptions{Lock: lock, TTL: time.Minute, Wait: -1})
	if err != nil {
		t.Fatalf("taking the lock outside: %v", err)
	}
	t.Cleanup(func() { h.Close(); c.Close() })
	return h
}

// A host sleeps for longer than its lease. Somebody else has the lock when it wakes
// up, and its command must not run one more instruction that shows.
func TestCommandDoesNotWakeUp(t *testing.T) {
	ctx := bounded(t, 4*time.Minute)
	l := newLab(t)
	c := l.voters(ctx, 3)
	m := l.machine(ctx, c, "sleeper", "--role", "proxy")

	for _, contain := range []string{"pidns", "cgroup", "pgroup"} {
		t.Run(contain, func(t *testing.T) {
			token := m.guard(ctx, contain, contain)
			before := m.uptime(ctx)
			m.sleep(ctx)
			h := next(ctx, t, c.Voters()[0], contain)
			m.wake(ctx)
			after := m.uptime(ctx)
			if after-before < ttl-2*time.Second { // the lease began at most two seconds before
				t.Fatalf("the machine slept from %s to %s only: it proves nothing", before, after)
			}
			if status := m.printed(ctx, "guard "); status != "76" {
				t.Errorf("the guard ended with %s, want 76", status)
			}
			awake := before + (after-before)/2 // no instant between falling asleep and waking up
			beats := m.beatsWith(ctx, token)
			for _, at := range beats {
				if at > awake {
					t.Fatalf("the command ran at %s, after a sleep from %s to %s; the lock was somebody else's, with token %d", at, before, after, h.Token())
				}
			}
			t.Logf("asleep from %s, awake at %s; %d beats before", beats[len(beats)-1], after, len(beats))
		})
	}
}

// A host sleeps for less than its lease: nothing was lost.
func TestCommandGoesOnAfterAShortSleep(t *testing.T) {
	ctx := bounded(t, 4*time.Minute)
	l := newLab(t)
	c := l.voters(ctx, 3)
	m := l.machine(ctx, c, "sleeper", "--role", "proxy")
	token := m.guard(ctx, "short", "pidns")
	before := m.uptime(ctx)
	m.sleep(ctx)
	m.wake(ctx)
	after := m.uptime(ctx)
	m.beatsPast(ctx, t, token, after+2*ttl)
	t.Logf("asleep at %s, awake at %s", before, after)
}

// beatsPast waits for a beat under this token at an instant of the machine.
func (m *machine) beatsPast(ctx context.Context, t *testing.T, token string, instant time.Duration) {
	t.Helper()
	until(ctx, t, fmt.Sprintf("a beat after %s under token %s", instant, token), func(ctx context.Context) (bool, error) {
		beats := m.beatsWith(ctx, token)
		return len(beats) > 0 && beats[len(beats)-1] > instant, nil
	})
}

// A host's wall clock is stepped: a lease is no matter of wall clocks, neither
// while the agent renews it, nor when the agent is stopped.
func TestSteppedClockMovesNoDeadline(t *testing.T) {
	ctx := bounded(t, 4*time.Minute)
	l := newLab(t)
	c := l.voters(ctx, 3)
	m := l.machine(ctx, c, "stepper", "--role", "proxy")
	now := m.do(ctx, "date +%s")
	for _, step := range []string{"+ 3600", "- 3600", "+ 86400", "- 86400"} {
		t.Run("by "+step, func(t *testing.T) {
			defer m.do(ctx, "date -s @"+now)
			lock := strings.NewReplacer("+ ", "ahead", "- ", "behind").Replace(step)
			token := m.guard(ctx, lock, "pidns")
			m.do(ctx, "date -s @$(( $(date +%s) "+step+" ))")
			m.beatsPast(ctx, t, token, m.uptime(ctx)+ttl+time.Second) // renewed

			m.do(ctx, "kill -STOP $(cat /run/agent.pid)")
			m.do(ctx, "date -s @$(( $(date +%s) "+step+" ))")
			next(ctx, t, c.Voters()[0], lock)
			free := m.uptime(ctx)
			if status := m.printed(ctx, "guard "); status != "76" {
				t.Errorf("the guard ended with %s, want 76", status)
			}
			beats := m.beatsWith(ctx, token)
			if last := beats[len(beats)-1]; last > free {
				t.Errorf("the command ran at %s, when the lock had been given to somebody else before %s", last, free)
			}
			m.do(ctx, "kill -CONT $(cat /run/agent.pid)")
			m.serves(ctx)
		})
	}
}

// serves waits until the machine's agent answers what needs the quorum.
func (m *machine) serves(ctx context.Context) {
	m.t.Helper()
	until(ctx, m.t, "the machine's agent serves", func(ctx context.Context) (bool, error) {
		said := m.do(ctx, "kahu lock ls 2>&1 || { echo failed; tail -n 3 "+agentLog+"; }")
		return !strings.Contains(said, "failed"), errors.New(said)
	})
}

// A leader sleeps, another is elected and takes a write. What the sleeper is asked
// when it wakes up it must not answer from the time before.
func TestLeaderThatSleptReadsNothingOld(t *testing.T) {
	ctx := bounded(t, 4*time.Minute)
	l := newLab(t)
	c := l.voters(ctx, 2)
	m := l.machine(ctx, c, "voter3", "--role", "voter", "--bootstrap-expect", "3", "--allow-volatile")
	outside := c.Voters()[0]
	if err := outside.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	kv := outside.Dial()
	defer kv.Close()
	set := func(key, value string, o client.WriteOptions) {
		t.Helper()
		until(ctx, t, "a write is acknowledged", func(ctx context.Context) (bool, error) {
			_, err := kv.KVSet(ctx, key, []byte(value), o)
			return err == nil, err
		})
	}
	set(key, "0", client.WriteOptions{})
	m.do(ctx, ": >"+printed+"; ("+workerVariable+"=read /bin/worker >/dev/null 2>&1 &)")
	for round := 1; round <= 3; round++ {
		until(ctx, t, "the machine leads", func(ctx context.Context) (bool, error) {
			_, err := kv.ClusterChange(ctx, wire.ClusterTransfer, "voter3")
			return err == nil, err
		})
		before, after := strconv.Itoa(2*round-1), strconv.Itoa(2*round)
		set(key, before, client.WriteOptions{})
		asleep := m.uptime(ctx)
		m.sleep(ctx)
		set(key, after, client.WriteOptions{})
		set("nap", "", client.WriteOptions{TTL: 3 * time.Second})
		until(ctx, t, "the nap is over", func(ctx context.Context) (bool, error) {
			_, err := kv.KVGet(ctx, "nap", client.ReadOptions{})
			return errors.Is(err, client.ErrNotFound), err
		})
		m.wake(ctx)
		awake := m.uptime(ctx)
		if awake-asleep < 3*time.Second {
			t.Fatalf("the machine slept from %s to %s only: it proves nothing", asleep, awake)
		}
		middle := asleep + (awake-asleep)/2
		until(ctx, t, "the machine reads the new value", func(ctx context.Context) (bool, error) {
			fresh := 0
			for _, l := range m.lines(ctx, "read") {
				switch {
				case l.at[0] < middle || l.value == "none":
				case l.value == after:
					fresh++
				default:
					t.Fatalf("a read of %s to %s gave %s, after a sleep from %s to %s in which %s was acknowledged", l.at[0], l.at[1], l.value, asleep, awake, after)
				}
			}
			return fresh >= 10, nil
		})
		t.Logf("round %d: asleep at %s, awake at %s", round, asleep, awake)
	}
}

// until waits for a condition, which must come.
func until(ctx context.Context, t *testing.T, what string, done func(context.Context) (bool, error)) {
	t.Helper()
	if err := cluster.Wait(ctx, what, done); err != nil {
		t.Fatal(err)
	}
}
