package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newLockCommand(g *globals) *cobra.Command {
	cmd := group("lock", "Locks with a lease of their own, and a look at all locks",
		newLockTryCommand(g), newLockUnlockCommand(g), newLockExtendCommand(g),
		newLockInfoCommand(g), newLockListCommand(g), newLockBreakCommand(g))
	cmd.Long = `Locks with a lease of their own, and a look at all locks.

A lock taken with try is renewed by nobody: it ends when its lease ends. To run
a program while it owns a lock, use kahu exec, which renews, waits its turn and
stops the program when the lock is lost.`
	return cmd
}

func newLockTryCommand(g *globals) *cobra.Command {
	var o client.LockOptions
	var owner string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "try NAME",
		Short: "Take a lock for so long, or fail at once",
		Long: `Take a lock for so long, or fail at once with exit code 3.

Who knows the owner may extend and unlock. Without --owner a random one is made
and shown.`,
		Example: `  kahu lock try backup --ttl 1m
  kahu lock try backup --ttl 1m --owner "$(hostname)-$$"`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner == "" {
				random := make([]byte, 16)
				if _, err := rand.Read(random); err != nil {
					return fmt.Errorf("making an owner: %w", err)
				}
				owner = hex.EncodeToString(random)
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				grant, err := c.LockTry(ctx, args[0], []byte(owner), ttl, o)
				if errors.Is(err, client.ErrBusy) {
					return busy(ctx, c, args[0], o, err)
				}
				if err != nil {
					return err
				}
				return g.showGrant(grant, owner)
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	ownerFlag(cmd, &owner, "who takes it; default random")
	cmd.Flags().DurationVar(&ttl, "ttl", 30*time.Second, "`length` of the lease")
	cmd.Flags().StringVar(&o.Reason, "reason", "", "shown to whoever asks who holds it")
	return cmd
}

func ownerFlag(cmd *cobra.Command, v *string, help string) {
	cmd.Flags().StringVar(v, "owner", "", help+"; 1 to 256 bytes")
}

// ownedGrant is a grant together with what is needed to extend and unlock it.
type ownedGrant struct {
	wire.Grant
	Owner string `json:"owner"`
}

func (g *globals) showGrant(grant wire.Grant, owner string) error {
	return g.show(ownedGrant{grant, owner}, line("held for %s, fencing token %d, owner %s",
		millis(grant.RemainingMS), grant.Token, printable(owner)))
}

// busy says who holds the lock, when that can still be found out.
func busy(ctx context.Context, c *client.Client, name string, o client.LockOptions, busy error) error {
	lock, err := c.LockInfo(ctx, name, o)
	if err != nil {
		return busy // it was free again, or cannot be asked: the refusal stands
	}
	return withCode(exitBusy, fmt.Errorf("lock %s is held by %s for another %s with %d waiting; try again then, or wait in line with kahu exec --lock",
		printable(name), holderText(lock.Holder), millis(lock.RemainingMS), lock.QueueLength))
}

// holderText is a holder for people.
func holderText(h wire.Holder) string {
	text := dash(printable(h.Host))
	if h.PID != 0 {
		text += " pid " + strconv.FormatInt(h.PID, 10)
	}
	if h.Command != "" {
		text += " (" + printable(h.Command) + ")"
	}
	return text
}

func newLockUnlockCommand(g *globals) *cobra.Command {
	var o client.LockOptions
	var owner string
	cmd := &cobra.Command{
		Use:     "unlock NAME --owner OWNER",
		Short:   "Give a lock back; the next in line gets it",
		Example: `  kahu lock unlock backup --owner "$(hostname)-$$"`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner == "" {
				return usageError("--owner is missing: give the owner that kahu lock try showed, or use kahu lock break")
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				if err := c.LockUnlock(ctx, args[0], []byte(owner), o); err != nil {
					return err
				}
				return g.show(map[string]string{"lock": args[0]}, line("unlocked"))
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	ownerFlag(cmd, &owner, "who took it")
	return cmd
}

func newLockExtendCommand(g *globals) *cobra.Command {
	var o client.LockOptions
	var owner string
	cmd := &cobra.Command{
		Use:     "extend NAME TTL --owner OWNER",
		Short:   "Let a lock's lease end so long from now, unless it ends later already",
		Example: `  kahu lock extend backup 5m --owner "$(hostname)-$$"`,
		Args:    arguments("NAME", "TTL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner == "" {
				return usageError("--owner is missing: give the owner that kahu lock try showed")
			}
			ttl, err := time.ParseDuration(args[1])
			if err != nil {
				return usageError(fmt.Sprintf("TTL is %q; it is a length of time such as 30s or 5m", args[1]))
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				grant, err := c.LockExtend(ctx, args[0], []byte(owner), ttl, o)
				if err != nil {
					return err
				}
				return g.showGrant(grant, owner)
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	ownerFlag(cmd, &owner, "who took it")
	return cmd
}

func newLockInfoCommand(g *globals) *cobra.Command {
	var o client.LockOptions
	cmd := &cobra.Command{
		Use:     "info NAME",
		Short:   "Show who holds a lock and who waits for it",
		Example: `  kahu lock info nightly-report`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				lock, err := c.LockInfo(ctx, args[0], o)
				if errors.Is(err, client.ErrNotFound) {
					return withCode(exitNotFound, fmt.Errorf("nobody holds lock %s", printable(args[0])))
				}
				if err != nil {
					return err
				}
				return g.show(lock, func(w io.Writer) error { return writeLock(w, lock) })
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	return cmd
}

// holderUID is the user of a holder, if it is a process: who came over TCP has none.
func holderUID(h wire.Holder) string {
	if h.PID == 0 {
		return dash("")
	}
	return strconv.FormatInt(h.UID, 10)
}

// writeLock is one lock for people.
func writeLock(w io.Writer, l wire.Lock) error {
	kept := "a lease of its own"
	if l.Kept {
		kept = "kept alive by the agent"
	}
	_, err := fmt.Fprintf(w, "lock           %s (%s)\nfencing token  %d\nholder         %s\nreason         %s\ncontained by   %s\nuid            %s\nsince          %s\nremaining      %s, %s\nwaiting        %d\n",
		printable(l.Name), l.Durability, l.Token, holderText(l.Holder), dash(printable(l.Holder.Reason)), dash(printable(l.Holder.Contain)), holderUID(l.Holder), dash(l.Holder.Since), millis(l.RemainingMS), kept, l.QueueLength)
	for _, q := range l.Queue {
		if err == nil {
			_, err = fmt.Fprintf(w, "  %4d  %s\n", q.Position, holderText(q.Holder))
		}
	}
	return err
}

func newLockListCommand(g *globals) *cobra.Command {
	var o client.LockOptions
	var p page
	cmd := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List the locks that are held",
		Example: `  kahu lock ls
  kahu lock ls jobs/ --output json`,
		Args: optionalArgument("PREFIX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				all := wire.Locks{Locks: []wire.Lock{}}
				var err error
				all.Next, err = p.collect(func(at client.Page) (int, string, error) {
					got, err := c.LockList(ctx, first(args), at, o)
					all.Locks = append(all.Locks, got.Locks...)
					return len(got.Locks), got.Next, err
				})
				if err != nil {
					return err
				}
				defer g.more(all.Next)
				return g.show(all, table("LOCK\tTOKEN\tREMAINING\tWAITING\tCONTAIN\tHOLDER", func(add func(...string)) {
					for _, l := range all.Locks {
						add(printable(l.Name), strconv.FormatInt(l.Token, 10), millis(l.RemainingMS),
							strconv.FormatUint(uint64(l.QueueLength), 10), dash(printable(l.Holder.Contain)), holderText(l.Holder))
					}
				}))
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	p.flags(cmd)
	return cmd
}

func newLockBreakCommand(g *globals) *cobra.Command {
	var o client.LockOptions
	cmd := &cobra.Command{
		Use:   "break NAME --reason WHY",
		Short: "Take a lock away from whoever holds it (administrators)",
		Long: `Take a lock away from whoever holds it. For administrators.

The holder is told and stops, but it may still be running when the next one
starts: only fencing tokens tell them apart then.`,
		Example: `  kahu lock break nightly-report --reason "host is gone for good"`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Reason == "" {
				return usageError("--reason is missing: the holder will be told why")
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				if err := c.LockBreak(ctx, args[0], o); err != nil {
					return err
				}
				return g.show(map[string]string{"lock": args[0]}, line("broken"))
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	cmd.Flags().StringVar(&o.Reason, "reason", "", "why; told to the holder")
	return cmd
}
