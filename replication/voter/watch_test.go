package voter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

func wait(name string, session []byte, owner string) *replication.Request {
	return &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Session: session, Owner: []byte(owner),
	}}}
}

func TestWatchListsThenTells(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	holder := fmt.Sprintf("%032x", 1)
	waiter := fmt.Sprintf("%032x", 2)
	for _, owner := range []string{holder, waiter} {
		if err := cl.do(wait("lock", cl.session[:], owner)).Refused(); err != nil {
			t.Fatal(err)
		}
	}
	leader := c.leader()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := make(chan *replication.Event, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- leader.v.Load().WatchLocal(ctx, cl.session[:], func(e *replication.Event) { events <- e })
	}()
	next := func() *replication.Event {
		t.Helper()
		select {
		case e := <-events:
			return e
		case <-time.After(10 * time.Second):
			t.Fatal("no event came")
			return nil
		}
	}
	if e := next(); e.Kind != replication.Event_KIND_LISTED || len(e.Holds) != 2 {
		t.Fatalf("the first event is %v", e)
	}
	unlock := &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: "lock", Owner: []byte(holder),
	}}}
	if err := cl.do(unlock).Refused(); err != nil {
		t.Fatal(err)
	}
	for {
		e := next()
		if e.Kind == replication.Event_KIND_GRANTED {
			if string(e.Hold.Owner) != waiter || e.Hold.Token != 1 {
				t.Fatalf("granted: %v", e)
			}
			break
		}
	}
	// A follower does not serve watches, and one of a deposed leader breaks.
	f := c.followers(leader)[0]
	var notLeader *replication.NotLeaderError
	if err := f.v.Load().WatchLocal(ctx, cl.session[:], nil); !errors.As(err, &notLeader) || notLeader.Leader != leader.id {
		t.Fatalf("watching at a follower: %v", err)
	}
	if err := leader.v.Load().TransferLeadership(ctx, f.id); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.As(err, &notLeader) {
			t.Fatalf("the watch ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch of a deposed leader goes on")
	}
	if n := leader.v.Load().Status().Watchers; n != 0 {
		t.Fatalf("%d watchers are left", n)
	}
}

func TestWatchOfUnknownSessionSaysSo(t *testing.T) {
	c := newCluster(t, three[:1], nil)
	ctx, cancel := context.WithCancel(context.Background())
	var kinds []replication.Event_Kind
	err := c.leader().v.Load().WatchLocal(ctx, make([]byte, 16), func(e *replication.Event) {
		if kinds = append(kinds, e.Kind); len(kinds) == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || fmt.Sprint(kinds) != "[KIND_LISTED KIND_SESSION_ENDED]" {
		t.Fatalf("%v, %v", kinds, err)
	}
}
