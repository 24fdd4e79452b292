package reads_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/reads"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quorum is a leader "a" and what it can ask.
type quorum struct {
	term, commit atomic.Uint64
	lead         func() reads.Lead
	asked        atomic.Int64
	ask          func(ctx context.Context, node string) (uint64, error)
}

func (q *quorum) barrier() *reads.Barrier {
	return reads.New(reads.Config{
		Self:        "a",
		Lead:        q.lead,
		CommitIndex: q.commit.Load,
		Term:        q.term.Load,
		AskTerm: func(ctx context.Context, node string) (uint64, error) {
			q.asked.Add(1)
			return q.ask(ctx, node)
		},
	})
}

func leads(term uint64, voters ...string) func() reads.Lead {
	return func() reads.Lead { return reads.Lead{Term: term, Voters: voters} }
}

func answers(terms map[string]uint64) func(context.Context, string) (uint64, error) {
	return func(ctx context.Context, node string) (uint64, error) {
		term, ok := terms[node]
		switch {
		case !ok:
			<-ctx.Done()
			return 0, ctx.Err()
		case term == 0:
			return 0, errors.New("connection refused")
		}
		return term, nil
	}
}

func TestRounds(t *testing.T) {
	type outcome int
	const (
		index outcome = iota
		notLeader
		unavailable
	)
	for name, tc := range map[string]struct {
		voters []string
		terms  map[string]uint64 // missing: silent; 0: down
		own    uint64
		lead   uint64
		want   outcome
	}{
		"all agree":                      {[]string{"a", "b", "c"}, map[string]uint64{"b": 5, "c": 5}, 5, 5, index},
		"one silent":                     {[]string{"a", "b", "c"}, map[string]uint64{"b": 5}, 5, 5, index},
		"one down":                       {[]string{"a", "b", "c"}, map[string]uint64{"b": 0, "c": 5}, 5, 5, index},
		"both down":                      {[]string{"a", "b", "c"}, map[string]uint64{"b": 0, "c": 0}, 5, 5, unavailable},
		"both silent":                    {[]string{"a", "b", "c"}, nil, 5, 5, unavailable},
		"one newer, one silent":          {[]string{"a", "b", "c"}, map[string]uint64{"b": 6}, 5, 5, notLeader},
		"both newer":                     {[]string{"a", "b", "c"}, map[string]uint64{"b": 6, "c": 6}, 5, 5, notLeader},
		"one behind does not count":      {[]string{"a", "b", "c"}, map[string]uint64{"b": 4, "c": 0}, 5, 5, unavailable},
		"self moved on, others agree":    {[]string{"a", "b", "c"}, map[string]uint64{"b": 5, "c": 5}, 6, 5, notLeader},
		"two of five":                    {[]string{"a", "b", "c", "d", "e"}, map[string]uint64{"b": 5, "c": 0, "d": 0, "e": 0}, 5, 5, unavailable},
		"three of five":                  {[]string{"a", "b", "c", "d", "e"}, map[string]uint64{"b": 5, "c": 5}, 5, 5, index},
		"two voters need both":           {[]string{"a", "b"}, map[string]uint64{"b": 0}, 5, 5, unavailable},
		"removed leader does not count":  {[]string{"b", "c"}, map[string]uint64{"b": 5, "c": 0}, 5, 5, unavailable},
		"removed leader asks the others": {[]string{"b", "c"}, map[string]uint64{"b": 5, "c": 5}, 5, 5, index},
		"alone":                          {[]string{"a"}, nil, 5, 5, index},
		"alone in a newer term":          {[]string{"a"}, nil, 6, 5, notLeader},
		"not leading":                    {[]string{"a"}, nil, 5, 0, notLeader},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &quorum{lead: leads(tc.lead, tc.voters...), ask: answers(tc.terms)}
				q.term.Store(tc.own)
				q.commit.Store(77)
				b := q.barrier()
				defer b.Close()
				got, err := b.ReadIndex(context.Background())
				var nl *replication.NotLeaderError
				switch tc.want {
				case index:
					if err != nil || got != 77 {
						t.Fatalf("%d, %v", got, err)
					}
				case notLeader:
					if !errors.As(err, &nl) {
						t.Fatalf("%d, %v", got, err)
					}
				case unavailable:
					if !errors.Is(err, replication.ErrUnavailable) {
						t.Fatalf("%d, %v", got, err)
					}
				}
			})
		})
	}
}

// A round must not use an index taken, or an answer asked for, before the
// caller came.
func TestCallersDuringARoundGetTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quorum{lead: leads(5, "a", "b", "c")}
		q.term.Store(5)
		q.ask = func(ctx context.Context, node string) (uint64, error) {
			time.Sleep(time.Millisecond) // virtual: in a synctest bubble
			return 5, nil
		}
		q.commit.Store(1)
		b := q.barrier()
		defer b.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			if i, err := b.ReadIndex(context.Background()); err != nil || i != 1 {
				t.Errorf("first: %d, %v", i, err)
			}
		})
		synctest.Wait() // asked, not answered
		q.commit.Store(2)
		for range 100 {
			wg.Go(func() {
				if i, err := b.ReadIndex(context.Background()); err != nil || i != 2 {
					t.Errorf("a caller after index 2 was committed: %d, %v", i, err)
				}
			})
		}
		wg.Wait()
		if n := q.asked.Load(); n != 2 {
			t.Errorf("101 callers made %d questions, not two rounds of the one voter that each needs", n)
		}
	})
}

