package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func newKVCommand(g *globals) *cobra.Command {
	return group("kv", "Keys and values",
		newKVGetCommand(g), newKVSetCommand(g), newKVDeleteCommand(g), newKVExistsCommand(g),
		newKVExtendCommand(g), newKVListCommand(g), newKVHistoryCommand(g))
}

// ephemeralFlag adds --ephemeral.
func ephemeralFlag(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVar(v, "ephemeral", false, "use the ephemeral table: replicated, but in no backup; the same name there is another thing")
}

func readFlags(cmd *cobra.Command, o *client.ReadOptions) {
	ephemeralFlag(cmd, &o.Ephemeral)
	cmd.Flags().BoolVar(&o.Stale, "stale", false, "answer from what this agent has, without asking the quorum; age_ms in JSON says how old it may be, when above 0")
}

func newKVGetCommand(g *globals) *cobra.Command {
	var o client.ReadOptions
	var raw bool
	var revision int64
	var asOf string
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Show the value of a key",
		Example: `  kahu kv get greeting
  kahu kv get greeting --revision 0
  kahu kv get greeting --as-of 2026-01-02T15:04:05Z
  kahu kv get logo --raw > logo.png`,
		Args: arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if revision < 0 {
				return usageError(fmt.Sprintf("--revision is %d; the first is 0", revision))
			}
			o.Revision = optional(cmd, "revision", revision)
			if err := readAsOf(&o, asOf); err != nil {
				return err
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				e, err := c.KVGet(ctx, args[0], o)
				if err != nil {
					return err
				}
				return g.show(e, func(w io.Writer) error {
					value := e.Value
					if !raw {
						value = append(value[:len(value):len(value)], '\n')
					}
					_, err := w.Write(value)
					return err
				})
			})
		},
	}
	readFlags(cmd, &o)
	cmd.Flags().BoolVar(&raw, "raw", false, "write the value's bytes only, without a line end")
	cmd.Flags().Int64Var(&revision, "revision", 0, "this `revision` instead of the newest; the first is 0")
	asOfFlag(cmd, &asOf)
	cmd.MarkFlagsMutuallyExclusive("revision", "as-of")
	return cmd
}

// conditions are the flags of a compare-and-set.
type conditions struct {
	exists, notExists bool
	revision          int64
	value             string
}

func (c *conditions) flags(cmd *cobra.Command, creating bool) {
	f := cmd.Flags()
	if creating {
		f.BoolVar(&c.exists, "if-exists", false, "only if the key exists")
		f.BoolVar(&c.notExists, "if-not-exists", false, "only if the key does not exist")
	}
	f.Int64Var(&c.revision, "if-revision", 0, "only if this is the key's `revision`; -1 is never written")
	f.StringVar(&c.value, "if-value", "", "only if this is the key's `value`")
	names := []string{"if-revision", "if-value"}
	if creating {
		names = append(names, "if-exists", "if-not-exists")
	}
	cmd.MarkFlagsMutuallyExclusive(names...)
}

func (c *conditions) condition(cmd *cobra.Command) client.Condition {
	out := client.Condition{Exists: c.exists, NotExists: c.notExists, Revision: optional(cmd, "if-revision", c.revision)}
	if cmd.Flags().Changed("if-value") {
		out.Value = []byte(c.value)
	}
	return out
}

// showWritten shows the outcome of a change, or explains a failed condition.
func (g *globals) showWritten(w wire.Written, err error) error {
	var failed *client.ConditionError
	if errors.As(err, &failed) {
		now := "it was never written"
		if failed.Revision >= 0 {
			now = fmt.Sprintf("its revision is %d", failed.Revision)
		}
		return withCode(exitRefused, fmt.Errorf("the condition on key %s did not hold (%s); read it, and try again with what it is now", printable(failed.Key), now))
	}
	if err != nil {
		return err
	}
	return g.show(w, line("revision %d", w.Revision))
}

func newKVSetCommand(g *globals) *cobra.Command {
	var o client.WriteOptions
	var cond conditions
	cmd := &cobra.Command{
		Use:   "set KEY [VALUE]",
		Short: "Set a key, from an argument or from standard input",
		Example: `  kahu kv set greeting hello
  kahu kv set greeting hi --if-revision 0
  kahu kv set session/42 open --ttl 15m
  kahu kv set logo < logo.png`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return arguments("KEY", "VALUE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("ttl") && o.TTL <= 0 {
				return usageError(fmt.Sprintf("--ttl is %s; it must be longer than nothing, or left out for a key that stays", o.TTL))
			}
			value, err := g.value(args, o.Null)
			if err != nil {
				return err
			}
			o.If = cond.condition(cmd)
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return g.showWritten(c.KVSet(ctx, args[0], value, o))
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	cond.flags(cmd, true)
	cmd.Flags().DurationVar(&o.TTL, "ttl", 0, "the key expires after this `time`; default never")
	cmd.Flags().BoolVar(&o.Null, "null", false, "set null, which is not the same as an empty value")
	cmd.Flags().BoolVar(&o.NoHistory, "no-history", false, "do not keep the value that is overwritten")
	return cmd
}

// maxStdinBytes is the largest value that any agent can be configured to take.
const maxStdinBytes = replication.MaxRequestBytes

// value is the argument, or all of standard input, which is bounded: the agent
// would refuse more.
func (g *globals) value(args []string, null bool) ([]byte, error) {
	switch {
	case null && len(args) == 2:
		return nil, usageError("--null takes no value")
	case null:
		return nil, nil
	case len(args) == 2:
		return []byte(args[1]), nil
	}
	value, err := io.ReadAll(io.LimitReader(g.stdin, maxStdinBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the value from standard input: %w", err)
	}
	if len(value) > maxStdinBytes {
		return nil, usageError(fmt.Sprintf("the value on standard input is longer than %d bytes; store it elsewhere and its address here", maxStdinBytes))
	}
	return value, nil
}

func newKVDeleteCommand(g *globals) *cobra.Command {
	var o client.WriteOptions
	var cond conditions
	cmd := &cobra.Command{
		Use:     "del KEY",
		Aliases: []string{"delete", "rm"},
		Short:   "Delete a key",
		Example: `  kahu kv del greeting
  kahu kv del greeting --if-revision 3`,
		Args: arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.If = cond.condition(cmd)
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return g.showWritten(c.KVDelete(ctx, args[0], o))
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	cond.flags(cmd, false)
	return cmd
}

func newKVExistsCommand(g *globals) *cobra.Command {
	var o client.ReadOptions
	cmd := &cobra.Command{
		Use:     "exists KEY",
		Short:   "Succeed if a key exists, and show its revision",
		Example: `  kahu kv exists greeting && echo yes`,
		Args:    arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				e, err := c.KVExists(ctx, args[0], o)
				if err != nil {
					return err
				}
				return g.show(e, line("revision %d", e.Revision))
			})
		},
	}
	readFlags(cmd, &o)
	return cmd
}

