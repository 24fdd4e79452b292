package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/discovery"
	"github.com/kahu-sh/kahu/replication/pace"
)

const (
	// gossipTick is how often it is looked whether this agent has a cluster, and
	// whether it has anything new to tell.
	gossipTick = time.Second
	// gossipRetry is between two attempts to begin.
	gossipRetry = 5 * time.Second
	// gossipLook is how often a name that others use is looked up again. The first
	// answer may have been of the pod before, and an address may change.
	gossipLook = 15 * time.Second
	// maxGossipLook is where it ends up for a name whose addresses take turns.
	maxGossipLook = 15 * time.Minute
)

// gossip feeds membership with addresses: those that the operator named, and
// what other agents tell each other. It begins when membership knows the cluster.
type gossip struct {
	log     *slog.Logger
	address string      // that packets are read at
	cut     func() bool // Options.cutGossip
	seeds   *discovery.Seeds
	keys    func() *secret.Keys
	packets net.PacketConn // nil: no gossip
	lost    func(int64)    // Options.gossipLost
	config  discovery.Config
	ids     []string      // of the secrets that config.Keys are of
	look    time.Duration // see moves
	resolve func(ctx context.Context, address string) (netip.AddrPort, error)
	isAt    func(ctx context.Context, address string, at netip.AddrPort) (bool, error)

	// Set by openGossip's caller before start.
	quorum *quorum

	finder  atomic.Pointer[discovery.Finder] // nil before it has begun
	ctx     context.Context                  // ends with close
	cancel  context.CancelFunc
	mu      sync.Mutex // start and close may meet
	running sync.WaitGroup
}

// openGossip starts to look up the seeds, and takes the port; start begins.
func openGossip(a *agent, q *quorum) (*gossip, error) {
	g := &gossip{log: a.log, quorum: q, keys: a.identity.Keys, lost: a.o.gossipLost,
		look: gossipLook, resolve: discovery.Resolve, isAt: discovery.IsAt}
	if a.o.gossipName != nil {
		a.o.gossipName(g)
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	_, portText, err := net.SplitHostPort(q.advertise)
	if err != nil {
		return nil, fmt.Errorf("the address %s that others use: %w", q.advertise, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("the address %s that others use: %w", q.advertise, err)
	}
	if g.seeds, err = discovery.NewSeeds(append(slices.Clone(a.cfg.Join), a.cfg.JoinClouds...), port, a.log); err != nil {
		return nil, &UnusableError{fmt.Errorf("join: %w", err)}
	}
	if a.cfg.Gossip == config.GossipOff {
		return g, nil
	}
	g.address, g.cut = q.listener.Addr().String(), a.o.cutGossip
	g.config = discovery.Config{
		Node: a.identity.node, Profile: discovery.Profile(a.cfg.Gossip), Dir: a.identity.dir,
		Self: discovery.Self{Name: a.cfg.NodeName, Address: q.advertise, Version: a.o.Version, Zone: a.cfg.Zone},
		Dial: q.dialer.Gossip, Seeds: g.seeds.Addresses, Changed: g.changed, Logger: a.log,
	}
	if err := g.listen(); err != nil {
		g.seeds.Close()
		return nil, err
	}
	if cut := g.cut; cut != nil {
		g.config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			if cut() {
				return nil, errCut
			}
			return q.dialer.Gossip(ctx, address)
		}
	}
	return g, nil
}

// listen takes the port, at the start and again after a Finder has given it back.
func (g *gossip) listen() error {
	packets, err := net.ListenPacket("udp", g.address)
	if err != nil {
		return fmt.Errorf("listening for gossip on UDP %s: %w; free it, choose another --bind address, or say --gossip off", g.address, err)
	}
	g.packets, g.config.Packets = packets, packets
	if g.cut != nil {
		g.config.Packets = &cutPackets{packets, g.cut}
	}
	g.config.Streams = g.quorum.listener.ReopenGossip()
	return nil
}

var errCut = errors.New("cut off by a test")

// cutPackets loses packets while cut says so.
type cutPackets struct {
	net.PacketConn
	cut func() bool
}

// ReadFrom implements net.PacketConn.
func (c *cutPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || !c.cut() {
			return n, from, err
		}
	}
}

// WriteTo implements net.PacketConn.
func (c *cutPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.cut() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// start begins once there is a cluster. It does not block.
func (g *gossip) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.packets != nil && g.ctx.Err() == nil {
		g.running.Go(g.run) // ends with close, which waits
	}
}

// run takes part in the gossip of this agent's cluster, which may become another one
// when it was recovered, at this agent's address, which may as well.
func (g *gossip) run() {
	for {
		f := g.begin()
		if f == nil {
			return
		}
		g.keep(f)
		if g.ctx.Err() != nil || !g.leave(f) {
			return
		}
	}
}

// leave ends the part in the gossip of a cluster that this agent is not in any more,
// or not at that address, and takes the port again. It reports false when the agent stops.
func (g *gossip) leave(f *discovery.Finder) bool {
	g.finder.Store(nil)
	if err := f.Close(); err != nil {
		g.log.Warn("leaving the gossip of the cluster before", "cluster", g.config.Cluster, "error", err)
	}
	if !g.listenAgain() {
		return false
	}
	if now := g.quorum.keeper.Status().Cluster; now != g.config.Cluster {
		g.log.Info("gossip follows this agent's new cluster", "cluster", now, "before", g.config.Cluster)
	}
	return true
}

