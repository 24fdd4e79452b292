package voter

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// conns is a raft.StreamLayer that knows every connection made through it, so
// that a voter which stops can cut them. Raft waits for each of its goroutines,
// and each of them for an answer, or for the rest of a snapshot, from a peer
// that may be frozen or cut off without a word: rpcTimeout and longer.
type conns struct {
	raft.StreamLayer
	// dialTimeout bounds each dial: a SYN that was lost is sent again after 1, 3 and 7
	// seconds, a dial that begins anew sends one at once.
	dialTimeout time.Duration

	mu   sync.Mutex
	open map[*conn]struct{} // nil: cut
}

type conn struct {
	net.Conn
	of *conns
	to raft.ServerAddress // dialled, and forget may close it; empty otherwise

	moved atomic.Int64 // when bytes were last taken or given, since birth
}

// birth is what conn.moved counts from: the clock that nobody steps.
var birth = time.Now()

func newConns(s raft.StreamLayer, dialTimeout time.Duration) *conns {
	return &conns{StreamLayer: s, dialTimeout: dialTimeout, open: map[*conn]struct{}{}}
}

// Accept implements net.Listener.
func (s *conns) Accept() (net.Conn, error) {
	c, err := s.StreamLayer.Accept()
	return s.know(c, err, "")
}

// Dial implements raft.StreamLayer.
func (s *conns) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := s.StreamLayer.Dial(address, min(timeout, s.dialTimeout))
	return s.know(c, err, address)
}

func (s *conns) know(c net.Conn, err error, to raft.ServerAddress) (net.Conn, error) {
	if err != nil {
		return nil, err // not a nil net.Conn in a conn
	}
	known := &conn{Conn: c, of: s, to: to}
	known.moved.Store(int64(time.Since(birth)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		_ = c.Close() // nobody has used it
		return nil, net.ErrClosed
	}
	s.open[known] = struct{}{}
	return known, nil
}

// forget closes the connections that were dialled to address and over which nothing
// has gone for so long. Whoever uses one is told, and dials again.
func (s *conns) forget(address raft.ServerAddress, idle time.Duration) {
	before := int64(time.Since(birth) - idle)
	s.mu.Lock()
	var stuck []*conn
	for c := range s.open {
		if c.to == address && c.moved.Load() < before {
			stuck = append(stuck, c)
		}
	}
	s.mu.Unlock()
	for _, c := range stuck {
		_ = c.Conn.Close() // its user calls Close as well, which takes it out of open
	}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.note(c.Conn.Read(b)) }

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) { return c.note(c.Conn.Write(b)) }

func (c *conn) note(n int, err error) (int, error) {
	if n > 0 {
		c.moved.Store(int64(time.Since(birth)))
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// dialStopper is a stream layer whose dials can be ended while they run.
type dialStopper interface{ StopDialing() }

// cut closes all connections, and every later one at once.
func (s *conns) cut() {
	if d, ok := s.StreamLayer.(dialStopper); ok {
		d.StopDialing()
	}
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // whoever uses it is told
	}
}

// dialOnly is a stream layer for whoever accepts nothing. Its connections are cut with
// all others, and forget leaves them.
type dialOnly struct {
	*conns
	closed chan struct{}
}

func newDialOnly(s *conns) *dialOnly { return &dialOnly{conns: s, closed: make(chan struct{})} }

// Dial implements raft.StreamLayer.
func (d *dialOnly) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := d.StreamLayer.Dial(address, timeout)
	return d.know(c, err, "")
}

// Accept implements net.Listener. It blocks until Close.
func (d *dialOnly) Accept() (net.Conn, error) {
	<-d.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener. It is called once, and leaves the layer below open.
func (d *dialOnly) Close() error {
	close(d.closed)
	return nil
}
