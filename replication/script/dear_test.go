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