// listenAgain takes the port, which a Finder has given back, and waits until it is
// free. It reports false when the agent stops.
func (g *gossip) listenAgain() bool {
	for said := false; ; said = true {
		err := g.listen()
		if err == nil {
			return true
		}
		if !said {
			g.log.Error("gossip waits for its port", "error", err)
		}
		if !g.wait(gossipRetry) {
			return false
		}
	}
}

// keep tells what is new about this agent, until it stops, is in another cluster, or
// at another address.
func (g *gossip) keep(f *discovery.Finder) {
	told, ids := g.config.Self, g.ids
	ctx, cancel := context.WithCancel(g.ctx)
	moved := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() { // ends with ctx
		if g.moves(ctx) {
			close(moved)
		}
	})
	defer func() { cancel(); looking.Wait() }()
	for g.wait(pace.Next(gossipTick)) && g.quorum.keeper.Status().Cluster == g.config.Cluster {
		select {
		case <-moved:
			return
		default:
		}
		// The keys first: who is told that a secret is accepted may use it at once.
		if now := g.keys().IDs(); !slices.Equal(ids, now) {
			if err := f.SetKeys(g.keys().GossipKeys()); err != nil {
				g.log.Error("the gossip keys were not changed; it is tried again", "error", err)
				continue
			}
			ids = now
		}
		self := g.self()
		if self.Role == told.Role && slices.Equal(self.KeyIDs, told.KeyIDs) {
			continue
		}
		if err := f.Tell(self); err != nil {
			g.log.Debug("telling the others what changed", "error", err)
			continue
		}
		told = self
	}
}

// moves waits until the name that others use stands for other addresses than the one
// that gossip was begun with, twice in a row. It reports false when ctx ends, and when
// there is no name. That a name is not found says nothing.
func (g *gossip) moves(ctx context.Context) bool {
	address, at := g.config.Self.Address, g.config.At
	if _, err := netip.ParseAddrPort(address); err == nil {
		return false
	}
	tick := time.NewTicker(g.look)
	defer tick.Stop()
	for elsewhere := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		switch is, err := g.isAt(ctx, address, at); {
		case err != nil:
		case is:
			elsewhere = 0
		default:
			elsewhere++
		}
		if elsewhere == 2 {
			g.look = min(2*g.look, maxGossipLook)
			g.log.Info("gossip begins again: the name that others use stands for another address", "advertise", address, "before", at)
			return true
		}
	}
}

// begin waits for a cluster, and joins its gossip. It returns nil when the agent
// stops before.
func (g *gossip) begin() *discovery.Finder {
	for g.quorum.keeper.Status().Cluster == "" {
		if !g.wait(gossipTick / 4) {
			return nil
		}
	}
	g.config.Cluster = g.quorum.keeper.Status().Cluster
	said := false
	for {
		at, err := g.resolve(g.ctx, g.config.Self.Address)
		if err == nil {
			g.config.At = at
			break
		}
		if !said {
			g.log.Warn("gossip waits until the address that others use can be looked up", "advertise", g.config.Self.Address, "error", err)
		}
		said = true
		if !g.wait(gossipRetry) {
			return nil
		}
	}
	for said := false; ; said = true {
		keys := g.keys()
		g.ids, g.config.Keys, g.config.Self = keys.IDs(), keys.GossipKeys(), g.self()
		f, err := discovery.Start(g.config)
		if err == nil {
			g.finder.Store(f)
			return f
		}
		if !said {
			g.log.Error("this agent takes no part in gossip until it can: it is tried again; others are found by --join and by what voters tell", "error", err)
		}
		if !g.wait(gossipRetry) || !g.listenAgain() { // Start has given the port back
			return nil
		}
	}
}

// wait pauses, and reports false when the agent stops.
func (g *gossip) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-g.ctx.Done():
		return false
	}
}

// self is what this agent tells now.
func (g *gossip) self() discovery.Self {
	s := g.config.Self
	s.Role, s.KeyIDs = g.quorum.role(), g.keys().IDs()
	return s
}

// changed hands the voters' addresses on: proxies come to them by themselves.
func (g *gossip) changed(members []discovery.Member) {
	addresses := make(map[string]string)
	for _, m := range members {
		if m.Alive && m.Role == discovery.RoleVoter {
			addresses[m.Node] = m.Address
		}
	}
	g.quorum.keeper.Hint(addresses)
	if g.lost != nil {
		_, silent := g.count()
		g.lost(int64(silent))
	}
}

// count returns how many members gossip takes for alive, and how many not.
func (g *gossip) count() (alive, silent int) {
	for _, m := range g.members() {
		if m.Alive {
			alive++
		} else {
			silent++
		}
	}
	return alive, silent
}

// members are all agents heard of by gossip.
func (g *gossip) members() []discovery.Member {
	if f := g.finder.Load(); f != nil {
		return f.Members()
	}
	return nil
}

func (g *gossip) close() error {
	g.mu.Lock()
	g.cancel()
	g.mu.Unlock()
	g.seeds.Close()
	g.running.Wait()
	if f := g.finder.Load(); f != nil {
		return f.Close()
	}
	if g.packets != nil {
		if err := g.packets.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// role is what this agent is now: one of discovery's roles.
func (q *quorum) role() string {
	switch {
	case q.voter == nil:
		return discovery.RoleProxy
	case q.keeper.Standby():
		return discovery.RoleStandby
	}
	return discovery.RoleVoter
}
