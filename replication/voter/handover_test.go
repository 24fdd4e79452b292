package voter_test

import (
	"context"
	"strings"
	"testing"
	"time"
)

// A voter that has just stopped, as under SIGSTOP, is asked to lead. Its leader
// refuses writes until that has failed: not for as long as other requests take.
func TestAFrozenHeirStopsWritesForNoLongerThanAnElection(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("k", "v1")
	leader := c.leader()
	frozen := c.followers(leader)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // other requests take 10 s
	defer cancel()
	eventually(t, "the voter answers its leader", func() bool {
		silent, ok := leader.v.Load().Silence()[frozen.id]
		return ok && silent < 100*time.Millisecond
	})
	frozen.net.hold()
	if err := leader.v.Load().TransferLeadership(ctx, frozen.id); err == nil {
		t.Fatal("leadership was handed over to a voter that does nothing")
	}
	a, err := cl.try(put("k", "v2"), 5*time.Second)
	if err != nil || a.Refused() != nil {
		t.Fatalf("a write after the transfer has failed: %v, %v", a, err)
	}
	frozen.net.release()
	if got := cl.get("k"); got != "v2" {
		t.Fatalf("k is %q", got)
	}
}

// A voter that has not answered for a while is not asked at all.
func TestASilentVoterIsNotAskedToLead(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("k", "v1")
	gone := c.followers(c.leader())[0]
	gone.stop(0)
	var err error
	eventually(t, "the leader does not ask a voter that is down", func() bool {
		err = c.leader().v.Load().TransferLeadership(t.Context(), gone.id)
		return err == nil || strings.Contains(err.Error(), "so it cannot lead now")
	})
	if err == nil || !strings.Contains(err.Error(), "voter "+gone.id+" has ") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("a voter that is down was to lead, and the answer is: %v", err)
	}
	// And without a name the other one is found.
	old := c.leader()
	if err := old.v.Load().TransferLeadership(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if got := cl.get("k"); got != "v1" {
		t.Fatalf("k is %q", got)
	}
}
