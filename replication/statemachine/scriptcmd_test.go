package statemachine_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// scripts runs scripts through a machine, one entry each, on a clock of its own.
type scripts struct {
	t      testing.TB
	store  *mapStore
	m      *statemachine.Machine
	level  uint32
	index  uint64
	nowMS  int64
	number uint64
}

func newScripts(t testing.TB) *scripts { return newScriptsAt(t, statemachine.CurrentLevel) }

// newScriptsAt is newScripts in a cluster of a feature level.
func newScriptsAt(t testing.TB, level uint32) *scripts {
	s := &scripts{t: t, store: newMapStore(), level: level, nowMS: scripttest.StartMS}
	s.m = newMachine(t, s.store)
	s.apply(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: level}}})
	s.apply(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: sid("scripts"), TtlMs: 1e12}}})
	return s
}

func (s *scripts) apply(reqs ...*replication.Request) []*replication.Answer {
	s.t.Helper()
	for _, r := range reqs {
		if r.TakesReceipt() {
			s.number++
			r.Session, r.Number, r.DoneBelow = sid("scripts"), s.number, s.number
		}
	}
	b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: s.level, Term: 1, LeaseClockNs: s.nowMS * 1e6, WallMs: s.nowMS, Requests: reqs})
	if err != nil {
		s.t.Fatal(err)
	}
	s.index++
	res := s.m.Apply(s.index, 1, b)
	if res.Diverged != nil {
		s.t.Fatal(res.Diverged)
	}
	return res.Answers
}

func scriptRequest(text string, params []script.Param) *replication.Request {
	op := &replication.Script{Text: []byte(text)}
	for _, p := range params {
		op.Parameters = append(op.Parameters, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
	}
	return &replication.Request{Op: &replication.Request_Script{Script: op}}
}

// Run implements scripttest.Runner.
func (s *scripts) Run(text string, params []script.Param) script.Result {
	s.t.Helper()
	s.nowMS++
	// What writes nothing gives the same on the read path, once the clock is there.
	s.apply(&replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{Limit: 1}}})
	reads := ""
	if p, err := script.Parse(text); err == nil && p.Mode() == script.ModeRead {
		a := statemachine.Read(s.store, &replication.Request{Op: &replication.Request_ScriptRead{ScriptRead: scriptRequest(text, params).GetScript()}})
		reads = scripttest.Render(script.FromMessage(a.GetScriptResult()), s.nowMS)
	}
	a := s.apply(scriptRequest(text, params))[0]
	if a.GetScriptResult() == nil {
		return script.Result{Type: script.TypeAborted, Reason: a.GetDetail()}
	}
	res := script.FromMessage(a.GetScriptResult())
	if got := scripttest.Render(res, s.nowMS); reads != "" && got != reads {
		s.t.Errorf("%s\nin an entry: %s\non the read path: %s", text, got, reads)
	}
	return res
}

// Advance implements scripttest.Runner.
func (s *scripts) Advance(ms int64) { s.nowMS += ms }

// NowMS implements scripttest.Runner.
func (s *scripts) NowMS() int64 { return s.nowMS }

// TestScriptConformance runs the suite of the language through the machine.
func TestScriptConformance(t *testing.T) {
	scripttest.Run(t, scripttest.Suite{
		Open: func(t *testing.T) scripttest.Runner { return newScripts(t) },
		Skip: func(c scripttest.Case) string {
			for _, s := range c.Steps {
				if strings.Contains(strings.ToUpper(s.Text), "SLEEP ") {
					return "what sleeps runs as a session"
				}
			}
			return ""
		},
	})
}

// TestScriptLimits checks that scripts which would never end, or grow without
// bound, end in a clear error within their limits, and change nothing.
func TestScriptLimits(t *testing.T) {
	grow := "LET s = '0123456789' LET a = [s]\nFOR i IN 1..60 DO %s END SET grown 1"
	for name, c := range map[string]struct{ text, want string }{
		"endless loops":    {"SET started 1 FOR a IN 1..100000 DO FOR b IN 1..100000 DO LET x = a * b END END SET ended 1", "spent"},
		"deep statements":  {"SET started 1 " + strings.Repeat("IF true THEN ", 200) + "COMMIT" + strings.Repeat(" END", 200), "Syntax error, blocks nest deeper than 100 levels"},
		"deep expressions": {"SET started 1 RETURN " + strings.Repeat("(", 10_000) + "1" + strings.Repeat(")", 10_000), "Syntax error, expressions nest deeper than 500 levels"},
		"long sums":        {"SET started 1 RETURN 1" + strings.Repeat(" + 1", 10_000), "Syntax error, expressions nest deeper than 500 levels"},
		"text that grows":  {fmt.Sprintf(grow, "LET s = concat(s, s)"), "spent"},
		"arrays that grow": {fmt.Sprintf(grow, "LET a = [a, a]"), "A value is larger than 16777216 bytes at line 2"},
		"long ranges":      {"SET started 1 RETURN 1..100001", "A range holds at most 100000 elements at line 1"},
		"division by zero": {"SET started 1 SET a 1 LET x = 1 / 0", "Division by zero at line 1"},
		"many writes":      {"FOR i IN 1..100000 DO SET a i END", "spent"},
		"a long script":    {"SET started 1 " + strings.Repeat("SET a 1 ", 150_000), "spent"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripts(t)
			s.nowMS++
			before := len(s.store.dump())
			a := s.apply(scriptRequest(c.text, nil))[0]
			if c.want == "spent" {
				if a.Code != replication.Code_CODE_FUEL_SPENT || a.GetScriptResult() != nil {
					t.Errorf("answered %.300s", a)
				}
			} else if r := a.GetScriptResult(); r.GetKind() != replication.ScriptKind_SCRIPT_KIND_ERRORED || !strings.HasPrefix(r.GetReason(), c.want) {
				t.Errorf("want %s, got %.300s", c.want, a)
			}
			// The receipt is the only row that may be new.
			if after := len(s.store.dump()); after > before+1 {
				t.Errorf("%d rows came to be", after-before)
			}
		})
	}
}

