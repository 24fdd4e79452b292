package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newClusterCommand(g *globals) *cobra.Command {
	cmd := group("cluster", "Show who takes part, and change who votes",
		newClusterMembersCommand(g),
		clusterChange(g, wire.ClusterPromote, "promote NODE", "Give a node a vote",
			`The node catches up first, and gets its vote then. A node that was promoted keeps
its vote: the cluster does not take it back for having enough voters.`,
			`  kahu cluster promote host4
  kahu cluster promote 8f3a61`),
		clusterChange(g, wire.ClusterDemote, "demote NODE", "Take the vote of a node that is there",
			`The node stays an agent, and serves its host as before. It votes again when it is
promoted, and not by itself. One that leads hands over first. Refused when the rest
would be no quorum.`,
			`  kahu cluster demote host2`),
		clusterChange(g, wire.ClusterRemove, "remove NODE", "Take out a node that is gone for good",
			`For a host that is not coming back. The node must have been silent for 10 seconds;
one that answers is let go with demote. With its old disk it does not join again;
with an empty data directory its host joins as a new node. Refused when the rest
would be no quorum.`,
			`  kahu cluster remove host3`),
		clusterChange(g, wire.ClusterTransfer, "transfer-leadership [NODE]", "Let another voter lead",
			`Without NODE the voter that is furthest. Writes pause for less than 100 ms.`,
			`  kahu cluster transfer-leadership
  kahu cluster transfer-leadership host2`),
		clusterChange(g, wire.ClusterLeave, "leave", "Give up this host's vote before it goes away",
			`This agent goes on serving its host, without a vote, also after a restart. A
restart alone never leaves the cluster: this is for hosts that are taken away.`,
			`  kahu cluster leave`),
		newClusterRecoverCommand(g),
	)
	return cmd
}

// clusterChange is a command for one action; the argument is in use's brackets.
func clusterChange(g *globals, action wire.ClusterAction, use, short, long, example string) *cobra.Command {
	args := arguments("NODE")
	switch {
	case strings.Contains(use, "["):
		args = optionalArgument("NODE")
	case !strings.Contains(use, " "):
		args = arguments()
	}
	if strings.Contains(use, "NODE") {
		long += "\n\nNODE is a host name, a node id, or its beginning; kahu cluster members lists them."
	}
	return &cobra.Command{
		Use: use, Short: short, Long: short + ".\n\n" + long, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				changed, err := c.ClusterChange(ctx, action, first(args))
				if err != nil {
					return err
				}
				return g.show(changed, line("%s", changed.Detail))
			})
		},
	}
}

func newClusterMembersCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "members", Aliases: []string{"ls"},
		Short: "List the agents of the cluster",
		Long: `List the agents that this one knows of: voters, those that catch up to become one,
standbys that could vote, and proxies. SILENT is how long a voter has not answered
the leader's Raft; only the leader knows it.`,
		Example: `  kahu cluster members
  kahu cluster members --output json | jq '.members[] | select(.alive | not)'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				all, err := c.ClusterMembers(ctx)
				if err != nil {
					return err
				}
				return g.show(all, table("HOST\tNODE\tROLE\tSTATE\tADDRESS\tZONE\tVERSION\tSILENT", func(add func(...string)) {
					for _, m := range all.Members {
						add(printable(dash(m.Host)), printable(m.Node), m.Role, memberState(m), printable(dash(m.Address)), printable(dash(m.Zone)), printable(dash(m.Version)), silentText(m))
					}
				}))
			})
		},
	}
}

func memberState(m wire.ClusterMember) string {
	state := "not heard"
	if m.Alive {
		state = "alive"
	}
	if m.Leader {
		state += ", leads"
	}
	if m.Self {
		state += ", here"
	}
	return state
}

func silentText(m wire.ClusterMember) string {
	if m.SilentMS == nil {
		return "-"
	}
	d := time.Duration(*m.SilentMS) * time.Millisecond
	if d < 2*time.Second {
		return "no"
	}
	return fmt.Sprint(d.Round(time.Second))
}
