package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kahu-sh/kahu/cmd/kahu/top"
	"github.com/kahu-sh/kahu/localapi/client"
)

// minTopInterval keeps one eager operator from loading the quorum: each look is a
// linearizable list of locks.
const minTopInterval = 200 * time.Millisecond

func newTopCommand(g *globals) *cobra.Command {
	var interval time.Duration
	var once bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch members, locks, waiters, rates and latencies",
		Long: `Watch members, locks, waiters, rates and latencies, as the agent on this host
sees them. The second line is the verdict of kahu status, the third what to do.

Requests, failures and latencies are those of this agent's applications; failed are
those that nobody answered. p50 and p99 are upper bounds: half, or 99 of 100, of the
answers took less. Locks are those of the whole cluster, the first 1,000 by name;
those with most waiters come first.

  up, down, k, j      select a lock (page up and down, home, end)
  enter               show who waits for it, or no longer
  e                   the ephemeral locks, or the persistent ones
  s                   by most waiters, or by name
  p                   pause
  q, escape, Ctrl-C   quit

Without a terminal, and with --once, it takes two looks, one --interval apart, writes
one frame and ends.`,
		Example: `  kahu top
  kahu top --interval 5s
  kahu top --once --output json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < minTopInterval {
				return usageError(fmt.Sprintf("--interval is %s; it must be %s or more", interval, minTopInterval))
			}
			in, inOK := g.stdin.(*os.File)
			out, outOK := g.stdout.(*os.File)
			if !once && g.output == outputText && inOK && outOK && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd())) {
				ctx, stop := interruptible(cmd.Context())
				defer stop()
				c := client.New(client.Options{Socket: client.DefaultSocket(g.socket)})
				defer c.Close()
				return top.Run(ctx, c, interval, g.timeout, in, out)
			}
			return g.topOnce(cmd, interval)
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "`time` between two looks, 200ms or more")
	cmd.Flags().BoolVar(&once, "once", false, "write one frame and end")
	return cmd
}

// topFrame is one frame as JSON.
type topFrame struct {
	top.Frame
	Rates top.Rates `json:"rates"`
}

// topOnce writes one frame, with the rates of one interval.
func (g *globals) topOnce(cmd *cobra.Command, interval time.Duration) error {
	g.timeout += interval
	return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
		before, err := top.Look(ctx, c, top.Query{}, time.Now)
		if err != nil {
			return err
		}
		t := time.NewTimer(interval)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		after, err := top.Look(ctx, c, top.Query{}, time.Now)
		if err != nil {
			return err
		}
		width, height := 80, 24
		if out, ok := g.stdout.(*os.File); ok {
			if w, h, err := term.GetSize(int(out.Fd())); err == nil && w > 0 && h > 0 {
				width, height = w, h
			}
		}
		return g.show(topFrame{after, top.RatesBetween(before, after)}, func(w io.Writer) error {
			m := top.NewModel(width, height, interval).Looked(before).Looked(after)
			_, err := fmt.Fprintln(w, m.Still(top.Plain()))
			return err
		})
	})
}
