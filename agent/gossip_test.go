package agent_test

import (
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
)

// The name that others use for an agent stands for another address than when it
// began, as one does whose first answer was of the pod before: gossip follows.
func TestGossipFollowsAName(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, 1)
	proxy := f.hosts[3]
	right := netip.MustParseAddrPort(proxy.cfg.Bind)
	wrong := netip.MustParseAddrPort(freeAddress(t)) // nobody is there
	var at atomic.Pointer[netip.AddrPort]
	at.Store(&wrong)
	_, port, err := net.SplitHostPort(proxy.cfg.Bind)
	if err != nil {
		t.Fatal(err)
	}
	proxy.cfg.Advertise = net.JoinHostPort("localhost", port)
	proxy.options.GossipAt(func() netip.AddrPort { return *at.Load() })
	log := &notes{}
	proxy.options.Logger = slog.New(slog.NewTextHandler(log, nil))
	f.startAll()
	voter := f.hosts[0]
	f.await("gossip gives the proxy up", func() bool { return voter.lost.Load() == 1 })
	at.Store(&right)
	const said = "stands for another address"
	f.await("the proxy says that it is elsewhere", func() bool { return log.count(said) == 1 })
	for _, h := range f.hosts {
		f.await("gossip gives nobody up on "+h.name, func() bool { return h.lost.Load() == 0 && f.roles(h) == "h1=voter h2=voter h3=voter h4=proxy" })
	}
	if n := log.count(said); n != 1 {
		t.Errorf("said %d times", n)
	}
}
