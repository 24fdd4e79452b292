package agent

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/replication/scriptrun"
)

const (
	// socketGroup may use the socket besides the agent's own user and root.
	socketGroup = "kahu"
	// adminGroup may connect to the administrators' socket, which systemd makes.
	adminGroup = "kahu-admin"
)

// listenLocally makes the local server and its listeners, and returns what
// serves them.
func (a *agent) listenLocally(bootID string) ([]func() error, error) {
	gid := lookupGroup(socketGroup)
	rules, err := a.socketPolicy(a.cfg)
	if err != nil {
		return nil, err
	}
	// A copy: what a reload replaces in it is this agent's alone.
	a.policy = rules.WithTokens(nil)
	options := localapi.Config{
		Holder: a.holds, Policy: a.policy, Status: a.status, Host: a.cfg.NodeName, Node: a.identity.node,
		Registry: a.registry, Logger: a.log, Boottime: boottime.Boottime, BootID: bootID,
		RequestTimeout: a.cfg.Timeouts.Request, MaxValueBytes: a.cfg.Limits.ValueSizeBytes,
	}
	if a.upstream != nil {
		// Scripts run there as they are, and Kahuna's clients go there themselves.
		options.Coordinator, options.Backup, options.NoCluster = a.upstream, noBackup, noCluster
	} else {
		if a.kahuna, err = openKahuna(a, rules); err != nil {
			return nil, err
		}
		a.quorum.keeper.Announce(a.kahuna.url)
		options.Coordinator, options.Backup, options.Kahuna, options.Cluster = scriptrun.New(a.forward, scriptrun.Options{}), a.backups.write, a.kahuna, cluster{a}
	}
	server, err := localapi.New(options)
	if err != nil {
		return nil, fmt.Errorf("preparing the local API: %w", err)
	}
	a.local = server

	socket, err := a.appSocket(gid)
	if err != nil {
		return nil, err
	}
	serve := []func() error{func() error { return server.Serve(socket) }}
	if a.kahuna != nil {
		serve = append(a.kahuna.serve(), serve...)
	}
	if l := a.o.Sockets.Admin; l != nil {
		// Else who connects would wait for ever in the kernel's queue.
		admin := caller.Wrap(l, a.log)
		serve = append(serve, func() error { return server.Serve(admin) })
	}
	if a.cfg.HTTP != "" {
		tcp, err := net.Listen("tcp", a.cfg.HTTP)
		if err != nil {
			_ = socket.Close() // nobody has used it yet
			return nil, fmt.Errorf("listening for health checks and metrics: %w; choose another --http address or free it", err)
		}
		serve = append(serve, func() error { return server.ServeTCP(tcp) })
	}
	return serve, nil
}

// appSocket is the socket for applications: systemd's, if it has made one, whose
// file, owner and mode are its unit's; else one of our own.
func (a *agent) appSocket(gid *uint32) (*caller.Listener, error) {
	if l := a.o.Sockets.App; l != nil {
		a.cfg.Socket = l.Addr().String()
		return caller.Wrap(l, a.log), nil
	}
	options := caller.ListenOptions{GID: -1, Open: a.cfg.Policy != nil, Logger: a.log}
	if gid != nil && os.Geteuid() == 0 {
		options.GID = int(*gid)
	}
	return caller.Listen(a.cfg.Socket, options)
}

// lookupGroup returns the gid of a group, nil when the host has none.
func lookupGroup(name string) *uint32 {
	g, err := user.LookupGroup(name)
	if err != nil {
		return nil
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return nil
	}
	gid := uint32(n)
	return &gid
}
