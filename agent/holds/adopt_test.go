package holds_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// A Coordinator whose sessions ended with the agent is told of each session that is
// taken up, with its holds, before it is asked to renew it.
func TestSessionsAreAdoptedBeforeTheyAreRenewed(t *testing.T) {
	reborn(t, func(t *testing.T, r *rig) {
		req := request("l")
		req.Resume = true
		a := r.open(req)
		r.want(a, soon, localapi.HoldHeld)
		waiting := r.open(req)
		r.want(waiting, soon, localapi.HoldQueued)
		renewed := r.q.count(isRenew)
		adopted := map[string][]string{} // holds by session
		r.adopt = func(id []byte, ttl time.Duration, list []*replication.SessionHold) {
			if n := r.q.count(isRenew); n != renewed {
				t.Errorf("it was renewed %d times before it was adopted", n-renewed)
			}
			if ttl != req.TTL {
				t.Errorf("it is adopted with a ttl of %s", ttl)
			}
			for _, sh := range list {
				if sh.GetName() != "l" || sh.GetDurability() != persistent {
					t.Errorf("adopted: %v", sh)
				}
				adopted[string(id)] = append(adopted[string(id)], string(sh.GetOwner()))
			}
		}
		r.restart()
		synctest.Wait()
		if len(adopted) != 1 {
			t.Fatalf("adopted: %v", adopted)
		}
		for _, owners := range adopted {
			if len(owners) != 2 || owners[0] != a.ID() && owners[1] != a.ID() {
				t.Errorf("adopted: %v, want %s and %s", owners, a.ID(), waiting.ID())
			}
		}
		if r.q.count(isRenew) == renewed {
			t.Error("it was never renewed")
		}
	})
}

const persistent = replication.Durability_DURABILITY_PERSISTENT
