package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newSeqCommand(g *globals) *cobra.Command {
	return group("seq", "Sequences: numbers that are given out once, in order, without gaps",
		newSeqCreateCommand(g), newSeqNextCommand(g), newSeqReserveCommand(g),
		newSeqGetCommand(g), newSeqUpdateCommand(g), newSeqReleaseCommand(g), newSeqDeleteCommand(g), newSeqListCommand(g))
}

// seqCommand is a simple command on one sequence.
func seqCommand(g *globals, use, short, example string, f func(ctx context.Context, c *client.Client, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Example: example,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error { return f(ctx, c, args[0]) })
		},
	}
}

func newSeqCreateCommand(g *globals) *cobra.Command {
	var o wire.SequenceCreate
	var increment, maximum int64
	var blockSize int32
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a sequence",
		Example: `  kahu seq create invoices
  kahu seq create even --initial 0 --increment 2 --maximum 1000`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Increment = optional(cmd, "increment", increment)
			o.Maximum = optional(cmd, "maximum", maximum)
			o.BlockSize = optional(cmd, "block-size", blockSize)
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.SequenceCreate(ctx, args[0], o)
				if err != nil {
					return err
				}
				return g.showSequence(s)
			})
		},
	}
	cmd.Flags().Int64Var(&o.Initial, "initial", 0, "the `value` before the first one")
	cmd.Flags().Int64Var(&increment, "increment", 1, "the distance between two values")
	cmd.Flags().Int64Var(&maximum, "maximum", 0, "the last `value` that may be given out; default none")
	blockSizeFlag(cmd, &blockSize)
	return cmd
}

func newSeqNextCommand(g *globals) *cobra.Command {
	var key string
	cmd := seqCommand(g, "next", "Take the next value", `  kahu seq next invoices
  kahu seq next invoices --idempotency-key order-4711`,
		func(ctx context.Context, c *client.Client, name string) error {
			a, err := c.SequenceNext(ctx, name, key)
			if err != nil {
				return err
			}
			return g.show(a, line("%d", a.Start))
		})
	keyFlag(cmd, &key)
	return cmd
}

func blockSizeFlag(cmd *cobra.Command, v *int32) {
	cmd.Flags().Int32Var(v, "block-size", 0, "kept and shown for Kahuna's clients; no number is ever skipped here")
}

func keyFlag(cmd *cobra.Command, key *string) {
	cmd.Flags().StringVar(key, "idempotency-key", "", "asking again with the same `key` within ten minutes gives the same answer")
}

func newSeqReserveCommand(g *globals) *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:     "reserve NAME COUNT",
		Short:   "Take the next values at once; shows the first and the last",
		Example: `  kahu seq reserve invoices 100`,
		Args:    arguments("NAME", "COUNT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			count, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil || count < 1 {
				return usageError(fmt.Sprintf("COUNT is %q; it is a whole number from 1", args[1]))
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				a, err := c.SequenceReserve(ctx, args[0], count, key)
				if err != nil {
					return err
				}
				return g.show(a, line("%d %d", a.Start, a.End))
			})
		},
	}
	keyFlag(cmd, &key)
	return cmd
}

func newSeqGetCommand(g *globals) *cobra.Command {
	return seqCommand(g, "get", "Show a sequence without taking a value", `  kahu seq get invoices`,
		func(ctx context.Context, c *client.Client, name string) error {
			s, err := c.SequenceGet(ctx, name)
			if err != nil {
				return err
			}
			return g.showSequence(s)
		})
}

