package doors

import (
	"net"
	"net/netip"
	"sync"
)

// census counts connections.
type census struct {
	most, mostPer int

	mu    sync.Mutex // guards what follows
	total int
	per   map[netip.Prefix]int
}

func newCensus(l Limits) *census {
	return &census{most: l.Connections, mostPer: l.ConnectionsPerAddress, per: make(map[netip.Prefix]int)}
}

// whose is what counts as one peer.
func whose(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64 // what one host is given
	}
	p, err := ip.Prefix(bits)
	if err != nil { // no IP address: all of those are one peer
		return netip.Prefix{}
	}
	return p
}

func (c *census) enter(who netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= c.most || c.per[who] >= c.mostPer {
		return false
	}
	c.total++
	c.per[who]++
	return true
}

func (c *census) leave(who netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.per[who]--; c.per[who] == 0 {
		delete(c.per, who)
	}
}

func (c *census) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// countedListener closes connections past the limits.
type countedListener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (l *countedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := whose(conn.RemoteAddr())
		if l.server.conns.enter(who) {
			return &countedConn{Conn: conn, leave: sync.OnceFunc(func() { l.server.conns.leave(who) })}, nil
		}
		l.server.metrics.refused.WithLabelValues(refusedConnection).Inc()
		l.server.cfg.Logger.Debug("closed a connection: too many", "remote", conn.RemoteAddr().String())
		_ = conn.Close() // it is being refused
	}
}

// countedConn is one of the counted connections.
type countedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
