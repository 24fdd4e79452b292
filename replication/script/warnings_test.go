package script_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// TestWarnings checks that a warning is given for what fails, in the words of the
// failure, and only for that.
func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"LET x = 1\nRETURN foo(x)":                "2 Undefined function foo expression",
		"RETURN len()":                            "1 Invalid number of arguments for 'length' function",
		"RETURN\nround(1)":                        "2 Invalid number of arguments for 'round' function",
		"LET x = 1\nSET a y + x":                  "2 Undefined variable: y",
		"SET a 1 EX later":                        "1 Undefined variable: later",
		"GET a AS OF then1":                       "1 Undefined variable: then1",
		"FOR i IN [1, z] DO SET a i END":          "1 Undefined variable: z",
		"SWITCH 2 CASE 1, k THEN SET a 1 END":     "1 Undefined variable: k",
		"BEGIN BEGIN SET a 1 END COMMIT END":      "1 Nested transactions are not supported",
		"THROW why":                               "1 Undefined variable: why",
		"LET x = GET a IF x = y THEN SET a 1 END": "1 Undefined variable: y",
		"LET x = (GET a AS OF t)[0]":              "1 Undefined variable: t",
		"FOR i IN 1..2 DO IF i = 2 THEN SET a n END LET n = 1 END RETURN n": "",
		"IF false THEN RETURN nope(1) END RETURN 1":                         "1 Undefined function nope expression",
		"SET a 1": "", "LET v = SET a 1 RETURN v": "", "RETURN @p": "", "FOR i IN 1..2 DO SET a i END": "",
	} {
		p, err := script.Parse(text)
		if err != nil {
			t.Fatal(text, err)
		}
		var got []string
		for _, w := range p.Warnings() {
			got = append(got, fmt.Sprint(w.Line, " ", w.Problem))
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s\nwarned: %q, want %q", text, got, want)
		}
	}
}

// TestCasesAreWarnedOf runs all cases of the suite: one that answers that something is
// undefined has a warning, with the same words and line.
func TestCasesAreWarnedOf(t *testing.T) {
	cases, err := scripttest.Load()
	if err != nil {
		t.Fatal(err)
	}
	met := 0
	for _, c := range cases {
		for _, s := range c.Steps {
			if !strings.Contains(s.Want, "Undefined function") && !strings.Contains(s.Want, "Invalid number of arguments") {
				continue
			}
			met++
			p, err := script.Parse(s.Text)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, w := range p.Warnings() {
				found = found || strings.HasSuffix(s.Want, fmt.Sprintf("%s at line %d", w.Problem, w.Line))
			}
			if !found {
				t.Errorf("%s:%d: %s\nanswers %s, and is warned of with %v", c.File, s.Line, s.Text, s.Want, p.Warnings())
			}
		}
	}
	if met < 3 {
		t.Errorf("only %d cases are of this kind", met)
	}
}
