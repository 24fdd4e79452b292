package voter_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/voter"
)

// logDisk is the disk of one voter's log: appends hang or fail.
type logDisk struct {
	mu      sync.Mutex
	hanging chan struct{} // not nil: appends wait until it is closed
	failing error
}

func (d *logDisk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hanging = make(chan struct{})
}

// goOn ends hang; with an error appends fail from now on.
func (d *logDisk) goOn(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = err
	if d.hanging != nil {
		close(d.hanging)
		d.hanging = nil
	}
}

func (d *logDisk) pass() error {
	d.mu.Lock()
	hanging := d.hanging
	d.mu.Unlock()
	if hanging != nil {
		<-hanging
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failing
}

// logFiles puts a logDisk under the files of a log.
type logFiles struct {
	types.SegmentFiler
	disk *logDisk
}

func (f logFiles) Create(i types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := f.SegmentFiler.Create(i)
	return logFile{w, f.disk}, err
}

func (f logFiles) RecoverTail(i types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := f.SegmentFiler.RecoverTail(i)
	return logFile{w, f.disk}, err
}

type logFile struct {
	types.SegmentWriter
	disk *logDisk
}

func (f logFile) Append(e []types.LogEntry) error {
	if err := f.disk.pass(); err != nil {
		return err
	}
	return f.SegmentWriter.Append(e)
}

// withDisks is a cluster whose log disks a test can break. They are in order when
// it ends.
func withDisks(t *testing.T, ids []string, tune func(*voter.Config)) (*cluster, map[string]*logDisk) {
	disks := map[string]*logDisk{}
	for _, id := range append([]string{"x"}, ids...) {
		disks[id] = &logDisk{}
	}
	c := newCluster(t, ids, func(cfg *voter.Config) {
		disk := disks[cfg.NodeID]
		cfg.WrapLogFiles(func(f types.SegmentFiler) types.SegmentFiler { return logFiles{f, disk} })
		cfg.StallAfter = time.Hour // it goes on leading
		if tune != nil {
			tune(cfg)
		}
	})
	t.Cleanup(func() { // before the cluster's
		for _, d := range disks {
			d.goOn(nil)
		}
	})
	return c, disks
}

// serving is an attempt that runs.
type serving struct {
	answer chan error
	cancel context.CancelFunc
}

// start puts a value at n, once.
func (cl *client) start(n *node, key, value string) *serving {
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{answer: make(chan error, 1), cancel: cancel}
	v := n.v.Load()
	req := put(key, value)
	cl.number++
	req.Session, req.Number, req.DoneBelow = cl.session[:], cl.number, cl.number
	go func() {
		a, err := v.Serve(ctx, req)
		if err == nil {
			err = a.Refused()
		}
		s.answer <- err
	}()
	return s
}

// answered returns whether an answer is there, and which.
func (s *serving) answered() (bool, error) {
	select {
	case err := <-s.answer:
		s.answer <- err // for the next who asks
		return true, err
	default:
		return false, nil
	}
}

// A leader counts for its own entries only what its disk has: with one follower
// of two it has no majority while its own disk hangs, although its log, which
// runs ahead, has the entry and the follower has acknowledged it.
func TestLeaderDoesNotCountWhatItsDiskDoesNotHave(t *testing.T) {
	c, disks := withDisks(t, three, nil)
	cl := c.client()
	cl.put("k", "before")
	leader := c.leader()
	followers := c.followers(leader)
	followers[1].stop(time.Second)

	disks[leader.id].hang()
	s := cl.start(leader, "k", "pending")
	defer s.cancel()
	eventually(t, "the follower has acknowledged what the leader's disk does not have", func() bool {
		return leader.v.Load().HeldAnswers() > 0
	})
	commit, last := leader.v.Load().Status().CommitIndex, leader.v.Load().Status().LastIndex
	if commit >= last {
		t.Errorf("entry %d is committed, and the disk of the leader hangs since before it", last)
	}
	if ok, err := s.answered(); ok {
		t.Errorf("answered (%v) while only one disk of three had it", err)
	}
	if got := followers[0].v.Load().Status().LastIndex; got < last {
		t.Errorf("the follower has %d of %d: it was not asked while the leader's disk was at work", got, last)
	}

	// The leader's host loses its power: the entry is gone there.
	disks[leader.id].goOn(errPowerCut)
	s.cancel()
	if err := <-leader.fatal; !errors.Is(err, errPowerCut) {
		t.Fatal(err)
	}
	if ok, err := s.answered(); ok && err == nil {
		t.Error("answered although the leader has lost it")
	}
	followers[0].stop(0) // the only one that has it
	leader.stop(0)
	disks[leader.id].goOn(nil)
	leader.start()
	if got := leader.v.Load().Status().LastIndex; got != last-1 {
		t.Errorf("the log of the leader ends at %d after the crash, not at %d", got, last-1)
	}
	followers[1].start()
	if got := cl.get("k"); got != "before" {
		t.Errorf("k is %q without the follower that knows better", got)
	}
}

var errPowerCut = errors.New("power cut")

// The same while nothing fails: the answer comes with the leader's own disk, and
// other followers do not make up for it.
func TestAnswerComesWithTheLeadersOwnDisk(t *testing.T) {
	c, disks := withDisks(t, three, nil)
	cl := c.client()
	cl.put("k", "before")
	leader := c.leader()
	for _, value := range []string{"1", "2", "3"} {
		disks[leader.id].hang()
		s := cl.start(leader, "k", value)
		eventually(t, "both followers have acknowledged", func() bool { return leader.v.Load().HeldAnswers() == 2 })
		if ok, err := s.answered(); ok {
			t.Errorf("answered (%v) before the leader's disk has it", err)
		}
		disks[leader.id].goOn(nil)
		if err := <-s.answer; err != nil {
			t.Fatal(err)
		}
		s.cancel()
		if got := cl.get("k"); got != value {
			t.Errorf("k is %q, want %q", got, value)
		}
	}
}

// A leader whose disk hangs is deposed. What it has not written it may not
// acknowledge to the next leader either, which has it from the followers.
func TestDeposedLeaderAcknowledgesOnlyWhatItsDiskHas(t *testing.T) {
	c, disks := withDisks(t, three, func(cfg *voter.Config) { cfg.StallAfter = 200 * time.Millisecond })
	cl := c.client()
	cl.put("k", "before")
	old := c.leader()
	followers := c.followers(old)
	disks[old.id].hang()
	s := cl.start(old, "k", "pending")
	defer s.cancel()
	eventually(t, "the others elect", func() bool {
		for _, f := range followers {
			if f.v.Load().Status().Serving {
				return true
			}
		}
		return false
	})
	next := followers[0]
	if !next.v.Load().Status().Serving {
		next = followers[1]
	}
	third := followers[0]
	if third == next {
		third = followers[1]
	}
	// Now every decision needs the old leader.
	third.stop(time.Second)
	late := cl.start(next, "k", "late")
	defer late.cancel()
	index := uint64(0)
	eventually(t, "the next leader has the entry", func() bool {
		status := next.v.Load().Status()
		index = status.LastIndex
		return status.LastIndex > status.CommitIndex || status.Role != "leader"
	})
	if ok, err := late.answered(); ok && err == nil {
		t.Errorf("entry %d was decided by one disk of three", index)
	}
	disks[old.id].goOn(nil)
	cl.put("k", "after")
	if got := cl.get("k"); got != "after" {
		t.Errorf("k is %q", got)
	}
	third.start()
	c.settledAlike(t)
}

// settledAlike waits until all voters have applied the same.
func (c *cluster) settledAlike(t *testing.T) {
	t.Helper()
	eventually(t, "all voters have the same state", func() bool {
		hashes := map[string]bool{}
		for _, id := range three {
			v := c.node(id).v.Load()
			if v == nil {
				return false
			}
			status := v.Status()
			if status.AppliedIndex != status.LastIndex {
				return false
			}
			hashes[status.Hash] = true
		}
		return len(hashes) == 1
	})
}

// A voter that decides alone writes first, whatever it was before.
func TestSingleVoterDoesNotRunAhead(t *testing.T) {
	c, disks := withDisks(t, three[:1], nil)
	cl := c.client()
	alone := c.leader()
	stays := func(what string) {
		t.Helper()
		disks[alone.id].hang()
		last := alone.v.Load().Status().LastIndex
		s := cl.start(alone, "k", what)
		defer s.cancel()
		eventually(t, "the disk is asked", func() bool { return alone.v.Load().LogWriteAge() > 0 })
		if status := alone.v.Load().Status(); status.LastIndex != last || status.CommitIndex > last {
			t.Errorf("%s: the log ends at %d, committed %d, and the disk has %d", what, status.LastIndex, status.CommitIndex, last)
		}
		if ok, err := s.answered(); ok {
			t.Errorf("%s: answered (%v)", what, err)
		}
		disks[alone.id].goOn(nil)
		if err := <-s.answer; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	stays("alone")
	c.add("x")
	if err := alone.v.Load().AddVoter(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	cl.put("k", "of two")
	if err := alone.v.Load().RemoveServer(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	stays("alone again")
}

// A follower applies what it is told to be committed while its disk is at work on
// the entries that come with it.
func TestFollowerAppliesWhileItsDiskIsAtWork(t *testing.T) {
	c, disks := withDisks(t, three, func(cfg *voter.Config) {
		cfg.SetTiming(time.Second, time.Hour) // only the next entry tells of a commit
	})
	cl := c.client()
	leader := c.leader()
	follower := c.followers(leader)[0]
	cl.put("k", "1")
	eventually(t, "the follower has the entry", func() bool {
		return follower.v.Load().Status().LastIndex == leader.v.Load().Status().LastIndex
	})
	index := leader.v.Load().Status().CommitIndex
	disks[follower.id].hang()
	cl.put("k", "2") // with the other follower
	eventually(t, "the follower's disk is at work", func() bool { return follower.v.Load().LogWriteAge() > 0 })
	eventually(t, "the follower has applied what was decided before", func() bool {
		return follower.v.Load().Status().AppliedIndex >= index
	})
	if follower.v.Load().LogWriteAge() == 0 {
		t.Error("its disk was not at work")
	}
}

// What a follower is told first is part of what it is told, and says nothing of
// entries that it may not have.
func TestDecidedIsPartOfTheRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &raft.AppendEntriesRequest{
			RPCHeader:         raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")},
			Term:              rapid.Uint64().Draw(t, "term"),
			PrevLogEntry:      rapid.Uint64Range(0, 20).Draw(t, "previous"),
			PrevLogTerm:       rapid.Uint64().Draw(t, "term of the previous"),
			LeaderCommitIndex: rapid.Uint64Range(0, 20).Draw(t, "committed"),
		}
		for i := range rapid.Uint64Range(1, 3).Draw(t, "entries") {
			a.Entries = append(a.Entries, logEntry(a.PrevLogEntry+1+i, a.Term))
		}
		first := voter.Decided(a)
		if first == nil {
			if a.LeaderCommitIndex > 0 && a.PrevLogEntry > 0 {
				t.Fatalf("nothing of %+v", a)
			}
			return
		}
		if len(a.Entries) == 0 || len(first.Entries) > 0 {
			t.Fatalf("%d entries, of %d", len(first.Entries), len(a.Entries))
		}
		if first.LeaderCommitIndex > a.LeaderCommitIndex || first.LeaderCommitIndex > first.PrevLogEntry || first.LeaderCommitIndex == 0 {
			t.Fatalf("%d is said to be committed, of %d, behind entry %d", first.LeaderCommitIndex, a.LeaderCommitIndex, first.PrevLogEntry)
		}
		first.Entries, first.LeaderCommitIndex = a.Entries, a.LeaderCommitIndex
		if !reflect.DeepEqual(first, a) {
			t.Fatalf("%+v is not of %+v", first, a)
		}
	})
}
