package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
)

// ask dials the agent and calls f, within --timeout.
func (g *globals) ask(cmd *cobra.Command, f func(ctx context.Context, c *client.Client) error) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	ctx, cancel := g.deadline(ctx)
	defer cancel()
	c := client.New(client.Options{Socket: client.DefaultSocket(g.socket)})
	defer c.Close()
	return f(ctx, c)
}

// show writes v as JSON, or lets text write it for people.
func (g *globals) show(v any, text func(w io.Writer) error) error {
	if g.output == outputJSON {
		return json.NewEncoder(g.stdout).Encode(v)
	}
	return text(g.stdout)
}

// line is a text of one line.
func line(format string, args ...any) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		return err
	}
}

// table is a text in columns; rows calls add for each.
func table(header string, rows func(add func(columns ...string))) func(io.Writer) error {
	return func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		var failed error
		write := func(s string) {
			if _, err := io.WriteString(t, s); err != nil && failed == nil {
				failed = err
			}
		}
		write(header + "\n")
		rows(func(columns ...string) {
			for i, c := range columns {
				if i > 0 {
					write("\t")
				}
				write(c)
			}
			write("\n")
		})
		if err := t.Flush(); err != nil {
			return err
		}
		return failed
	}
}

// printable shows a name that others chose: control characters must not reach
// the terminal.
func printable(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// millis is a length of time for people.
func millis(ms int64) string {
	return (time.Duration(ms) * time.Millisecond).Round(100 * time.Millisecond).String()
}

// dash stands for nothing in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// optional returns a pointer to v when the flag was given, else nil.
func optional[T any](cmd *cobra.Command, flag string, v T) *T {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	return &v
}

// defaultListLimit bounds lists unless more is asked for.
const defaultListLimit = 1000

// page is the --after and --limit of a list.
type page struct {
	after string
	limit int
}

func (p *page) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.after, "after", "", "continue behind this `name`")
	cmd.Flags().IntVar(&p.limit, "limit", defaultListLimit, "show at most this many; 0 is all")
}

// collect calls fetch for page after page until limit rows are there. fetch
// returns how many rows it got and the cursor of the next page.
func (p page) collect(fetch func(client.Page) (int, string, error)) (next string, err error) {
	if p.limit < 0 {
		return "", usageError(fmt.Sprintf("--limit is %d; it cannot be negative", p.limit))
	}
	at := client.Page{After: p.after}
	for left := p.limit; ; {
		at.Limit = left
		n, next, err := fetch(at)
		if err != nil || next == "" {
			return "", err
		}
		if p.limit > 0 {
			if left -= n; left <= 0 {
				return next, nil
			}
		}
		at.After = next
	}
}

// more tells people on stderr that a list goes on.
func (g *globals) more(next string) {
	if next != "" && g.output == outputText {
		fmt.Fprintf(g.stderr, "kahu: there are more; go on with --after %q, or ask for all with --limit 0\n", next)
	}
}
