package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
)

func newClusterRecoverCommand(g *globals) *cobra.Command {
	var dryRun, yes bool
	var tokenFloor int64
	cmd := &cobra.Command{
		Use:   "peers-recover",
		Short: "Last resort: make this host's voter, stopped, the only one",
		Long: `Make the voter of this host, whose agent must be stopped, the only voter of its
cluster. For the day on which a majority of the voters is lost for good, and only
then: while a majority can still be brought back, bring it back.

What this voter has becomes decided; a write that only the lost voters had is lost.
So is a lock that only they had granted: it is granted again. Fencing tokens go on
above a floor made of the wall clock, higher than any that was given out; with a clock
that is doubted, name one with --token-floor. Let one lease pass on all hosts before
you start the agent again, or stop what runs under locks.
The lost ones must never run again with their old disks: a majority of them would
go on by itself, and locks would be held twice. Empty their data directories first;
then they join again as new nodes.

The cluster goes on under a new id. Proxies follow it when they meet it; whoever has
a state of the old one is refused until its data directory is empty. So two voters
that were both recovered make two clusters that leave each other alone.

On several survivors, run --dry-run on each, and recover the one with the highest
term and last index; empty the data directories of the others.`,
		Example: `  systemctl stop kahu.socket kahu-admin.socket kahu   # the sockets would start it again
  kahu cluster peers-recover --dry-run --data-dir /var/lib/kahu
  kahu cluster peers-recover --yes --data-dir /var/lib/kahu
  systemctl start kahu`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dryRun == yes {
				return usageError("kahu cluster peers-recover needs one of --dry-run, which only looks, and --yes")
			}
			host := config.ThisHost()
			host.Alone = true // systemd gives the secret to the agent, and to nobody else
			cfg, err := config.Load(host, cmd.Flags())
			if err != nil {
				return withCode(exitConfig, err)
			}
			r, err := agent.Recover(cfg, agent.RecoverOptions{Version: programVersion(), Logger: newLogger(cfg, cfg.LogLevel, g.stderr), DryRun: dryRun, TokenFloor: tokenFloor})
			var unusable *agent.UnusableError
			switch {
			case errors.As(err, &unusable):
				return withCode(exitConfig, err)
			case err != nil:
				return withCode(exitRefused, fmt.Errorf("nothing is recovered: %w", err))
			}
			return g.show(r, func(w io.Writer) error {
				text := fmt.Sprintf("node       %s\nterm       %d\nlast       %d, of which %d are not known to be decided\n", r.Node, r.Term, r.LastIndex, r.LastIndex-r.AppliedIndex)
				for _, s := range r.Servers {
					if s.ID != r.Node {
						text += fmt.Sprintf("given up   %s: it must never run again with its data directory\n", nodeNamed(s.ID, r.Names[s.ID]))
					}
				}
				text += fmt.Sprintf("tokens     go on above %d\n", r.TokenFloor)
				if r.Done {
					text += fmt.Sprintf("cluster    %s, was %s\n", r.Cluster, r.Succeeds)
					text += "done       this voter is alone now: start its agent, then let others join with empty data directories\n"
				} else {
					text += "dry run    nothing was written\n"
				}
				_, err := io.WriteString(w, text)
				return err
			})
		},
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be done, and write nothing")
	cmd.Flags().Int64Var(&tokenFloor, "token-floor", 0, "fencing `token` above which the cluster goes on, when the clock of this host is doubted")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it: the other voters are gone for good, and their disks will not come back")
	return cmd
}

// nodeNamed is a node's name, which others chose, and its id.
func nodeNamed(node, name string) string {
	if name == "" {
		return node
	}
	return printable(name) + " (" + node + ")"
}
