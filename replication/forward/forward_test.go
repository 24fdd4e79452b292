package forward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quorum is a cluster as a Forwarder sees it: one leader, receipts by id.
type quorum struct {
	mu       sync.Mutex
	leader   string
	hung     map[string]bool   // nodes that neither answer nor break
	lose     int               // so many next changes are applied and their answer lost
	sessions map[string]bool   // open request sessions
	applied  map[string]int    // by request id: how often it took effect
	ids      []string          // ids in the order of arrival
	below    map[string]uint64 // watermark by session
	asked    []string          // nodes in the order asked
	refuses  bool              // every node refuses every request as too large, whether or not it leads
}

func newQuorum(leader string) *quorum {
	return &quorum{leader: leader, hung: map[string]bool{}, sessions: map[string]bool{}, applied: map[string]int{}, below: map[string]uint64{}}
}

func (q *quorum) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = append(q.asked, node)
	if q.hung[node] {
		q.mu.Unlock()
		<-ctx.Done()
		q.mu.Lock()
		return nil, ctx.Err()
	}
	if q.refuses {
		return &replication.Answer{Code: replication.Code_CODE_INVALID}, nil
	}
	if node != q.leader {
		return nil, &replication.NotLeaderError{Leader: q.leader}
	}
	return q.decide(req)
}

// decide is what the leader does with a request. It needs mu.
func (q *quorum) decide(req *replication.Request) (*replication.Answer, error) {
	switch op := req.GetOp().(type) {
	case *replication.Request_SessionOpen:
		q.sessions[string(op.SessionOpen.Id)] = true
		return &replication.Answer{Index: 1}, nil // an entry has decided it
	case *replication.Request_SessionRenew:
		if !q.sessions[string(op.SessionRenew.Id)] {
			return &replication.Answer{Code: replication.Code_CODE_SESSION_LOST}, nil
		}
		return &replication.Answer{}, nil
	}
	if !q.sessions[string(req.Session)] || req.Number < q.below[string(req.Session)] {
		return &replication.Answer{Code: replication.Code_CODE_UNKNOWN_OUTCOME}, nil
	}
	q.below[string(req.Session)] = max(q.below[string(req.Session)], req.DoneBelow)
	id := fmt.Sprintf("%x/%d", req.Session, req.Number)
	q.ids = append(q.ids, id)
	if q.applied[id] == 0 {
		q.applied[id] = 1
	}
	if q.lose > 0 {
		q.lose--
		return nil, errors.New("connection broken before the answer")
	}
	return &replication.Answer{Index: uint64(len(q.applied))}, nil
}

func (q *quorum) Watch(_ context.Context, node string, _ []byte, fn func(*replication.Event)) error {
	q.mu.Lock()
	leads := node == q.leader
	q.mu.Unlock()
	if !leads {
		return &replication.NotLeaderError{}
	}
	fn(&replication.Event{Kind: replication.Event_KIND_LISTED})
	return errors.New("watch broken")
}

func proxy(q *quorum) *forward.Forwarder {
	return forward.New(forward.Config{Node: "proxy", Host: "h", Remote: q, Logger: slog.New(slog.DiscardHandler),
		Voters: func() []string { return []string{"a", "b", "c"} }})
}

func write(key string) *replication.Request {
	return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{{Key: key}}}}}
}

func TestLostAnswerIsAskedAgainUnderTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("b")
		f := proxy(q)
		defer f.Close()
		q.lose = 3
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		if len(q.applied) != 1 || len(q.ids) != 4 {
			t.Fatalf("request ids seen %v: want one id, four times", q.ids)
		}
	})
}

func TestHintIsFollowedAndRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("c")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		q.asked = nil
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		if len(q.asked) != 1 || q.asked[0] != "c" || f.Leader() != "c" {
			t.Fatalf("second request asked %v (leader %q), want only the leader c", q.asked, f.Leader())
		}
	})
}

// Whoever refuses a request before it is in the log need not lead.
func TestARefusalOutsideOfTheLogNamesNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("c")
		q.refuses = true
		f := proxy(q)
		defer f.Close()
		renew := &replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: make([]byte, 16)}}}
		a, err := f.Do(t.Context(), renew)
		if err != nil || a.GetCode() != replication.Code_CODE_INVALID {
			t.Fatalf("%v, %v", a, err)
		}
		if got := f.Leader(); got != "" {
			t.Errorf("%s is taken for the leader, since it has refused a request that is too large", got)
		}
	})
}

func TestHungLeaderIsGivenUpForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		q.mu.Lock()
		q.hung["a"], q.leader = true, "b"
		q.mu.Unlock()
		start := time.Now()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("it took %v to leave a hung leader", took)
		}
	})
}

