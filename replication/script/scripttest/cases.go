// Package scripttest is the conformance suite of the script language: cases as
// text, each traced to a rule of the contract with Kahuna, and a plain store in
// memory to run them over. Whoever runs scripts in another way (the state
// machine, the runner of an agent) runs the same cases.
//
// The main function is Run. A case file holds cases like
//
//	= scripts.md 37
//	@k=a
//	> SET @k 5 NX
//	-> Set a rev=0
//	+1000
//	> GET a
//	-> Get a=5 rev=0
//
// "=" begins a case on an empty store and names its source, "@" gives a parameter
// to the next script, ">" is a line of a script, "->" what it answers, "+" lets
// milliseconds pass. Lines that begin with "//" are remarks. The flag -update-scripts
// rewrites the answers: the diff is to be reviewed.
package scripttest

import (
	"embed"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/script"
)

//go:embed testdata/*.txt
var files embed.FS

var update = flag.Bool("update-scripts", false, "rewrite the expected answers of the script cases")

// A Step is one script of a case, run WaitMS after the one before.
type Step struct {
	WaitMS int64
	Params []script.Param
	Text   string
	Want   string // as Render
	Line   int    // of the file, for failures
}

// A Case is a list of scripts on one store that begins empty.
type Case struct {
	File   string
	Source string // the rule it is traced to
	Steps  []Step
}

// A Runner runs the scripts of one case.
type Runner interface {
	// Run carries out a script, with effect.
	Run(text string, params []script.Param) script.Result
	// Advance lets milliseconds pass.
	Advance(ms int64)
	// NowMS is the wall clock of the last script, to show expiries against.
	NowMS() int64
}

// Load returns all cases in order of file and line.
func Load() ([]Case, error) {
	entries, err := files.ReadDir("testdata")
	if err != nil {
		return nil, err
	}
	var out []Case
	for _, e := range entries {
		b, err := files.ReadFile("testdata/" + e.Name())
		if err != nil {
			return nil, err
		}
		cases, err := parseCases(e.Name(), string(b))
		if err != nil {
			return nil, err
		}
		out = append(out, cases...)
	}
	return out, nil
}

func parseCases(file, text string) ([]Case, error) {
	var out []Case
	var s Step
	for i, line := range strings.Split(text, "\n") {
		bad := func(problem string) error { return fmt.Errorf("%s:%d: %s: %q", file, i+1, problem, line) }
		mark, rest := line, ""
		if n := strings.IndexByte(line, ' '); n >= 0 {
			mark, rest = line[:n], line[n+1:]
		}
		switch {
		case line == "" || strings.HasPrefix(line, "//"):
		case mark == "=":
			out = append(out, Case{File: file, Source: rest})
			s = Step{}
		case len(out) == 0:
			return nil, bad("no case before this line")
		case line[0] == '@':
			name, value, ok := strings.Cut(line, "=")
			if !ok {
				return nil, bad("a parameter needs =")
			}
			if unquoted, err := strconv.Unquote(value); err == nil {
				value = unquoted
			}
			s.Params = append(s.Params, script.Param{Name: name, Value: value})
		case line[0] == '+':
			ms, err := strconv.ParseInt(line[1:], 10, 64)
			if err != nil {
				return nil, bad("no number")
			}
			s.WaitMS += ms
		case mark == ">":
			if s.Line > 0 {
				s.Text += "\n"
			} else {
				s.Line = i + 1
			}
			s.Text += rest
		case mark == "->":
			s.Want = rest
			c := &out[len(out)-1]
			c.Steps = append(c.Steps, s)
			s = Step{}
		default:
			return nil, bad("unknown mark")
		}
	}
	return out, nil
}

// Suite says how the cases are run.
type Suite struct {
	// Open makes a Runner with an empty store, for each case.
	Open func(t *testing.T) Runner
	// Skip names the reason for leaving a case out, "" for none. Optional.
	Skip func(Case) string
	// Inside runs a test in surroundings of its own, such as synctest.Test. Optional.
	Inside func(t *testing.T, test func(t *testing.T))
}

// Run runs the cases.
func Run(t *testing.T, suite Suite) {
	t.Helper()
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]map[int]string)
	for i, c := range cases {
		t.Run(fmt.Sprintf("%s/%d", strings.TrimSuffix(c.File, ".txt"), i+1), func(t *testing.T) {
			if suite.Skip != nil {
				if why := suite.Skip(c); why != "" {
					t.Skip(why)
				}
			}
			if got[c.File] == nil {
				got[c.File] = make(map[int]string)
			}
			if suite.Inside == nil {
				runCase(t, suite, c, got[c.File])
				return
			}
			suite.Inside(t, func(t *testing.T) { runCase(t, suite, c, got[c.File]) })
		})
	}
	if *update {
		for file, answers := range got {
			if err := rewrite(file, answers); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func runCase(t *testing.T, suite Suite, c Case, got map[int]string) {
	r := suite.Open(t)
	for _, s := range c.Steps {
		r.Advance(s.WaitMS)
		answer := Render(r.Run(s.Text, s.Params), r.NowMS())
		got[s.Line] = answer
		if answer != s.Want && !*update {
			t.Errorf("%s:%d (%s)\nscript: %s\nparams: %v\n  want: %s\n   got: %s", c.File, s.Line, c.Source, s.Text, s.Params, s.Want, answer)
		}
	}
}

// rewrite puts the answers into a case file, by the line of their script.
func rewrite(file string, answers map[int]string) error {
	path := filepath.Join("scripttest", "testdata", file)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("-update-scripts works in the directory of package script only: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	script := 0
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, ">"):
			if script == 0 {
				script = i + 1
			}
		case strings.HasPrefix(line, "->"):
			if a, ok := answers[script]; ok {
				lines[i] = "-> " + a
			}
			script = 0
		}
	}
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644)
}

// Render writes an answer on one line. An expiry is shown as what is left of it
// at nowMS.
func Render(r script.Result, nowMS int64) string {
	var b strings.Builder
	b.WriteString(r.Type.String())
	if r.Reason != "" {
		b.WriteString(": " + r.Reason)
	}
	for i, v := range r.Values {
		if i > 0 {
			b.WriteString(" |")
		}
		b.WriteByte(' ')
		if v.Key != "" {
			b.WriteString(quoteKey(v.Key))
		}
		if !v.Null {
			if v.Key != "" {
				b.WriteByte('=')
			}
			b.WriteString(quoteIfNeeded(string(v.Value)))
		}
		if v.Revision != -1 || v.Null {
			fmt.Fprintf(&b, " rev=%d", v.Revision)
		}
		if v.ExpiresAtMS != 0 {
			fmt.Fprintf(&b, " left=%d", v.ExpiresAtMS-nowMS)
		}
	}
	return b.String()
}

// quoteKey leaves blanks as they are: no value stands before a key.
func quoteKey(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return strconv.Quote(s)
	}
	return s
}

func quoteIfNeeded(s string) string {
	odd := func(r rune) bool { return r < ' ' || strings.ContainsRune(" |=\"", r) }
	if s == "" || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}
