package scriptrun_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
	"github.com/kahu-sh/kahu/replication/scriptrun"
)

// caller runs scripts through a Runner, in all its ways.
type caller struct {
	*world
	runner *scriptrun.Runner
	fuel   uint64
}

func newCaller(t testing.TB) *caller {
	w := newWorld(t)
	return &caller{world: w, runner: scriptrun.New(w, scriptrun.Options{})}
}

func request(text string, params ...script.Param) *replication.Script {
	s := &replication.Script{Text: []byte(text)}
	for _, p := range params {
		s.Parameters = append(s.Parameters, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
	}
	return s
}

func (c *caller) run(ctx context.Context, s *replication.Script) string {
	c.t.Helper()
	a, err := c.runner.Run(ctx, s)
	if err != nil {
		return "error: " + err.Error()
	}
	if a.GetScriptResult() == nil {
		return "no result: " + a.String()
	}
	return scripttest.Render(script.FromMessage(a.GetScriptResult()), c.nowMS())
}

// Run implements scripttest.Runner.
func (c *caller) Run(text string, params []script.Param) script.Result {
	time.Sleep(time.Millisecond) // each script has one of its own
	s := request(text, params...)
	s.Fuel = c.fuel
	a, err := c.runner.Run(context.Background(), s)
	if err != nil || a.GetScriptResult() == nil {
		c.t.Fatalf("%s: %v, %v", text, a, err)
	}
	return script.FromMessage(a.GetScriptResult())
}

// Advance implements scripttest.Runner.
func (c *caller) Advance(ms int64) { time.Sleep(time.Duration(ms) * time.Millisecond) }

// NowMS implements scripttest.Runner.
func (c *caller) NowMS() int64 { return c.nowMS() }

// TestConformance runs the suite of the language in the way that a Runner chooses,
// and again with so little fuel that all that is no plain command ends up as a
// session.
func TestConformance(t *testing.T) {
	for name, fuel := range map[string]uint64{"as chosen": 0, "as sessions": 1} {
		t.Run(name, func(t *testing.T) {
			scripttest.Run(t, scripttest.Suite{
				Inside: synctest.Test,
				Open: func(t *testing.T) scripttest.Runner {
					c := newCaller(t)
					c.fuel = fuel
					return c
				},
			})
		})
	}
}

// TestAsModel runs random scripts as sessions, and through the plain model of a
// store: they must answer the same.
func TestAsModel(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			c, model := newCaller(t), scripttest.NewMemory()
			c.fuel = 1
			for range 40 {
				pause := r.Int64N(120)
				c.Advance(pause)
				model.Advance(pause)
				text := scripttest.Random(r)
				got, want := scripttest.Render(c.Run(text, nil), c.NowMS()), scripttest.Render(model.Run(text, nil), model.NowMS())
				if got != want {
					t.Fatalf("seed %d:\n%s\nanswered %s\nthe model: %s", seed, text, got, want)
				}
			}
		})
	}
}

// TestWays checks which requests a script becomes.
func TestWays(t *testing.T) {
	for text, want := range map[string]string{
		"SET a 1":                      "Write",
		"GET a":                        "Get",
		"EXISTS a AT 0":                "Get",
		"GET a AS OF 5":                "Get",
		"DELETE a":                     "Write",
		"SET a hlc()":                  "Script",
		"SET a to_int(GET b)":          "Script",
		"GET BY BUCKET a":              "ScriptRead",
		"SCAN BY PREFIX a AS OF 5":     "Script",
		"LET v = GET a RETURN v":       "ScriptRead",
		"RETURN 1 + 1":                 "ScriptRead",
		"RETURN hlc()":                 "Script",
		"BEGIN GET a COMMIT END":       "ScriptRead",
		"SET a 1 SET b 2":              "Script",
		"SLEEP 1 RETURN 1":             "TxStart TxEnd",
		"SLEEP 1 SET a 1":              "TxStart TxLock TxWrite TxEnd",
		"LET v = GET a SLEEP 1":        "TxStart TxLock TxRead TxEnd",
		"SLEEP 1 THROW 'x'":            "TxStart TxEnd",
		"RETURN (":                     "",
		"BEGIN (timeout=x) COMMIT END": "",
	} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCaller(t)
				var kinds []string
				c.before = func(r *replication.Request) (*replication.Answer, error) {
					kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", r.Op), "*replication.Request_"))
					return nil, nil
				}
				c.run(context.Background(), request(text))
				if got := strings.Join(kinds, " "); got != want {
					t.Errorf("it became %q, want %q", got, want)
				}
			})
		})
	}
}

