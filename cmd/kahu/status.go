package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newStatusCommand(g *globals) *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this host knows of itself and the quorum",
		Example: `  kahu status
  kahu status --output json
  kahu status --ready   # exit code 75 while no quorum answers`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.Status(ctx)
				if err != nil {
					return err
				}
				if err := g.show(s, func(w io.Writer) error { return writeStatus(w, s) }); err != nil {
					return err
				}
				if ready && !s.Ready {
					return &quietError{exitTemporary}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "fail while the agent is not ready")
	return cmd
}

// writeStatus is the status for people.
func writeStatus(w io.Writer, s wire.Status) error {
	state := "ready"
	if !s.Ready {
		state = "NOT READY: " + s.NotReady
	}
	role := s.Role
	if s.Storage != "" {
		role += " on " + s.Storage
	}
	var failed error
	p := func(name, format string, args ...any) {
		if failed == nil {
			_, failed = fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
		}
	}
	p("agent", "%s (%s), %s", s.Host, s.Node, state)
	p("role", "%s", role)
	p("version", "%s, up %s", s.Version, millis(s.UptimeMS))
	p("socket", "%s", s.Socket)
	p("address", "%s", dash(s.Advertise))
	p("cluster", "%s", dash(s.ClusterID))
	p("leader", "%s", dash(s.Leader))
	if k := s.Kahuna; k != nil {
		p("kahuna", "%s, %s", strings.Join(k.Listen, " "), kahunaTrust(k))
		p("", "certificate sha256 %s, until %s", k.CertificateSHA256, k.CertificateExpires.Format(time.DateOnly))
		if k.Advertise != "" {
			p("", "clients elsewhere are sent to %s", k.Advertise)
		}
		for _, warning := range k.Warnings {
			p("WARNING", "%s", warning)
		}
	}
	p("holds", "%d held, %d waiting, %d at risk", s.Holds.Held, s.Holds.Queued, s.Holds.AtRisk)
	if v := s.Voter; v != nil {
		serving := ""
		if !v.Serving {
			serving = ", not serving yet"
		}
		p("raft", "%s in term %d%s", v.Raft, v.Term, serving)
		p("log", "%d to %d, %d bytes, committed %d", v.FirstIndex, v.LastIndex, v.LogBytes, v.CommitIndex)
		p("state", "applied %d, on disk %d, %d bytes unflushed", v.AppliedIndex, v.DurableIndex, v.UnflushedBytes)
		if v.StalledMS > 0 {
			p("STALLED", "for %s: the disk or the state machine does not go on", millis(v.StalledMS))
		}
		for _, peer := range v.Configuration {
			p("member", "%s  %s  %s", peer.Node, peer.Role, dash(peer.Host))
		}
	}
	for _, peer := range s.Peers {
		connected := "not connected"
		if peer.Connected {
			connected = "connected"
		}
		p("peer", "%s  %s  %s  %s", peer.Node, dash(peer.Role), dash(peer.Address), connected)
	}
	return failed
}

// kahunaTrust says who may come over TCP.
func kahunaTrust(k *wire.KahunaStatus) string {
	switch {
	case k.Insecure:
		return "INSECURE: open to everybody"
	case k.ClientCA != "" && k.TokenFile != "":
		return fmt.Sprintf("for certificates of %s and %d tokens of %s", k.ClientCA, k.Tokens, k.TokenFile)
	case k.ClientCA != "":
		return "for certificates of " + k.ClientCA
	}
	return fmt.Sprintf("for %d tokens of %s", k.Tokens, k.TokenFile)
}