func newSeqUpdateCommand(g *globals) *cobra.Command {
	var o wire.SequenceUpdate
	var current, increment, maximum, initial int64
	var blockSize int32
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a sequence",
		Long: `Change a sequence. What is not named stays.

Lowering the current value gives numbers out that were given out before; that
needs --allow-lower.`,
		Example: `  kahu seq update invoices --maximum 99999
  kahu seq update invoices --current 5000`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Current = optional(cmd, "current", current)
			o.Increment = optional(cmd, "increment", increment)
			o.Maximum = optional(cmd, "maximum", maximum)
			o.Initial = optional(cmd, "initial", initial)
			o.BlockSize = optional(cmd, "block-size", blockSize)
			if o.Current == nil && o.Increment == nil && o.Maximum == nil && !o.RemoveMaximum && o.Initial == nil && o.BlockSize == nil && !o.RemoveBlockSize {
				return usageError("nothing to change: give --current, --increment, --maximum, --no-maximum, --initial, --block-size or --no-block-size")
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.SequenceUpdate(ctx, args[0], o)
				if err != nil {
					return err
				}
				return g.showSequence(s)
			})
		},
	}
	f := cmd.Flags()
	f.Int64Var(&current, "current", 0, "the `value` that counts as given out last")
	f.BoolVar(&o.AllowLower, "allow-lower", false, "let --current be lower than it is: values will be given out twice")
	f.Int64Var(&increment, "increment", 1, "the distance between two values")
	f.Int64Var(&maximum, "maximum", 0, "the last `value` that may be given out")
	f.BoolVar(&o.RemoveMaximum, "no-maximum", false, "remove the maximum")
	f.Int64Var(&initial, "initial", 0, "the `value` shown as the first one's predecessor; moves nothing")
	blockSizeFlag(cmd, &blockSize)
	f.BoolVar(&o.RemoveBlockSize, "no-block-size", false, "remove the block size")
	cmd.MarkFlagsMutuallyExclusive("maximum", "no-maximum")
	cmd.MarkFlagsMutuallyExclusive("block-size", "no-block-size")
	return cmd
}

func newSeqDeleteCommand(g *globals) *cobra.Command {
	return seqCommand(g, "del", "Delete a sequence; one of the same name would start anew", `  kahu seq del invoices`,
		func(ctx context.Context, c *client.Client, name string) error {
			if err := c.SequenceDelete(ctx, name); err != nil {
				return err
			}
			return g.show(map[string]string{"name": name}, line("deleted"))
		})
}

func newSeqListCommand(g *globals) *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "ls [PREFIX]",
		Short:   "List sequences in order of name",
		Example: `  kahu seq ls`,
		Args:    optionalArgument("PREFIX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				all := wire.Sequences{Sequences: []wire.Sequence{}}
				var err error
				all.Next, err = p.collect(func(at client.Page) (int, string, error) {
					got, err := c.SequenceList(ctx, first(args), at)
					all.Sequences = append(all.Sequences, got.Sequences...)
					return len(got.Sequences), got.Next, err
				})
				if err != nil {
					return err
				}
				defer g.more(all.Next)
				return g.show(all, table("SEQUENCE\tCURRENT\tINCREMENT\tMAXIMUM", func(add func(...string)) {
					for _, s := range all.Sequences {
						add(printable(s.Name), strconv.FormatInt(s.Current, 10), strconv.FormatInt(s.Increment, 10), maximumText(s))
					}
				}))
			})
		},
	}
	p.flags(cmd)
	return cmd
}

func maximumText(s wire.Sequence) string {
	if s.Maximum == nil {
		return "-"
	}
	return strconv.FormatInt(*s.Maximum, 10)
}

func (g *globals) showSequence(s wire.Sequence) error {
	return g.show(s, func(w io.Writer) error {
		if s.Held {
			if _, err := fmt.Fprintln(w, "STANDS STILL since a restore: name its next value with kahu seq release"); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, "sequence   %s\ncurrent    %d\ninitial    %d\nincrement  %d\nmaximum    %s\nrevision   %d\n",
			printable(s.Name), s.Current, s.Initial, s.Increment, maximumText(s), s.Revision)
		if err == nil && s.BlockSize != nil {
			_, err = fmt.Fprintf(w, "block size %d\n", *s.BlockSize)
		}
		return err
	})
}
