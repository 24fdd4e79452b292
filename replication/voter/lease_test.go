package voter_test

import (
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication/voter"
)

// A leader that hears nobody for less than the others would wait for it, as on a host
// that is busy for a moment, goes on leading.
func TestALeaderOutlivesAMomentOfSilence(t *testing.T) {
	var patience time.Duration // of the others
	c := newCluster(t, three, func(cfg *voter.Config) { patience = cfg.Slow(3) })
	cl := c.client()
	for shown, tries := 0, 0; shown < 2; tries++ {
		if tries == 20 {
			t.Fatal("the machine was never quick enough to show anything")
		}
		cl.put("k", "v")
		leader := c.leader()
		term := leader.v.Load().Status().Term
		began := time.Now()
		cl.put("k", "heard by all") // the silence is counted from its answers
		leader.net.hold()
		time.Sleep(patience * 3 / 4) // how long the silence is, is what this is about
		leader.net.release()
		silent := time.Since(began)
		cl.put("k", "after")
		if silent > patience*19/20 {
			continue // the others may have lost patience
		}
		shown++
		if s := leader.v.Load().Status(); s.Role != "leader" || s.Term != term {
			t.Fatalf("silent for %s of %s, it was the leader of term %d, and is %s in term %d", silent, patience, term, s.Role, s.Term)
		}
	}
}
