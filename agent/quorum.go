package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
	"github.com/kahu-sh/kahu/replication/pace"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
)

// quorum is this agent's part among the agents: the port they share, who they
// are, and on a voter the Raft node.
type quorum struct {
	log       *slog.Logger
	node      string // id of this agent
	advertise string
	listener  *link.Listener
	dialer    *link.Dialer
	pool      *link.Pool
	server    *link.Server
	keeper    *membership.Keeper
	gossip    *gossip
	voter     *voter.Voter // nil on an agent that can never vote
}

// openQuorum builds everything and starts the Raft node, which is silent until
// it has a configuration. serve makes it heard.
func openQuorum(a *agent) (*quorum, error) {
	q := &quorum{log: a.log, node: a.identity.node, advertise: a.cfg.Advertise}
	if err := q.open(a); err != nil {
		// What was opened is closed; the reason is what counts.
		_ = q.close(context.Background())
		return nil, err
	}
	return q, nil
}

func (q *quorum) open(a *agent) (err error) {
	node, isVoter := a.identity.node, a.cfg.Role != config.Proxy
	if limit := a.cfg.FeatureLevelCap; limit > statemachine.CurrentLevel {
		return &UnusableError{fmt.Errorf("feature-level-cap is %d, and this kahu knows up to %d: leave it out", limit, statemachine.CurrentLevel)}
	}
	security, err := a.security(a.identity.Keys(), a.identity.PKI())
	if err != nil {
		return err
	}
	if q.listener, err = link.Listen(a.cfg.Bind, link.ListenerOptions{Security: security, Logger: a.log}); err != nil {
		return fmt.Errorf("%w; choose another --bind address or free it", err)
	}
	if a.cfg.Dev { // it listens on whatever port was free
		q.advertise = q.listener.Addr().String()
	}
	q.dialer = &link.Dialer{Security: security}
	if q.gossip, err = openGossip(a, q); err != nil {
		return err
	}
	q.keeper, err = membership.Open(membership.Config{
		Node: node, Name: a.cfg.NodeName, Voter: isVoter, Auto: a.cfg.Role == config.Auto, Zone: a.cfg.Zone, Version: a.o.Version,
		Address: q.advertise, Dir: a.identity.dir, Seeds: a.cfg.Join, Found: q.gossip.seeds.Addresses, KeyIDs: func() []string { return a.identity.Keys().IDs() },
		Expect: a.cfg.BootstrapExpect, Voters: a.cfg.Voters, ReplaceAfter: a.cfg.Timeouts.ReplaceVoter,
		FeatureLevel: statemachine.KnownLevel(a.cfg.FeatureLevelCap), Logger: a.log,
	})
	if err != nil {
		return err
	}
	q.pool = link.NewPool(link.PoolOptions{Dialer: q.dialer, Resolve: q.keeper.Address, Logger: a.log})
	options := link.ServerOptions{Members: q.keeper, Wall: a.o.wall, Relay: q.pool, Logger: a.log}
	if isVoter {
		raft := link.NewRaft(node, q.listener, q.dialer, q.keeper.Address)
		raft.StartAfter(q.keeper.Cleared())
		if q.voter, err = voter.Open(voter.Config{
			NodeID: node, Storage: a.identity.storage,
			Stream: raft, Address: link.RaftAddress,
			AskTerm: q.pool.Term, AskReadIndex: q.pool.ReadIndex,
			Wall: a.o.wall, Boottime: boottime.Boottime, AskWall: q.pool.Wall,
			LeaseNow: boottime.Now, AnnouncedLevel: q.keeper.AnnouncedLevel, MaxLevel: a.cfg.FeatureLevelCap,
			FreeBytes: a.watchDisk(), MinFreeBytes: a.cfg.MinFreeBytes,
			Fatal:         a.fatal,
			Logger:        a.log,
			MemtableBytes: a.cfg.Limits.MemtableSizeBytes, TrailingBytes: a.cfg.Limits.TrailingLogSizeBytes,
			MaxTransactions: a.cfg.Limits.Transactions,
		}); err != nil {
			return tooNew(err, a.cfg.FeatureLevelCap)
		}
		options.Voter, options.Backup = q.voter, a.ownBackup
	}
	q.server = link.NewServer(options)
	return nil
}

// tooNew says what to do about a state that is above what this agent may read.
func tooNew(err error, limit uint32) error {
	switch {
	case !errors.Is(err, statemachine.ErrNewer):
		return err
	case limit > 0 && limit < statemachine.CurrentLevel:
		return &UnusableError{fmt.Errorf("feature-level-cap is %d, and what this agent has on disk was decided above that: raise it, or leave it out (%w)", limit, err)}
	}
	return &UnusableError{err}
}

// fatal is called when this voter may no longer decide: it wrote its last.
func (a *agent) fatal(err error) {
	a.log.Error("this voter ends at once", "node", a.identity.node, "error", err)
	a.o.Exit(1)
}