// TestScriptWork checks that scripts which are dear do not share one entry: those
// for which it has no time come back to be proposed again, unapplied.
func TestScriptWork(t *testing.T) {
	s := newScripts(t)
	dear := "LET n = 0 FOR i IN 1..20000 DO LET n = n + i END SET @k n"
	var reqs []*replication.Request
	for i := range 8 {
		reqs = append(reqs, scriptRequest(dear, []script.Param{{Name: "@k", Value: fmt.Sprint("k", i)}}))
	}
	done := 0
	for i, a := range s.apply(reqs...) {
		switch {
		case a.Code == replication.Code_CODE_OK && a.GetScriptResult().GetFuelUsed() > 1_000_000:
			done++
		case a.Code != replication.Code_CODE_PROPOSE_AGAIN || i == 0:
			t.Errorf("script %d: %s", i, a)
		}
	}
	if done == 0 || done == len(reqs) {
		t.Errorf("%d of %d dear scripts were carried out in one entry", done, len(reqs))
	}
	if r := s.Run("SCAN BY PREFIX k RETURN 0", nil); r.Type != script.TypeGet {
		t.Error(r)
	}
	if r := s.Run("LET v = SCAN BY PREFIX k RETURN count(v)", nil); string(r.Values[0].Value) != fmt.Sprint(done) {
		t.Errorf("%s keys were written by %d scripts", r.Values[0].Value, done)
	}
}

// TestScriptsReplay checks that voters which apply the same scripts have the same
// rows and the same hash, whatever is in their caches: one is made anew after
// every few entries.
func TestScriptsReplay(t *testing.T) {
	cases, err := scripttest.Load()
	if err != nil {
		t.Fatal(err)
	}
	var texts []scripttest.Step
	for _, c := range cases {
		texts = append(texts, c.Steps...)
	}
	rapid.Check(t, func(rt *rapid.T) {
		a, b := newScripts(t), newScripts(t)
		for range rapid.IntRange(1, 30).Draw(rt, "scripts") {
			step := texts[rapid.IntRange(0, len(texts)-1).Draw(rt, "script")]
			pause := rapid.Int64Range(0, 300).Draw(rt, "pause")
			if rapid.IntRange(0, 4).Draw(rt, "restart") == 0 {
				b.m = newMachine(t, b.store)
			}
			for _, s := range []*scripts{a, b} {
				s.nowMS += pause
				s.apply(scriptRequest(step.Text, step.Params))
			}
			if x, y := a.m.Position().Hash, b.m.Position().Hash; x != y {
				rt.Fatalf("hashes %x and %x after %s", x, y, step.Text)
			}
		}
		if x, y := strings.Join(a.store.dump(), "\n"), strings.Join(b.store.dump(), "\n"); x != y {
			rt.Fatal("the rows differ")
		}
	})
}

// TestScriptsAsModel runs random scripts through the machine and through the plain
// model of a store: they must answer the same, also on the read path.
func TestScriptsAsModel(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		s, model := newScripts(t), scripttest.NewMemory()
		for range 40 {
			pause := r.Int64N(120)
			s.Advance(pause)
			model.Advance(pause)
			text := scripttest.Random(r)
			got, want := scripttest.Render(s.Run(text, nil), s.NowMS()), scripttest.Render(model.Run(text, nil), model.NowMS())
			if got != want {
				t.Fatalf("seed %d:\n%s\nanswered %s\nthe model: %s", seed, text, got, want)
			}
		}
	}
}

const counterScript = `LET v = GET @k
LET n = 1
IF v != null THEN
  LET n = to_int(v) + 1
END
SET @k n
RETURN n`

// BenchmarkHotCounter is one key counted up by a script, beside BenchmarkPlainSet
// of one key each.
func BenchmarkHotCounter(b *testing.B) {
	benchScripts(b, func(int) *replication.Request {
		return scriptRequest(counterScript, []script.Param{{Name: "@k", Value: "counter"}})
	})
}

// BenchmarkPlainSet is the measure of BenchmarkHotCounter.
func BenchmarkPlainSet(b *testing.B) {
	benchScripts(b, func(i int) *replication.Request {
		return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{
			{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: fmt.Sprint("counter", i%64), Value: []byte("12345")}}}}}
	})
}

// benchScripts applies entries of 64 requests.
func benchScripts(b *testing.B, next func(int) *replication.Request) {
	s := newScripts(b)
	s.store.ever = nil
	b.ReportAllocs()
	var entries [][]byte
	for i := 0; b.Loop(); i++ {
		if len(entries) == 0 {
			b.StopTimer()
			for range 64 {
				entries = append(entries, s.entry(64, next))
			}
			b.StartTimer()
		}
		s.index++
		for _, a := range s.m.Apply(s.index, 1, entries[0]).Answers {
			if a.Code != replication.Code_CODE_OK {
				b.Fatal(a)
			}
		}
		entries = entries[1:]
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/request")
}

func (s *scripts) entry(n int, next func(int) *replication.Request) []byte {
	s.nowMS++
	var reqs []*replication.Request
	for i := range n {
		r := next(i)
		s.number++
		r.Session, r.Number, r.DoneBelow = sid("scripts"), s.number, max(s.number, 512)-512
		reqs = append(reqs, r)
	}
	b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: s.level, Term: 1, LeaseClockNs: s.nowMS * 1e6, WallMs: s.nowMS, Requests: reqs})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}
