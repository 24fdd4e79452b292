package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/diagnosis"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newStatusCommand(g *globals) *cobra.Command {
	var ready, healthy, all bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether anything is wrong, and what to do about it",
		Long: `Say whether anything is wrong, and what to do about it.

The first line begins with the verdict: healthy; degraded, when requests are served
and something should be mended; or down, when this host gets no locks and writes
nothing. Each problem comes with what to do first. Notices pass by themselves, or
somebody wanted them.

It ends with
  0   healthy or degraded
  69  down: no agent answers on the socket
  75  down: the agent has no quorum; with --ready also while a leader begins,
      with --healthy also when degraded
  77  the agent's policy does not let you look`,
		Example: `  kahu status
  kahu status --output json
  kahu status --healthy   # exit code 75 unless nothing has to be mended
  kahu status --ready     # exit code 75 while no quorum answers
  kahu status --all       # and everything else that the agent knows`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, members, err := g.look(cmd)
			if errors.Is(err, client.ErrNoAgent) && !errors.Is(err, client.ErrDenied) {
				r := diagnosis.NoAgent(oneLine(err))
				if failed := g.show(statusReport{Report: r}, line("%s: %s", r.Verdict, r.Summary)); failed != nil {
					return failed
				}
			}
			if err != nil {
				return err
			}
			r := diagnosis.Diagnose(s, members, time.Now())
			if err := g.show(statusReport{&s, r}, func(w io.Writer) error { return writeReport(w, s, members, r, all) }); err != nil {
				return err
			}
			if r.Verdict == diagnosis.Down || ready && !s.Ready || healthy && r.Verdict != diagnosis.Healthy {
				return &quietError{exitTemporary}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "fail while the agent is not ready")
	cmd.Flags().BoolVar(&healthy, "healthy", false, "fail unless the verdict is healthy")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show everything that the agent knows")
	return cmd
}

// statusReport is the status as JSON: what the agent tells, and what it means.
type statusReport struct {
	*wire.Status
	Report diagnosis.Report `json:"health"`
}

// look asks for the status, and for the members where the agent tells them.
func (g *globals) look(cmd *cobra.Command) (s wire.Status, members []wire.ClusterMember, err error) {
	err = g.ask(cmd, func(ctx context.Context, c *client.Client) error {
		if s, err = c.Status(ctx); err != nil {
			return err
		}
		// An older agent, or a policy, may not tell: its own peers have to do.
		if m, err := c.ClusterMembers(ctx); err == nil {
			members = m.Members
		}
		return nil
	})
	return s, members, err
}

