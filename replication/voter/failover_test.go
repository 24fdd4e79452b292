package voter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/raftlog"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage/engines"
)

func seqNext(name string) *replication.Request {
	return &replication.Request{Op: &replication.Request_SequenceNext{SequenceNext: &replication.SequenceNext{Name: name, Count: 1}}}
}

// Leaders are killed under load. Every caller sends again under the same id
// until it has an answer: no value is given twice, and none is lost.
func TestLeaderKillsUnderLoadApplyOnce(t *testing.T) {
	c := newCluster(t, three, nil)
	first := c.client()
	if err := first.do(&replication.Request{Op: &replication.Request_SequenceCreate{SequenceCreate: &replication.SequenceCreate{
		Name: "s", Increment: 1,
	}}}).Refused(); err != nil {
		t.Fatal(err)
	}
	const callers = 8
	var mu sync.Mutex
	given := map[int64]int{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range callers {
		cl := c.client()
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := cl.try(seqNext("s"), 20*time.Second)
				if err != nil || a.Refused() != nil {
					t.Errorf("caller %d: %v, %v", i, a, err)
					return
				}
				mu.Lock()
				given[a.GetAllocation().GetStart()]++
				mu.Unlock()
			}
		})
	}
	for range 3 {
		n := c.leader()
		mu.Lock()
		before := len(given)
		mu.Unlock()
		eventually(t, "calls are answered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(given) > before+50
		})
		n.stop(0)
		c.leader()
		n.start()
	}
	close(stop)
	wg.Wait()
	highest := int64(0)
	for v, times := range given {
		if times != 1 {
			t.Errorf("value %d was given %d times", v, times)
		}
		highest = max(highest, v)
	}
	if int64(len(given)) != highest {
		t.Errorf("%d values were given, the highest is %d: an allocation happened twice or got lost", len(given), highest)
	}
	for _, n := range c.nodes {
		select {
		case err := <-n.fatal:
			t.Errorf("%s: %v", n.id, err)
		default:
		}
	}
}

// A follower that missed more than the log still has gets a snapshot, and goes
// on from there, also over a restart.
func TestLaggingFollowerIsSeededBySnapshot(t *testing.T) {
	for _, engine := range []string{engines.Memory, engines.SQLite} {
		t.Run(engine, func(t *testing.T) { laggingFollowerIsSeeded(t, engine) })
	}
}

