package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/discovery"
	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/systemd"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
	"github.com/kahu-sh/kahu/replication/upstream"
)

// Options are what Run needs besides the configuration. All are required.
type Options struct {
	Version string
	Logger  *slog.Logger
	// Exit ends the process without a further word (os.Exit): called when this
	// agent may no longer decide. Nothing graceful may follow (HAZARDS.md 10).
	Exit func(code int)
	// Ready is called once when the local socket serves; a quorum may still be missing.
	Ready func()
	// ServiceManager is told how the agent is; nil: nobody is.
	ServiceManager ServiceManager
	// Sockets are those that the service manager has opened; Run closes them.
	Sockets systemd.Sockets

	// Reload takes over changed configurations; the zero value never does.
	Reload Reload

	// Set by tests: whether nothing of gossip passes now, and who hears how many
	// members it has given up; how it looks up its address; and the wall clock of this
	// host.
	cutGossip  func() bool
	gossipLost func(int64)
	gossipName func(*gossip)
	wall       func() time.Time
}

// drainTime is how long holders are given to hear that the agent stops before
// their connections are closed.
const drainTime = 500 * time.Millisecond

// agent is what Run builds, in the order of its fields.
type agent struct {
	cfg       config.Config
	written   config.File               // as of the last reload; of its goroutine alone
	unsettled atomic.Pointer[unsettled] // never nil
	o         Options
	log       *slog.Logger
	started   time.Time

	registry *prometheus.Registry
	identity *identity // data directory, node id, secret
	// Of kahu's own cluster; nil in upstream mode.
	quorum  *quorum            // the port between agents, and the voter if this is one
	forward *forward.Forwarder // finds the leader
	reach   *reach             // proxies and standbys: whether the quorum answers; nil with Dev
	// Of a Kahuna cluster; nil but in upstream mode.
	upstream *upstream.Client

	coordinator replication.Coordinator // one of the two
	holds       *holds.Holds
	backups     *backups
	policy      *policy.Policy // of the sockets
	kahuna      *kahunaWire    // what Kahuna's clients speak, on the socket and over TCP
	local       *localapi.Server
}

// Run runs an agent until ctx ends, and then stops it within
// cfg.Timeouts.Shutdown. It returns nil after an orderly stop, else one line
// that says what is wrong and what to do.
func Run(ctx context.Context, cfg config.Config, o Options) (err error) {
	a := &agent{cfg: cfg, written: cfg.Written, o: o, log: o.Logger, started: time.Now(), registry: prometheus.NewRegistry()}
	a.unsettled.Store(&unsettled{})
	for _, w := range cfg.Warnings {
		a.log.Warn(w)
	}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	defer func() { _ = o.Sockets.Close() }() // for a start that fails; else closed already
	var stops []func(context.Context) error  // in the order built
	defer func() {
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Timeouts.Shutdown)
		defer cancel()
		for i := len(stops) - 1; i >= 0; i-- {
			err = errors.Join(err, stops[i](shutdown))
		}
	}()

	if a.cfg, err = SettleRole(cfg); err != nil {
		return err
	}
	cfg = a.cfg
	if err := awaitDisk(ctx, cfg, a.log); err != nil {
		return err
	}
	if a.identity, err = openIdentity(cfg, o.Version); err != nil {
		return err
	}
	stops = append(stops, a.identity.close)

	join := a.joinQuorum
	if cfg.Upstream.On() {
		join = a.joinUpstream
	}
	joined, err := join()
	stops = append(stops, joined...)
	if err != nil {
		return err
	}

	bootID, err := boottime.BootID()
	if err != nil {
		return fmt.Errorf("reading this boot's id: %w", err)
	}
	keeper, settle := a.pidfdKeeper(&stops)
	a.holds, err = holds.New(holds.Config{
		Coordinator: a.coordinator, Adopt: a.adopt(), Node: a.identity.node, Host: cfg.NodeName,
		LeaseNow: boottime.Now, Boottime: boottime.Boottime, BootID: bootID,
		Logger: a.log, Registerer: a.registry, AckTimeout: cfg.Timeouts.GrantAck,
		AskTimeout: cfg.Timeouts.Request, MaxHolds: cfg.Limits.Holds, TablePath: a.leaseTable(), Pidfds: keeper,
	})
	if err != nil {
		var newer *holds.NewerTableError
		if errors.As(err, &newer) {
			return &UnusableError{err}
		}
		return fmt.Errorf("preparing to keep holds: %w", err)
	}
	settle()

	if a.backups, err = newBackups(a); err != nil {
		return err
	}
	stops = append(stops, a.backups.close)

	sockets, err := a.listenLocally(bootID)
	stops = append(stops, a.stopLocal)
	if err != nil {
		return err
	}
	a.registry.MustRegister(&collector{a: a})
	if a.upstream != nil {
		a.log.Info("in front of a Kahuna cluster", "upstream", cfg.Upstream.URLs)
	}
	a.log.Info("agent started", "node", a.identity.node, "name", cfg.NodeName, "role", string(cfg.Role),
		"socket", a.cfg.Socket, "advertise", a.advertised(), "version", o.Version)
	o.Ready()
	if !cfg.Dev {
		defer time.AfterFunc(startOver, a.forgetStart).Stop()
	}
	return a.serve(ctx, sockets)
}