// lines writes a text of names and what they are, and keeps the first error.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) add(name, format string, args ...any) {
	if l.err == nil {
		_, l.err = fmt.Fprintf(l.w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
}

// writeReport is the status for people: the verdict, what to do, and what is there.
func writeReport(w io.Writer, s wire.Status, members []wire.ClusterMember, r diagnosis.Report, all bool) error {
	if _, err := fmt.Fprintf(w, "%s: %s\n", r.Verdict, r.Summary); err != nil {
		return err
	}
	l := &lines{w: w}
	for _, p := range r.Problems {
		if p.What != r.Summary {
			l.add("problem", "%s", p.What)
		}
		l.add("  to do", "%s", p.Do)
	}
	for _, p := range r.Notices {
		l.add("notice", "%s", p.What)
		l.add("  to do", "%s", p.Do)
	}
	if all {
		writeStatus(l, s)
		return l.err
	}
	l.add("agent", "%s (%s), version %s, up %s", s.Host, s.Node, s.Version, millis(s.UptimeMS))
	l.add("role", "%s", roleText(s, members))
	if len(s.Upstream) == 0 {
		l.add("cluster", "%s", clusterText(s, members))
	}
	for _, u := range s.Upstream {
		l.add("kahuna", "%s  %s", u.URL, upstreamState(u))
	}
	l.add("holds", "%s", holdsText(s.Holds))
	if v := s.Voter; v != nil {
		free := ""
		if v.FreeBytes != nil {
			free = fmt.Sprintf(", %s free on its disk", bytesText(*v.FreeBytes))
		}
		l.add("state", "%d entries applied, feature level %d, log of %s%s", v.AppliedIndex, v.Level, bytesText(v.LogBytes), free)
	}
	if len(s.Upstream) == 0 {
		l.add("address", "%s; for applications %s", dash(s.Advertise), s.Socket)
	} else {
		l.add("address", "for applications %s", s.Socket)
	}
	if k := s.Kahuna; k != nil {
		l.add("kahuna", "%s, %s", strings.Join(k.Listen, " "), kahunaTrust(k))
	}
	return l.err
}

// roleText is what this agent does in the quorum.
func roleText(s wire.Status, members []wire.ClusterMember) string {
	text := s.Role
	if s.Storage != "" {
		text += " on " + s.Storage
	}
	switch {
	case len(s.Upstream) > 0:
		return text + ", in front of a Kahuna cluster"
	case s.Leader == s.Node:
		return text + ", leads"
	case s.Leader == "":
		return text + ", knows no leader"
	}
	return text + ", leader is " + hostOf(s, members, s.Leader)
}

// hostOf is a node for people.
func hostOf(s wire.Status, members []wire.ClusterMember, node string) string {
	for _, m := range members {
		if m.Node == node && m.Host != "" {
			return printable(m.Host)
		}
	}
	for _, p := range s.Peers {
		if p.Node == node && p.Host != "" {
			return printable(p.Host)
		}
	}
	return node
}

// clusterText counts who takes part.
func clusterText(s wire.Status, members []wire.ClusterMember) string {
	if s.ClusterID == "" {
		return "none yet"
	}
	counts := map[string]int{}
	for _, m := range members {
		counts[m.Role]++
	}
	var parts []string
	for _, role := range []string{wire.MemberVoter, wire.MemberCatchingUp, wire.MemberStandby, wire.MemberProxy, wire.MemberUnknown} {
		if n := counts[role]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, role))
		}
	}
	return dash(strings.Join(parts, ", ")) + "; id " + s.ClusterID
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	size, units := float64(n)/unit, "KMGTPE"
	for size >= unit && len(units) > 1 {
		size, units = size/unit, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", size, units[0])
}

// writeStatus is everything that an agent tells.
func writeStatus(l *lines, s wire.Status) {
	state := "ready"
	if !s.Ready {
		state = "NOT READY: " + s.NotReady
	}
	role := s.Role
	if s.Storage != "" {
		role += " on " + s.Storage
	}
	p := l.add
	p("agent", "%s (%s), %s", s.Host, s.Node, state)
	p("role", "%s", role)
	p("version", "%s, up %s", s.Version, millis(s.UptimeMS))
	p("socket", "%s", s.Socket)
	if len(s.Upstream) == 0 {
		p("address", "%s", dash(s.Advertise))
		p("cluster", "%s", dash(s.ClusterID))
		p("leader", "%s", dash(s.Leader))
	}
	for _, u := range s.Upstream {
		p("kahuna", "%s  %s", u.URL, upstreamState(u))
	}
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
	p("holds", "%s", holdsText(s.Holds))
	if s.ClockProblem != "" {
		p("CLOCK", "%s; set it by NTP", printable(s.ClockProblem))
	}
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
		if v.WallClock != nil {
			p("CLOCK", "%s", v.WallClock.Problem)
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
}

// upstreamState says how a server of a Kahuna cluster is.
func upstreamState(u wire.UpstreamServer) string {
	switch {
	case u.Healthy && u.InUse:
		return fmt.Sprintf("healthy, in use, answers in %d ms", u.LatencyMS)
	case u.Healthy:
		return fmt.Sprintf("healthy, answers in %d ms", u.LatencyMS)
	case u.Failure != "":
		return "NOT HEALTHY: " + printable(u.Failure)
	}
	return "not asked yet"
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

// holdsText counts holds, and how those of kahu exec are contained.
func holdsText(h wire.HoldCounts) string {
	text := fmt.Sprintf("%d held, %d waiting, %d at risk", h.Held, h.Queued, h.AtRisk)
	for i, c := range slices.Sorted(maps.Keys(h.Contain)) {
		text += []string{"; contained by ", ", "}[min(i, 1)] + fmt.Sprintf("%s %d", printable(c), h.Contain[c])
	}
	return text
}
