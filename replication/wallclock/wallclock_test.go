package wallclock_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/wallclock"
)

// world has hosts whose wall clocks are off by so much, and one clock under test,
// of host a. All tests here run in bubbles of synctest: every Sleep is virtual.
type world struct {
	start  time.Time
	voters []string
	clock  *wallclock.Clock

	mu     sync.Mutex // of the three below
	off    map[string]time.Duration
	silent map[string]bool
	log    bytes.Buffer
}

func newWorld(voters ...string) *world {
	w := &world{start: time.Now(), off: map[string]time.Duration{}, silent: map[string]bool{}, voters: voters}
	w.clock = wallclock.New(wallclock.Config{
		Self: "a", Voters: func() []string { return w.voters },
		Wall:    func() time.Time { return w.wall("a") },
		Elapsed: func() time.Duration { return time.Since(w.start) },
		Ask: func(ctx context.Context, node string) (time.Time, error) {
			w.mu.Lock()
			silent := w.silent[node]
			w.mu.Unlock()
			if silent {
				<-ctx.Done()
				return time.Time{}, context.Cause(ctx)
			}
			return w.wall(node), nil
		},
		Logger: slog.New(slog.NewTextHandler(w, nil)),
	})
	return w
}

func (w *world) wall(node string) time.Time { return time.Now().Add(w.is(node)) }

func (w *world) is(node string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.off[node]
}

// set has a host's wall clock off by so much.
func (w *world) set(node string, off time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off[node] = off
}

func (w *world) hush(node string, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent[node] = silent
}

// Write implements io.Writer for the log.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

// begin makes host a lead, with a last label of now and so much.
func (w *world) begin(ctx context.Context, label time.Duration) {
	w.clock.Begin(ctx, time.Now().Add(label).UnixMilli(), time.Since(w.start))
}

// off is how far the labels are ahead of the true time.
func (w *world) labels() time.Duration {
	return time.Until(w.clock.Now()).Round(10 * time.Millisecond)
}

// watch runs Watch until the test has ended.
func (w *world) watch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.clock.Watch(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

const day = 24 * time.Hour

// expect fails when the labels are not where they should be.
func (w *world) expect(t *testing.T, when string, want time.Duration) {
	t.Helper()
	if got := w.labels(); (got - want).Abs() > 50*time.Millisecond {
		t.Errorf("%s: the labels are %v ahead of the true time, want %v; %+v", when, got, want, w.clock.Status())
	}
}

// problem fails when the status does not say it, or says something.
func (w *world) problem(t *testing.T, when, want string) {
	t.Helper()
	s := w.clock.Status()
	if s.Trusted != (want == "") || !strings.Contains(s.Problem, want) || want == "" && (s.Problem != "" || s.Offset != 0) {
		t.Errorf("%s: the status is %+v, want one of %q", when, s, want)
	}
}

func TestJumpOfTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c")
		w.begin(t.Context(), 0)
		w.watch(t)
		w.set("a", 9*time.Second)
		w.expect(t, "a step of less than 10 s", 9*time.Second)
		time.Sleep(2 * time.Second) // virtual: in a synctest bubble
		w.set("a", day)
		w.expect(t, "at once after a step of a day", 9*time.Second)
		time.Sleep(90 * time.Second) // virtual: in a synctest bubble
		w.expect(t, "90 s after it", 9*time.Second)
		w.problem(t, "90 s after it", "is 23h59m51s ahead of the times that the cluster gives out, and a majority")
		w.set("a", 0)
		time.Sleep(2 * time.Second) // virtual: in a synctest bubble
		w.expect(t, "after it was set right", 0)
		w.problem(t, "after it was set right", "")
		w.set("a", -day)
		time.Sleep(90 * time.Second) // virtual: in a synctest bubble
		w.expect(t, "after a step back by a day", 0)
		w.problem(t, "after a step back by a day", "is 24h0m0s behind the times")
		w.set("a", 0)
		time.Sleep(2 * time.Second) // virtual: in a synctest bubble
		synctest.Wait()
		if got := strings.Count(w.log.String(), "level=WARN"); got != 2 || strings.Count(w.log.String(), "level=INFO") != 2 {
			t.Errorf("two steps were told with %d warnings:\n%s", got, w.log.String())
		}
	})
}