// TestHash checks what a hash does: it names a text that was sent before, and never
// stands against the text that comes with it.
func TestHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		const one, two = "RETURN 1", "LET a = 2 RETURN a"
		with := func(text, hash string) string {
			return c.run(context.Background(), &replication.Script{Text: []byte(text), Hash: []byte(hash)})
		}
		if got := scriptrun.Hash([]byte("")); got != "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262" {
			t.Fatalf("the hash of nothing is %s", got)
		}
		for _, step := range []struct{ text, hash, want string }{
			{"", scriptrun.Hash([]byte(one)), "Errored: Syntax error, unexpected EOF at line 0"},
			{one, "", "Get 1"},
			{"", scriptrun.Hash([]byte(one)), "Get 1"},
			{"", strings.ToUpper(scriptrun.Hash([]byte(one))), "Get 1"},
			{two, scriptrun.Hash([]byte(one)), "Get 2"},
			{"", scriptrun.Hash([]byte(one)), "Get 1"},
			{"", scriptrun.Hash([]byte(two)), "Get 2"},
			{"RETURN (", "x", "Errored: Syntax error, unexpected EOF, expecting an expression at line 1, column 8 near '(' at line 1"},
			{"", scriptrun.Hash([]byte("RETURN (")), "Errored: Syntax error, unexpected EOF at line 0"},
		} {
			if got := with(step.text, step.hash); got != step.want {
				t.Errorf("text %q, hash %.8s: got %s, want %s", step.text, step.hash, got, step.want)
			}
		}
		// A flood of texts: the memory stays bounded, and hashes go with their texts.
		for i := range 3000 {
			with(fmt.Sprintf("RETURN %d + len('%s')", i, strings.Repeat("x", 300)), "")
		}
		if got := with("", scriptrun.Hash([]byte(one))); !strings.HasPrefix(got, "Errored") {
			t.Errorf("a text that was pushed out is still known: %s", got)
		}
	})
}

// TestEndless checks that a script without an end is stopped by its timeout, with
// nothing changed and its locks freed, and that it never blocks the log.
func TestEndless(t *testing.T) {
	c := newCaller(t)
	begun := time.Now()
	got := c.run(context.Background(), request("BEGIN (timeout=200) SET a 1 FOR x IN 1..100000 DO FOR y IN 1..100000 DO LET z = x * y END END COMMIT END"))
	if got != "Aborted: Transaction aborted by timeout" {
		t.Error(got)
	}
	if d := time.Since(begun); d < 200*time.Millisecond {
		t.Errorf("stopped after %v", d)
	}
	if got := c.run(context.Background(), request("SET a 2 XX")); got != "NotSet a rev=-1" {
		t.Error(got)
	}
}

// TestLong checks that a script which takes more than one entry may use still comes
// to its end, as a session.
func TestLong(t *testing.T) {
	c := newCaller(t)
	got := c.run(context.Background(), request("BEGIN (timeout=60000, autoCommit=yes) LET n = 0 FOR x IN 1..100000 DO LET n = n + x END SET sum n RETURN n END"))
	if got != "Get 5000050000" {
		t.Error(got)
	}
	if got := c.run(context.Background(), request("GET sum")); got != "Get sum=5000050000 rev=0" {
		t.Error(got)
	}
}

// TestLocks checks that a sleeping script holds its locks, that another answers
// with the key in the way, and that they are free afterwards.
func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := c.run(t.Context(), request("LET v = GET a SLEEP 1000 SET a 1 SET `b/c` 1")); got != "Set b/c rev=0" {
				t.Error(got)
			}
		})
		time.Sleep(500 * time.Millisecond) // virtual: in a synctest bubble
		for text, want := range map[string]string{
			"LET x = 1 SET a 2":                                     "Aborted: Failed to acquire lock: a Persistent",
			"SLEEP 1 LET x = GET a SLEEP 1":                         "Aborted: Failed to acquire lock: a Persistent",
			"IF false THEN SET `b/c` 1 END SLEEP 1":                 "Aborted: Failed to acquire lock: b/c Persistent",
			"SLEEP 1 LET x = EXISTS a RETURN x":                     "Get false rev=0",
			"SLEEP 1 ESET a 1":                                      "Set a rev=0",
			"SET a 9":                                               "MustRetry",
			"BEGIN (locking=optimistic) SLEEP 1 SET a 1 COMMIT END": "Aborted: Transaction aborted",
		} {
			if got := c.run(t.Context(), request(text)); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
		}
		wg.Wait()
		if got := c.run(t.Context(), request("LET x = 1 SET a 2")); got != "Set a rev=1" {
			t.Error(got)
		}
	})
}

