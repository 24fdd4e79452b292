package faults_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
	"github.com/kahu-sh/kahu/test/faults"
)

var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kahu-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = cluster.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func soak() bool { return os.Getenv("KAHU_SOAK") != "" }

// lab is a cluster whose voters have a Disk each, and a supervisor each, as
// systemd's Restart=always would be.
type lab struct {
	t     *testing.T
	ctx   context.Context
	c     *cluster.Cluster
	disks []*faults.Disk

	supervising sync.WaitGroup
	watched     []atomic.Bool // an agent that ends is started again
	exits       []atomic.Int64
}

func newLab(t *testing.T, args ...string) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("runs real agents on real mounts")
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Minute, errors.New("the test's bound is over"))
	t.Cleanup(cancel)
	c, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: 3, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, ctx: ctx, c: c, watched: make([]atomic.Bool, 3), exits: make([]atomic.Int64, 3)}
	t.Cleanup(l.close)
	for _, a := range c.Agents {
		backing, mount := filepath.Join(a.Dir, "disk"), filepath.Join(a.Dir, "data")
		for _, dir := range []string{backing, mount} {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		d, err := faults.NewDisk(backing, mount)
		if errors.Is(err, faults.ErrNoFUSE) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		l.disks = append(l.disks, d)
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitServing(ctx); err != nil {
		t.Fatalf("%v\n%s", err, c.Logs(20))
	}
	return l
}

func (l *lab) close() {
	if l.t.Failed() {
		l.t.Logf("the ends of the agents' logs:\n%s", l.c.Logs(25))
	}
	for i := range l.watched {
		l.watched[i].Store(false)
	}
	for _, d := range l.disks {
		d.Heal() // nobody can be killed who waits for a disk
	}
	l.supervising.Wait()
	for _, a := range l.c.Agents {
		if a.Running() {
			if err := a.Kill(); err != nil {
				l.t.Error(err)
			}
		}
	}
	for _, d := range l.disks {
		if err := d.Unmount(); err != nil {
			l.t.Error(err)
		}
	}
	if err := l.c.Stop(); err != nil {
		l.t.Error(err)
	}
}

// supervise starts agent i again whenever it ends, until the test does or
// unsupervise is called.
func (l *lab) supervise(i int) (unsupervise func()) {
	l.watched[i].Store(true)
	done := make(chan struct{})
	l.supervising.Go(func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if !l.watched[i].Load() || l.ctx.Err() != nil {
				return
			}
			if a := l.c.Agents[i]; !a.Running() {
				l.exits[i].Add(1)
				_ = a.Start() // it is tried again
			}
		}
	})
	return func() {
		l.watched[i].Store(false)
		<-done
	}
}

// leader returns the index of the agent that leads.
func (l *lab) leader() int {
	l.t.Helper()
	a, err := l.c.Leader(l.ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	for i, other := range l.c.Agents {
		if other == a {
			return i
		}
	}
	l.t.Fatalf("the leader %s is not among the agents", a.Name)
	return 0
}

// wait blocks until f says true.
func (l *lab) wait(what string, f func(context.Context) (bool, error)) {
	l.t.Helper()
	if err := cluster.Wait(l.ctx, what, f); err != nil {
		l.t.Fatal(err)
	}
}

// book is what was acknowledged, by one writer for each agent.
type book struct {
	l    *lab
	mu   sync.Mutex
	acks map[string]string
	gaps []time.Duration // between two acknowledgements of anybody, the longest last seen
	ends []time.Time     // of each of gaps
	last time.Time
	stop context.CancelFunc
	done sync.WaitGroup
}

// write begins to write through the named agents, as fast as they answer.
func (l *lab) write(agents ...int) *book {
	ctx, cancel := context.WithCancel(l.ctx)
	b := &book{l: l, acks: map[string]string{}, stop: cancel, last: time.Now()}
	for _, i := range agents {
		b.done.Go(func() {
			c := l.c.Agents[i].Dial()
			defer c.Close()
			for n := 0; ctx.Err() == nil; n++ {
				key, value := fmt.Sprintf("w%d/%d", i, n), fmt.Sprintf("%d of %d", n, i)
				try, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := c.KVSet(try, key, []byte(value), client.WriteOptions{})
				cancel()
				if err == nil {
					b.acknowledged(key, value)
				}
			}
		})
	}
	return b
}

func (b *book) acknowledged(key, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.acks[key] = value
	b.gaps = append(b.gaps, now.Sub(b.last))
	b.ends = append(b.ends, now)
	b.last = now
}

func (b *book) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.acks)
}