func newKVExtendCommand(g *globals) *cobra.Command {
	var o client.WriteOptions
	cmd := &cobra.Command{
		Use:   "extend KEY TTL",
		Short: "Let a key expire so long from now; 0 is never",
		Example: `  kahu kv extend session/42 15m
  kahu kv extend session/42 0`,
		Args: arguments("KEY", "TTL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ttl, err := time.ParseDuration(args[1])
			if err != nil || ttl < 0 {
				return usageError(fmt.Sprintf("TTL is %q; it is a length of time such as 90s or 15m, or 0 for never", args[1]))
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				return g.showWritten(c.KVExtend(ctx, args[0], ttl, o))
			})
		},
	}
	ephemeralFlag(cmd, &o.Ephemeral)
	return cmd
}

func newKVListCommand(g *globals) *cobra.Command {
	var o client.ReadOptions
	var p page
	var asOf string
	cmd := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List keys in byte order",
		Example: `  kahu kv ls
  kahu kv ls orders --bucket   # orders/1, but not orders/1/lines nor orders-old
  kahu kv ls session/ --keys-only
  kahu kv ls --limit 100 --after session/42`,
		Args: optionalArgument("PREFIX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Bucket && first(args) == "" {
				return usageError("--bucket needs the bucket's name as PREFIX")
			}
			if err := readAsOf(&o, asOf); err != nil {
				return err
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				all := wire.Entries{Entries: []wire.Entry{}}
				var err error
				all.Next, err = p.collect(func(at client.Page) (int, string, error) {
					got, err := c.KVList(ctx, first(args), at, o)
					all.Entries = append(all.Entries, got.Entries...)
					all.AgeMS = max(all.AgeMS, got.AgeMS)
					return len(got.Entries), got.Next, err
				})
				if err != nil {
					return err
				}
				defer g.more(all.Next)
				return g.show(all, entriesTable(all.Entries))
			})
		},
	}
	readFlags(cmd, &o)
	p.flags(cmd)
	asOfFlag(cmd, &asOf)
	cmd.Flags().BoolVar(&o.Bucket, "bucket", false, "PREFIX is a bucket: only PREFIX/ and a rest without a slash")
	cmd.Flags().BoolVar(&o.KeysOnly, "keys-only", false, "leave the values out")
	return cmd
}

func entriesTable(entries []wire.Entry) func(io.Writer) error {
	return table("KEY\tREVISION\tEXPIRES\tVALUE", func(add func(...string)) {
		for _, e := range entries {
			expires := "-"
			if e.RemainingMS > 0 {
				expires = "in " + millis(e.RemainingMS)
			}
			add(printable(e.Key), strconv.FormatInt(e.Revision, 10), expires, preview(e))
		}
	})
}

// previewBytes is how much of a value a table shows.
const previewBytes = 60

// preview is a value for people, in one short line.
func preview(e wire.Entry) string {
	switch {
	case e.Deleted:
		return "(deleted)"
	case e.ValueLeftOut:
		return "-"
	case e.Value == nil:
		return "(null)"
	case len(e.Value) > previewBytes:
		return printable(string(e.Value[:previewBytes])) + fmt.Sprintf("… (%d bytes)", len(e.Value))
	}
	return printable(string(e.Value))
}

func newKVHistoryCommand(g *globals) *cobra.Command {
	var o client.ReadOptions
	var limit int
	var before int64
	cmd := &cobra.Command{
		Use:     "history KEY",
		Short:   "List the revisions of a key, newest first",
		Example: `  kahu kv history greeting --limit 10`,
		Args:    arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usageError(fmt.Sprintf("--limit is %d; it cannot be negative", limit))
			}
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				h, err := c.KVHistory(ctx, args[0], optional(cmd, "before", before), limit, o)
				if err != nil {
					return err
				}
				return g.show(h, table("REVISION\tMODIFIED\tVALUE", func(add func(...string)) {
					for _, e := range h.Entries {
						add(strconv.FormatInt(e.Revision, 10), dash(e.Modified), preview(e))
					}
				}))
			})
		},
	}
	readFlags(cmd, &o)
	cmd.Flags().IntVar(&limit, "limit", 100, "show at most this many; 0 is a full page")
	cmd.Flags().Int64Var(&before, "before", 0, "only below this `revision`")
	cmd.Flags().BoolVar(&o.KeysOnly, "keys-only", false, "leave the values out")
	return cmd
}
