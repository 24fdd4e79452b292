package voter_test

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
)

// wire is a transport whose heartbeats come from a test.
type wire struct {
	*raft.InmemTransport
	heartbeat func(raft.RPC)
}

func (w *wire) SetHeartbeatHandler(fn func(raft.RPC)) { w.heartbeat = fn }

// A leader that a heartbeat of a newer term deposes stores nothing under that term,
// which is another leader's (hashicorp/raft issue 695).
func TestDeposedByAHeartbeatALeaderStoresNothingOfTheNewTerm(t *testing.T) {
	w := &wire{}
	_, w.InmemTransport = raft.NewInmemTransport("a")
	c := newCluster(t, three[:1], func(cfg *voter.Config) {
		cfg.Transport = w
		cfg.Fast()
	})
	c.client().put("k", "v")
	for range 3 {
		v := c.leader().v.Load()
		term := v.Term() + 1
		answer := make(chan raft.RPCResponse, 1)
		w.heartbeat(raft.RPC{RespChan: answer, Command: &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b"), Addr: []byte("b")}, Term: term,
		}})
		if r := <-answer; r.Error != nil {
			t.Fatal(r.Error)
		}
		// Whether it is refused or, after an election, stored under a later term.
		_, _ = v.ProposeEntry(&replication.LogEntry{Level: 1, Term: term - 1})
		if n, err := v.EntriesOf(term); n != 0 || err != nil {
			t.Fatalf("%d entries were stored under term %d, in which another voter leads: %v", n, term, err)
		}
	}
}