// TestConflict checks that an optimistic session whose reads changed does not
// commit.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		c.run(t.Context(), request("SET a 1"))
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := c.run(t.Context(), request("BEGIN (locking=optimistic) LET v = GET a SLEEP 1000 SET b v COMMIT END")); got != "Aborted: Transaction aborted" {
				t.Error(got)
			}
		})
		time.Sleep(500 * time.Millisecond) // virtual: in a synctest bubble
		c.run(t.Context(), request("SET a 2"))
		wg.Wait()
		if got := c.run(t.Context(), request("GET b")); got != "DoesNotExist b rev=-1" {
			t.Error(got)
		}
	})
}

// TestCallerLeaves checks that a script whose caller has gone frees its locks at
// once.
func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if got := c.run(ctx, request("SET a 1 SLEEP 4000")); !strings.Contains(got, context.DeadlineExceeded.Error()) {
			t.Error(got)
		}
		if got := c.run(t.Context(), request("LET x = 1 SET a 2")); got != "Set a rev=0" {
			t.Error(got)
		}
	})
}

// TestClock checks that a session's time goes on while it sleeps.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		if got := c.run(t.Context(), request("LET a = hlc() SLEEP 250 RETURN current_time() - a")); got != "Get 250" {
			t.Error(got)
		}
	})
}

// TestFailures checks what is told when the quorum fails at each step: that the
// script had no effect, except when the commit itself is in doubt.
func TestFailures(t *testing.T) {
	for _, step := range []struct {
		op      func(*replication.Request) bool
		err     error
		unknown bool
	}{
		{func(r *replication.Request) bool { return r.GetTxStart() != nil }, replication.ErrUnknownOutcome, false},
		{func(r *replication.Request) bool { return r.GetTxLock() != nil }, replication.ErrUnknownOutcome, false},
		{func(r *replication.Request) bool { return r.GetTxRead() != nil }, replication.ErrUnavailable, false},
		{func(r *replication.Request) bool { return r.GetTxWrite() != nil }, replication.ErrUnknownOutcome, false},
		{func(r *replication.Request) bool { return r.GetTxEnd().GetCommit() }, replication.ErrUnknownOutcome, true},
		{func(r *replication.Request) bool { return r.GetTxEnd().GetCommit() }, replication.ErrUnavailable, false},
		{func(r *replication.Request) bool { return r.GetScript() != nil }, replication.ErrUnknownOutcome, true},
		{func(r *replication.Request) bool { return r.GetWrite() != nil }, replication.ErrUnknownOutcome, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCaller(t)
			c.before = func(r *replication.Request) (*replication.Answer, error) {
				if step.op(r) {
					return nil, fmt.Errorf("the test says: %w", step.err)
				}
				return nil, nil
			}
			for _, text := range []string{"LET v = GET a SLEEP 1 SET a 1", "LET v = GET a SET a 1", "SET a 1"} {
				_, err := c.runner.Run(t.Context(), request(text))
				if err == nil {
					continue
				}
				want := replication.ErrUnavailable
				if step.unknown {
					want = replication.ErrUnknownOutcome
				}
				if !errors.Is(err, want) || errors.Is(err, replication.ErrUnknownOutcome) != step.unknown {
					t.Errorf("%s: %v, want %v", text, err, want)
				}
			}
		})
	}
}

// TestAdmission checks the answers of a cluster, and of an agent, that has no room
// for another session.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		c.before = func(r *replication.Request) (*replication.Answer, error) {
			if r.GetTxStart() != nil {
				return &replication.Answer{Code: replication.Code_CODE_ADMISSION_REFUSED, Detail: "no slot"}, nil
			}
			return nil, nil
		}
		if got := c.run(t.Context(), request("SLEEP 1")); got != "AdmissionRefused: no slot" {
			t.Error(got)
		}
		c.before = nil
		var wg sync.WaitGroup
		for range 256 {
			wg.Go(func() { c.run(t.Context(), request("SLEEP 1000")) })
		}
		time.Sleep(500 * time.Millisecond) // virtual: in a synctest bubble
		if got := c.run(t.Context(), request("SLEEP 1")); got != "AdmissionRefused: Node is at its transaction admission limit" {
			t.Error(got)
		}
		wg.Wait()
		if got := c.run(t.Context(), request("SLEEP 1")); got != "Get" {
			t.Error(got)
		}
	})
}
