package statemachine_test

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// asOfRead is what a script has read as of a time.
type asOfRead struct {
	key, value string
	ms         int64
}

// TestScriptsReadAsOfATimeOnce checks that what a script reads as of a time, ahead of
// it or not, is what everybody reads as of that time ever after: whatever the script
// itself writes, and others in its entry and in later ones.
func TestScriptsReadAsOfATimeOnce(t *testing.T) {
	keys := []string{"a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		s := newScripts(t)
		number := 0
		draw := func(name string, most int) int { return rapid.IntRange(0, most).Draw(rt, name) }
		var seen []asOfRead
		for range rapid.IntRange(2, 12).Draw(rt, "entries") {
			s.nowMS += int64(draw("passes ms", 3) * draw("times", 400))
			var reqs []*replication.Request
			var asked []asOfRead
			for range rapid.IntRange(1, 4).Draw(rt, "requests") {
				number++
				key, other := keys[draw("key", 2)], keys[draw("other key", 2)]
				read := asOfRead{}
				switch draw("kind", 4) {
				case 0:
					reqs = append(reqs, putRequest(other, fmt.Sprint(number)))
				case 1:
					read = asOfRead{key: key, ms: s.nowMS - 100 + int64(draw("ahead", 1100))}
					reqs = append(reqs, scriptRequest(fmt.Sprintf("LET v = GET %s AS OF %d RETURN [v, %d]", key, read.ms, read.ms), nil))
				case 2:
					read = asOfRead{key: key, ms: s.nowMS - 100 + int64(draw("ahead", 1100))}
					reqs = append(reqs, scriptRequest(fmt.Sprintf("SET %s %d LET v = GET %s AS OF %d SET %s %d RETURN [v, %d]",
						key, number, key, read.ms, other, number, read.ms), nil))
				case 3: // of the present moment, which is in the answer
					read = asOfRead{key: key, ms: -1}
					reqs = append(reqs, scriptRequest(fmt.Sprintf("LET t = hlc() LET v = GET %s AS OF t SET %s %d RETURN [v, t]", key, key, number), nil))
				case 4: // and of one that grows as the script goes on
					read = asOfRead{key: key, ms: -1}
					reqs = append(reqs, scriptRequest(fmt.Sprintf(`LET t = hlc() FOR i IN 1..5 DO LET t = t + 40 LET v = GET %s AS OF t SET %s %d END RETURN [v, t]`,
						key, other, number), nil))
				}
				asked = append(asked, read)
			}
			for i, a := range s.apply(reqs...) {
				r := a.GetScriptResult()
				if asked[i].key == "" || r.GetKind() == replication.ScriptKind_SCRIPT_KIND_MUST_RETRY {
					continue
				}
				if len(r.GetValues()) != 2 {
					rt.Fatalf("%s\nanswered %s", reqs[i].GetScript().GetText(), a)
				}
				asked[i].value = string(r.Values[0].Value)
				if asked[i].ms < 0 {
					_, _ = fmt.Sscan(string(r.Values[1].Value), &asked[i].ms)
				}
				if asked[i].ms <= s.nowMS+1000 { // what is further ahead is the latest state
					seen = append(seen, asked[i])
				}
			}
			for _, r := range seen {
				if got := s.asOf(r.key, r.ms); got != r.value {
					rt.Fatalf("key %s as of %d was %q, and is now %q", r.key, r.ms, r.value, got)
				}
			}
		}
		if p := s.m.Position(); p.WallMS > s.nowMS+1001 {
			rt.Fatalf("the labels are at %d, the clock at %d", p.WallMS, s.nowMS)
		}
	})
}

func putRequest(key, value string) *replication.Request {
	return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{
		{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: key, Value: []byte(value)}}}}}
}

// asOf reads a key at the end of a millisecond; nothing is an empty text.
func (s *scripts) asOf(key string, ms int64) string {
	a := statemachine.Read(s.store, &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{
		Keys: []*replication.GetKey{{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: key}},
		AsOf: &replication.Timestamp{PhysicalMs: ms, Counter: math.MaxUint32}}}})
	return string(a.GetEntries().GetEntries()[0].GetValue())
}

// TestScriptsReadAheadByLevel checks that voters of before the level are not
// outdone: below it a script that reads ahead leaves the labels where they were.
func TestScriptsReadAheadByLevel(t *testing.T) {
	for level, want := range map[uint32]string{2: "2", 3: "2", 4: "1"} {
		s := newScriptsAt(t, level)
		s.apply(putRequest("a", "1"))
		ahead := s.nowMS + 500
		a := s.apply(scriptRequest(fmt.Sprintf("LET t = hlc() LET v = GET a AS OF %d SET a 2 RETURN [v, hlc() - t]", ahead), nil))[0]
		if v := a.GetScriptResult().GetValues(); len(v) != 2 || string(v[0].Value) != "1" || string(v[1].Value) != "0" {
			t.Errorf("level %d: %s", level, a)
		}
		if got := s.asOf("a", ahead); got != want {
			t.Errorf("level %d: as of the time ahead it is %q afterwards, want %q", level, got, want)
		}
		if label := a.GetTime().GetPhysicalMs(); (label > ahead) != (level >= 4) || label != s.m.Position().WallMS {
			t.Errorf("level %d: the script wrote at %d, the labels are at %d", level, label, s.m.Position().WallMS)
		}
	}
}

