package main

import (
	"context"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newSeqReleaseCommand(g *globals) *cobra.Command {
	var next, margin int64
	var lower bool
	cmd := &cobra.Command{
		Use:   "release NAME",
		Short: "Let a restored sequence go on, from a value that you name",
		Long: `Let a restored sequence go on, from a value that you name.

After a restore every sequence stands still: the backup does not know which
values were given out since it was taken, and giving one out twice may be worse
than waiting. Look at what was used last, and name the value to go on with, or
leave out so many values that those in between are certainly not reached.`,
		Example: `  kahu seq release invoices --next 5001
  kahu seq release tickets --margin 100000`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			byNext := cmd.Flags().Changed("next")
			if byNext == cmd.Flags().Changed("margin") {
				return usageError("name the next value with --next, or how many to leave out with --margin")
			}
			if !byNext && margin < 0 {
				return usageError(fmt.Sprintf("--margin is %d; it is a number of values to leave out", margin))
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				now, err := c.SequenceGet(ctx, args[0])
				if err != nil {
					return err
				}
				current, err := releasedAt(now, byNext, next, margin)
				if err != nil {
					return usageError(err.Error())
				}
				s, err := c.SequenceUpdate(ctx, args[0], wire.SequenceUpdate{Current: &current, AllowLower: lower, OnlyHeld: true})
				if err != nil {
					return err
				}
				return g.showSequence(s)
			})
		},
	}
	f := cmd.Flags()
	f.Int64Var(&next, "next", 0, "the `value` that is given out next")
	f.Int64Var(&margin, "margin", 0, "leave out so many `values` after the last one in the backup")
	f.BoolVar(&lower, "allow-lower", false, "let --next be a value that was given out before the backup: it will be given out twice")
	return cmd
}

// releasedAt is the value that counts as given out last.
func releasedAt(s wire.Sequence, byNext bool, next, margin int64) (int64, error) {
	if byNext {
		if next < math.MinInt64+s.Increment {
			return 0, fmt.Errorf("--next is %d, and there is no value before it", next)
		}
		return next - s.Increment, nil
	}
	if margin > (math.MaxInt64-max(s.Current, 0))/s.Increment {
		return 0, fmt.Errorf("--margin is %d; the sequence is at %d and would pass the last number there is", margin, s.Current)
	}
	return s.Current + margin*s.Increment, nil
}