// startOver is when an agent has found its place, and start is behind it.
const startOver = 10 * time.Second

func (a *agent) forgetStart() {
	debug.FreeOSMemory()
	votes := a.quorum != nil && a.quorum.voter != nil && !a.quorum.keeper.Standby()
	if err := forgetStart(!votes); err != nil {
		a.log.Debug("memory of the start stays in use", "error", err)
	}
}

// joinQuorum makes this agent one of kahu's own cluster, and the forwarder the
// coordinator.
func (a *agent) joinQuorum() (stops []func(context.Context) error, err error) {
	if a.quorum, err = openQuorum(a); err != nil {
		return nil, err
	}
	stops = append(stops, a.quorum.close)
	if !a.cfg.Dev {
		stops = append(stops, a.startRotation())
	}
	a.forward = forward.New(forward.Config{
		Node: a.identity.node, Host: a.cfg.NodeName,
		Local: a.quorum.local(), Remote: a.quorum.pool, Relay: a.quorum.pool, Voters: a.quorum.keeper.Voters, News: a.quorum.news, Logger: a.log,
	})
	a.coordinator = a.forward
	stops = append(stops, func(context.Context) error { return a.forward.Close() })
	if !a.cfg.Dev {
		a.reach = startReach(a.forward, func() bool { return a.quorum.role() != discovery.RoleVoter })
		stops = append(stops, a.reach.close)
	}
	return stops, nil
}

// advertised is where other agents reach this one, empty when there are none.
func (a *agent) advertised() string {
	if a.quorum == nil {
		return ""
	}
	return a.quorum.advertise
}

// adopt is who has to be told of sessions that are taken up; nil: a quorum knows
// them.
func (a *agent) adopt() func(id []byte, ttl time.Duration, holds []*replication.SessionHold) {
	if a.upstream == nil {
		return nil
	}
	return a.upstream.Adopt
}

// serve runs the listeners and the membership until ctx ends or one fails.
func (a *agent) serve(ctx context.Context, sockets []func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := make(chan error, len(sockets)+2)
	start := func(name string, run func() error) {
		go func() { // ends when what it serves is closed by the stops of Run
			err := run()
			var unusable *UnusableError
			switch {
			case errors.As(err, &unusable):
				failed <- err
			case err != nil:
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		}()
	}
	for _, s := range sockets {
		start("serving applications", s)
	}
	if a.quorum != nil {
		start("serving other agents", a.quorum.serve)
		start("taking part in the cluster", a.quorum.awaitCopy)
	}
	if m := a.o.ServiceManager; m != nil {
		a.report(m.Ready())
	}
	if a.o.Reload.Asked != nil {
		var reloading sync.WaitGroup
		reloading.Go(func() { a.reloads(ctx) }) // ends with ctx
		defer func() {
			cancel(nil)
			reloading.Wait()
		}()
	}
	if m := a.o.ServiceManager; m != nil {
		var informing sync.WaitGroup
		informing.Go(func() { a.supervised(ctx) }) // ends with ctx
		defer func() {
			a.report(m.Stopping())
			cancel(nil)
			informing.Wait()
		}()
	}
	select {
	case <-ctx.Done():
		a.log.Info("agent stops", "node", a.identity.node)
		return nil
	case err := <-failed:
		return err
	}
}

// stopLocal ends what applications see: holders are told first and their locks
// released, then the connections end.
func (a *agent) stopLocal(ctx context.Context) error {
	held := make(chan error, 1)
	go func() { held <- a.holds.Close(ctx) }() // ends with ctx at the latest
	if a.local != nil {
		drained := time.NewTimer(drainTime)
		defer drained.Stop()
		select {
		case err := <-held:
			held <- err
		case <-drained.C:
		}
	}
	var ending sync.WaitGroup
	if a.kahuna != nil { // with the socket, which speaks it too
		ending.Go(func() {
			if err := a.kahuna.close(ctx); err != nil {
				a.log.Debug("Kahuna's clients were cut off", "error", err)
			}
		})
	}
	if a.local != nil {
		if err := a.local.Close(ctx); err != nil {
			a.log.Debug("local connections were cut off", "error", err)
		}
	}
	ending.Wait()
	return <-held
}
