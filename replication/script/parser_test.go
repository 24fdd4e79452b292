package script_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// writer makes up scripts that are well formed.
type writer struct {
	t     *rapid.T
	depth int
}

func (w *writer) pick(label string, options ...string) string {
	return rapid.SampledFrom(options).Draw(w.t, label)
}

func (w *writer) name() string {
	return w.pick("name", "a", "b", "total", "X1", "_", "`odd name`", "`if`", "`it's \\` \\\\ #`", "deleted", "extended", "switch", "case", "`é\n`")
}

func (w *writer) key() string {
	return w.pick("key", "k", "`a/b`", "\"s/1\"", "'it\\'s'", "@p", "@q", "`set`", "case")
}

func (w *writer) durable(verb string) string {
	if rapid.Bool().Draw(w.t, "ephemeral") {
		return "E" + verb
	}
	return verb
}

func (w *writer) expr() string {
	if w.depth++; w.depth > 6 {
		w.depth--
		return w.pick("leaf", "1", "x", "@p", "null", "true", "'t'", "2.50", "0x1F", "-7", `"a\"b\\"`)
	}
	defer func() { w.depth-- }()
	switch rapid.IntRange(0, 11).Draw(w.t, "expr") {
	case 0, 1:
		return w.expr() + " " + w.pick("op", "..", "||", "&&", "=", "==", "!=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/") + " " + w.expr()
	case 2:
		return "NOT " + w.expr()
	case 3:
		return "-" + w.expr()
	case 4:
		return "(" + w.expr() + ")"
	case 5:
		return w.pick("call", "len", "nosuch", "concat", "hlc") + "(" + w.list(0) + ")"
	case 6:
		return "(" + w.expr() + ")[" + w.expr() + "]"
	case 7:
		return "[" + w.list(0) + "]"
	case 8:
		return w.pick("guard", "NOT SET", "NOT FOUND", "NOT deleted", "not EXTENDED")
	case 9:
		return "(" + w.read() + ")"
	}
	return w.pick("leaf", "1", w.name(), "@p", "null", "FALSE", "'t'", "2.50")
}

func (w *writer) list(min int) string {
	var out []string
	for range rapid.IntRange(min, 3).Draw(w.t, "length") {
		out = append(out, w.expr())
	}
	return strings.Join(out, ", ")
}

func (w *writer) read() string {
	switch rapid.IntRange(0, 3).Draw(w.t, "read") {
	case 0:
		return w.durable("GET") + " " + w.key() + w.pick("at", "", " AT 3", " @ -1", " AS OF 5 + x")
	case 1:
		return w.durable("EXISTS") + " " + w.key()
	case 2:
		return w.durable("GET") + " BY BUCKET " + w.key()
	}
	return w.durable("SCAN") + " BY PREFIX " + w.key() + w.pick("asof", "", " AS OF @p")
}

func (w *writer) command() string {
	switch rapid.IntRange(0, 3).Draw(w.t, "command") {
	case 0:
		s := w.durable("SET") + " " + w.key() + " " + w.expr()
		for range rapid.IntRange(0, 3).Draw(w.t, "modifiers") {
			s += " " + w.pick("modifier", "NX", "xx", "NOREV", "EX "+w.expr(), "CMP "+w.expr(), "CMPREV "+w.expr())
		}
		return s
	case 1:
		return w.durable("DEL") + " " + w.key()
	case 2:
		return w.durable("EXTEND") + " " + w.key() + " " + w.expr()
	}
	return w.read()
}

func (w *writer) statement() string {
	w.depth++
	defer func() { w.depth-- }()
	kinds := 13
	if w.depth > 4 {
		kinds = 7
	}
	switch rapid.IntRange(0, kinds).Draw(w.t, "statement") {
	case 0, 1:
		return w.command()
	case 2:
		return "LET " + w.name() + " = " + w.command()
	case 3:
		return "LET " + w.name() + " = " + w.expr()
	case 4:
		return "RETURN (" + w.expr() + ")" // in a SWITCH, CASE after RETURN is no name
	case 5:
		return w.pick("word", "COMMIT", "ROLLBACK", "IF x THEN RETURN END", "SLEEP 5", "SLEEP -1")
	case 6, 7:
		return "THROW " + w.expr()
	case 8:
		return "IF " + w.expr() + " THEN " + w.block() + " END"
	case 9:
		return "IF " + w.expr() + " THEN\n" + w.block() + "\nELSE " + w.block() + " END"
	case 10:
		return "FOR " + w.name() + " IN " + w.expr() + " DO " + w.block() + " END"
	case 11:
		return "BEGIN " + w.block() + " END"
	case 12:
		return "BEGIN (timeout=" + w.pick("value", "5", "-5", "yes", "'x'", "true", "null", "@p", "1.5") + ", `odd`=1) " + w.block() + " END"
	}
	s := "SWITCH " + w.expr()
	for range rapid.IntRange(1, 2).Draw(w.t, "cases") {
		s += " CASE " + w.list(1) + " THEN " + w.block()
	}
	return s + w.pick("else", "", " ELSE COMMIT") + " END"
}

func (w *writer) block() string {
	var out []string
	for range rapid.IntRange(1, 3).Draw(w.t, "statements") {
		out = append(out, w.statement())
	}
	return strings.Join(out, w.pick("separator", "\n", " ", "; ", " # remark\n"))
}

// TestPrint checks that printing loses nothing: what is printed parses to the
// same tree, and prints the same.
func TestPrint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := (&writer{t: t}).block()
		p, err := script.Parse(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		checkPrinted(t, p)
	})
}

