package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newLimitCommand(g *globals) *cobra.Command {
	cmd := group("limit", "Limits that all hosts share: on a rate, and on how many at once", newLimitTakeCommand(g),
		newLimitAcquireCommand(g), newLimitRenewCommand(g), newLimitReleaseCommand(g))
	cmd.Long = `Limits that all hosts share.

take is for so many in a period of time. acquire, renew and release are for so
many at the same time: a permit is held until it is released, or its lease ends.`
	return cmd
}

func newLimitTakeCommand(g *globals) *cobra.Command {
	o := client.LimitOptions{Permits: 1}
	var rate string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "take NAME --rate PERMITS/PERIOD",
		Short: "Take a permit from a rate limit, or say when to come again",
		Long: `Take permits from the rate limit of this name, decided by the quorum for all
hosts together. The rate is given with each take, such as 100/1m, 5/s or 1/250ms.

Algorithms: bucket gives permits back one at a time and allows the whole budget
at once after a pause; window counts from one full period to the next; sliding
counts within the period that ends now.

The exit code is 75 when no permit was to be had.`,
		Example: `  kahu limit take mails --rate 100/1m
  kahu limit take mails --rate 100/1m --permits 5 --wait 10s && send-mails
  kahu limit take login/alice --rate 5/1m --algorithm sliding --output json`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case rate == "":
				return usageError("--rate is missing, such as --rate 100/1m")
			case wait < 0:
				return usageError(fmt.Sprintf("--wait is %s; it cannot be negative", wait))
			case wait >= g.timeout && wait > 0:
				g.timeout = wait + defaultTimeout
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := takeLimit(ctx, c, args[0], rate, o, wait)
				if err != nil {
					return err
				}
				return g.showLimit(out)
			})
		},
	}
	cmd.Flags().StringVar(&rate, "rate", "", "`PERMITS/PERIOD` that the limit allows")
	cmd.Flags().Int64Var(&o.Permits, "permits", 1, "take this `number` at once; 0 only looks")
	cmd.Flags().StringVar(&o.Algorithm, "algorithm", "", "bucket, window or sliding (default bucket)")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the permits")
	cmd.Flags().BoolVar(&o.Persistent, "persistent", false, "keep the count in the persistent table")
	return cmd
}

func takeLimit(ctx context.Context, c *client.Client, name, rate string, o client.LimitOptions, wait time.Duration) (wire.LimitTaken, error) {
	if wait == 0 {
		return c.LimitTake(ctx, name, rate, o)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return c.LimitWait(ctx, name, rate, o)
}

func (g *globals) showLimit(out wire.LimitTaken) error {
	if !out.Granted {
		if g.output == outputJSON {
			if err := g.show(out, nil); err != nil {
				return err
			}
			return &quietError{exitTemporary}
		}
		again := "later"
		if out.RetryAfterMS > 0 {
			again = "in " + millis(max(out.RetryAfterMS, 100))
		}
		return withCode(exitTemporary, errors.New("the limit "+printable(out.Limit)+" is reached; try again "+again))
	}
	return g.show(out, line("granted, %d left", out.Left))
}
