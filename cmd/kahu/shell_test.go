package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi/wire"
)

// TestShellKnowsWhatGoesOn: which texts are asked on for.
func TestShellKnowsWhatGoesOn(t *testing.T) {
	for text, want := range map[string]bool{
		"begin":                    true,
		"begin set a 1":            true,
		"if true then set a 1":     true,
		"for x in 1..2 do":         true,
		"set a":                    true,
		"let v = (1 +":             true,
		"set `a":                   true,
		"begin set a 1 commit end": false,
		"set a 1":                  false,
		"set a 1 2":                false,
		"end":                      false,
		"set a 'x":                 false, // it ends on its line, or never
		"# only a remark":          false,
	} {
		if got := incomplete(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestShellCommands(t *testing.T) {
	for text, want := range map[string]bool{"lock a 5": true, "LOCK a 5": true, "Exit": true, "run x": true, "get a": false,
		"locks": false, "let lock = 1": false, "lock\na": false, "": false} {
		if got := isShellCommand(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	// Each name stands in the help once, with what it does or a line above that says so.
	got := program(t, "help\nexit\nget a\n", "shell")
	if got.code != exitOK || got.err != "" {
		t.Fatalf("%+v", got)
	}
	for _, name := range commandNames() {
		if !strings.Contains(got.out, name) {
			t.Errorf("the help does not have %s", name)
		}
	}
	if got := program(t, "get a\n", "shell"); got.code != exitUnavailable || got.out != "" {
		t.Errorf("without an agent: %+v", got)
	}
	if got := program(t, strings.Repeat("x", 2<<20), "shell"); got.code != exitUsage || !strings.Contains(got.err, "longer than") {
		t.Errorf("an endless line: %d %s", got.code, got.err)
	}
}

func TestShellCandidates(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "one.kahuna"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before, word string
		want         []string
	}{
		{"", "res", []string{"reserve-sequence"}},
		{"", "extend", []string{"extend", "extend-lock"}},
		{"", "EXTEND", []string{"EXTEND", "EXTEND-LOCK"}},
		{"let a = ", "lock", nil},
		{"let a = ", "to_bo", []string{"to_bool", "to_boolean"}},
		{"let a = ", "spl", []string{"split"}},
		{"let a = ", "hlc", []string{"hlc", "hlc_counter"}},
		{"get a ", "lim", nil}, // no word of the language
		{"set a ", "", nil},
		{"run ", dir + "/o", []string{dir + "/one.kahuna", dir + "/other/"}},
		{"run ", dir + "/none", nil},
	} {
		if got := candidates(c.before, c.word); !slices.Equal(got, c.want) {
			t.Errorf("%q %q: %q, want %q", c.before, c.word, got, c.want)
		}
	}
}

// TestShellHistory: two sessions at a time lose nothing of one another, and what
// is kept is bounded.
func TestShellHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "history")
	one, two := loadShellHistory(path), loadShellHistory(path)
	for _, line := range []string{"a", "a", " ", "b", strings.Repeat("x", shellHistoryLineBytes+1)} {
		one.Add(line)
	}
	two.Add("c")
	if one.Len() != 2 || one.At(0) != "b" || one.At(1) != "a" {
		t.Errorf("%q", one.lines)
	}
	if err := one.save(); err != nil {
		t.Fatal(err)
	}
	if err := two.save(); err != nil {
		t.Fatal(err)
	}
	three := loadShellHistory(path)
	if !slices.Equal(three.lines, []string{"a", "b", "c"}) {
		t.Errorf("%q", three.lines)
	}
	for i := range 2 * shellHistoryLines {
		three.Add(strings.Repeat("y", i%7+1))
	}
	if err := three.save(); err != nil {
		t.Fatal(err)
	}
	if n := loadShellHistory(path).Len(); n != shellHistoryLines {
		t.Errorf("%d lines are kept", n)
	}
	if h := loadShellHistory("-"); h.path != "" || h.save() != nil {
		t.Error("a history is kept that nobody wants")
	}
}

func TestShellPrintsAsKahunaDoes(t *testing.T) {
	s := &shell{globals: &globals{}}
	text := "v"
	for _, c := range []struct {
		r    wire.ScriptResult
		want string
	}{
		{wire.ScriptResult{Type: wire.ScriptGot, Values: []wire.ScriptValue{{Key: "k", Value: []byte("v"), Revision: 3}}}, "r3 v 7ms\n\n"},
		{wire.ScriptResult{Type: wire.ScriptGot}, "7ms\n\n"},
		{wire.ScriptResult{Type: wire.ScriptGot, Values: []wire.ScriptValue{{Key: "k", Value: []byte(text), Revision: 3}, {Revision: -1}}}, "r3 k v\nr- (null)\n7ms\n\n"},
		{wire.ScriptResult{Type: wire.ScriptSet}, "r- set 7ms\n\n"},
		{wire.ScriptResult{Type: wire.ScriptNotSet, Values: []wire.ScriptValue{{Revision: 2}}}, "r2 not set 7ms\n\n"},
		{wire.ScriptResult{Type: wire.ScriptDoesNotExist, Values: []wire.ScriptValue{{Revision: -1}}}, "r- not found 7ms\n\n"},
	} {
		if got := s.resultText(c.r, 7); got != c.want {
			t.Errorf("%+v: %q, want %q", c.r, got, c.want)
		}
	}
	s.color = true
	if got := s.resultText(wire.ScriptResult{Type: wire.ScriptSet}, 7); got != "r- \x1b[36mset\x1b[0m 7ms\n\n" {
		t.Errorf("%q", got)
	}
}
