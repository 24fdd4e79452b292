package link

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a Listener, used where ListenerOptions leaves a zero.
const (
	// DefaultHandshakeTimeout is how long a connection may take until it is known
	// who it is and somebody has accepted it.
	DefaultHandshakeTimeout = 10 * time.Second
	// DefaultMaxHandshakes is how many connections may be unknown at a time. One
	// more ends the oldest of them: who is slow gives way, nobody has to wait.
	DefaultMaxHandshakes = 256
	// DefaultMaxConns bounds connections altogether. What comes beyond is closed.
	DefaultMaxConns = 8192
)

// ListenerOptions configure a Listener. Security is required.
type ListenerOptions struct {
	Security         Security
	HandshakeTimeout time.Duration
	MaxHandshakes    int
	MaxConns         int
	Logger           *slog.Logger // optional
}

// Listener is the one port on which an agent hears others. It verifies each
// connection and hands it to the protocol that was agreed by ALPN.
type Listener struct {
	inner  net.Listener
	o      ListenerOptions
	served atomic.Pointer[served]
	raft   *protocolListener
	link   *protocolListener
	gossip atomic.Pointer[protocolListener]

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // acceptor, handshakes

	mu          sync.Mutex
	handshaking list.List          // of net.Conn, oldest first
	open        int                // connections that were accepted and not closed
	accepted    map[*Conn]struct{} // those of open that are past their handshake
	warnedAt    time.Time          // when it was last said that there are too many
}

// Listen listens on a TCP address (host:port; port 0 takes a free one).
func Listen(address string, o ListenerOptions) (*Listener, error) {
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for other agents on %s: %w", address, err)
	}
	return NewListener(inner, o), nil
}

