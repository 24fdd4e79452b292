package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/localapi/client"
)

func newRestoreCommand(g *globals) *cobra.Command {
	o := agent.RestoreOptions{Version: version}
	var beside bool
	cmd := &cobra.Command{
		Use:   "restore FILE|- --data-dir DIR",
		Short: "Make a new cluster from a backup",
		Long: `Make a new cluster from a backup: DIR becomes the data directory of its first
voter. Start an agent on it, then join the others to it, proxies as well, with
empty data directories.

  - Fencing tokens go on above all that the old cluster can have given out.
  - Sequences stand still until you name their next value (kahu seq release).
  - Nobody holds a lock, and no session or transaction goes on.
  - What expires has as much time left as it had when the backup was taken.

A backup is never restored into a cluster that exists: stop the agents of the old
one first, on every host, or give the new one a secret of its own.`,
		Example: `  kahu restore kahu.kahubackup --data-dir /var/lib/kahu
  ssh safe cat kahu.kahubackup | kahu restore - --data-dir /var/lib/kahu --storage rocksdb`,
		Args: arguments("FILE|-"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.DataDir == "" {
				return usageError("--data-dir is missing: name a new or empty directory for the first voter of the new cluster")
			}
			if o.TokenFloor < 0 {
				return usageError(fmt.Sprintf("--token-floor is %d; a fencing token is not negative", o.TokenFloor))
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if err := refuseLiveCluster(ctx, g, beside); err != nil {
				return err
			}
			in, size, err := openBackup(g, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			show := newProgress(g.stderr, "restore", size)
			o.Progress, o.Logger = show.at, slog.New(slog.DiscardHandler)
			r, err := agent.Restore(ctx, in, o)
			show.end()
			if err != nil {
				return restoreError(args[0], err)
			}
			return g.show(r, func(w io.Writer) error { return writeRestored(w, r) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DataDir, "data-dir", "", "new or empty `directory`")
	f.StringVar(&o.Storage, "storage", "sqlite", "`engine`: memory, sqlite or rocksdb")
	f.Int64Var(&o.TokenFloor, "token-floor", 0, "fencing `token` to begin above, when this host's clock is wrong (default from the backup and the clock)")
	f.BoolVar(&beside, "beside-live-agent", false, "restore although an agent of a cluster runs on this host")
	return cmd
}

// refuseLiveCluster looks whether the agent of this host is in a cluster.
func refuseLiveCluster(ctx context.Context, g *globals, beside bool) error {
	if beside {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c := client.New(client.Options{Socket: g.socket})
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil || s.ClusterID == "" {
		return nil // nobody there, or nobody who could be in the way
	}
	return withCode(exitRefused, fmt.Errorf("the agent on %s runs in cluster %s: a backup is restored into a new cluster, so stop this agent first; "+
		"or say --beside-live-agent to make one beside it, which needs a secret of its own", c.Socket(), s.ClusterID))
}

func restoreError(path string, err error) error {
	var unusable *agent.UnusableError
	switch {
	case errors.As(err, &unusable):
		return withCode(exitConfig, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return withCode(exitRefused, fmt.Errorf("%s was not restored: %w", path, err))
}

func writeRestored(w io.Writer, r agent.Restored) error {
	_, err := fmt.Fprintf(w, `restored     %d keys and %d sequences, of cluster %s as of %s
new cluster  %s, whose first voter is node %s in %s
tokens       begin above %d
next         start the agent:           kahu agent --data-dir %s
             then join the others to it, proxies as well, with empty data directories
`, r.Keys, r.Sequences, printable(dash(r.From)), r.Created.Format("2006-01-02 15:04:05 MST"), r.Cluster, r.Node, r.DataDir, r.TokenFloor, r.DataDir)
	if err == nil && r.Sequences > 0 {
		_, err = fmt.Fprintln(w, "             and let each sequence go on: kahu seq release NAME --next N | --margin N")
	}
	return err
}