// What a majority of the voters has is the time, also when it moves.
func TestJumpOfTheMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c")
		w.begin(t.Context(), 0)
		w.watch(t)
		w.set("a", time.Hour)
		w.set("b", time.Hour+9*time.Second)
		w.expect(t, "before anybody was asked", 0)
		time.Sleep(1500 * time.Millisecond) // virtual: in a synctest bubble
		w.expect(t, "two of three agree", time.Hour)
		w.problem(t, "two of three agree", "")
		// Back again: labels do not go back, and nobody waits an hour for them.
		w.set("a", 0)
		w.set("b", 0)
		time.Sleep(1500 * time.Millisecond) // virtual: in a synctest bubble
		before := w.clock.Now()
		w.problem(t, "two of three have gone back", "go on a tenth slower")
		time.Sleep(100 * time.Second) // virtual: in a synctest bubble
		if got := w.clock.Now().Sub(before).Round(time.Second); got != 90*time.Second {
			t.Errorf("in 100 s the labels went on by %v, want 90 s", got)
		}
		time.Sleep(11 * time.Hour) // virtual: in a synctest bubble
		w.expect(t, "eleven hours later", 0)
		w.problem(t, "eleven hours later", "")
	})
}

// A clock that is led astray in small steps is found as well.
func TestCreep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c")
		w.begin(t.Context(), 0)
		w.watch(t)
		for range 300 {
			w.set("a", w.is("a")+5*time.Second)
			w.clock.Now()
			time.Sleep(time.Second) // virtual: in a synctest bubble
		}
		if got := w.labels(); got > 2*wallclock.Tolerance {
			t.Errorf("5 s at a time the labels were led %v ahead", got)
		}
		w.problem(t, "after steps of 5 s", "ahead of")
	})
}

func TestBeginOfATerm(t *testing.T) {
	for name, tc := range map[string]struct {
		voters []string
		off    map[string]time.Duration
		silent []string
		label  time.Duration // the last one, against the true time
		fresh  bool          // there is none
		want   time.Duration
		says   string
	}{
		"all well":                            {label: -5 * time.Second, off: map[string]time.Duration{}, want: 0},
		"the new leader is a day ahead":       {off: map[string]time.Duration{"a": day}, want: 0, says: "ahead of"},
		"the new leader is a day behind":      {off: map[string]time.Duration{"a": -day}, want: 0, says: "behind"},
		"all were down for a month":           {label: -30 * day, want: 0},
		"down, and one is silent":             {label: -30 * day, silent: []string{"b"}, want: 0},
		"down, and the others are silent":     {label: -day, silent: []string{"b", "c"}, want: -day, says: "ahead of"},
		"down, and this clock is wild":        {label: -day, off: map[string]time.Duration{"a": 900 * day}, want: -day, says: "ahead of"},
		"labels ahead of all clocks":          {label: day, want: day, says: "tenth slower"},
		"labels a little ahead":               {label: 8 * time.Second, want: 0},
		"the first label":                     {fresh: true, want: 0},
		"the first label, wild":               {fresh: true, off: map[string]time.Duration{"a": 900 * day, "b": time.Minute}, want: time.Minute, says: "ahead of"},
		"the first label, nobody there":       {fresh: true, off: map[string]time.Duration{"a": day}, silent: []string{"b", "c"}, want: day},
		"alone, all well":                     {voters: []string{"a"}, want: 0},
		"alone, the first label":              {voters: []string{"a"}, fresh: true, off: map[string]time.Duration{"a": day}, want: day},
		"alone, down for a day":               {voters: []string{"a"}, label: -day, want: 0},
		"alone, 20 years ahead of its labels": {voters: []string{"a"}, off: map[string]time.Duration{"a": 20 * 365 * day}, want: 0, says: "until it has stayed for 1m0s"},
		"alone, at 1970":                      {voters: []string{"a"}, off: map[string]time.Duration{"a": -30 * 365 * day}, want: 0, says: "until it has stayed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.voters == nil {
					tc.voters = []string{"a", "b", "c"}
				}
				w := newWorld(tc.voters...)
				for node, off := range tc.off {
					w.set(node, off)
				}
				for _, node := range tc.silent {
					w.hush(node, true)
				}
				if tc.fresh {
					w.clock.Begin(t.Context(), 0, 0)
				} else {
					began := time.Now()
					w.begin(t.Context(), tc.label)
					if took := time.Since(began); took > 500*time.Millisecond {
						t.Errorf("the term waited %v for answers", took)
					}
				}
				w.expect(t, "the first label", tc.want)
				w.problem(t, "the first label", tc.says)
			})
		})
	}
}

// A clock that is off is nobody's business while another voter leads.
func TestEndOfATerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c")
		w.begin(t.Context(), 0)
		w.set("a", day)
		w.clock.Now()
		w.problem(t, "leading", "ahead of")
		w.clock.End()
		w.problem(t, "not leading", "")
		w.expect(t, "not leading", day)
	})
}

