package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/script"
)

func newScriptCommand(g *globals) *cobra.Command {
	return group("script", "Scripts that read, decide and write as one", newScriptRunCommand(g), newScriptCheckCommand(g))
}

// scriptSource is where a script comes from: a file, standard input or a flag.
type scriptSource struct{ expression string }

func (s *scriptSource) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&s.expression, "expression", "e", "", "the `script` itself, instead of a file")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("expression") {
			return arguments()(cmd, args)
		}
		return arguments("FILE")(cmd, args)
	}
}

// read returns the script and a name for it.
func (s *scriptSource) read(cmd *cobra.Command, args []string) (name, text string, err error) {
	if cmd.Flags().Changed("expression") {
		return "-e", s.expression, nil
	}
	var b []byte
	if name = args[0]; name == "-" {
		name = "standard input"
		b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), script.MaxTextBytes+1))
	} else {
		b, err = readScriptFile(name)
	}
	switch {
	case err != nil:
		return name, "", usageError(fmt.Sprintf("the script cannot be read: %v", err))
	case len(b) > script.MaxTextBytes:
		return name, "", usageError(fmt.Sprintf("the script in %s is longer than %d bytes", printable(name), script.MaxTextBytes))
	}
	return name, string(b), nil
}

func readScriptFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, script.MaxTextBytes+1))
}

