package voter_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
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

// peer is a transport with one follower, which a test plays.
type peer struct {
	*raft.InmemTransport
	pipeline *asked
	answer   func(n int, resp *raft.AppendEntriesResponse) error // to the n-th heartbeat, from 1 on
	beats    []time.Time
}

func (p *peer) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	p.beats = append(p.beats, time.Now())
	resp.Success, resp.Term = true, args.Term
	return p.answer(len(p.beats), resp)
}

func (p *peer) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return p.pipeline, nil
}

// contact is an answer that Raft takes from a pipeline.
type contact struct {
	raft.AppendFuture
	at time.Time
}

// pipelined opens a pipeline, over which Raft has sent something in term, and takes
// answers from it until end is called: they are in what end returns.
func pipelined(t *testing.T, tr voter.TestTransport, term uint64, deaf bool) (end func() []contact) {
	t.Helper()
	p, err := tr.AppendEntriesPipeline("b", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: term, Entries: []*raft.Log{{}}}, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	var contacts []contact
	var reading sync.WaitGroup
	done := make(chan struct{})
	reading.Go(func() { // until done
		for !deaf {
			select {
			case f := <-p.Consumer():
				contacts = append(contacts, contact{f, time.Now()})
			case <-done:
				return
			}
		}
	})
	synctest.Wait()
	return sync.OnceValue(func() []contact {
		close(done)
		reading.Wait()
		_ = p.Close()
		return contacts
	})
}

// Heartbeats go on without Raft, which counts each answer as contact when it comes,
// until it has to hear of one itself.
func TestHeartbeatsGoOnWithoutRaft(t *testing.T) {
	const every, term = 100 * time.Millisecond, 7
	const refresh = 20 * every
	broken := errors.New("broken")
	third := func(do func(*raft.AppendEntriesResponse) error) func(int, *raft.AppendEntriesResponse) error {
		return func(n int, resp *raft.AppendEntriesResponse) error {
			if n != 3 {
				return nil
			}
			return do(resp)
		}
	}
	for name, tc := range map[string]struct {
		term   uint64 // in which Raft has sent something over the pipeline; 0: there is none
		deaf   bool   // Raft takes no answers of it
		closes bool   // it is closed after the second heartbeat
		answer func(n int, resp *raft.AppendEntriesResponse) error
		sent   int // heartbeats in one call
		want   error
	}{
		"all is well":                       {term: term, sent: int(refresh/every) + 1},
		"no pipeline is open":               {sent: 1},
		"the pipeline is of a reign before": {term: term - 1, sent: 1},
		"Raft is busy":                      {term: term, deaf: true, sent: 1},
		"the pipeline is closed":            {term: term, closes: true, sent: 3},
		"the follower refuses":              {term: term, answer: third(func(r *raft.AppendEntriesResponse) error { r.Success = false; return nil }), sent: 3},
		"the follower has a newer term":     {term: term, answer: third(func(r *raft.AppendEntriesResponse) error { r.Term++; return nil }), sent: 3},
		"the connection breaks":             {term: term, answer: third(func(*raft.AppendEntriesResponse) error { return broken }), sent: 3, want: broken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, inmem := raft.NewInmemTransport("a")
				inner := &peer{InmemTransport: inmem, pipeline: &asked{answers: make(chan raft.AppendFuture)}}
				tr := voter.NewTestTransport(inner, 5*every, func() bool { return true })
				end := func() []contact { return nil }
				if tc.term != 0 {
					end = pipelined(t, tr, tc.term, tc.deaf)
				}
				var last raft.AppendEntriesResponse
				inner.answer = func(n int, resp *raft.AppendEntriesResponse) (err error) {
					if tc.answer != nil {
						err = tc.answer(n, resp)
					}
					last = *resp
					return err
				}
				if tc.closes {
					time.AfterFunc(every*3/2, func() { end() }) // the first leaves at once
				}
				var resp raft.AppendEntriesResponse
				if err := tr.AppendEntries("b", "b", &raft.AppendEntriesRequest{Term: term}, &resp); !errors.Is(err, tc.want) {
					t.Errorf("%v, want %v", err, tc.want)
				}
				if len(inner.beats) != tc.sent || !reflect.DeepEqual(resp, last) {
					t.Errorf("%d heartbeats were sent, want %d; Raft got %+v of the last one, which was answered %+v", len(inner.beats), tc.sent, resp, last)
				}
				contacts := end()
				if len(contacts) != tc.sent-1 {
					t.Fatalf("%d answers of %d counted before the last", len(contacts), tc.sent)
				}
				for i, c := range contacts {
					r := c.Response()
					if at := inner.beats[i]; c.at != at || c.Start() != at || c.Error() != nil || c.Request().Term != term || r.Term != term || !r.Success || len(c.Request().Entries) != 0 {
						t.Errorf("answer %d came at %s, and counted at %s as %+v to %+v: %v", i+1, at, c.at, r, c.Request(), c.Error())
					}
					if pause := inner.beats[i+1].Sub(inner.beats[i]); pause > every {
						t.Errorf("heartbeat %d left %s after the one before", i+2, pause)
					}
				}
			})
		})
	}
}
