package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/voter"
)

// staleContact is how long a follower may not have heard a leader and still
// call itself ready: an election and some.
const staleContact = 3 * time.Second

// status answers from memory; it is the body of the status route.
func (a *agent) status() wire.Status {
	s := wire.Status{
		Node: a.identity.node, Host: a.cfg.NodeName, Version: a.o.Version,
		Advertise: a.advertised(), Socket: a.cfg.Socket, Dev: a.cfg.Dev,
		UptimeMS: time.Since(a.started).Milliseconds(),
	}
	left := a.unsettled.Load()
	s.NeedsRestart, s.ConfigProblem = left.restart, left.problem
	s.Holds = a.holds.Counts()
	if a.upstream != nil {
		return a.upstreamStatus(s)
	}
	m := a.quorum.keeper.Status()
	s.Role, s.Leader, s.ClusterID, s.Kahuna = a.quorum.role(), a.forward.Leader(), m.Cluster, a.kahuna.status(a.cfg.Kahuna)
	s.DataDirGone = !a.cfg.Dev && gone(filepath.Join(a.cfg.DataDir, "agent.json"))
	s.ClockProblem = a.quorum.keeper.ClockProblem()
	s.Successor = m.Successor
	names := map[string]string{a.identity.node: a.cfg.NodeName}
	for _, p := range m.Peers { // the address book has voters only
		names[p.Node] = p.Name
		s.Peers = append(s.Peers, wire.Peer{Node: p.Node, Host: p.Name, Address: p.Address, Role: string(config.Voter), Connected: p.Seen})
	}
	if a.quorum.voter == nil {
		s.Ready, s.NotReady = proxyReady(s, a.reach.lately(), m.Waiting)
		return s
	}
	v := a.quorum.voter.Status()
	if v.Leader != "" {
		s.Leader = v.Leader
	}
	s.Storage = string(a.cfg.Storage)
	s.Voter = voterStatus(v, names)
	s.Voter.MinFreeBytes = a.cfg.MinFreeBytes
	s.Ready, s.NotReady = voterReady(v, m.Waiting)
	if m.Standby && v.StalledFor == 0 {
		s.Ready, s.NotReady = proxyReady(s, a.reach != nil && a.reach.lately(), m.Waiting)
	}
	if !s.Ready && m.Strange != "" && !strings.Contains(s.NotReady, m.Strange) {
		s.NotReady += "; " + m.Strange
	}
	return s
}

// gone reports whether a file is certainly not there.
func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// voterReady says whether a quorum answered this voter lately.
func voterReady(v voter.Status, waiting string) (bool, string) {
	switch {
	case v.StalledFor > 0:
		return false, "a log write, flush or apply on this voter hangs: look at its disk"
	case !slices.ContainsFunc(v.Peers, func(p voter.Peer) bool { return p.ID == v.NodeID }):
		// Before it has joined, or after it was removed.
		return false, "this voter is in no quorum: " + waiting
	case v.Role == "leader" && !v.Serving:
		return false, "this voter has just been elected"
	case v.Role != "leader" && v.Leader == "":
		return false, "no leader is known: a majority of the voters has to run and reach each other"
	case v.Role != "leader" && (v.LastContact < 0 || v.LastContact > staleContact):
		return false, "the leader has not been heard for some time: look at the network between voters"
	}
	return true, ""
}

// proxyReady says whether a quorum answered this proxy lately.
func proxyReady(s wire.Status, answered bool, waiting string) (bool, string) {
	heard := slices.ContainsFunc(s.Peers, func(p wire.Peer) bool { return p.Connected })
	switch {
	case answered:
		return true, ""
	case !heard && waiting == "":
		return false, "no voter of its cluster can be reached"
	case !heard:
		return false, "no voter can be reached: " + waiting
	}
	return false, "no quorum answers: a majority of the voters has to run and reach each other"
}

func voterStatus(v voter.Status, names map[string]string) *wire.VoterStatus {
	contact := v.LastContact.Milliseconds()
	if v.LastContact < 0 {
		contact = -1
	}
	out := &wire.VoterStatus{
		Raft: v.Role, Serving: v.Serving, Term: v.Term, FirstIndex: v.FirstIndex, LastIndex: v.LastIndex,
		CommitIndex: v.CommitIndex, AppliedIndex: v.AppliedIndex, DurableIndex: v.DurableIndex,
		UnflushedBytes: v.UnflushedBytes, LogBytes: v.LogBytes, LastContactMS: contact,
		LeaseClockNS: v.LeaseClockNS, Level: v.Level, Hash: v.Hash, Restores: v.Restores,
		Watchers: v.Watchers, QueuedRequests: v.QueuedRequests, StalledMS: v.StalledFor.Milliseconds(),
	}
	if v.FreeBytes >= 0 {
		out.FreeBytes = &v.FreeBytes
	}
	if w := v.WallClock; w.Problem != "" {
		out.WallClock = &wire.WallClock{AheadMS: w.Offset.Milliseconds(), Problem: w.Problem}
	}
	for _, p := range v.Peers {
		role := "staging"
		if p.Voter {
			role = string(config.Voter)
		}
		out.Configuration = append(out.Configuration, wire.QuorumMember{Node: p.ID, Host: names[p.ID], Role: role, Forgot: slices.Contains(v.Forgetful, p.ID)})
	}
	return out
}