func laggingFollowerIsSeeded(t *testing.T, engine string) {
	c := newClusterOn(t, engine, three, func(cfg *voter.Config) { cfg.TrailingEntries = 5 })
	cl := c.client()
	cl.put("k", "v0")
	leader := c.leader()
	f := c.followers(leader)[0]
	f.stop(0)
	big := strings.Repeat("x", 64<<10)
	for i := range 40 { // more than one chunk
		cl.put(fmt.Sprintf("key-%02d", i), big)
	}
	cl.put("k", "v1")
	for _, n := range c.nodes {
		if n != f {
			if err := n.v.Load().Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	leader = c.leader()
	if s := leader.v.Load().Status(); s.FirstIndex < 30 {
		t.Fatalf("the log was not cut: it begins at %d of %d", s.FirstIndex, s.LastIndex)
	}
	f.start()
	eventually(t, "the follower installed a snapshot and caught up", func() bool {
		s := f.v.Load().Status()
		return s.Restores == 1 && s.AppliedIndex >= leader.v.Load().Status().AppliedIndex
	})
	if want, got := leader.v.Load().Position(), f.v.Load().Position(); got.Index == want.Index && got.Hash != want.Hash {
		t.Fatalf("at index %d the hash is %x, the leader's is %x", got.Index, got.Hash, want.Hash)
	}
	cl.put("k", "v2")
	a, err := f.read("k")
	if err != nil || value(t, a) != "v2" {
		t.Fatalf("the seeded follower reads %v, %v", a, err)
	}
	// What was installed is durable, without any flush of its own.
	index := f.v.Load().Status().DurableIndex
	f.stop(0)
	f.start()
	if got := f.v.Load().Position().Index; got < index {
		t.Fatalf("after a restart the engine is at index %d, it had synced %d", got, index)
	}
	eventually(t, "the restarted follower has everything", func() bool {
		a, err := f.read("key-39")
		return err == nil && value(t, a) == big
	})
}

// HAZARDS.md 3: what was stamped in another term than it was appended in has no
// effect, and does not move the lease clock.
func TestEntryOfAnotherTermHasNoEffect(t *testing.T) {
	c := newCluster(t, three[:1], nil)
	cl := c.client()
	cl.put("k", "v")
	v := c.leader().v.Load()
	before := v.Position()
	w := put("k", "stale")
	w.Session, w.Number, w.DoneBelow = cl.session[:], 99, 99
	answers, err := v.ProposeEntry(&replication.LogEntry{
		Level: 1, Term: v.Term() - 1, LeaseClockNs: before.LeaseClockNS + int64(time.Hour), WallMs: 1,
		Requests: []*replication.Request{w},
	})
	if err != nil || len(answers) != 1 || answers[0].GetCode() != replication.Code_CODE_PROPOSE_AGAIN {
		t.Fatalf("a stale entry was answered with %v, %v", answers, err)
	}
	after := v.Position()
	if after.Index <= before.Index || after.LeaseClockNS >= before.LeaseClockNS+int64(time.Hour) {
		t.Fatalf("position before %+v, after %+v", before, after)
	}
	if got := cl.get("k"); got != "v" {
		t.Fatalf("k is %q", got)
	}
}

// HAZARDS.md 15: a voter whose rows differ from the leader's ends itself, with
// one line, and does not come back.
func TestDivergedVoterEndsItself(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	if err := cl.do(&replication.Request{Op: &replication.Request_SequenceCreate{SequenceCreate: &replication.SequenceCreate{
		Name: "counter", Increment: 1,
	}}}).Refused(); err != nil {
		t.Fatal(err)
	}
	leader := c.leader()
	f := c.followers(leader)[0]
	eventually(t, "the follower has the write", func() bool {
		return f.v.Load().Status().AppliedIndex >= leader.v.Load().Status().AppliedIndex
	})
	// The next allocation finds no sequence there, unlike everywhere else.
	changed := 0
	f.v.Load().Corrupt(func(s statemachine.Store) {
		var keys [][]byte
		for key := range s.Scan(nil, nil) {
			if strings.Contains(string(key), "counter") {
				keys = append(keys, append([]byte(nil), key...))
			}
		}
		for _, k := range keys {
			s.Delete(k)
			changed++
		}
	})
	if changed == 0 {
		t.Fatal("the test found no row to corrupt")
	}
	var err error
	deadline := time.After(10 * time.Second)
	for i := 0; err == nil; i++ {
		if err := cl.do(seqNext("counter")).Refused(); err != nil {
			t.Fatal(i, err)
		}
		select {
		case err = <-f.fatal:
		case <-deadline:
			t.Fatal("nobody noticed that a voter's rows differ")
		default:
		}
	}
	if !errors.Is(err, statemachine.ErrDiverged) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("the voter ended with %q", err)
	}
	f.stop(0)
	if err := f.tryStart(); !errors.Is(err, voter.ErrRefused) {
		t.Fatalf("a diverged voter started again: %v", err)
	}
	cl.put("k", "end")
	select {
	case err := <-leader.fatal:
		t.Fatalf("the leader: %v", err)
	default:
	}
}

// The lease clock of a new leader begins where the old one's was decided, so a
// failover lengthens leases and never shortens them, and what the hosts' clocks
// show is of no matter.
func TestFailoverOnlyLengthensLeases(t *testing.T) {
	c := newCluster(t, three, nil)
	// Hosts that booted at different times, by years.
	for i, n := range []string{"a", "b", "c"} {
		c.node(n).shift.Store(int64(i) * int64(10_000*time.Hour))
	}
	id := [16]byte{1, 2, 3}
	cl := c.client()
	open := &replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: id[:], Host: "h", Node: "n", TtlMs: 3000,
	}}}
	if err := cl.do(open).Refused(); err != nil {
		t.Fatal(err)
	}
	opened := time.Now()
	old := c.leader()
	clock, _ := old.v.Load().LeaseClock()
	old.stop(0)
	next := c.leader()
	after, ok := next.v.Load().LeaseClock()
	elapsed := time.Since(opened)
	if !ok || after > clock+int64(elapsed)+int64(time.Millisecond) {
		t.Fatalf("the lease clock went from %v to %v over a failover of %v",
			time.Duration(clock), time.Duration(after), elapsed)
	}
	remaining := func() int64 {
		a := cl.do(&replication.Request{Op: &replication.Request_SessionGet{SessionGet: &replication.SessionGet{Id: id[:]}}})
		if a.GetCode() != replication.Code_CODE_OK {
			return -1
		}
		return a.GetSession().GetRemainingMs()
	}
	if r := remaining(); r < 3000-time.Since(opened).Milliseconds()-1 {
		t.Fatalf("%d ms are left %v after opening with 3000", r, time.Since(opened))
	}
	// And it does end, by a sweep that the new leader proposes by itself.
	eventually(t, "the session ends", func() bool { return remaining() < 0 })
	if lived := time.Since(opened); lived < 3*time.Second-time.Millisecond {
		t.Fatalf("a session of 3 s ended after %v", lived)
	}
}