// security is how connections between agents are made safe, by the cluster secret.
func security(keys *secret.Keys, node string, isVoter bool) (link.Security, error) {
	s := link.Security{Identify: func(cs tls.ConnectionState) (link.Identity, error) {
		name, voter, err := keys.Identify(cs)
		return link.Identity{Node: name, Voter: voter}, err
	}}
	var errs [4]error
	s.Server, errs[0] = keys.ServerTLS(node)
	s.Client, errs[1] = keys.ClientTLS(node)
	if isVoter {
		s.RaftServer, errs[2] = keys.VoterServerTLS(node)
		s.RaftClient, errs[3] = keys.VoterClientTLS(node)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return s, fmt.Errorf("making certificates from the cluster secret: %w", err)
	}
	return s, nil
}

// serve answers other agents until close.
func (q *quorum) serve() error {
	var raft membership.Raft
	if q.voter != nil {
		raft = members{q.voter}
	}
	if err := q.keeper.Start(q.pool, raft); err != nil {
		return &UnusableError{err}
	}
	q.gossip.start()
	return q.server.Serve(q.listener.Protocol(link.ProtocolLink))
}

// awaitCopy returns why this agent has to end when another one has a copy of its data
// directory, and nil after close.
func (q *quorum) awaitCopy() error {
	if err := q.keeper.AwaitCopy(); err != nil {
		return &UnusableError{err}
	}
	return nil
}

// local is the voter as the forwarder's first target.
func (q *quorum) local() forward.Local {
	if q.voter == nil {
		return nil
	}
	return localVoter{Voter: q.voter, standby: q.keeper.Standby}
}

// localVoter is the voter of this process, asked only while it takes part: what a
// standby has on disk may be as old as its vote.
type localVoter struct {
	*voter.Voter
	standby func() bool
}

// Serve implements forward.Local.
func (v localVoter) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if v.standby() {
		return nil, &replication.NotLeaderError{}
	}
	return v.Voter.Serve(ctx, req)
}

// WatchLocal implements forward.Local.
func (v localVoter) WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	if v.standby() {
		return &replication.NotLeaderError{}
	}
	return v.Voter.WatchLocal(ctx, session, fn)
}

// standbyCheck is how often an agent that hears of leaders from its own voter looks
// whether that still takes part.
const standbyCheck = time.Second

// news tells fn who leads, as node knows (forward.Config.News): this process's own
// voter, while it takes part, or another one over the link.
func (q *quorum) news(ctx context.Context, node string, fn func(term uint64, leader string)) error {
	expected := func(term uint64, leader string) {
		if leader != "" {
			q.pool.Expect(leader) // it was elected: it is there
		}
		fn(term, leader)
	}
	if q.voter == nil || node != q.node {
		return q.pool.Follow(ctx, node, expected)
	}
	if q.keeper.Standby() {
		return &replication.NotLeaderError{}
	}
	ctx, cancel := context.WithCancel(ctx)
	var checking sync.WaitGroup
	defer checking.Wait()
	defer cancel()
	checking.Go(func() { // ends with ctx
		tick := time.NewTimer(pace.Next(standbyCheck))
		defer tick.Stop()
		for !q.keeper.Standby() {
			select {
			case <-tick.C:
				tick.Reset(pace.Next(standbyCheck))
			case <-ctx.Done():
				return
			}
		}
		cancel()
	})
	return q.voter.FollowLeader(ctx, expected)
}

// drop closes all connections with other agents, whoever has made them: they come again,
// if they still may.
func (q *quorum) drop() {
	q.listener.Drop()
	q.dialer.Drop()
}

// close hands leadership over, and then ends everything that open made.
func (q *quorum) close(ctx context.Context) error {
	var errs []error
	if q.gossip != nil {
		errs = append(errs, q.gossip.close())
	}
	if q.keeper != nil {
		errs = append(errs, q.keeper.Close())
	}
	if q.voter != nil {
		limit := 5 * time.Second
		if end, ok := ctx.Deadline(); ok {
			limit = time.Until(end)
		}
		errs = append(errs, q.voter.Shutdown(limit))
	}
	if q.server != nil {
		errs = append(errs, q.server.Close())
	}
	if q.pool != nil {
		errs = append(errs, q.pool.Close())
	}
	if q.listener != nil {
		errs = append(errs, q.listener.Close())
	}
	return errors.Join(errs...)
}

// members is the voter as membership sees it.
type members struct{ *voter.Voter }

// Quorum implements membership.Raft.
func (m members) Quorum() membership.Quorum {
	s := m.Status()
	q := membership.Quorum{Leader: s.Leader, Applied: s.AppliedIndex, Level: s.Level, Silent: m.Silence(), Unheard: m.Unheard()}
	for _, p := range s.Peers {
		if p.Voter {
			q.Voters = append(q.Voters, p.ID)
		} else {
			q.Learners = append(q.Learners, p.ID)
		}
	}
	return q
}
