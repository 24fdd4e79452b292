package voter

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// conns is a raft.StreamLayer that knows every connection made through it, so
// that a voter which stops can cut them. Raft waits for each of its goroutines,
// and each of them for an answer, or for the rest of a snapshot, from a peer
// that may be frozen or cut off without a word: rpcTimeout and longer.
type conns struct {
	raft.StreamLayer

	mu   sync.Mutex
	open map[*conn]struct{} // nil: cut
}

type conn struct {
	net.Conn
	of *conns
}

func newConns(s raft.StreamLayer) *conns {
	return &conns{StreamLayer: s, open: map[*conn]struct{}{}}
}

// Accept implements net.Listener.
func (s *conns) Accept() (net.Conn, error) { return s.know(s.StreamLayer.Accept()) }

// Dial implements raft.StreamLayer.
func (s *conns) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.know(s.StreamLayer.Dial(address, timeout))
}

func (s *conns) know(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err // not a nil net.Conn in a conn
	}
	known := &conn{Conn: c, of: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		_ = c.Close() // nobody has used it
		return nil, net.ErrClosed
	}
	s.open[known] = struct{}{}
	return known, nil
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

// dialOnly is a stream layer for whoever accepts nothing.
type dialOnly struct {
	raft.StreamLayer
	closed chan struct{}
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
