package script_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// TestLongTextsArePaidFor checks that what is done to a long text costs in
// proportion to it: one node of an expression that looked through megabytes for
// the price of a node made entries of a minute.
func TestLongTextsArePaidFor(t *testing.T) {
	const rounds = 100
	for name, c := range map[string]struct {
		does, arg string
		atLeast   int64 // a round
	}{
		"as a number":       {"LET x = @x + 1", strings.Repeat("1", 300) + "." + strings.Repeat("1", 600), 4500},
		"compared":          {"LET x = @x < 1", strings.Repeat(" ", 900) + "1", 4500},
		"equal to a number": {"LET x = 1 = @x", strings.Repeat(" ", 900) + "1", 4500},
		"negated":           {"LET x = -@x", strings.Repeat(" ", 900) + "1", 4500},
		"as an index":       {"LET x = [1, 2][@x]", strings.Repeat(" ", 900) + "1", 4500},
		"letters":           {"LET x = upper(@x)", strings.Repeat("ж", 500), 20_000},
		"a part":            {"LET x = substring(@x, 1)", strings.Repeat("x", 1000), 6000},
		"JSON":              {"LET x = to_json(@x)", strings.Repeat("<", 1000), 18_000},
		"beyond all":        {"LET x = to_double(@x)", "1E309", 30_000},
		"the least":         {"LET x = @x + 1", "5e-324", 30_000},
		"close to it":       {"LET x = -@x", "0." + strings.Repeat("0", 306) + "1", 30_000},
		"many digits":       {"LET x = 1 < @x", "0.12345678901234567890", 30_000},
		"a Double":          {"LET x = to_double(@x)", strings.Repeat(" ", 900) + "1.5", 5400},
		"a search":          {"LET x = split(@x, 'y')", strings.Repeat("x", 1000), 3000},
		"blanks":            {"LET x = trim(@x)", strings.Repeat("x", 1000), 3000},
		"a comparison":      {"SET k 'a' CMP @x", strings.Repeat("x", 10_000), 30_000},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := script.Parse(fmt.Sprintf("FOR i IN 1..%d DO %s END", rounds, c.does))
			if err != nil {
				t.Fatal(err)
			}
			res, err := p.Run(scripttest.NewMemory(), script.Env{Params: []script.Param{{Name: "@x", Value: c.arg}}, Fuel: 1 << 40})
			if err != nil || res.Type == script.TypeErrored || res.Fuel < rounds*c.atLeast {
				t.Errorf("%s %s, %v: spent %d, at least %d was expected", res.Type, res.Reason, err, res.Fuel, rounds*c.atLeast)
			}
		})
	}
}

// TestPlainDoublesAreCheap checks that only Doubles which are hard to round cost as
// much, and that before feature level 4 none does.
func TestPlainDoublesAreCheap(t *testing.T) {
	spent := func(number string, level uint32) int64 {
		p, err := script.Parse("RETURN 0 < @x")
		if err != nil {
			t.Fatal(err)
		}
		res, err := p.Run(scripttest.NewMemory(), script.Env{Params: []script.Param{{Name: "@x", Value: number}}, Fuel: 1 << 40, Level: level})
		if err != nil || res.Type != script.TypeGet {
			t.Fatal(number, res, err)
		}
		return res.Fuel
	}
	for number, hard := range map[string]bool{
		"1.5": false, "0": false, "-0.0": false, "000000000000000000000000.5": false, "9223372036854775807": false, "1234567890.123456789": false,
		"1e307": false, "9.9e307": false, "1e308": true, "1E+99999": true, "1e-306": false, "9.9e-307": true, "+1e400": true, "0e400": false,
		"0.0000000001e-300": true, "12345678901234567890": true, "Infinity": false, "1e00000000000000000000000400": true,
	} {
		old, now := spent(number, 3), spent(number, 4)
		if (now-old >= 30_000) != hard || old > 1000 {
			t.Errorf("%s: %d units at level 3, %d at level 4", number, old, now)
		}
	}
	// In the text of a script there are no exponents: it takes many digits.
	long := strings.Repeat("LET a = "+strings.Repeat("1", 309)+".5 ", 3)
	if old, now := script.ParseFuel([]byte(long), 3), script.ParseFuel([]byte(long), 4); now-old != 90_000+3*4*150 {
		t.Errorf("three long numbers in a text: %d units at level 3, %d at level 4", old, now)
	}
	p, err := script.Parse(long)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []uint32{3, 4} {
		if res, err := p.Run(scripttest.NewMemory(), script.Env{Fuel: 1 << 40, Level: level}); err != nil || res.Fuel < script.ParseFuel([]byte(long), level) {
			t.Errorf("level %d: %d units for a run, %v", level, res.Fuel, err)
		}
	}
}

