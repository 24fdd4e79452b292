package voter_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
)

// builds says which build runs on which voter: one that knows all levels, or one
// that knows those up to known.
type builds struct {
	known uint32
	older map[string]*atomic.Bool
}

// before is what the build before this one knows.
const before = statemachine.CurrentLevel - 1

// snapshotVersions is the version of the snapshots of each level.
var snapshotVersions = map[uint32]byte{2: 1, 3: 2, 4: 2}

func (b *builds) tune(cfg *voter.Config) {
	cfg.TrailingEntries = 1
	if b.older[cfg.NodeID].Load() {
		cfg.MaxLevel = b.known
	}
	cfg.AnnouncedLevel = func() uint32 {
		for _, older := range b.older {
			if older.Load() {
				return b.known
			}
		}
		return statemachine.CurrentLevel
	}
}

// While one voter of the build before takes part it reads everything that the new
// ones send it: entries, and the snapshot for what it missed. When it is upgraded
// the level rises, and from then on the build before refuses entries, snapshots and
// its own directory.
func TestVotersOfTwoBuilds(t *testing.T) {
	for known := uint32(2); known < statemachine.CurrentLevel; known++ {
		t.Run(fmt.Sprint("with level ", known), func(t *testing.T) { votersOfTwoBuilds(t, known) })
	}
}

func votersOfTwoBuilds(t *testing.T, known uint32) {
	b := &builds{known: known, older: map[string]*atomic.Bool{}}
	for _, id := range three {
		b.older[id] = new(atomic.Bool)
	}
	old := "c"
	b.older[old].Store(true)
	c := newClusterOn(t, "sqlite", three, b.tune)
	cl := c.client()
	n := c.node(old)
	for round := range 2 {
		cl.put("k", fmt.Sprint("round ", round))
		restored := missEntries(t, c, n, cl)
		if len(restored) < 16 || restored[8] != snapshotVersions[known] {
			t.Fatalf("at level %d a snapshot of version %d was sent", known, restored[8])
		}
		if level := n.v.Load().Status().Level; level != known {
			t.Fatalf("the level is %d while a voter of %d takes part", level, known)
		}
	}
	// Upgraded, and it rises by itself.
	n.stop(0)
	b.older[old].Store(false)
	n.start()
	eventually(t, "the level of the new build", func() bool { return n.v.Load().Status().Level == statemachine.CurrentLevel })
	cl.put("k", "at the new level")
	if sent := missEntries(t, c, n, cl); sent[8] != snapshotVersions[statemachine.CurrentLevel] {
		t.Fatalf("at level %d a snapshot of version %d was sent", statemachine.CurrentLevel, sent[8])
	}
	// Back to the build before: its directory is refused, in one line.
	n.stop(0)
	b.older[old].Store(true)
	if err := n.tryStart(); !errors.Is(err, statemachine.ErrNewer) || bytes.ContainsRune([]byte(err.Error()), '\n') {
		t.Fatalf("a directory of level %d at a build of level %d: %v", statemachine.CurrentLevel, known, err)
	}
}

// missEntries has n miss so many entries that it needs a snapshot, and returns the
// beginning of what its leader sends to one in its place.
func missEntries(t *testing.T, c *cluster, n *node, cl *client) []byte {
	t.Helper()
	n.stop(0)
	var leader *node
	for i := range 50 {
		cl.put(fmt.Sprint("missed", i), "x")
	}
	leader = c.leader()
	if err := leader.v.Load().Snapshot(); err != nil {
		t.Fatal(err)
	}
	stream, err := leader.v.Load().SnapshotStream()
	if err != nil {
		t.Fatal(err)
	}
	n.start()
	eventually(t, "it has caught up by a snapshot", func() bool {
		s := n.v.Load().Status()
		return s.Restores > 0 && s.AppliedIndex >= leader.v.Load().Status().AppliedIndex
	})
	return stream
}

// A voter of the build before that is behind meets the raise in its log, and ends
// there with one line: nothing of it was applied.
func TestRaiseEndsAVoterOfTheBuildBefore(t *testing.T) {
	c := newCluster(t, three[:1], func(cfg *voter.Config) { cfg.MaxLevel = before })
	cl := c.client()
	cl.put("k", "v")
	n := c.leader()
	go func() {
		_, _ = n.v.Load().ProposeEntry(&replication.LogEntry{Level: before, Term: n.v.Load().Term(), Requests: []*replication.Request{
			{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}}}})
	}()
	if err := <-n.fatal; !errors.Is(err, statemachine.ErrNewer) || bytes.ContainsRune([]byte(err.Error()), '\n') {
		t.Fatalf("the voter ended with %v", err)
	}
}