// TestScriptsReadAheadWithinTheirFuel checks that a script which runs again for its
// labels pays for both runs, and ends when that is too much.
func TestScriptsReadAheadWithinTheirFuel(t *testing.T) {
	const text = "LET n = 0 FOR i IN 1..%d DO LET n = n + i END SET k n LET v = GET other AS OF %d RETURN n"
	fuel := func(s *scripts, loops, ms int64) (uint64, replication.Code) {
		s.nowMS += 5000
		a := s.apply(scriptRequest(fmt.Sprintf(text, loops, s.nowMS+ms), nil))[0]
		return a.GetScriptResult().GetFuelUsed(), a.GetCode()
	}
	s := newScripts(t)
	once, _ := fuel(s, 1000, -100)
	if twice, _ := fuel(s, 1000, 100); twice != 2*once {
		t.Errorf("a script of %d units paid %d when it ran again", once, twice)
	}
	loops := 2000 * script.EntryFuel / 3 / int64(once) // so many at least spend more than half of it
	if _, code := fuel(s, loops, -100); code != replication.Code_CODE_OK {
		t.Errorf("once: %s", code)
	}
	before := s.asOf("k", s.nowMS+1_000_000)
	if _, code := fuel(s, loops+1, 100); code != replication.Code_CODE_FUEL_SPENT {
		t.Errorf("twice: %s", code)
	}
	if after := s.asOf("k", s.nowMS+1_000_000); after != before {
		t.Errorf("what ran out of fuel has written %q over %q", after, before)
	}
	// The end of a key follows the label of its write, and so the time as of which is
	// read moves on with each run.
	a := s.apply(scriptRequest("SET a 1 EX 10 LET v = GET b AS OF expires(GET a) RETURN v", nil))[0]
	if a.GetCode() != replication.Code_CODE_OK && a.GetCode() != replication.Code_CODE_FUEL_SPENT {
		t.Errorf("a time that goes ahead of the labels: %s", a)
	}
}

// TestScriptsReadAheadOfThickLabels checks that the labels do not run away when
// scripts come faster than one a millisecond, all of which read the state as of
// their own time: a second ahead they wait for the clock.
func TestScriptsReadAheadOfThickLabels(t *testing.T) {
	s := newScripts(t)
	s.apply(putRequest("a", "1"))
	refused := 0
	for range 1200 {
		a := s.apply(scriptRequest("LET v = GET a AS OF hlc() RETURN v", nil))[0]
		switch r := a.GetScriptResult(); r.GetKind() {
		case replication.ScriptKind_SCRIPT_KIND_GOT:
		case replication.ScriptKind_SCRIPT_KIND_MUST_RETRY:
			refused++
			if want := fmt.Sprintf("the labels are 1001 ms ahead of the clock: AS OF %d must wait for it", s.nowMS+1001); r.GetReason() != want {
				t.Fatalf("refused with %q, want %q", r.GetReason(), want)
			}
		default:
			t.Fatal(a)
		}
	}
	if p := s.m.Position(); refused == 0 || p.WallMS != s.nowMS+1001 {
		t.Errorf("%d were refused, the labels are at %d with the clock at %d", refused, p.WallMS, s.nowMS)
	}
	s.nowMS += 10
	if r := s.Run("LET v = GET a AS OF hlc() RETURN v", nil); scripttest.Render(r, s.nowMS) != "Get 1 rev=0" {
		t.Errorf("after ten milliseconds: %s", scripttest.Render(r, s.nowMS))
	}
}

// On the read path nothing can be decided about labels: a script that asks for a
// time ahead is not answered there.
func TestScriptsReadAheadOnTheReadPath(t *testing.T) {
	s := newScripts(t)
	s.apply(putRequest("a", "1"))
	for ms, want := range map[int64]replication.Code{-1: replication.Code_CODE_OK, 0: replication.Code_CODE_FUEL_SPENT, 9000: replication.Code_CODE_FUEL_SPENT} {
		for _, text := range []string{"LET v = GET a AS OF %d RETURN v", "LET v = SCAN BY PREFIX a AS OF %d RETURN v"} {
			op := scriptRequest(fmt.Sprintf(text, s.nowMS+ms), nil).GetScript()
			a := statemachine.Read(s.store, &replication.Request{Op: &replication.Request_ScriptRead{ScriptRead: op}})
			if a.GetCode() != want {
				t.Errorf("%d ms ahead: %s", ms, a)
			}
		}
	}
}