func newScriptRunCommand(g *globals) *cobra.Command {
	var source scriptSource
	var params []string
	var s wire.Script
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a script in the cluster, all of it or nothing",
		Long: `Run a script in the language of Kahuna. It is one transaction: what it writes
takes effect together when it ends, or not at all. FILE may be - for standard
input.

A value that the script gives is shown as it is, several on a line each; keys
that were read are shown with their revision. The exit code is 1 when the script
failed or was aborted, or its last statement wrote nothing because a condition
did not hold, and 2 when its last statement found no key.`,
		Example: `  kahu script run -e 'SET greeting "hello" NX'
  kahu script run count.kahuna --param key=visits
  echo 'LET v = GET @key  RETURN rev(v)' | kahu script run - --param key=visits --output json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, text, err := source.read(cmd, args)
			if err != nil {
				return err
			}
			s.Script = text
			if s.Parameters, err = readParams(params); err != nil {
				return err
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				res, err := c.RunScript(ctx, s)
				if errors.Is(err, client.ErrScript) && g.output == outputText {
					// The quorum's words are those that Kahuna's clients know.
					if _, bad := script.Parse(text); bad != nil {
						return g.showBadScript(cmd.ErrOrStderr(), name, text, bad)
					}
				}
				if err != nil {
					return err
				}
				return g.showScriptResult(res)
			})
		},
	}
	source.flags(cmd)
	cmd.Flags().StringArrayVarP(&params, "param", "p", nil, "`NAME=VALUE` of a parameter, @NAME in the script; may be repeated")
	cmd.Flags().StringVar(&s.Priority, "priority", "", "background, low, normal, high or critical: who goes first when sessions must wait")
	return cmd
}

// readParams reads NAME=VALUE, the name with or without its @.
func readParams(params []string) ([]wire.ScriptParameter, error) {
	var out []wire.ScriptParameter
	seen := make(map[string]bool)
	for _, p := range params {
		name, value, ok := strings.Cut(p, "=")
		name = strings.TrimPrefix(name, "@")
		if !ok || name == "" {
			return nil, usageError(fmt.Sprintf("--param %s is not NAME=VALUE", printable(p)))
		}
		if seen[name] {
			return nil, usageError(fmt.Sprintf("the parameter %s is given twice", printable(name)))
		}
		seen[name] = true
		out = append(out, wire.ScriptParameter{Name: name, Value: value})
	}
	return out, nil
}

func (g *globals) showScriptResult(r wire.ScriptResult) error {
	err := g.show(r, func(w io.Writer) error {
		var b bytes.Buffer
		switch r.Type {
		case wire.ScriptGot, wire.ScriptExists:
			for _, v := range r.Values {
				if v.Key != "" {
					fmt.Fprintf(&b, "r%d %s ", v.Revision, printable(v.Key))
				}
				if r.Type == wire.ScriptExists {
					b.WriteString("exists")
				}
				b.Write(v.Value)
				b.WriteByte('\n')
			}
		default:
			for _, v := range r.Values {
				fmt.Fprintf(&b, "r%d %s %s\n", v.Revision, printable(v.Key), strings.ReplaceAll(string(r.Type), "-", " "))
			}
		}
		_, err := w.Write(b.Bytes())
		return err
	})
	switch {
	case err != nil:
		return err
	case r.Type == wire.ScriptNotSet:
		return &quietError{exitRefused}
	case r.Type == wire.ScriptDoesNotExist:
		return &quietError{exitNotFound}
	}
	return nil
}

// checked is what check shows of a script.
type checked struct {
	OK         bool     `json:"ok"`
	Mode       string   `json:"mode,omitempty"` // direct, read, command or session
	ReadsOnly  bool     `json:"reads_only"`
	Parameters []string `json:"parameters,omitempty"`
	Line       int      `json:"line,omitempty"`
	Column     int      `json:"column,omitempty"`
	Problem    string   `json:"problem,omitempty"`

	// Warnings are of what will fail where it is reached.
	Warnings []checkWarning `json:"warnings,omitempty"`
}

type checkWarning struct {
	Line    int    `json:"line"`
	Problem string `json:"problem"`
}

var modeTexts = map[script.Mode]string{
	script.ModeDirect:  "it is one plain command",
	script.ModeRead:    "it only reads, from one consistent state",
	script.ModeCommand: "it runs as one entry of the log, or as a session when it takes more than that allows",
	script.ModeSession: "it sleeps, and runs as a session that holds its locks meanwhile",
}

func newScriptCheckCommand(g *globals) *cobra.Command {
	var source scriptSource
	var format bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say whether a text is a script, and how it would run, without an agent",
		Long: `Say whether a text is a script, and how it would run, without an agent.

Warnings are of what will fail wherever the script comes to it, such as a function
that there is not, or a variable that nothing assigns. The exit code is 0 with them.`,
		Example: `  kahu script check count.kahuna
  kahu script check -e 'SET a'
  kahu script check count.kahuna --print`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, text, err := source.read(cmd, args)
			if err != nil {
				return err
			}
			p, err := script.Parse(text)
			if err == nil {
				_, err = p.Options()
			}
			if err != nil {
				return g.showBadScript(cmd.ErrOrStderr(), name, text, err)
			}
			out := checked{OK: true, Mode: p.Mode().String(), ReadsOnly: p.ReadsOnly(), Parameters: p.Params()}
			for _, w := range p.Warnings() {
				out.Warnings = append(out.Warnings, checkWarning{w.Line, w.Problem})
				if g.output != outputJSON {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d: warning: %s\n", printable(name), w.Line, printable(w.Problem))
				}
			}
			return g.show(out, func(w io.Writer) error {
				if format {
					_, err := io.WriteString(w, p.String())
					return err
				}
				if err := line("ok: %s", modeTexts[p.Mode()])(w); err != nil || len(out.Parameters) == 0 {
					return err
				}
				return line("parameters: %s", strings.Join(out.Parameters, " "))(w)
			})
		},
	}
	source.flags(cmd)
	cmd.Flags().BoolVar(&format, "print", false, "print the script in its one form, without remarks")
	return cmd
}

// showBadScript points at the place of an error, as compilers do.
func (g *globals) showBadScript(w io.Writer, name, text string, err error) error {
	var syntax *script.SyntaxError
	if !errors.As(err, &syntax) {
		return g.badScript(w, checked{Problem: err.Error()}, fmt.Sprintf("%s: %v", printable(name), err))
	}
	problem := syntax.Describe()
	if syntax.Line == 0 {
		return g.badScript(w, checked{Problem: problem}, fmt.Sprintf("%s: the script is empty", printable(name)))
	}
	lines := strings.Split(text, "\n")
	shown, marker := "", ""
	if syntax.Line <= len(lines) {
		shown = strings.ReplaceAll(strings.TrimRight(lines[syntax.Line-1], "\r"), "\t", " ")
		if printable(shown) == shown && len(shown) < 500 {
			marker = "\n  " + shown + "\n  " + strings.Repeat(" ", syntax.Column-1) + "^"
		}
	}
	return g.badScript(w, checked{Line: syntax.Line, Column: syntax.Column, Problem: problem},
		fmt.Sprintf("%s:%d:%d: %s%s", printable(name), syntax.Line, syntax.Column, problem, marker))
}

func (g *globals) badScript(w io.Writer, c checked, text string) error {
	var err error
	if g.output == outputJSON {
		err = g.show(c, nil)
	} else {
		_, err = fmt.Fprintln(w, text)
	}
	if err != nil {
		return err
	}
	return &quietError{exitRefused}
}
