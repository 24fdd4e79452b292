package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// defaultLease of limit acquire and renew.
const defaultLease = 30 * time.Second

func newLimitAcquireCommand(g *globals) *cobra.Command {
	var o client.LeaseOptions
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "acquire NAME --limit PERMITS",
		Short: "Get a permit to be one of so many at the same time, for so long",
		Long: `Get a permit to be one of so many at the same time, decided by the quorum for
all hosts together. The limit is given with each acquire.

The permit is held until kahu limit release, or until its lease ends: kahu limit
renew lets it last longer. Without --owner a random one is made and shown; it is
what renew and release need. Acquiring again with the same owner replaces the
permit that it holds, so that asking twice does not take two.

There is no line: who asks first after a release gets the permit. At most 1000
owners hold permits of one limit.

The exit code is 75 when no permit is free.`,
		Example: `  kahu limit acquire encoders --limit 10 --lease 30s
  kahu limit acquire encoders --limit 10 --owner "$(hostname)-$$" --wait 1m && encode
  kahu limit acquire memory-gb --limit 512 --permits 64 --lease 10m --output json`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.Limit == 0:
				return usageError("--limit is missing, such as --limit 10")
			case o.Permits < 1 || o.Limit < o.Permits:
				return usageError(fmt.Sprintf("%d of %d permits cannot be held", o.Permits, o.Limit))
			case wait < 0:
				return usageError(fmt.Sprintf("--wait is %s; it cannot be negative", wait))
			case wait >= g.timeout && wait > 0:
				g.timeout = wait + defaultTimeout
			}
			if o.Owner == "" {
				o.Owner = strings.ToLower(rand.Text())
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.LimitAcquireWait(ctx, args[0], o, wait)
				if err != nil {
					return err
				}
				return g.showLease(out)
			})
		},
	}
	cmd.Flags().Int64Var(&o.Limit, "limit", 0, "all owners together hold at most this `number` of permits")
	cmd.Flags().Int64Var(&o.Permits, "permits", 1, "hold this `number` of them")
	leaseFlags(cmd, &o.Lease)
	leaseOwnerFlags(cmd, &o.Owner, &o.Persistent, "who holds the permit; default random")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the permit")
	return cmd
}

func leaseFlags(cmd *cobra.Command, lease *time.Duration) {
	cmd.Flags().DurationVar(lease, "lease", defaultLease, "the permit ends by itself after this `time`")
}

func leaseOwnerFlags(cmd *cobra.Command, owner *string, persistent *bool, help string) {
	ownerFlag(cmd, owner, help+"; no slash")
	cmd.Flags().BoolVar(persistent, "persistent", false, "the permit is in the persistent table")
}

func (g *globals) showLease(out wire.LimitLease) error {
	if out.Granted {
		return g.show(out, line("granted for %s, %d left, owner %s", millis(out.LeaseMS), out.Left, printable(out.Owner)))
	}
	if g.output == outputJSON {
		if err := g.show(out, nil); err != nil {
			return err
		}
		return &quietError{exitTemporary}
	}
	again := "later"
	if out.RetryAfterMS > 0 {
		again = "in " + millis(max(out.RetryAfterMS, 100)) + ", when the next lease ends"
	}
	return withCode(exitTemporary, fmt.Errorf("the limit %s is reached, others hold %d; try again %s", printable(out.Limit), out.Held, again))
}

func newLimitRenewCommand(g *globals) *cobra.Command {
	var owner string
	var lease time.Duration
	var persistent bool
	cmd := &cobra.Command{
		Use:   "renew NAME --owner OWNER",
		Short: "Let a permit's lease last so long from now",
		Long: `Let a permit's lease last so long from now.

The exit code is 2 when the permit was released, or its lease ended: it may be
somebody else's by now.`,
		Example: `  kahu limit renew encoders --owner "$(hostname)-$$" --lease 30s`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner == "" {
				return errNoLeaseOwner()
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.LimitRenew(ctx, args[0], owner, lease, persistent)
				if err != nil {
					return err
				}
				return g.show(out, line("renewed for %s", millis(out.LeaseMS)))
			})
		},
	}
	leaseFlags(cmd, &lease)
	leaseOwnerFlags(cmd, &owner, &persistent, "who holds the permit")
	return cmd
}

func newLimitReleaseCommand(g *globals) *cobra.Command {
	var owner string
	var persistent bool
	cmd := &cobra.Command{
		Use:   "release NAME --owner OWNER",
		Short: "Give a permit back",
		Long: `Give a permit back.

The exit code is 2 when it was given back before, or its lease ended.`,
		Example: `  kahu limit release encoders --owner "$(hostname)-$$"`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner == "" {
				return errNoLeaseOwner()
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				if err := c.LimitRelease(ctx, args[0], owner, persistent); err != nil {
					return err
				}
				return g.show(wire.LeaseReleased{Limit: args[0], Owner: owner}, line("released"))
			})
		},
	}
	leaseOwnerFlags(cmd, &owner, &persistent, "who holds the permit")
	return cmd
}

func errNoLeaseOwner() error {
	return usageError("--owner is missing: give the owner that kahu limit acquire showed")
}