// A voter that is alone takes a jump that lasts, and no other.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a")
		w.begin(t.Context(), 0)
		w.watch(t)
		w.set("a", 20*365*day)
		time.Sleep(50 * time.Second) // virtual: in a synctest bubble
		w.expect(t, "20 years ahead, for 50 s", 0)
		w.problem(t, "20 years ahead, for 50 s", "until it has stayed for 1m0s")
		w.set("a", 0)
		time.Sleep(2 * time.Second) // virtual: in a synctest bubble
		w.problem(t, "put right", "")
		w.set("a", 20*365*day)
		time.Sleep(50 * time.Second) // virtual: in a synctest bubble
		w.expect(t, "again, for 50 s", 0)
		time.Sleep(15 * time.Second) // virtual: in a synctest bubble
		w.expect(t, "for more than a minute", 20*365*day)
		w.problem(t, "for more than a minute", "")
		// Each move begins anew.
		for range 10 {
			w.set("a", w.is("a")+day)
			time.Sleep(30 * time.Second) // virtual: in a synctest bubble
		}
		w.expect(t, "a clock that does not rest", 20*365*day)
	})
}

// TestAnyClocks has the clocks of three voters move at random. Whatever they do,
// the labels go on with the true time, but for what a majority agreed to, and
// when all clocks are right again they come back to it.
func TestAnyClocks(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
			return step{
				node:   rapid.SampledFrom([]string{"a", "a", "a", "b", "c"}).Draw(r, "node"),
				off:    time.Duration(rapid.SampledFrom([]int{0, 0, 3, -3, 9, -9, 15, -15, 3600, -3600, 1e6, -1e6}).Draw(r, "off")) * time.Second,
				silent: rapid.IntRange(0, 9).Draw(r, "silent") == 0,
				pause:  time.Duration(rapid.IntRange(0, 5000).Draw(r, "pause")) * time.Millisecond,
			}
		}), 1, 30).Draw(r, "steps")
		var failed error
		synctest.Test(t, func(t *testing.T) { failed = anyClocks(t.Context(), steps) })
		if failed != nil {
			r.Fatal(failed)
		}
	})
}

type step struct {
	node   string
	off    time.Duration
	silent bool
	pause  time.Duration
}

func anyClocks(ctx context.Context, steps []step) error {
	w := newWorld("a", "b", "c")
	w.begin(ctx, 0)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { w.clock.Watch(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	// agreed is whether a majority that answers has about the clock of a.
	agreed := func() bool {
		for _, node := range []string{"b", "c"} {
			if !w.silent[node] && (w.is(node)-w.is("a")).Abs() <= wallclock.Tolerance+10*time.Millisecond {
				return true
			}
		}
		return false
	}
	last, at := w.clock.Now(), time.Now()
	most := 2*wallclock.Tolerance + 20*time.Millisecond // from one end to the other
	for i, s := range steps {
		could := agreed()
		w.set(s.node, s.off)
		w.hush(s.node, s.silent && s.node != "a")
		could = could || agreed()
		for pause := s.pause; pause >= 0; pause -= 250 * time.Millisecond {
			time.Sleep(min(pause, 250*time.Millisecond)) // virtual: in a synctest bubble
			now, elapsed := w.clock.Now(), time.Since(at)
			moved := now.Sub(last)
			if moved > elapsed+most && !could {
				return fmt.Errorf("step %d: in %v the labels moved by %v, and nobody agreed to it: %v", i, elapsed, moved, w.off)
			}
			if moved < -most {
				return fmt.Errorf("step %d: in %v the labels went back by %v: %v", i, elapsed, -moved, w.off)
			}
			last, at = now, time.Now()
		}
	}
	for _, node := range w.voters {
		w.set(node, 0)
		w.hush(node, false)
	}
	time.Sleep(2 * time.Minute) // virtual: in a synctest bubble
	if w.clock.Status().Trusted && w.labels() != 0 {
		return fmt.Errorf("all clocks are right, and the labels %v off", w.labels())
	}
	if w.labels() < -10*time.Millisecond {
		return fmt.Errorf("all clocks are right, and the labels %v behind", -w.labels())
	}
	return nil
}

// A voter that is too old to tell its clock, or refuses, agrees to nothing.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, answer := range map[string]error{"too old": nil, "refused": errors.New("refused")} {
			c := wallclock.New(wallclock.Config{
				Self: "a", Voters: func() []string { return []string{"a", "b", "c"} },
				Wall: time.Now, Elapsed: func() time.Duration { return time.Since(time.Time{}) },
				Ask:    func(context.Context, string) (time.Time, error) { return time.Time{}, answer },
				Logger: slog.New(slog.DiscardHandler),
			})
			c.Begin(t.Context(), time.Now().Add(-day).UnixMilli(), time.Since(time.Time{}))
			if s := c.Status(); s.Trusted {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
}
