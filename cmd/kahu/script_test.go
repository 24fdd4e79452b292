package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestScriptMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"script", "run"}, "takes FILE"},
		{[]string{"script", "run", "a", "-e", "GET b"}, "got 1 argument"},
		{[]string{"script", "run", "/nowhere/at/all"}, "the script cannot be read"},
		{[]string{"script", "run", "-e", "GET b", "--param", "x"}, "--param x is not NAME=VALUE"},
		{[]string{"script", "run", "-e", "GET b", "-p", "@=1"}, "is not NAME=VALUE"},
		{[]string{"script", "run", "-e", "GET b", "-p", "x=1", "-p", "@x=2"}, "the parameter x is given twice"},
		{[]string{"script", "run", "-e", "GET b", "--priority", "urgent"}, "the priority is background"},
		{[]string{"script", "check"}, "takes FILE"},
		{[]string{"limit", "take"}, "takes NAME"},
		{[]string{"limit", "take", "a"}, "--rate is missing"},
		{[]string{"limit", "take", "a", "--rate", "1/s", "--wait", "-1s"}, "--wait is -1s"},
		{[]string{"limit", "acquire"}, "takes NAME"},
		{[]string{"limit", "acquire", "a"}, "--limit is missing"},
		{[]string{"limit", "acquire", "a", "--limit", "2", "--permits", "3"}, "3 of 2 permits cannot be held"},
		{[]string{"limit", "acquire", "a", "--limit", "-1"}, "1 of -1 permits cannot be held"},
		{[]string{"limit", "acquire", "a", "--limit", "2", "--wait", "-1s"}, "--wait is -1s"},
		{[]string{"limit", "renew", "a"}, "--owner is missing"},
		{[]string{"limit", "release", "a"}, "--owner is missing"},
	} {
		got := program(t, "", c.args...)
		if got.code != exitUsage || !strings.Contains(got.err, c.want) || strings.Count(got.err, "\n") != 1 {
			t.Errorf("%v: exit code %d, %q; want %d and %q", c.args, got.code, got.err, exitUsage, c.want)
		}
	}
}

// TestScriptCheck: it needs no agent, and points at the place.
func TestScriptCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.kahuna")
	if err := os.WriteFile(file, []byte("LET a = 1\n\tLET b == 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stdin     string
		args      []string
		code      int
		out, says string
	}{
		{"", []string{"-e", "SET a 1"}, 0, "ok: it is one plain command\n", ""},
		{"LET v = GET @k RETURN v", []string{"-"}, 0, "ok: it only reads, from one consistent state\nparameters: @k\n", ""},
		{"", []string{"-e", "if true then set a  1 # x\nend", "--print"}, 0, "IF true THEN\n  SET a 1\nEND\n", ""},
		{"", []string{file}, 1, "", file + ":2:8: unexpected \"==\", expected \"=\"\n   LET b == 2\n         ^\n"},
		{"", []string{"-e", "RETURN\nround(x)"}, 0, "ok: it only reads, from one consistent state\n",
			"-e:2: warning: Undefined variable: x\n-e:2: warning: Invalid number of arguments for 'round' function\n"},
		{"", []string{"-e", "RETURN y", "--output", "json"}, 0,
			`{"ok":true,"mode":"read","reads_only":true,"warnings":[{"line":1,"problem":"Undefined variable: y"}]}` + "\n", ""},
		{"", []string{"-e", ""}, 1, "", "-e: the script is empty\n"},
		{"", []string{"-e", "BEGIN (locking=none) COMMIT END"}, 1, "", "-e: Unsupported locking option: none at line 1\n"},
		{"", []string{"-e", "SET", "--output", "json"}, 1, `{"ok":false,"reads_only":false,"line":1,"column":1,"problem":"unexpected end of the script, expected a name or a string or a parameter (@name)"}` + "\n", ""},
		{"", []string{"-e", "SLEEP 5", "--output", "json"}, 0, `{"ok":true,"mode":"session","reads_only":true}` + "\n", ""},
	} {
		got := program(t, c.stdin, append([]string{"script", "check"}, c.args...)...)
		if got.code != c.code || got.out != c.out || got.err != c.says {
			t.Errorf("%q: exit code %d\n%s%s\nwant %d\n%s%s", c.args, got.code, got.out, got.err, c.code, c.out, c.says)
		}
	}
}