// more blocks until so many more were acknowledged.
func (b *book) more(n int) {
	b.l.t.Helper()
	want := b.count() + n
	b.l.wait(fmt.Sprintf("%d more acknowledged writes", n), func(context.Context) (bool, error) { return b.count() >= want, nil })
}

// longestGap is the longest time without an acknowledgement.
func (b *book) longestGap() (longest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.gaps {
		longest = max(longest, g)
	}
	return longest
}

// gapEnded is when the longest time without an acknowledgement ended.
func (b *book) gapEnded(since time.Time) (end time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest := time.Duration(-1)
	for i, g := range b.gaps {
		if g > longest && b.ends[i].After(since) {
			longest, end = g, b.ends[i]
		}
	}
	return end
}

// end stops the writers and reads everything back from every agent.
func (b *book) end() {
	b.l.t.Helper()
	b.stop()
	b.done.Wait()
	if err := b.l.c.WaitServing(b.l.ctx); err != nil {
		b.l.t.Fatal(err)
	}
	for _, a := range b.l.c.Agents {
		c := a.Dial()
		lost := 0
		for key, want := range b.acks {
			e, err := c.KVGet(b.l.ctx, key, client.ReadOptions{})
			if err != nil || string(e.Value) != want {
				if lost++; lost <= 3 {
					b.l.t.Errorf("%s: %s is %q, %v; %q was acknowledged", a.Name, key, e.Value, err, want)
				}
			}
		}
		if lost > 0 {
			b.l.t.Errorf("%s has lost %d of %d acknowledged writes", a.Name, lost, len(b.acks))
		}
		_ = c.Close() // always nil
	}
	b.l.t.Logf("%d writes were acknowledged, the longest gap was %s", len(b.acks), b.longestGap().Round(time.Millisecond))
	if len(b.acks) == 0 {
		b.l.t.Error("nothing was written: this run has proved nothing")
	}
}

// A leader whose disk stalls does not take the cluster with it: the others elect,
// and when it goes on it is one of them.
func TestLeaderWhoseDiskStalls(t *testing.T) {
	l := newLab(t, "--log-level", "debug", "--log-format", "json")
	rounds := 1
	if soak() {
		rounds = 30
	}
	var all []parts
	for range rounds {
		sick := l.leader()
		b := l.write((sick+1)%3, (sick+2)%3)
		b.more(20)
		b.mu.Lock()
		b.gaps, b.ends = nil, nil
		b.mu.Unlock()
		stalled := time.Now()
		l.disks[sick].Stall()
		b.more(50) // by another leader: this one can commit nothing
		p, err := l.partsOf(sick, stalled, b.gapEnded(stalled))
		if err != nil {
			t.Error(err)
		}
		all = append(all, p)
		if gap := b.longestGap(); soak() && gap > 3*time.Second {
			t.Errorf("%s went by without a write: %s", gap, p)
		}
		t.Logf("%s without a write: %s", b.longestGap().Round(time.Millisecond), p)
		l.disks[sick].Heal()
		l.wait("the sick voter has caught up", l.caughtUp(sick))
		b.end()
	}
	t.Logf("from the stall of a leader's disk to the next write, %d rounds:%s", rounds, tableOf(all))
}

// caughtUp reports whether a voter has applied what was committed when asked first.
func (l *lab) caughtUp(i int) func(context.Context) (bool, error) {
	var target uint64
	return func(ctx context.Context) (bool, error) {
		if target == 0 {
			for j, a := range l.c.Agents {
				if s, err := a.Status(ctx); j != i && err == nil && s.Voter != nil {
					target = max(target, s.Voter.CommitIndex)
				}
			}
		}
		s, err := l.c.Agents[i].Status(ctx)
		return err == nil && target > 0 && s.Voter != nil && s.Voter.AppliedIndex >= target, err
	}
}