// NewListener takes over inner and starts to accept. Close ends it.
func NewListener(inner net.Listener, o ListenerOptions) *Listener {
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if o.MaxHandshakes <= 0 {
		o.MaxHandshakes = DefaultMaxHandshakes
	}
	if o.MaxConns <= 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Listener{inner: inner, o: o, accepted: make(map[*Conn]struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.raft = newProtocolListener(inner.Addr())
	l.link = newProtocolListener(inner.Addr())
	l.gossip.Store(newProtocolListener(inner.Addr()))
	l.SetSecurity(o.Security)
	// The acceptor ends when inner is closed, handshakes when ctx ends.
	l.running.Go(l.accept)
	return l
}

// served is a Security as connections are accepted with it.
type served struct {
	*Security
	config *tls.Config
}

// SetSecurity replaces what connections are accepted with from now on; those that
// are open stay. It may be called at any time.
func (l *Listener) SetSecurity(s Security) {
	type configs struct{ link, raft, gossip *tls.Config }
	of := make(map[*Security]configs)
	for _, kind := range s.kinds() {
		of[kind] = configs{withProtocol(kind.Server, ProtocolLink), withProtocol(kind.RaftServer, ProtocolRaft), withProtocol(kind.Server, ProtocolGossip)}
	}
	config := of[&s].link.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := of[s.kind(hello.ServerName)]
		switch {
		case c.raft != nil && slices.Contains(hello.SupportedProtos, ProtocolRaft):
			return c.raft, nil
		case slices.Contains(hello.SupportedProtos, ProtocolLink):
			return c.link, nil
		case slices.Contains(hello.SupportedProtos, ProtocolGossip):
			return c.gossip, nil
		}
		return nil, fmt.Errorf("the client speaks %q, which is not served here", hello.SupportedProtos)
	}
	l.served.Store(&served{Security: &s, config: config})
}

// Drop closes all accepted connections: whoever may still come does so again.
// It is for the end of a secret, under which they may have been made.
func (l *Listener) Drop() {
	l.mu.Lock()
	open := make([]*Conn, 0, len(l.accepted))
	for c := range l.accepted {
		open = append(open, c)
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// withProtocol returns nil for nil.
func withProtocol(c *tls.Config, protocol string) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.NextProtos = []string{protocol}
	return c
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// ReopenGossip returns the listener of gossip's streams, another one if it was
// closed: an agent whose cluster became another one takes part in its gossip anew.
// One goroutine at a time.
func (l *Listener) ReopenGossip() net.Listener {
	now := l.gossip.Load()
	select {
	case <-now.closing:
		now = newProtocolListener(l.inner.Addr())
		l.gossip.Store(now)
	default:
	}
	return now
}

// Protocol returns the listener of one of the protocols, the same each time (but see
// ReopenGossip). What it accepts is a *Conn. Closing it closes what it would have
// accepted from then on, and leaves the port and the other protocols alone.
func (l *Listener) Protocol(name string) net.Listener {
	switch name {
	case ProtocolRaft:
		return l.raft
	case ProtocolLink:
		return l.link
	case ProtocolGossip:
		return l.gossip.Load()
	}
	panic(fmt.Sprintf("link: protocol %q is none of %q, %q and %q", name, ProtocolRaft, ProtocolLink, ProtocolGossip))
}

// Close stops listening, ends handshakes and the protocols' listeners, and
// waits for its goroutines. Accepted connections stay with who accepted them.
func (l *Listener) Close() error {
	err := l.inner.Close()
	l.cancel()
	l.raft.Close()
	l.link.Close()
	l.gossip.Load().Close()
	l.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (l *Listener) accept() {
	backoff := time.Duration(0)
	for {
		conn, err := l.inner.Accept()
		if err == nil {
			backoff = 0
			l.begin(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of descriptors, most likely: it passes.
		backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
		l.o.Logger.Warn("accepting a connection of another agent failed", "error", err, "retry_in", backoff)
		select {
		case <-time.After(backoff):
		case <-l.ctx.Done():
			return
		}
	}
}

// begin starts the handshake of a new connection in a goroutine of its own.
func (l *Listener) begin(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.o.MaxConns {
		conn.Close()
		if now := time.Now(); now.Sub(l.warnedAt) > time.Minute {
			l.warnedAt = now
			l.o.Logger.Warn("too many connections of other agents", "limit", l.o.MaxConns)
		}
		return
	}
	l.open++
	if l.handshaking.Len() >= l.o.MaxHandshakes {
		// Its handshake fails, and its goroutine takes it off the books. It leaves
		// the list now, so that the next one ends another.
		l.handshaking.Remove(l.handshaking.Front()).(net.Conn).Close()
	}
	place := l.handshaking.PushBack(conn)
	l.running.Go(func() {
		counted, err := l.handshake(conn)
		l.mu.Lock()
		l.handshaking.Remove(place) // does nothing when it was pushed out
		l.mu.Unlock()
		if err != nil {
			conn.Close()
			if !counted {
				l.closed()
			}
			l.o.Logger.Debug("a connection was refused", "peer", conn.RemoteAddr().String(), "error", err)
		}
	})
}

func (l *Listener) closed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

// forget takes a connection off the books that was handed on.
func (l *Listener) forget(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	delete(l.accepted, c)
}

// handshake finds out who is there and hands the connection on. counted says that
// the connection is taken off the books when it is closed.
func (l *Listener) handshake(conn net.Conn) (counted bool, err error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.o.HandshakeTimeout)
	defer cancel()
	served := l.served.Load()
	tc := tls.Server(conn, served.config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return false, fmt.Errorf("TLS handshake: %w", err)
	}
	state := tc.ConnectionState()
	peer, err := served.kind(state.ServerName).identify(ctx, tc)
	if err != nil {
		return false, err
	}
	to := l.link
	switch state.NegotiatedProtocol {
	case ProtocolGossip:
		to = l.gossip.Load()
	case ProtocolRaft:
		if !peer.Voter {
			return false, fmt.Errorf("node %s is a proxy and may not speak %s", peer.Node, ProtocolRaft)
		}
		to = l.raft
	}
	c := &Conn{Conn: tc, peer: peer}
	c.onClose = func() { l.forget(c) }
	l.mu.Lock()
	l.accepted[c] = struct{}{}
	replaced := l.served.Load() != served
	l.mu.Unlock()
	if replaced { // and Drop may have been: who is slow does not outlast a secret by that
		c.Close()
		return true, errors.New("the certificates were changed meanwhile")
	}
	select {
	case to.accepted <- c:
		return true, nil
	case <-to.closing:
		c.Close()
		return true, net.ErrClosed
	case <-ctx.Done():
		c.Close()
		return true, fmt.Errorf("nobody accepts %s here: %w", state.NegotiatedProtocol, context.Cause(ctx))
	}
}

// Conn is a verified connection between two agents.
type Conn struct {
	net.Conn
	peer    Identity
	onClose func() // optional; called once
	once    sync.Once
}

// Peer returns who is at the other end.
func (c *Conn) Peer() Identity { return c.peer }

// Close implements net.Conn.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	if c.onClose != nil {
		c.once.Do(c.onClose)
	}
	return err
}

// protocolListener accepts what was verified and speaks one protocol.
type protocolListener struct {
	addr     net.Addr
	accepted chan *Conn // unbuffered: whoever does not accept leaves nothing behind
	closing  chan struct{}
	once     sync.Once
}

func newProtocolListener(addr net.Addr) *protocolListener {
	return &protocolListener{addr: addr, accepted: make(chan *Conn), closing: make(chan struct{})}
}

// Accept implements net.Listener.
func (p *protocolListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closing:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *protocolListener) Close() error {
	p.once.Do(func() { close(p.closing) })
	return nil
}

// Addr implements net.Listener.
func (p *protocolListener) Addr() net.Addr { return p.addr }
