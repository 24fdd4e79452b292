package voter_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// Heartbeats leave together, and no later after each other than Raft's own may.
func TestHeartbeatsLeaveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every, rounds = 100 * time.Millisecond, 200
		b := voter.NewBeat(every)
		var mu sync.Mutex
		left := map[time.Time]int{}
		var peers sync.WaitGroup
		for i, id := range []raft.ServerID{"b", "c"} {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			peers.Go(func() {
				last := time.Now()
				for range rounds {
					time.Sleep(every/2 + time.Duration(random.Int64N(int64(every/2)))) // virtual, as Raft does
					if err := b.Await(t.Context(), id); err != nil {
						t.Error(err)
						return
					}
					if pause := time.Since(last); pause > every {
						t.Errorf("a heartbeat to %s left %s after the one before", id, pause)
					}
					last = time.Now()
					mu.Lock()
					left[last]++
					mu.Unlock()
				}
			})
		}
		peers.Wait()
		if len(left) > rounds*11/10 { // one of them ends first
			t.Errorf("%d heartbeats to each of two voters left at %d moments", rounds, len(left))
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(every / 2) // virtual: there is something to wait for
		if err := b.Await(ctx, "b"); !errors.Is(err, context.Canceled) {
			t.Errorf("a heartbeat of a leader that stops: %v", err)
		}
	})
}
