package voter_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/voter"
)

// A voter whose state machine stands still takes in only so much, and takes in
// the rest when it goes on.
func TestBacklogIsBounded(t *testing.T) {
	const (
		backlog    = 256 << 10
		entryBytes = 64 << 10
		entries    = 200
		// What may be over: one request of 16 entries that was let in, and the
		// commit of those let in before it.
		most = backlog/entryBytes + 2*16
	)
	c := newCluster(t, three, func(cfg *voter.Config) { cfg.BacklogBytes = backlog })
	cl := c.client()
	cl.put("first", "v")
	leader := c.leader()
	slow := c.followers(leader)[0].v.Load()
	release := slow.HoldApply()
	held := true
	defer func() {
		if held {
			release() // or the voter could not be stopped
		}
	}()
	for i := range entries {
		cl.put(fmt.Sprint(i), strings.Repeat("v", entryBytes))
	}
	s := slow.Status()
	if s.LastIndex == s.AppliedIndex {
		t.Fatalf("nothing came in: the log ends at %d", s.LastIndex)
	}
	if waiting := s.CommitIndex - s.AppliedIndex; waiting > most {
		t.Fatalf("%d entries are committed and not applied, more than %d", waiting, most)
	}
	release()
	held = false
	eventually(t, "the follower has everything", func() bool {
		return slow.Status().AppliedIndex >= leader.v.Load().Status().CommitIndex
	})
}
