package forward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
)

// passing is a quorum whose voters pass on to the leader, however this agent
// reaches it.
type passing struct {
	*quorum
	refuse bool // they are too old for it
	watch  chan *replication.Event
}

func (p *passing) DoVia(ctx context.Context, via string, req *replication.Request) (*replication.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, "via "+via)
	switch {
	case p.hung[via]:
		p.mu.Unlock()
		<-ctx.Done()
		p.mu.Lock()
		return nil, ctx.Err()
	case p.refuse:
		return nil, replication.ErrUnavailable
	case p.leader == "":
		return nil, &replication.NotLeaderError{}
	}
	return p.decide(req)
}

func (p *passing) WatchVia(ctx context.Context, via string, _ []byte, fn func(*replication.Event)) error {
	p.with(func() { p.asked = append(p.asked, "watch via "+via) })
	for {
		select {
		case ev := <-p.watch:
			fn(ev)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// shortcut is an agent among the voters a, b and c, of which a leads.
func shortcut(local forward.Local) (*forward.Forwarder, *passing, *press) {
	return shortcutThatSays(local, slog.DiscardHandler)
}

func shortcutThatSays(local forward.Local, log slog.Handler) (*forward.Forwarder, *passing, *press) {
	q, p := &passing{quorum: newQuorum("a"), watch: make(chan *replication.Event)}, newPress("a b c", told{1, "a"})
	node := "proxy"
	if local != nil {
		node = "b"
	}
	return forward.New(forward.Config{Node: node, Host: "h", Local: local, Remote: q, Relay: q, News: p.News, Logger: slog.New(log),
		Voters: func() []string { return strings.Fields("a b c") }}), q, p
}

// cut has nothing of the leader a arrive here, while the others reach it.
func cut(q *passing, p *press) {
	q.with(func() { q.hung["a"], q.asked = true, nil })
	p.with(func() { p.cut["a"] = true })
}

// detoured is shortcut after it was cut, and has found the way by another voter.
func detoured(t *testing.T) (*forward.Forwarder, *passing, *press) {
	t.Helper()
	f, q, p := shortcut(nil)
	asks(t, f)()
	cut(q, p)
	asks(t, f)()
	return f, q, p
}

// way is whom f asked for one change, and how long that took.
func (p *passing) way(t *testing.T, f *forward.Forwarder, req *replication.Request) (asked []string, took time.Duration) {
	t.Helper()
	p.with(func() { p.asked = nil })
	began := time.Now()
	if _, err := f.Do(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	p.with(func() { asked = slices.Clone(p.asked) })
	return asked, time.Since(began)
}

func (p *passing) once(t *testing.T) {
	t.Helper()
	p.with(func() {
		for id, times := range p.applied {
			if times != 1 {
				t.Errorf("%s took effect %d times", id, times)
			}
		}
	})
}

func get() *replication.Request {
	return &replication.Request{Op: &replication.Request_MachineGet{MachineGet: &replication.MachineGet{}}}
}

// The first request finds out, the later ones go by way of the other voter at
// once; and straight again when the leader is back.
func TestCutOffFromTheLeaderAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := shortcut(nil)
		defer f.Close()
		asks(t, f)()
		cut(q, p)
		asked, took := q.way(t, f, write("k"))
		if took > 2200*time.Millisecond || asked[0] != "a" {
			t.Fatalf("the first change asked %q and took %v", asked, took)
		}
		via := f.Detour()
		if via == "" || asked[len(asked)-1] != "via "+via {
			t.Fatalf("the first change asked %q; the detour is by way of %q", asked, via)
		}
		for _, req := range []*replication.Request{write("k"), get()} {
			if asked, took := q.way(t, f, req); took > 0 || !slices.Equal(asked, []string{"via " + via}) {
				t.Errorf("%T asked %q and took %v, want only %s", req.GetOp(), asked, took, via)
			}
		}
		if f.Leader() != "a" {
			t.Errorf("the leader is %q, want a", f.Leader())
		}
		time.Sleep(time.Minute) // of the bubble: as long as nothing changes
		straight := func(asked string) bool { return asked != "via "+via }
		if asked, took := q.way(t, f, write("k")); took > 0 || slices.ContainsFunc(asked, straight) {
			t.Errorf("a minute later a change asked %q and took %v", asked, took)
		}
		q.with(func() { q.hung["a"] = false })
		p.with(func() { p.cut["a"] = false })
		time.Sleep(2500 * time.Millisecond) // of the bubble: it is asked every second
		if asked, _ := q.way(t, f, write("k")); !slices.Equal(asked, []string{"a"}) || f.Detour() != "" {
			t.Errorf("when the leader was back a change asked %q, by way of %q", asked, f.Detour())
		}
		q.once(t)
	})
}

// What the leader had applied before nothing of it arrived any more meets its receipt.
func TestAnAnswerLostOnTheStraightWayIsNotAppliedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := shortcut(nil)
		defer f.Close()
		asks(t, f)()
		p.with(func() { p.cut["a"] = true })
		q.with(func() { q.lose = 1 })
		before := len(q.applied)
		answered := asks(t, f) // applied, and its answer lost; from now on nothing arrives
		q.with(func() { q.hung["a"] = true })
		answered()
		if f.Detour() == "" || len(q.applied) != before+1 {
			t.Errorf("%d changes were applied for one, by way of %q", len(q.applied)-before, f.Detour())
		}
		q.once(t)
	})
}

func TestADetourThatEndsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := detoured(t)
		defer f.Close()
		first := f.Detour()
		q.with(func() { q.hung[first] = true })
		p.with(func() { p.cut[first] = true })
		if _, took := q.way(t, f, write("k")); took > 2500*time.Millisecond {
			t.Errorf("it took %v to find another voter that passes on", took)
		}
		if second := f.Detour(); second == "" || second == first {
			t.Errorf("the detour is by way of %q, and was by way of %q", second, first)
		}
		q.once(t)
	})
}

func TestADetourEndsWithTheReignOfItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := detoured(t)
		defer f.Close()
		q.with(func() { q.leader = "c" })
		p.tell(told{2, "c"}, "b", "c")
		synctest.Wait()
		if asked, _ := q.way(t, f, write("k")); !slices.Equal(asked, []string{"c"}) || f.Detour() != "" {
			t.Errorf("under the next leader c a change asked %q, by way of %q", asked, f.Detour())
		}
	})
}

// A leader that speaks, and answers no request: detours begin and end, and the log
// stays readable.
func TestDetoursOneAfterTheOtherAreSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder // read and written by one at a time: see Wait
		f, q, p := shortcutThatSays(nil, slog.NewTextHandler(&log, nil))
		defer f.Close()
		asks(t, f)()
		said := func() (begins, ends int) {
			synctest.Wait()
			return strings.Count(log.String(), "does not reach the leader"), strings.Count(log.String(), "no more")
		}
		round := func() {
			cut(q, p)
			asks(t, f)()
			if f.Detour() == "" {
				t.Fatal("there is no detour: this shows nothing")
			}
			p.with(func() { p.cut["a"] = false })
			p.tell(told{1, "a"}, "a")
			time.Sleep(1500 * time.Millisecond) // of the bubble: the leader is asked every second
			if f.Detour() != "" {
				t.Fatal("the detour has not ended: this shows nothing")
			}
			q.with(func() { q.hung["a"] = false })
		}
		for range 5 {
			round()
		}
		if begins, ends := said(); begins != 1 || ends != 1 {
			t.Errorf("of five detours within a minute %d begins and %d ends were said, want the first\n%s", begins, ends, log.String())
		}
		time.Sleep(time.Minute) // of the bubble
		round()
		if begins, ends := said(); begins != 2 || ends != 2 {
			t.Errorf("after a minute %d begins and %d ends were said, want 2\n%s", begins, ends, log.String())
		}
	})
}

// A caller whose time is up says nothing of the way.
func TestACallerThatGivesUpLeavesTheDetour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, _ := detoured(t)
		defer f.Close()
		via := f.Detour()
		q.with(func() { q.hung[via] = true })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := f.Do(ctx, write("k")); !errors.Is(err, replication.ErrUnknownOutcome) {
			t.Errorf("%v, want an unknown outcome", err)
		}
		if f.Detour() != via {
			t.Errorf("the detour by way of %s became %q", via, f.Detour())
		}
	})
}

// A watch goes by way of the other voter as well, and ends with the reign.
func TestAWatchTakesTheDetour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := detoured(t)
		defer f.Close()
		events, over := make(chan *replication.Event, 1), make(chan error, 1)
		go func() { over <- f.Watch(t.Context(), []byte("s"), func(ev *replication.Event) { events <- ev }) }()
		q.watch <- &replication.Event{Kind: replication.Event_KIND_LISTED}
		if ev := <-events; ev.GetKind() != replication.Event_KIND_LISTED {
			t.Errorf("event %v", ev)
		}
		q.with(func() { q.leader = "c" })
		p.tell(told{2, "c"}, "b", "c")
		if err := <-over; err == nil {
			t.Error("the watch ended without a reason")
		}
	})
}

// cutVoter is a voter that does not reach the leader, and does not know of it.
type cutVoter struct{ reads int }

func (c *cutVoter) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if req.IsRead() {
		c.reads++
		return nil, fmt.Errorf("%w: the leader does not say how far it is", replication.ErrUnavailable)
	}
	return nil, &replication.NotLeaderError{}
}

func (c *cutVoter) WatchLocal(context.Context, []byte, func(*replication.Event)) error {
	return &replication.NotLeaderError{}
}

// A voter that reaches only the other follower goes on for its own host as well.
func TestAVoterThatDoesNotReachTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := &cutVoter{}
		f, q, p := shortcut(local)
		defer f.Close()
		asks(t, f)()
		cut(q, p)
		q.with(func() { q.hung["b"] = true }) // nobody may ask this voter over the network
		if _, took := q.way(t, f, write("k")); took > 2500*time.Millisecond || f.Detour() != "c" {
			t.Fatalf("the first change took %v, by way of %q", took, f.Detour())
		}
		for _, req := range []*replication.Request{write("k"), get()} {
			if asked, took := q.way(t, f, req); took > 0 || !slices.Equal(asked, []string{"via c"}) {
				t.Errorf("%T asked %q and took %v, want only c", req.GetOp(), asked, took)
			}
		}
		q.with(func() { q.hung["a"] = false })
		p.with(func() { p.cut["a"] = false })
		time.Sleep(2500 * time.Millisecond) // of the bubble: it is asked every second
		if f.Detour() != "" {
			t.Errorf("the leader is back, and the detour goes on by way of %q", f.Detour())
		}
		q.once(t)
	})
}

// Voters of earlier versions pass nothing on: it is as before, and goes on when the
// leader is back.
func TestNobodyPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := shortcut(nil)
		defer f.Close()
		asks(t, f)()
		q.refuse = true
		cut(q, p)
		answered := asks(t, f)
		time.Sleep(10 * time.Second) // of the bubble
		q.with(func() { q.hung["a"] = false })
		p.with(func() { p.cut["a"] = false })
		if took := answered(); took > 15*time.Second || f.Detour() != "" {
			t.Errorf("answered %v after the cut, which ended after 10 s, by way of %q", took, f.Detour())
		}
		q.once(t)
		if n := len(q.asked); n > 1000 {
			t.Errorf("%d attempts in ten seconds", n)
		}
	})
}