func checkPrinted(t interface{ Fatalf(string, ...any) }, p *script.Program) {
	printed := p.String()
	again, err := script.Parse(printed)
	switch {
	case err != nil:
		t.Fatalf("the printed script is none: %v\n%s\nprinted:\n%s", err, p.Text(), printed)
	case !script.SameTree(p, again):
		t.Fatalf("another tree after printing\n%s\nprinted:\n%s", p.Text(), printed)
	case again.String() != printed:
		t.Fatalf("printing is not stable:\n%s\nthen:\n%s", printed, again)
	}
}

// seeds are the scripts of the conformance suite.
func seeds(f *testing.F) {
	cases, err := scripttest.Load()
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		for _, s := range c.Steps {
			f.Add(s.Text)
		}
	}
}

// FuzzParse feeds anything to the parser: it must say yes or where not, and what
// it accepts must survive printing.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := script.Parse(text)
		if err == nil {
			checkPrinted(t, p)
			return
		}
		var syntax *script.SyntaxError
		if !errors.As(err, &syntax) || !strings.HasPrefix(err.Error(), "Syntax error") || strings.Contains(err.Error(), "%!") {
			t.Fatalf("not a syntax error: %v", err)
		}
		if lines := strings.Count(text, "\n") + 1; syntax.Line > lines || syntax.Line > 0 && syntax.Column < 1 {
			t.Fatalf("line %d, column %d of %d lines: %v", syntax.Line, syntax.Column, lines, err)
		}
		if syntax.Describe() == "" {
			t.Fatal("nothing to say to a user")
		}
	})
}

// FuzzRun runs whatever parses, twice: no panic, no hang, fuel respected, the
// same answer.
func FuzzRun(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := script.Parse(text)
		if err != nil {
			return
		}
		params := []script.Param{{Name: "@p", Value: "5"}, {Name: "@q", Value: "a/b"}}
		for _, l := range [][]script.Param{nil, params} {
			_, _ = p.Locks(l)
		}
		const fuel = 2_000_000
		run := func() (string, error) {
			store := scripttest.NewMemory()
			store.Run("SET a 1 SET `a/b` 2 ESET c 3", nil)
			res, err := p.Run(store, script.Env{Params: params, Fuel: fuel})
			if err != nil && !errors.Is(err, script.ErrFuelSpent) {
				t.Fatalf("unexpected error: %v", err)
			}
			if res.Fuel > fuel || res.Fuel <= 0 {
				t.Fatalf("%d of %d units spent", res.Fuel, fuel)
			}
			if !utf8.ValidString(res.Reason) {
				t.Fatalf("the reason is no text: %q", res.Reason)
			}
			return fmt.Sprintf("%s %d", scripttest.Render(res, store.NowMS()), res.Fuel), err
		}
		first, err1 := run()
		second, err2 := run()
		if first != second || err1 != err2 { //nolint:errorlint // the same value
			t.Fatalf("two answers: %s, %v and %s, %v", first, err1, second, err2)
		}
	})
}

// TestParseTakesLinearTime parses the longest text there may be in shapes that
// once made parsers slow, with a bound that only a square of its length exceeds.
func TestParseTakesLinearTime(t *testing.T) {
	for _, unit := range []string{"RETURN 1 ", "((((", "-", "NOT ", "[", "a[", "f(", "IF true THEN ", "LET a = 1 ", "'x' ", "`x` ", "1 + ", "#", "# \n", "é"} {
		text := strings.Repeat(unit, script.MaxTextBytes/len(unit))
		allocs := testing.AllocsPerRun(1, func() { _, _ = script.Parse(text) })
		if limit := 40*float64(len(text)/len(unit)) + 1000; allocs > limit {
			t.Errorf("%q: %v allocations for %d units", unit, allocs, len(text)/len(unit))
		}
	}
	if _, err := script.Parse(strings.Repeat(" ", script.MaxTextBytes+1)); err == nil {
		t.Error("a text beyond the limit was accepted")
	}
	if _, err := script.Parse("RETURN '\xff'"); err == nil {
		t.Error("invalid UTF-8 was accepted")
	}
}

// TestDescribe says what people are told.
func TestDescribe(t *testing.T) {
	for text, want := range map[string]string{
		"LET = 1":        `unexpected "=", expected a name`,
		"SET a":          "unexpected end of the script, expected an expression",
		"RETURN $":       "unexpected character '$'",
		"IF true RETURN": `unexpected "RETURN", expected THEN`,
		"SET 5 1":        `unexpected "5", expected a name or a string or a parameter (@name)`,
		"RETURN (1":      `unexpected end of the script, expected ")"`,
	} {
		_, err := script.Parse(text)
		var syntax *script.SyntaxError
		if !errors.As(err, &syntax) || syntax.Describe() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestCache checks that a bounded cache gives the programs that Parse gives.
func TestCache(t *testing.T) {
	c := script.NewCache(20_000)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		text := fmt.Sprintf("RETURN %d", r.IntN(40))
		p, err := c.Parse([]byte(text))
		if err != nil || p.Text() != text {
			t.Fatalf("%s: %v, %v", text, p.Text(), err)
		}
		if c.Len() > 40 {
			t.Fatalf("%d programs in a cache for about 30", c.Len())
		}
	}
	if c.Len() < 10 {
		t.Errorf("only %d programs are kept", c.Len())
	}
	if _, err := c.Parse([]byte("RETURN (")); err == nil || c.Len() == 0 {
		t.Error("a text that is no script")
	}
	if p, err := c.Parse([]byte("RETURN '" + strings.Repeat("x", 100_000) + "'")); err != nil || p == nil {
		t.Errorf("a text larger than the cache: %v", err)
	}
}
