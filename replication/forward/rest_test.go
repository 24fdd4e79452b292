package forward_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/forward"
)

// rests waits until f has nothing to look at.
func rests(t *testing.T, f *forward.Forwarder) {
	t.Helper()
	time.Sleep(3 * time.Second) // of the bubble: longer than it takes to try again
	synctest.Wait()
	if !f.Resting() {
		t.Fatal("a voter with nothing to do looks for something four times a second")
	}
}

// An idle voter that follows itself is not woken, and looks again from when it asks
// somebody on: a leader that falls silent is noticed as soon as by one that is busy.
func TestAnIdleVoterRestsUntilItAsksSomebody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := &cutVoter{}
		f, q, p := shortcut(local)
		defer f.Close()
		rests(t, f)
		asks(t, f)()
		if f.Resting() {
			t.Error("somebody was asked, and nobody looks whether there are answers")
		}
		rests(t, f)

		// Nobody of those that it follows says who leads now, so that all are asked.
		q.with(func() { q.hung["a"], q.leader = true, "c" })
		p.with(func() { p.cut["b"] = true })
		p.tell(told{2, "c"}, "c")
		if took := asks(t, f)(); took > 500*time.Millisecond {
			t.Errorf("another leader was found after %v, want the half second after which all are asked", took)
		}
		rests(t, f)
	})
}

// A detour is probed by a voter that rested before, and it rests again afterwards.
func TestADetourKeepsAVoterFromRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, q, p := shortcut(&cutVoter{})
		defer f.Close()
		asks(t, f)()
		rests(t, f)
		cut(q, p)
		q.with(func() { q.hung["b"] = true })
		asks(t, f)()
		time.Sleep(time.Minute) // of the bubble
		if f.Detour() != "c" || f.Resting() {
			t.Fatalf("the detour is by way of %q and resting is %t, want c, and that the leader is asked for", f.Detour(), f.Resting())
		}
		q.with(func() { q.hung["a"] = false })
		p.with(func() { p.cut["a"] = false })
		rests(t, f)
		if f.Detour() != "" {
			t.Errorf("the leader is back, and the detour goes on by way of %q", f.Detour())
		}
	})
}

// A voter whose own news break off while it rests follows others, and itself again;
// a proxy never rests, for nobody tells it which voters there are.
func TestWhoFollowsOthersDoesNotRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, p := shortcut(&cutVoter{})
		defer f.Close()
		rests(t, f)
		p.with(func() { p.ended["b"] = true })
		time.Sleep(time.Minute) // of the bubble
		if got := p.followed(); got != "a c" || f.Resting() {
			t.Errorf("followed are %q and resting is %t, want a and c, and that b is tried again", got, f.Resting())
		}
		p.with(func() { p.ended["b"] = false })
		rests(t, f)
		if got := p.followed(); got != "b" {
			t.Errorf("followed are %q, want b alone", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		voters := "a b"
		p := newPress("a b c", told{1, "a"})
		f := forward.New(forward.Config{Node: "proxy", Host: "h", Remote: newQuorum("a"), News: p.News, Logger: slog.New(slog.DiscardHandler),
			Voters: func() []string { return strings.Fields(voters) }})
		defer f.Close()
		time.Sleep(time.Minute) // of the bubble
		synctest.Wait()
		if f.Resting() {
			t.Error("a proxy rests, and would not learn of another voter")
		}
	})
}
