package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/voter"
)

func TestVoterReady(t *testing.T) {
	quorum := []voter.Peer{{ID: "a", Voter: true}, {ID: "b", Voter: true}, {ID: "c"}}
	for name, tc := range map[string]struct {
		status  voter.Status
		waiting string
		want    string // part of the reason; empty: ready
	}{
		"leader":                    {voter.Status{NodeID: "a", Role: "leader", Leader: "a", Serving: true, Peers: quorum}, "", ""},
		"leader before its opening": {voter.Status{NodeID: "a", Role: "leader", Leader: "a", Peers: quorum}, "", "just been elected"},
		"leader with a hung disk": {voter.Status{NodeID: "a", Role: "leader", Leader: "a", Serving: true, Peers: quorum, StalledFor: time.Second},
			"", "disk"},
		"follower":            {voter.Status{NodeID: "b", Role: "follower", Leader: "a", Peers: quorum, LastContact: time.Second}, "", ""},
		"learner":             {voter.Status{NodeID: "c", Role: "follower", Leader: "a", Peers: quorum, LastContact: time.Second}, "", ""},
		"follower, not heard": {voter.Status{NodeID: "b", Role: "follower", Leader: "a", Peers: quorum, LastContact: 4 * time.Second}, "", "not been heard"},
		"follower, never heard": {voter.Status{NodeID: "b", Role: "follower", Leader: "a", Peers: quorum, LastContact: -1},
			"", "not been heard"},
		"candidate": {voter.Status{NodeID: "b", Role: "candidate", Peers: quorum, LastContact: time.Minute}, "", "no leader is known"},
		"new":       {voter.Status{NodeID: "d", Role: "follower", LastContact: -1}, "waiting for 2 more voters", "in no quorum: waiting for 2 more voters"},
		"removed": {voter.Status{NodeID: "d", Role: "follower", Peers: quorum, LastContact: time.Minute},
			"removed from the quorum: empty the data directory", "in no quorum: removed from the quorum"},
	} {
		t.Run(name, func(t *testing.T) {
			ready, why := voterReady(tc.status, tc.waiting)
			if ready != (tc.want == "") || ready != (why == "") || !strings.Contains(why, tc.want) {
				t.Fatalf("ready %v, %q; want %q", ready, why, tc.want)
			}
		})
	}
}

func TestProxyReady(t *testing.T) {
	silent := wire.Status{Peers: []wire.Peer{{Node: "a"}}}
	heard := wire.Status{Peers: []wire.Peer{{Node: "a"}, {Node: "b", Connected: true}}}
	for name, tc := range map[string]struct {
		status   wire.Status
		answered bool
		want     string
	}{
		"answered":                 {heard, true, ""},
		"answered, then all moved": {silent, true, ""},
		"voters without a quorum":  {heard, false, "no quorum answers"},
		"nobody":                   {wire.Status{}, false, "no voter can be reached: starting"},
		"nobody any more":          {silent, false, "no voter can be reached: starting"},
	} {
		t.Run(name, func(t *testing.T) {
			ready, why := proxyReady(tc.status, tc.answered, "starting")
			if ready != (tc.want == "") || ready != (why == "") || !strings.Contains(why, tc.want) {
				t.Fatalf("ready %v, %q; want %q", ready, why, tc.want)
			}
		})
	}
}
