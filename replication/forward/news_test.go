package forward_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
)

// told is what a voter says of who leads.
type told struct {
	term   uint64
	leader string
}

// press is the news of all voters.
type press struct {
	mu       sync.Mutex
	changed  chan struct{}
	says     map[string]told
	cut      map[string]bool // nothing of theirs comes any more, and no word that it does not
	ended    map[string]bool // their news break off at once
	readers  map[string]int  // open lines
	mostEver int             // lines open at a time
}

func newPress(nodes string, first told) *press {
	p := &press{changed: make(chan struct{}), says: map[string]told{}, cut: map[string]bool{}, ended: map[string]bool{}, readers: map[string]int{}}
	for _, node := range strings.Fields(nodes) {
		p.says[node] = first
	}
	return p
}

// tell has nodes say something new.
func (p *press) tell(news told, nodes ...string) {
	p.with(func() {
		for _, node := range nodes {
			p.says[node] = news
		}
	})
}

func (p *press) with(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *press) followed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := maps.Clone(p.readers)
	maps.DeleteFunc(open, func(_ string, n int) bool { return n == 0 })
	return strings.Join(slices.Sorted(maps.Keys(open)), " ")
}

// most is how many lines were open at a time.
func (p *press) most() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mostEver
}

// News is a forward.Config.News.
func (p *press) News(ctx context.Context, node string, fn func(uint64, string)) error {
	p.mu.Lock()
	p.readers[node]++
	lines := 0
	for _, n := range p.readers {
		lines += n
	}
	p.mostEver = max(p.mostEver, lines)
	p.mu.Unlock()
	defer p.with(func() { p.readers[node]-- })
	var said told
	for {
		p.mu.Lock()
		now, changed, cut, ended := p.says[node], p.changed, p.cut[node], p.ended[node]
		p.mu.Unlock()
		if ended {
			return errors.New("no news here")
		}
		if !cut && now != said {
			fn(now.term, now.leader)
			said = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// informed is a proxy that hears of leaders.
func informed(q *quorum, p *press, voters string) *forward.Forwarder {
	return forward.New(forward.Config{Node: "proxy", Host: "h", Remote: q, News: p.News, Logger: slog.New(slog.DiscardHandler),
		Voters: func() []string { return strings.Fields(voters) }})
}

// asks returns when f has answered a change, on its own.
func asks(t *testing.T, f *forward.Forwarder) (answered func() time.Duration) {
	began, done := time.Now(), make(chan error, 1)
	go func() { // ends with its answer
		_, err := f.Do(t.Context(), write("k"))
		done <- err
	}()
	return func() time.Duration {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
}

func (q *quorum) with(change func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change()
}

// The leader's host vanishes. What waits for it goes to the next leader the moment
// that the other voter, which is followed, has heard of it.
func TestAPushedLeaderIsAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, p := newQuorum("a"), newPress("a b c", told{1, "a"})
		f := informed(q, p, "a b c")
		defer f.Close()
		asks(t, f)()
		synctest.Wait()
		if two := p.followed(); two != "a b" && two != "a c" {
			t.Fatalf("followed are %q, want the leader a and one other", two)
		}
		q.with(func() { q.hung["a"] = true })
		p.with(func() { p.cut["a"] = true })
		answered := asks(t, f)
		time.Sleep(800 * time.Millisecond) // of the bubble: an election
		q.with(func() { q.leader = "b" })
		p.tell(told{2, "b"}, "b", "c")
		if took := answered(); took > 801*time.Millisecond {
			t.Errorf("answered %v after the cut, though it was pushed after 800 ms who leads", took)
		}
		for id, times := range q.applied {
			if times != 1 {
				t.Errorf("%s took effect %d times", id, times)
			}
		}
		if f.Leader() != "b" {
			t.Errorf("the leader is %q", f.Leader())
		}
	})
}

// Leader and the other voter that is followed vanish together: the rest is asked.
func TestAllAreAskedWhenTheFollowedAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const voters = "a b c d e"
		q, p := newQuorum("a"), newPress(voters, told{1, "a"})
		f := informed(q, p, voters)
		defer f.Close()
		asks(t, f)()
		synctest.Wait()
		gone := strings.Fields(p.followed())
		if len(gone) != 2 || !slices.Contains(gone, "a") {
			t.Fatalf("followed are %q", gone)
		}
		rest := slices.DeleteFunc(strings.Fields(voters), func(node string) bool { return slices.Contains(gone, node) })
		q.with(func() { q.hung[gone[0]], q.hung[gone[1]] = true, true })
		p.with(func() { p.cut[gone[0]], p.cut[gone[1]] = true, true })
		answered := asks(t, f)
		time.Sleep(900 * time.Millisecond) // of the bubble: an election
		q.with(func() { q.leader = rest[0] })
		p.tell(told{2, rest[0]}, rest...)
		if took := answered(); took > 1750*time.Millisecond {
			t.Errorf("a leader was elected after 900 ms, and it took %v to find it", took)
		}
	})
}

// Nobody knew a leader, and requests pause between rounds: news ends the pause.
func TestNewsEndAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, p := newQuorum(""), newPress("a b c", told{1, ""})
		f := informed(q, p, "a b c")
		defer f.Close()
		answered := asks(t, f)
		time.Sleep(5 * time.Second) // of the bubble: pauses have their full length
		q.with(func() { q.leader = "c" })
		p.tell(told{2, "c"}, "a", "b", "c")
		if took := answered(); took > 5001*time.Millisecond {
			t.Errorf("answered after %v, though it was pushed after 5 s who leads", took)
		}
	})
}

func TestNewsOfAnEarlierTermAreNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, p := newQuorum("c"), newPress("a b c", told{7, "c"})
		f := informed(q, p, "a b c")
		defer f.Close()
		asks(t, f)()
		leads := func(want, what string) {
			t.Helper()
			synctest.Wait()
			if f.Leader() != want {
				t.Fatalf("%s: %q leads, want %q", what, f.Leader(), want)
			}
		}
		leads("c", "at first")
		p.tell(told{6, "a"}, "a", "b")
		leads("c", "an older term")
		p.tell(told{7, "a"}, "a", "b")
		leads("c", "another leader of the same term, who is not the one to know")
		p.tell(told{8, ""}, "a", "b")
		leads("c", "an election without an outcome")
		p.tell(told{9, "c"}, "a", "b") // a heartbeat may bring back the last leader
		p.tell(told{9, "b"}, "b")
		synctest.Wait()
		if !strings.Contains(p.followed(), "b") {
			p.tell(told{9, "b"}, "a") // b is not among the followed: who is tells it too, and is not believed
			leads("c", "of two leaders of one term the first")
			return
		}
		leads("b", "the one that says so itself")
	})
}

// An answer to a change proves who leads, unless there were news meanwhile.
func TestAnAnswerFromBeforeTheNewsProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, p := newQuorum("a"), newPress("a b c", told{1, ""})
		f := forward.New(forward.Config{Node: "proxy", Host: "h", Remote: slowAnswers{q, time.Second}, News: p.News,
			Logger: slog.New(slog.DiscardHandler), Voters: func() []string { return []string{"a", "b", "c"} }})
		defer f.Close()
		answered := asks(t, f)              // opens a session, and then waits for its own answer
		time.Sleep(1500 * time.Millisecond) // of the bubble
		if f.Leader() != "a" {
			t.Fatalf("%q leads: the answer to the opening of a session did not count", f.Leader())
		}
		p.tell(told{2, "b"}, "a", "b", "c")
		synctest.Wait()
		q.with(func() { q.leader = "b" })
		answered()
		if f.Leader() != "b" {
			t.Errorf("%q leads, by an answer from before the news", f.Leader())
		}
	})
}

// slowAnswers is a quorum whose answers travel, and arrive although nobody waits.
type slowAnswers struct {
	*quorum
	travel time.Duration
}

func (s slowAnswers) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	ans, err := s.quorum.Do(ctx, node, req)
	if err == nil {
		time.Sleep(s.travel) // of the bubble
	}
	return ans, err
}

// A watch at a leader that vanished ends when another one leads.
func TestAWatchLeavesADeposedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, p := newQuorum("a"), newPress("a b c", told{1, "a"})
		f := forward.New(forward.Config{Node: "proxy", Host: "h", Remote: silentWatch{q}, News: p.News, Logger: slog.New(slog.DiscardHandler),
			Voters: func() []string { return []string{"a", "b", "c"} }})
		defer f.Close()
		synctest.Wait()
		began, ended := make(chan struct{}), make(chan error, 1)
		go func() { // ends with the watch
			ended <- f.Watch(t.Context(), []byte("s"), func(*replication.Event) { close(began) })
		}()
		<-began
		p.tell(told{1, "a"}, "a", "b", "c") // nothing new
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("the watch ended without a reason: %v", err)
		default:
		}
		q.with(func() { q.leader = "b" })
		p.tell(told{2, "b"}, "b", "c")
		if err := <-ended; err == nil {
			t.Error("the watch ended without an error")
		}
	})
}

// silentWatch tells one event and then nothing.
type silentWatch struct{ *quorum }

func (s silentWatch) Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error {
	_ = s.quorum.Watch(ctx, node, session, fn)
	<-ctx.Done()
	return ctx.Err()
}

// A voter follows itself; when it takes part no more it follows two others, and
// itself again when it does.
func TestAVoterFollowsItselfWhileItTakesPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPress("a b c", told{1, "c"})
		s := &scripted{quorum: newQuorum("c")}
		f := forward.New(forward.Config{Node: "a", Host: "h", Local: s, Remote: s, News: p.News, Logger: slog.New(slog.DiscardHandler),
			Voters: func() []string { return []string{"a", "b", "c"} }})
		defer f.Close()
		await := func(want string) {
			t.Helper()
			time.Sleep(3 * time.Second) // of the bubble: longer than it takes to try again
			synctest.Wait()
			if got := p.followed(); got != want {
				t.Fatalf("followed is %q, want %q", got, want)
			}
		}
		await("a")
		p.with(func() { p.ended["a"] = true })
		await("b c")
		p.with(func() { p.ended["a"] = false })
		await("a")
		if most := p.most(); most > 3 {
			t.Errorf("%d lines were open at a time", most)
		}
	})
}

// Idle agents ask nobody.
func TestNobodyIsAskedWhileNothingIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, p := newQuorum("a"), newPress("a b c", told{1, "a"})
		f := informed(q, p, "a b c")
		defer f.Close()
		time.Sleep(time.Minute)         // of the bubble
		if most := p.most(); most > 3 { // one may be on its way out
			t.Errorf("%d lines were open at a time, want two", most)
		}
		// The leader goes away for good, and another takes its place in line.
		p.with(func() { p.ended["a"] = true })
		p.tell(told{2, "b"}, "b", "c")
		time.Sleep(time.Minute) // of the bubble
		if got := p.followed(); got != "b c" {
			t.Errorf("followed are %q, want b and c", got)
		}
	})
}