func TestLostTailIsRefused(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	f := c.followers(c.leader())[0]
	for i := range 10 {
		cl.put(fmt.Sprint(i), "x")
	}
	eventually(t, "the follower has everything", func() bool {
		return f.v.Load().Status().LastIndex >= c.leader().v.Load().Status().LastIndex
	})
	f.stop(time.Second) // records the last index
	// The disk comes back as of earlier: the newest files of the log are gone.
	logDir := f.dir + "/log"
	entries, err := os.ReadDir(logDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".wal") {
			if err := os.Truncate(logDir+"/"+e.Name(), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(f.dir + "/generation-0"); err != nil {
		t.Fatal(err)
	}
	if err := f.tryStart(); !errors.Is(err, voter.ErrRefused) {
		t.Fatalf("a voter that lost acknowledged entries started: %v", err)
	}
}

// A crash between installing a snapshot and removing the log that it replaces.
func TestLogBehindInstalledSnapshotIsRemoved(t *testing.T) {
	dir := t.TempDir()
	log, err := raftlog.Open(raftlog.Options{Dir: dir, Logger: discard, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 10; i++ {
		if err := log.StoreLog(logEntry(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		index, term uint64
		removed     bool
		refused     bool
	}{
		"engine inside the log":            {5, 1, false, false},
		"engine at its end":                {10, 1, false, false},
		"engine at another history":        {5, 2, true, false},
		"engine beyond the log":            {20, 2, true, false},
		"engine empty, log from the start": {0, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := voter.CheckLog(log, statemachine.Position{Index: tc.index, Term: tc.term}, discard)
			if err != nil {
				t.Fatal(err)
			}
			last, _ := log.LastIndex()
			if removed := last == 0; removed != tc.removed {
				t.Fatalf("the log ends at %d", last)
			}
			if tc.removed {
				for i := uint64(1); i <= 10; i++ {
					if err := log.StoreLog(logEntry(i, 1)); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
	if err := log.DeleteRange(1, 7); err != nil {
		t.Fatal(err)
	}
	if err := voter.CheckLog(log, statemachine.Position{Index: 3, Term: 1}, discard); !errors.Is(err, voter.ErrRefused) {
		t.Fatalf("a gap between engine and log was accepted: %v", err)
	}
}

func TestStalledLeaderFallsSilent(t *testing.T) {
	c := newCluster(t, three, func(cfg *voter.Config) { cfg.StallAfter = 200 * time.Millisecond })
	cl := c.client()
	cl.put("k", "v")
	old := c.leader()
	// Its apply hangs: Raft itself would never notice.
	hang := make(chan struct{})
	hung := make(chan struct{})
	go old.v.Load().Corrupt(func(statemachine.Store) { close(hung); <-hang })
	<-hung
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = old.v.Load().Serve(ctx, &replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: make([]byte, 16)}}})
	}()
	eventually(t, "another voter leads while the old one hangs", func() bool {
		for _, n := range c.followers(old) {
			if n.v.Load().Status().Serving {
				return true
			}
		}
		return false
	})
	close(hang)
	eventually(t, "the old leader follows again", func() bool {
		s := old.v.Load().Status()
		return s.Role == "follower" && s.StalledFor == 0
	})
	if got := cl.get("k"); got != "v" {
		t.Fatalf("k is %q", got)
	}
}

func TestVotersComeAndGo(t *testing.T) {
	c := newCluster(t, three[:1], nil)
	cl := c.client()
	cl.put("k", "v")
	leader := c.leader().v.Load()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, id := range three[1:] {
		n := c.add(id)
		if n.v.Load().HasState() {
			t.Fatalf("%s has state before it was added", id)
		}
		if err := leader.AddLearner(ctx, id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the learner has caught up", func() bool {
			return n.v.Load().Status().AppliedIndex >= leader.Status().AppliedIndex
		})
		if err := leader.AddVoter(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := leader.Bootstrap(three); err == nil {
		t.Fatal("a voter with state was bootstrapped again")
	}
	// Without the first one the two others are a quorum.
	if err := leader.RemoveServer(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(leader.Servers()); got != "[{a true} {c true}]" {
		t.Fatalf("servers: %s", got)
	}
	c.node("b").stop(0)
	if err := leader.TransferLeadership(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c leads", func() bool { return c.node("c").v.Load().Status().Serving })
	if got := cl.get("k"); got != "v" {
		t.Fatalf("k is %q", got)
	}
	var notLeader *replication.NotLeaderError
	if err := leader.AddVoter(ctx, "b"); !errors.As(err, &notLeader) {
		t.Fatalf("a follower changed the quorum: %v", err)
	}
}

// A snapshot that breaks off is never installed, and leaves the old state alone.
func TestBrokenSnapshotIsNotInstalled(t *testing.T) {
	c := newCluster(t, three[:1], nil)
	cl := c.client()
	cl.put("k", "v")
	v := c.leader().v.Load()
	for name, broken := range map[string]func([]byte) []byte{
		"cut off":      func(b []byte) []byte { return b[:len(b)-1] },
		"only header":  func(b []byte) []byte { return b[:40] },
		"flipped bit":  func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"foreign rows": func([]byte) []byte { return voter.EncodeSnapshot(500, 9, 3, nil, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := v.Install(500, 9, broken); err == nil {
				t.Fatal("it was installed")
			}
			if got := cl.get("k"); got != "v" {
				t.Fatalf("k is %q after a failed install", got)
			}
		})
	}
	select {
	case err := <-c.node("a").fatal:
		t.Fatal(err)
	default:
	}
}
