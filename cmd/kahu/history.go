package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// asOfFlag adds --as-of to a read.
func asOfFlag(cmd *cobra.Command, text *string) {
	cmd.Flags().StringVar(text, "as-of", "", "the state of this `time`: 2026-01-02T15:04:05Z, Unix milliseconds, or MILLISECONDS.COUNTER")
}

// readAsOf sets what --as-of asks for.
func readAsOf(o *client.ReadOptions, text string) error {
	if text == "" {
		return nil
	}
	var err error
	if o.AsOf, err = wire.ParseMoment(text); err != nil {
		return usageError("--as-of: " + err.Error())
	}
	return nil
}

func newSnapshotCommand(g *globals) *cobra.Command {
	cmd := group("snapshot", "Hold on to history, so that reads as of a time go on working",
		newSnapshotHoldCommand(g), newSnapshotRenewCommand(g), newSnapshotReleaseCommand(g), newSnapshotListCommand(g))
	cmd.Long = `Hold on to history, so that reads as of a time go on working.

Old revisions of a key are dropped beyond a limit. A snapshot hold keeps those that
reads as of its time need, on every voter's disk, until its lease ends: renew it
while you read, and release it when you are done.`
	return cmd
}

func leaseFlag(cmd *cobra.Command, lease *time.Duration) {
	cmd.Flags().DurationVar(lease, "lease", 10*time.Minute, "`length` of the lease")
}

func newSnapshotHoldCommand(g *globals) *cobra.Command {
	var at string
	var lease time.Duration
	cmd := &cobra.Command{
		Use:   "hold HOLDER",
		Short: "Hold on to the history since a time; the same holder and time give the same hold",
		Example: `  kahu snapshot hold export --lease 1h
  kahu snapshot hold export --as-of 2026-01-02T15:04:05Z
  kahu kv ls orders/ --as-of 1767366245000.0`,
		Args: arguments("HOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if at == "" {
				at = time.Now().UTC().Format(time.RFC3339Nano)
			}
			moment, err := wire.ParseMoment(at)
			if err != nil {
				return usageError("--as-of: " + err.Error())
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				h, err := c.SnapshotHold(ctx, args[0], moment, lease)
				if err != nil {
					return err
				}
				return g.showSnapshot(h)
			})
		},
	}
	cmd.Flags().StringVar(&at, "as-of", "", "the `time` that reads will ask for, see kahu kv get; default now")
	leaseFlag(cmd, &lease)
	return cmd
}

func (g *globals) showSnapshot(h wire.SnapshotHold) error {
	return g.show(h, line("hold %s as of %s for %s", h.ID, h.AsOf, millis(h.RemainingMS)))
}

func newSnapshotRenewCommand(g *globals) *cobra.Command {
	var lease time.Duration
	cmd := &cobra.Command{
		Use:     "renew ID",
		Short:   "Begin the lease of a hold again",
		Example: `  kahu snapshot renew 000000000000000700000199d5a3c000 --lease 1h`,
		Args:    arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				h, err := c.SnapshotRenew(ctx, args[0], lease)
				if err != nil {
					return err
				}
				return g.showSnapshot(h)
			})
		},
	}
	leaseFlag(cmd, &lease)
	return cmd
}

func newSnapshotReleaseCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "release ID",
		Short:   "Let the history go",
		Example: `  kahu snapshot release 000000000000000700000199d5a3c000`,
		Args:    arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				if err := c.SnapshotRelease(ctx, args[0]); err != nil {
					return err
				}
				return g.show(map[string]string{"id": args[0]}, line("released"))
			})
		},
	}
}

func newSnapshotListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List the holds",
		Example: `  kahu snapshot ls`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				all, err := c.SnapshotList(ctx)
				if err != nil {
					return err
				}
				return g.show(all, table("HOLD\tHOLDER\tAS OF\tTIME\tENDS", func(add func(...string)) {
					for _, h := range all.Holds {
						add(h.ID, printable(h.Holder), h.AsOf, dash(h.Time), "in "+millis(h.RemainingMS))
					}
				}))
			})
		},
	}
}

func newKeySpaceCommand(g *globals) *cobra.Command {
	cmd := group("keyspace", "Key spaces that Kahuna's programs registered as ordered",
		newKeySpaceChangeCommand(g, "register", true, "Register a key space, the part of keys before their last slash", "kahu keyspace register orders"),
		newKeySpaceChangeCommand(g, "unregister", false, "Take a key space's record away; its keys stay", "kahu keyspace unregister orders"),
		newKeySpaceListCommand(g))
	cmd.Long = `Key spaces that Kahuna's programs registered as ordered.

The record is kept for them, and nothing depends on it: there is one partition, on
every voter, and all keys can be read in order.`
	return cmd
}

func newKeySpaceChangeCommand(g *globals, use string, registered bool, short, example string) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Example: "  " + example,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				done, err := c.KeySpaceSet(ctx, args[0], registered)
				if err != nil {
					return err
				}
				return g.show(done, func(w io.Writer) error {
					state := "registered"
					if !registered {
						state = "unregistered"
					}
					if !done.Changed {
						state += ", as before"
					}
					_, err := fmt.Fprintln(w, state)
					return err
				})
			})
		},
	}
}

func newKeySpaceListCommand(g *globals) *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the registered key spaces in order of name",
		Example: `  kahu keyspace ls`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				all := wire.KeySpaces{KeySpaces: []string{}}
				var err error
				all.Next, err = p.collect(func(at client.Page) (int, string, error) {
					got, err := c.KeySpaceList(ctx, at)
					all.KeySpaces = append(all.KeySpaces, got.KeySpaces...)
					return len(got.KeySpaces), got.Next, err
				})
				if err != nil {
					return err
				}
				defer g.more(all.Next)
				return g.show(all, table("KEY SPACE", func(add func(...string)) {
					for _, name := range all.KeySpaces {
						add(printable(name))
					}
				}))
			})
		},
	}
	p.flags(cmd)
	return cmd
}