// TestDenseTextsArePaidFor checks that from level 4 on a text pays for its tokens,
// which are what parsing takes time for, the same whether it was parsed before or not.
func TestDenseTextsArePaidFor(t *testing.T) {
	for text, tokens := range map[string]int64{
		"": 0, " ;\n\t": 0, "# a remark, of many words": 0, "# one\nSET a 1 # two": 3,
		"RETURN 1+1+1": 6, "RETURN (a[1])": 7, "SET `k/e y` 'it\\'s \"one\" text' EX 5": 5, "RETURN @p": 3, "LET naïve = 1.5": 4,
		"RETURN 'not closed": 2, "RETURN '\\": 2,
	} {
		if got, want := script.ParseFuel([]byte(text), 4), int64(20*len(text))+150*tokens; got != want {
			t.Errorf("%q costs %d units, want %d", text, got, want)
		}
		if got, want := script.ParseFuel([]byte(text), 3), int64(20*len(text)); got != want {
			t.Errorf("%q costs %d units at level 3, want %d", text, got, want)
		}
		p, err := script.Parse(text)
		if err != nil {
			continue
		}
		for _, level := range []uint32{3, 4} {
			if got, want := p.ParseFuel(level), script.ParseFuel([]byte(text), level); got != want {
				t.Errorf("level %d: %q costs %d units, and %d once it is parsed", level, text, want, got)
			}
		}
	}
}

// TestNumbersAreShort checks that megabytes of blanks are not trimmed from a text
// in order to find a number.
func TestNumbersAreShort(t *testing.T) {
	m := scripttest.NewMemory()
	for n, want := range map[int]string{999: "Get true", 1000: "Errored"} {
		res := m.Run("RETURN @x = 1", []script.Param{{Name: "@x", Value: strings.Repeat(" ", n) + "1"}})
		if got := scripttest.Render(res, 0); !strings.HasPrefix(got, want) {
			t.Errorf("%d blanks: %s, want %s", n, got, want)
		}
	}
}

// TestParametersArePaidForBeforeTheyAreBound runs a text with so many names, and so
// many parameters, that holding each against each would take a second.
func TestParametersArePaidForBeforeTheyAreBound(t *testing.T) {
	var names []string
	var params []script.Param
	for i := range script.MaxParams {
		names = append(names, fmt.Sprintf("@n%d", i))
		params = append(params, script.Param{Name: fmt.Sprintf("@n%d", i), Value: fmt.Sprint(i)})
	}
	text := "RETURN [" + strings.Join(names, ",") + "]"
	p, err := script.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(scripttest.NewMemory(), script.Env{Params: params, Fuel: script.EntryFuel}); !errors.Is(err, script.ErrFuelSpent) {
		t.Errorf("%v, want the fuel to be spent", err)
	}
	// The first of a name counts, however many there are.
	for _, n := range []int{3, 100, 101, 5000} {
		given := append(params[:n:n], script.Param{Name: "@n1", Value: "second"})
		q, err := script.Parse("RETURN concat(@n1, @n2)")
		if err != nil {
			t.Fatal(err)
		}
		res, err := q.Run(scripttest.NewMemory(), script.Env{Params: given, Fuel: script.EntryFuel})
		if got := scripttest.Render(res, 0); err != nil || got != "Get 12" {
			t.Errorf("of %d parameters: %s, %v, want 12", n, got, err)
		}
	}
	// The locks of a session know the parameters of a text that is dear as well.
	locks, err := func() ([]script.Lock, error) {
		q, err := script.Parse(text + " SET @n7 1")
		if err != nil {
			return nil, err
		}
		return q.Locks(params)
	}()
	if err != nil || len(locks) != 1 || locks[0].Name != "7" {
		t.Errorf("locks %v, %v, want that of key 7", locks, err)
	}
}

// TestThrownTextsAreCut throws megabytes, which would be kept by every voter.
func TestThrownTextsAreCut(t *testing.T) {
	m := scripttest.NewMemory()
	for _, n := range []int{script.MaxReasonBytes - 1, script.MaxReasonBytes, 1 << 20} {
		res := m.Run("THROW @x", []script.Param{{Name: "@x", Value: "x" + strings.Repeat("é", n/2)}})
		thrown, ok := strings.CutSuffix(res.Reason, " at line 1")
		if want := "x" + strings.Repeat("é", min(n/2, script.MaxReasonBytes/2-1)); !ok || res.Type != script.TypeErrored || thrown != want {
			t.Errorf("of %d bytes %d are told, want %d", n+1, len(thrown), len(want))
		}
	}
}
