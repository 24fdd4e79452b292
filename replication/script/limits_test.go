package script_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
	"unicode"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// unlimited runs a script with fuel for everything, so that only limits of size end
// it.
func unlimited(t *testing.T, text string, params ...script.Param) script.Result {
	t.Helper()
	p, err := script.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Run(scripttest.NewMemory(), script.Env{Params: params, Fuel: 1 << 30, Refill: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestSizes checks that nothing grows without bound, however much time there is.
func TestSizes(t *testing.T) {
	double := "LET s = '0123456789abcdef' FOR i IN 1..40 DO LET s = concat(s, s) END"
	big := "LET s = '0123456789abcdef' FOR i IN 1..18 DO LET s = concat(s, s) END " // 4 MiB
	many := make([]string, 30)
	for i := range many {
		many[i] = fmt.Sprintf("LET v%d = s", i)
	}
	var params []script.Param
	for i := range script.MaxParams + 1 {
		params = append(params, script.Param{Name: fmt.Sprint("@", i)})
	}
	for name, c := range map[string]struct {
		text, want string
		params     []script.Param
	}{
		"a text":        {text: double, want: "A value is larger than 16777216 bytes at line 1"},
		"an array":      {text: "LET a = [1] FOR i IN 1..40 DO LET a = [a, a] END", want: "A value is larger than 16777216 bytes at line 1"},
		"a JSON text":   {text: "LET s = '" + strings.Repeat("<", 2000) + "' LET a = [s] FOR i IN 1..12 DO LET a = [a, a] END LET j = to_json(a)", want: "A value is larger than 16777216 bytes at line 1"},
		"variables":     {text: big + strings.Join(many, " "), want: "The variables hold more than 67108864 bytes at line 1"},
		"parts":         {text: "LET s = ':' FOR i IN 1..17 DO LET s = concat(s, s) END LET a = split(s, ':')", want: "An array holds at most 100000 elements at line 1"},
		"what is set":   {text: big + "FOR i IN 1..10 DO SET a s END", want: "The script writes more than 16777216 bytes at line 1"},
		"a long array":  {text: big + "RETURN [s, s, s, s, s]", want: "A value is larger than 16777216 bytes at line 1"},
		"the answer":    {text: big + "RETURN [s, s]", want: "The result is larger than 4194304 bytes at line 1"},
		"rows":          {text: big + "SET `b/1` s SET `b/2` s GET BY BUCKET b", want: "The result is larger than 4194304 bytes: read a range in pages instead at line 1"},
		"parameters":    {text: "RETURN 1", params: params, want: "The script has more than 10000 parameters at line 1"},
		"an array text": {text: "RETURN [" + strings.Repeat("1,", 100_000) + "1]", want: "An array holds at most 100000 elements at line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			res := unlimited(t, c.text, c.params...)
			if res.Type != script.TypeErrored || res.Reason != c.want || res.Commit {
				t.Errorf("got %s %s, want %s", res.Type, res.Reason, c.want)
			}
		})
	}
}

// TestReadsAreBounded reads a bucket that is larger than a script may hold.
func TestReadsAreBounded(t *testing.T) {
	m := scripttest.NewMemory()
	m.Fuel = 1 << 40
	for i := range 5 {
		text := fmt.Sprintf("LET s = '0123456789abcdef' FOR i IN 1..18 DO LET s = concat(s, s) END SET `b/%d` s", i)
		if res := m.Run(text, nil); res.Type != script.TypeSet {
			t.Fatal(scripttest.Render(res, 0))
		}
	}
	for text, want := range map[string]string{
		"LET b = GET BY BUCKET b RETURN count(b)": "The read gives more than 100000 rows or 16777216 bytes: read a range in pages instead at line 1",
		"GET `b/1`": "",
	} {
		if res := m.Run(text, nil); res.Reason != want {
			t.Errorf("%s: %s, want %s", text, res.Reason, want)
		}
	}
}

// TestRefill checks that fuel ends a run at once, and that more of it lets it go on
// to the same end.
func TestRefill(t *testing.T) {
	text := "LET n = 0 FOR i IN 1..2000 DO LET n = n + i END SET sum n RETURN n"
	p, err := script.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	refills := 0
	res, err := p.Run(scripttest.NewMemory(), script.Env{Fuel: 10_000, Refill: func() error { refills++; return nil }})
	if err != nil || scripttest.Render(res, 0) != "Get 2001000" || refills < 10 || res.Fuel < int64(refills)*10_000 {
		t.Errorf("%s after %d refills and %d units, %v", scripttest.Render(res, 0), refills, res.Fuel, err)
	}
	stop := errors.New("stop")
	if _, err := p.Run(scripttest.NewMemory(), script.Env{Fuel: 10_000, Refill: func() error { return stop }}); !errors.Is(err, stop) {
		t.Error(err)
	}
	for fuel := int64(1); fuel < res.Fuel; fuel += fuel/3 + 1 {
		short, err := p.Run(scripttest.NewMemory(), script.Env{Fuel: fuel})
		if !errors.Is(err, script.ErrFuelSpent) || short.Commit || short.Fuel > fuel {
			t.Fatalf("with %d units: %v, %v", fuel, short, err)
		}
	}
	if again, err := p.Run(scripttest.NewMemory(), script.Env{Fuel: res.Fuel}); err != nil || again.Fuel != res.Fuel {
		t.Errorf("with just enough: %v, %v", again, err)
	}
}

// TestStoreErrors checks that an error of the store ends a run as it is.
func TestStoreErrors(t *testing.T) {
	stop := errors.New("the store is gone")
	for _, text := range []string{"GET a", "LET x = 1 SET a 1", "LET x = GET BY BUCKET a", "RETURN to_int(EGET a)"} {
		p, err := script.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Run(&failing{scripttest.NewMemory(), stop}, script.Env{Fuel: script.EntryFuel}); !errors.Is(err, stop) {
			t.Errorf("%s: %v", text, err)
		}
		res, err := p.Run(&failing{scripttest.NewMemory(), &script.AbortError{Reason: "in the way"}}, script.Env{Fuel: script.EntryFuel})
		if err != nil || res.Type != script.TypeAborted || res.Reason != "in the way" || res.Commit {
			t.Errorf("%s: %v, %v", text, res, err)
		}
		res, err = p.Run(&failing{scripttest.NewMemory(), &script.AbortError{MustRetry: true}}, script.Env{Fuel: script.EntryFuel})
		if err != nil || res.Type != script.TypeMustRetry || res.Commit {
			t.Errorf("%s: %v, %v", text, res, err)
		}
	}
}

// TestLocks checks which locks a session takes before its first statement.
func TestLocks(t *testing.T) {
	text := `IF false THEN SET a 1 ELSE DELETE @k END
FOR i IN GET BY BUCKET b DO EXTEND c 5 END
SWITCH (GET d) CASE to_int(GET e) THEN ESET a 1 END
LET x = [GET f, len(GET g)] LET y = EXISTS h LET z = GET i AT 1 LET w = GET j AS OF to_int(GET k)
SCAN BY PREFIX l RETURN SET a 2 NX CMP (GET m) THROW -(GET n)[(GET o)]`
	p, err := script.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := p.Locks([]script.Param{{Name: "@k", Value: "key"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range locks {
		s := l.Name
		if l.Bucket {
			s += "/"
		}
		if l.Durability == 0 {
			s = "e:" + s
		}
		got = append(got, s)
	}
	if s, want := strings.Join(got, " "), "a key b/ c d e e:a f g k m n o"; s != want {
		t.Errorf("locks %s, want %s", s, want)
	}
	if _, err := p.Locks(nil); err == nil || err.Error() != "Undefined parameter: @k at line 1" {
		t.Error(err)
	}
}

// TestLetterCaseIsPinned fails when Go's Unicode tables change what upper and
// lower give: voters of both versions would come apart. Raise the feature level,
// keep the old tables for the old one, and then change the number here.
func TestLetterCaseIsPinned(t *testing.T) {
	h := fnv.New64a()
	var b strings.Builder
	flush := func() {
		for _, name := range []string{"upper", "lower"} {
			res := unlimited(t, "RETURN "+name+"(@s)", script.Param{Name: "@s", Value: b.String()})
			_, _ = h.Write(res.Values[0].Value)
		}
		b.Reset()
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if r >= 0xD800 && r < 0xE000 {
			continue
		}
		if b.WriteRune(r); b.Len() > 1<<20 {
			flush()
		}
	}
	flush()
	if got := h.Sum64(); got != letterCase {
		t.Errorf("the letters of Unicode %s have the hash %#x, and had %#x", unicode.Version, got, uint64(letterCase))
	}
}

const letterCase = 0x63f269f02b5e42e7