// A voter that is cut off costs one timeout, not one in each round while the
// others elect.
func TestSilentVoterIsLeftOutForAWhile(t *testing.T) {
	for range 20 { // the order is random
		synctest.Test(t, func(t *testing.T) {
			q := newQuorum("a")
			f := proxy(q)
			defer f.Close()
			if _, err := f.Do(t.Context(), write("k")); err != nil {
				t.Fatal(err)
			}
			q.mu.Lock()
			q.hung["a"], q.leader = true, ""
			q.mu.Unlock()
			elected := time.AfterFunc(3*time.Second, func() {
				q.mu.Lock()
				defer q.mu.Unlock()
				q.leader = "b"
			})
			defer elected.Stop()
			start := time.Now()
			if _, err := f.Do(t.Context(), write("k")); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 3500*time.Millisecond {
				t.Fatalf("a leader was elected after 3 s, and it took %v to find it", took)
			}
		})
	}
}

// When one request has found the new leader, those that wait for the silent old
// one follow, under their own ids.
func TestWhoWaitsForASilentNodeFollowsTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		q.mu.Lock()
		q.hung["a"] = true
		q.mu.Unlock()
		start := time.Now()
		ask := func() <-chan error {
			done := make(chan error, 1)
			go func() { // ends with its answer
				_, err := f.Do(t.Context(), write("k"))
				done <- err
			}()
			return done
		}
		first := ask()
		time.Sleep(1900 * time.Millisecond) // of the bubble's own clock: the first waits nearly as long as it may
		second := ask()
		synctest.Wait()
		q.mu.Lock()
		q.leader = "b"
		q.mu.Unlock()
		for _, done := range []<-chan error{first, second} {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 2500*time.Millisecond {
			t.Fatalf("the second was answered %v after the cut, though the first had found the leader after 2 s", took)
		}
		for id, times := range q.applied {
			if times != 1 {
				t.Errorf("%s took effect %d times", id, times)
			}
		}
	})
}

func TestErrorTellsNotAppliedFromUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		q.mu.Lock()
		q.leader = "" // an election that never ends
		q.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := f.Do(ctx, write("k")); !errors.Is(err, replication.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("without a leader: %v, want unavailable", err)
		}
		q.mu.Lock()
		q.leader, q.lose = "a", 1<<30
		q.mu.Unlock()
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := f.Do(ctx, write("k")); !errors.Is(err, replication.ErrUnknownOutcome) {
			t.Fatalf("with every answer lost: %v, want unknown outcome", err)
		}
	})
}

func TestEndedSessionIsReplacedOnlyWhenNothingWasApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		clear(q.sessions)
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatalf("a request sent once to an ended session was not repeated in a new one: %v", err)
		}
		// Now the answer is lost, and so is the session before the second attempt.
		f2 := forward.New(forward.Config{Node: "p2", Logger: slog.New(slog.DiscardHandler), Voters: func() []string { return []string{"a"} },
			Remote: losing{q}})
		defer f2.Close()
		if _, err := f2.Do(t.Context(), write("k")); !errors.Is(err, replication.ErrUnknownOutcome) {
			t.Fatalf("%v, want unknown outcome: the first attempt may have been applied", err)
		}
	})
}

// losing applies a change, loses its answer, and ends its session.
type losing struct{ *quorum }

func (l losing) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	ans, err := l.quorum.Do(ctx, node, req)
	if req.TakesReceipt() && err == nil && ans.Code == replication.Code_CODE_OK {
		l.mu.Lock()
		delete(l.sessions, string(req.Session))
		l.mu.Unlock()
		return nil, errors.New("answer lost")
	}
	return ans, err
}

func TestWatermarkFollowsTheOldestUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		for range 5000 { // more than the window holds
			if _, err := f.Do(t.Context(), write("k")); err != nil {
				t.Fatal(err)
			}
		}
		for s, below := range q.below {
			if below != 5000 {
				t.Fatalf("watermark of %x is %d after 5000 answered requests, want 5000", s, below)
			}
		}
	})
}

func TestWindowBlocksInsteadOfOverrunningReceipts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		q.mu.Lock()
		q.hung["a"], q.hung["b"], q.hung["c"] = true, true, true
		q.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range replication.MaxReceipts {
			wg.Go(func() { _, _ = f.Do(ctx, write("k")) })
		}
		synctest.Wait()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := f.Do(short, write("k")); !errors.Is(err, replication.ErrUnavailable) {
			t.Fatalf("request past the window: %v, want unavailable", err)
		}
		cancel()
		wg.Wait()
	})
}

func TestIdleSessionLapsesAndBusyOneIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("a")
		f := proxy(q)
		defer f.Close()
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		q.mu.Lock()
		q.asked = nil
		q.mu.Unlock()
		<-time.After(time.Hour)
		q.mu.Lock()
		renewals := len(q.asked)
		q.mu.Unlock()
		if renewals != 1 {
			t.Fatalf("%d renewals in an idle hour, want the one after the last use", renewals)
		}
		if _, err := f.Do(t.Context(), write("k")); err != nil {
			t.Fatal(err)
		}
		if len(q.sessions) != 2 {
			t.Fatalf("%d sessions opened, want a second one after the lapse", len(q.sessions))
		}
	})
}

func TestWatchFindsTheLeaderAndReturnsWhenBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("c")
		f := proxy(q)
		defer f.Close()
		events := 0
		err := f.Watch(t.Context(), []byte("s"), func(*replication.Event) { events++ })
		if events != 1 || err == nil {
			t.Fatalf("watch gave %d events and error %v", events, err)
		}
	})
}

func TestClosedForwarderRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proxy(newQuorum("a"))
		f.Close()
		if _, err := f.Do(t.Context(), write("k")); !errors.Is(err, replication.ErrStopped) {
			t.Fatalf("%v, want ErrStopped", err)
		}
	})
}

// A request that finds no leader must neither spin nor outlive its Forwarder.
func TestCloseEndsRequestsThatSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuorum("") // an election that never ends
		f := proxy(q)
		errs := make(chan error, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() {
			_, err := f.Do(ctx, &replication.Request{Op: &replication.Request_MachineGet{MachineGet: &replication.MachineGet{}}})
			errs <- err
		}()
		go func() { errs <- f.Watch(ctx, nil, func(*replication.Event) {}) }()
		time.Sleep(time.Second) // virtual: in a synctest bubble
		f.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, replication.ErrStopped) {
				t.Errorf("after Close: %v, want ErrStopped", err)
			}
		}
	})
}

// scripted answers the attempts of changes in turn, as the local voter.
type scripted struct {
	*quorum
	changes []func() (*replication.Answer, error)
}

func (s *scripted) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if !req.TakesReceipt() {
		return s.Do(ctx, "a", req)
	}
	next := s.changes[0]
	s.changes = s.changes[1:]
	return next()
}

func (s *scripted) WatchLocal(context.Context, []byte, func(*replication.Event)) error {
	return replication.ErrStopped
}

// The first attempt may have been applied. What the second one is told says
// nothing about it unless the log decided it.
func TestRefusalOutsideOfTheLogSaysNothingAboutAnEarlierAttempt(t *testing.T) {
	lost := func() (*replication.Answer, error) { return nil, replication.ErrUnknownOutcome }
	full := func() (*replication.Answer, error) {
		return &replication.Answer{Code: replication.Code_CODE_LIMIT, Detail: "the queue is full"}, nil
	}
	stopping := func() (*replication.Answer, error) { return nil, replication.ErrStopped }
	applied := func() (*replication.Answer, error) { return &replication.Answer{Index: 7}, nil }
	limit := func() (*replication.Answer, error) {
		return &replication.Answer{Index: 8, Code: replication.Code_CODE_LIMIT}, nil
	}
	for name, c := range map[string]struct {
		changes   []func() (*replication.Answer, error)
		wantError error
		wantCode  replication.Code
	}{
		"queue full at once":           {changes: []func() (*replication.Answer, error){full}, wantCode: replication.Code_CODE_LIMIT},
		"queue full at the second":     {changes: []func() (*replication.Answer, error){lost, full, applied}},
		"limit that the log decided":   {changes: []func() (*replication.Answer, error){lost, limit}, wantCode: replication.Code_CODE_LIMIT},
		"stopping at once":             {changes: []func() (*replication.Answer, error){stopping}, wantError: replication.ErrStopped},
		"stopping at the second":       {changes: []func() (*replication.Answer, error){lost, stopping}, wantError: replication.ErrUnknownOutcome},
		"stopping after a full queue":  {changes: []func() (*replication.Answer, error){lost, full, stopping}, wantError: replication.ErrUnknownOutcome},
		"applied after a lost attempt": {changes: []func() (*replication.Answer, error){lost, applied}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{quorum: newQuorum("a"), changes: c.changes}
				f := forward.New(forward.Config{Node: "a", Local: s, Remote: s, Logger: slog.New(slog.DiscardHandler),
					Voters: func() []string { return []string{"a"} }})
				defer f.Close()
				ans, err := f.Do(t.Context(), write("k"))
				if !errors.Is(err, c.wantError) || ans.GetCode() != c.wantCode {
					t.Fatalf("%v, %v; want code %v and error %v", ans, err, c.wantCode, c.wantError)
				}
				if c.wantError != replication.ErrStopped && errors.Is(err, replication.ErrStopped) {
					t.Fatalf("%v also says that the request was not sent", err)
				}
				if len(s.changes) != 0 {
					t.Fatalf("%d attempts were not made", len(s.changes))
				}
			})
		})
	}
}