// A voter whose disk refuses ends at once, and comes back by itself when the disk
// works again. The others go on.
func TestDiskThatRefuses(t *testing.T) {
	for _, fault := range []struct {
		name  string
		begin func(*faults.Disk)
		quick string // whose disk it is outside of make soak
	}{
		{"failing syncs", (*faults.Disk).FailSyncs, "leader"},
		{"no space", func(d *faults.Disk) { d.FailWrites(syscall.ENOSPC) }, "leader"},
		{"failing writes", func(d *faults.Disk) { d.FailWrites(syscall.EIO) }, "follower"},
	} {
		for _, who := range []string{"leader", "follower"} {
			if !soak() && who != fault.quick {
				continue
			}
			t.Run(fault.name+" of the "+who, func(t *testing.T) {
				l := newLab(t)
				sick := l.leader()
				if who == "follower" {
					sick = (sick + 1) % 3
				}
				l.supervise(sick)
				b := l.write((sick+1)%3, (sick+2)%3)
				b.more(20)
				fault.begin(l.disks[sick])
				l.wait("the sick voter ends", func(context.Context) (bool, error) { return l.exits[sick].Load() > 0, nil })
				b.more(50) // without it
				if l.disks[sick].Denied() == 0 {
					t.Error("the disk has refused nothing")
				}
				// It waits for its disk, rather than ending until nobody starts it any more.
				if n := l.exits[sick].Load(); n > 2 {
					t.Errorf("it ended %d times while its disk refused", n)
				}
				l.disks[sick].Heal()
				l.wait("the sick voter has caught up", l.caughtUp(sick))
				b.end()
			})
		}
	}
}

// The power of all three hosts goes at one instant. What was acknowledged is there
// afterwards, although no disk has what was not synced.
func TestPowerCut(t *testing.T) {
	l := newLab(t)
	rounds := 2
	if soak() {
		rounds = 25
	}
	all := map[string]string{}
	lost := 0
	for range rounds {
		b := l.write(0, 1, 2)
		for key, value := range all {
			b.acks[key] = value
		}
		b.more(200)
		for _, a := range l.c.Agents {
			if err := a.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		b.stop()
		b.done.Wait()
		for _, d := range l.disks {
			n, err := d.PowerCut()
			if err != nil {
				t.Fatal(err)
			}
			lost += n
		}
		for _, a := range l.c.Agents {
			if err := a.Start(); err != nil {
				t.Fatal(err)
			}
		}
		b.end()
		all = map[string]string{}
		for key, value := range b.acks {
			all[key] = value
		}
		// The next round writes the same names again, with the same values.
	}
	t.Logf("the power cuts took %d blocks", lost)
	if lost == 0 {
		t.Error("nothing was lost: this run has proved nothing")
	}
}

// With little space left a leader refuses what needs some, and says how much; what
// keeps leases alive and what frees space goes on.
func TestLittleSpaceLeft(t *testing.T) {
	l := newLab(t, "--min-free", "1GiB")
	c := l.c.Agents[0].Dial()
	defer c.Close()
	for _, d := range l.disks {
		d.Free(8 << 30)
	}
	hold, err := c.Hold(l.ctx, client.HoldOptions{Lock: "held", TTL: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	if _, err := c.KVSet(l.ctx, "k", []byte("v"), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, d := range l.disks {
		d.Free(700 << 20)
	}
	l.wait("writes are refused", func(ctx context.Context) (bool, error) {
		_, err := c.KVSet(ctx, "k", []byte("w"), client.WriteOptions{})
		if err != nil && (!errors.Is(err, client.ErrLimit) || !strings.Contains(err.Error(), "min-free") || !strings.Contains(err.Error(), "700")) {
			t.Fatalf("refused with %v", err)
		}
		return err != nil, nil
	})
	if _, err := c.LockTry(l.ctx, "new", []byte("me"), time.Minute, client.LockOptions{}); err != nil {
		t.Errorf("a lock is refused above half of it: %v", err)
	}
	for _, d := range l.disks {
		d.Free(100 << 20)
	}
	l.wait("new locks are refused", func(ctx context.Context) (bool, error) {
		_, err := c.LockTry(ctx, "newer", []byte("me"), time.Minute, client.LockOptions{})
		if err == nil {
			err = c.LockUnlock(ctx, "newer", []byte("me"), client.LockOptions{})
			return false, err
		}
		return errors.Is(err, client.ErrLimit), nil
	})
	first, _ := hold.Deadline()
	l.wait("the hold is renewed", func(context.Context) (bool, error) { now, _ := hold.Deadline(); return now > first, nil })
	if err := c.LockUnlock(l.ctx, "new", []byte("me"), client.LockOptions{}); err != nil {
		t.Errorf("unlock: %v", err)
	}
	if err := hold.Release(l.ctx); err != nil {
		t.Errorf("release: %v", err)
	}
	if _, err := c.KVDelete(l.ctx, "k", client.WriteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	for _, d := range l.disks {
		d.Heal()
	}
	l.wait("writes are taken again", func(ctx context.Context) (bool, error) {
		_, err := c.KVSet(ctx, "k", []byte("x"), client.WriteOptions{})
		return err == nil, nil
	})
}
