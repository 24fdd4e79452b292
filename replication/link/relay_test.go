package link_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

// reaches is a Relay over a Pool that is there later.
type reaches struct{ pool atomic.Pointer[link.Pool] }

func (r *reaches) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	return r.pool.Load().Do(ctx, node, req)
}

func (r *reaches) Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error {
	return r.pool.Load().Watch(ctx, node, session, fn)
}

// refers is a voter that names another as leader, and counts what it is asked.
func refers(to string, asked *atomic.Int64) *voter {
	return &voter{
		serve: func(context.Context, *replication.Request) (*replication.Answer, error) {
			asked.Add(1)
			return nil, &replication.NotLeaderError{Leader: to}
		},
		watch: func(context.Context, []byte, func(*replication.Event)) error {
			asked.Add(1)
			return &replication.NotLeaderError{Leader: to}
		},
	}
}

func startRelay(t *testing.T, book *addresses, node string, v *voter) *agent {
	t.Helper()
	r := &reaches{}
	a := start(t, book, clusterSecret, node, link.ServerOptions{Voter: v, Members: members{}, Relay: r})
	r.pool.Store(a.pool)
	return a
}

// A proxy that reaches a follower alone is answered by the leader: same request,
// same id, and nothing more than a proxy may ask.
func TestAVoterPassesOnToTheLeader(t *testing.T) {
	book, hidden := &addresses{}, &addresses{}
	var follower, led atomic.Int64
	var seen atomic.Pointer[replication.Request]
	leader := start(t, book, clusterSecret, "leader", link.ServerOptions{Members: members{}, Voter: &voter{
		serve: func(_ context.Context, req *replication.Request) (*replication.Answer, error) {
			led.Add(1)
			seen.Store(req)
			return &replication.Answer{Index: 9}, nil
		},
		watch: func(_ context.Context, session []byte, fn func(*replication.Event)) error {
			fn(&replication.Event{Reason: string(session)})
			return errOver
		},
	}})
	startRelay(t, book, "follower", refers(leader.node, &follower))
	address, _ := book.resolve("follower")
	hidden.set("follower", address) // and no way to the leader
	proxy := start(t, hidden, clusterSecret.Proxy(), "proxy", link.ServerOptions{})

	req := get()
	req.Number, req.DoneBelow = 7, 3
	ans, err := proxy.pool.DoVia(t.Context(), "follower", req)
	if err != nil || ans.GetIndex() != 9 {
		t.Fatalf("%v, %v; want the leader's answer", ans, err)
	}
	if got := seen.Load(); string(got.GetSession()) != string(req.GetSession()) || got.GetNumber() != 7 || got.GetDoneBelow() != 3 {
		t.Errorf("the leader was asked %v, want %v", got, req)
	}
	var events []*replication.Event
	err = proxy.pool.WatchVia(t.Context(), "follower", []byte("session"), func(ev *replication.Event) { events = append(events, ev) })
	var notLeader *replication.NotLeaderError
	if !errors.As(err, &notLeader) || notLeader.Leader != errOver.Leader || len(events) != 1 || events[0].GetReason() != "session" {
		t.Errorf("the watch told %v and ended with %v", events, err)
	}
	if _, err := proxy.pool.Do(t.Context(), "follower", get()); !errors.As(err, &notLeader) || notLeader.Leader != "leader" {
		t.Errorf("the plain method: %v, want that it does not lead", err)
	}
	before := led.Load()
	inner := &replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{}}}
	if !inner.IsInternal() {
		t.Fatal("this is no request that only a leader proposes itself")
	}
	if _, err := proxy.pool.DoVia(t.Context(), "follower", inner); !errors.Is(err, link.ErrRefused) || led.Load() != before {
		t.Errorf("what only a leader proposes itself: %v; it reached the leader %d times", err, led.Load()-before)
	}
}

// Two that take each other for the leader: there is one hop, and an end.
func TestNothingIsPassedOnTwice(t *testing.T) {
	book := &addresses{}
	var first, second atomic.Int64
	startRelay(t, book, "first", refers("second", &first))
	startRelay(t, book, "second", refers("first", &second))
	asker := start(t, book, clusterSecret, "asker", link.ServerOptions{})
	var notLeader *replication.NotLeaderError
	if _, err := asker.pool.DoVia(t.Context(), "first", get()); !errors.As(err, &notLeader) || notLeader.Leader != "first" {
		t.Errorf("%v, want what the second said", err)
	}
	if err := asker.pool.WatchVia(t.Context(), "first", nil, func(*replication.Event) {}); !errors.As(err, &notLeader) {
		t.Errorf("watching: %v, want what the second said", err)
	}
	if first.Load() != 2 || second.Load() != 2 {
		t.Errorf("the first was asked %d times and the second %d times, want each once for each request", first.Load(), second.Load())
	}
}

// A voter that cannot pass on, as those before this method, has done nothing.
func TestARefusalToPassOnSaysThatNothingWasDone(t *testing.T) {
	book := &addresses{}
	var asked atomic.Int64
	start(t, book, clusterSecret, "old", link.ServerOptions{}) // answers nothing
	startRelay(t, book, "alone", refers("gone", &asked))
	asker := start(t, book, clusterSecret, "asker", link.ServerOptions{})
	for _, node := range []string{"old", "alone"} {
		if _, err := asker.pool.DoVia(t.Context(), node, get()); !errors.Is(err, replication.ErrUnavailable) {
			t.Errorf("by way of %s: %v, want that nothing was done", node, err)
		}
		if err := asker.pool.WatchVia(t.Context(), node, nil, nil); !errors.Is(err, replication.ErrUnavailable) {
			t.Errorf("watching by way of %s: %v, want that nothing was done", node, err)
		}
	}
}