// HAZARDS.md 1, on the barrier alone: an answer to a question that was sent
// before the index was taken does not count, however late it comes.
func TestOldAnswersDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quorum{lead: leads(5, "a", "b", "c", "d", "e")}
		q.term.Store(5)
		late := make(chan struct{})
		var deposed, asked atomic.Bool
		q.ask = func(ctx context.Context, node string) (uint64, error) {
			switch {
			case node == "b" && asked.CompareAndSwap(false, true):
				<-late // asked in term 5, answered after somebody else was elected
				return 5, nil
			case node == "c", node == "d" && !deposed.Load():
				return 5, nil
			case node == "b":
				return 6, nil
			}
			return 0, errors.New("down")
		}
		b := q.barrier()
		defer b.Close()
		if _, err := b.ReadIndex(context.Background()); err != nil {
			t.Fatalf("a, c and d agree: %v", err)
		}
		deposed.Store(true)
		done := make(chan error, 1)
		go func() {
			_, err := b.ReadIndex(context.Background())
			done <- err
		}()
		synctest.Wait() // b is still busy with the question of the first round
		close(late)
		var nl *replication.NotLeaderError
		if err := <-done; !errors.As(err, &nl) {
			t.Fatalf("an old answer confirmed a newer round: %v", err)
		}
	})
}

// The first voter to be asked is silent: it delays one round, and is not asked
// again while it owes an answer.
func TestSilentVoterDelaysOneRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quorum{lead: leads(5, "a", "b", "c")}
		q.term.Store(5)
		var toB, toC atomic.Int64
		back := make(chan struct{})
		q.ask = func(ctx context.Context, node string) (uint64, error) {
			if node == "c" {
				toC.Add(1)
				return 5, nil
			}
			toB.Add(1)
			select {
			case <-back:
				return 5, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		b := q.barrier()
		defer b.Close()
		read := func() {
			t.Helper()
			if _, err := b.ReadIndex(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		for range 1000 {
			read()
		}
		if n := toB.Load(); n != 1 {
			t.Errorf("a silent voter was asked %d times", n)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("a silent voter delayed 1,000 rounds by %s", took)
		}
		// Its answer comes, and it stands in its place again.
		close(back)
		synctest.Wait()
		before := toC.Load()
		for range 10 {
			read()
		}
		if n := toB.Load(); n != 11 || toC.Load() != before {
			t.Errorf("a voter that is back was asked %d times and the other %d, want 10 and 0", n-1, toC.Load()-before)
		}
	})
}

// A voter that refuses connections costs no wait.
func TestDeadVoterIsHedgedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quorum{lead: leads(5, "a", "b", "c", "d", "e")}
		q.term.Store(5)
		q.ask = answers(map[string]uint64{"b": 0, "c": 0, "d": 5, "e": 5})
		b := q.barrier()
		defer b.Close()
		began := time.Now()
		if _, err := b.ReadIndex(context.Background()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("two dead voters delayed a read by %s", took)
		}
	})
}

func TestCloseEndsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := reads.NewGroup(func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := g.Do(context.Background())
				errs <- err
			}()
			synctest.Wait()
		}
		g.Close()
		if err := <-errs; !errors.Is(err, context.Canceled) && !errors.Is(err, reads.ErrClosed) {
			t.Error(err)
		}
		if err := <-errs; !errors.Is(err, context.Canceled) && !errors.Is(err, reads.ErrClosed) {
			t.Error(err)
		}
		if _, err := g.Do(context.Background()); !errors.Is(err, reads.ErrClosed) {
			t.Error(err)
		}
	})
}

func BenchmarkReadIndex(b *testing.B) {
	q := &quorum{lead: leads(5, "a", "b", "c"), ask: answers(map[string]uint64{"b": 5, "c": 5})}
	q.term.Store(5)
	bar := q.barrier()
	defer bar.Close()
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := bar.ReadIndex(context.Background()); err != nil {
				b.Error(err)
			}
		}
	})
}

// The quorum grows from three to five voters while a round begins, and the new
// majority has elected another leader: an old voter must not make up for it.
func TestConfigurationCountsAsOfTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rounds atomic.Int64
		q := &quorum{ask: answers(map[string]uint64{"b": 5, "c": 0, "d": 0, "e": 0})}
		q.lead = func() reads.Lead {
			if rounds.Add(1) == 1 {
				return reads.Lead{Term: 5, Voters: []string{"a", "b", "c"}}
			}
			return reads.Lead{Term: 5, Voters: []string{"a", "b", "c", "d", "e"}}
		}
		q.term.Store(5)
		b := q.barrier()
		defer b.Close()
		if got, err := b.ReadIndex(context.Background()); !errors.Is(err, replication.ErrUnavailable) {
			t.Fatalf("%d, %v: two of five voters have confirmed", got, err)
		}
	})
}
