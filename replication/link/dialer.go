package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// DefaultDialTimeout bounds connecting and the handshake together.
const DefaultDialTimeout = 5 * time.Second

// Dialer connects to other agents.
type Dialer struct {
	Security Security
	// Timeout bounds connecting and the handshake together. Zero: DefaultDialTimeout.
	Timeout time.Duration

	replaced atomic.Pointer[Security]

	mu sync.Mutex
	// byOther has the addresses where Security.Other was the right one: it is tried
	// first there.
	byOther map[string]bool
	open    map[*Conn]struct{} // what was made, and not closed yet
}

// SetSecurity replaces Security for later dials. It may be called at any time.
func (d *Dialer) SetSecurity(s Security) { d.replaced.Store(&s) }

// Drop closes all connections that were made, of every protocol: whoever needs one
// makes another. It is for the end of a secret, as Listener.Drop.
func (d *Dialer) Drop() {
	d.mu.Lock()
	open := slices.Collect(maps.Keys(d.open))
	d.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// opened enters a connection, unless it was made by a Security that has been replaced.
func (d *Dialer) opened(c *Conn, by *Security) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.security() != by {
		return false
	}
	if d.open == nil {
		d.open = make(map[*Conn]struct{})
	}
	d.open[c] = struct{}{}
	return true
}

func (d *Dialer) closed(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
}

func (d *Dialer) security() *Security {
	if s := d.replaced.Load(); s != nil {
		return s
	}
	return &d.Security
}

// dial connects to address and finds out who is there. An empty node accepts
// anybody of the cluster; otherwise another node is ErrWrongNode. While there are
// two kinds of certificates it tries the one that was right here last, and then the
// other.
func (d *Dialer) dial(ctx context.Context, address, protocol, node string) (*Conn, error) {
	security := d.security()
	c, err := d.dialBy(ctx, security, address, protocol, node)
	if err != nil {
		return nil, err
	}
	c.onClose = func() { d.closed(c) }
	if !d.opened(c, security) {
		c.Close()
		return nil, fmt.Errorf("connecting to %s: the certificates were changed meanwhile", address)
	}
	return c, nil
}

func (d *Dialer) dialBy(ctx context.Context, security *Security, address, protocol, node string) (*Conn, error) {
	kinds := security.kinds()
	if len(kinds) == 1 {
		return d.dialAs(ctx, kinds[0], address, protocol, node)
	}
	d.mu.Lock()
	if d.byOther[address] {
		slices.Reverse(kinds)
	}
	d.mu.Unlock()
	c, err := d.dialAs(ctx, kinds[0], address, protocol, node)
	var untrusted *untrustedError
	if errors.As(err, &untrusted) && ctx.Err() == nil {
		var other error
		if c, other = d.dialAs(ctx, kinds[1], address, protocol, node); other == nil {
			d.right(address, kinds[1] == security.Other)
			return c, nil
		}
		err = fmt.Errorf("%w; and with the other kind of certificates: %w", err, other)
	}
	return c, err
}

// maxByOther bounds what is remembered; more addresses than hosts are a sign of
// hosts that move.
const maxByOther = 4096

// right remembers which kind of certificates was the right one at address.
func (d *Dialer) right(address string, other bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byOther == nil || len(d.byOther) >= maxByOther {
		d.byOther = make(map[string]bool)
	}
	d.byOther[address] = other
}

// An untrustedError is a handshake that failed by what the other end has shown, or
// what it thinks of this one.
type untrustedError struct{ err error }

func (e *untrustedError) Error() string { return e.err.Error() }
func (e *untrustedError) Unwrap() error { return e.err }

// dialAs connects with one kind of certificates.
func (d *Dialer) dialAs(ctx context.Context, security *Security, address, protocol, node string) (*Conn, error) {
	config := security.Client
	if protocol == ProtocolRaft {
		config = security.RaftClient
	}
	if config == nil {
		return nil, fmt.Errorf("connecting to %s: this agent has no certificate for %s", address, protocol)
	}
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = DefaultDialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var nd net.Dialer
	raw, err := nd.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	tc := tls.Client(raw, withProtocol(config, protocol))
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		err = fmt.Errorf("connecting to %s: TLS handshake: %w", address, err)
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, &untrustedError{err}
	}
	peer, err := security.identify(ctx, tc)
	switch {
	case err != nil:
	case node != "" && peer.Node != node:
		err = fmt.Errorf("%w: %s instead of %s", ErrWrongNode, peer.Node, node)
	case protocol == ProtocolRaft && !peer.Voter:
		err = fmt.Errorf("%w: %s is a proxy", ErrWrongNode, peer.Node)
	}
	if err != nil {
		raw.Close()
		err = fmt.Errorf("connecting to %s: %w", address, err)
		var alert tls.AlertError
		if errors.As(err, &alert) { // what this end has shown was refused
			return nil, &untrustedError{err}
		}
		return nil, err
	}
	return &Conn{Conn: tc, peer: peer}, nil
}

// Gossip connects to whoever is at address for a stream of memberlist. Any agent
// with the cluster's secret answers.
func (d *Dialer) Gossip(ctx context.Context, address string) (net.Conn, error) {
	c, err := d.dial(ctx, address, ProtocolGossip, "")
	if err != nil {
		return nil, err // not a nil *Conn in a net.Conn
	}
	return c, nil
}

// Raft is raft's stream layer on the agents' port. Raft's addresses are node
// ids (HAZARDS.md 23): Dial resolves them, and makes sure that whoever answers
// is that very node.
type Raft struct {
	node    string
	l       net.Listener
	d       *Dialer
	resolve func(node string) (address string, ok bool)
	open    <-chan struct{} // closed when this node may take part; nil: it may
	ctx     context.Context // of dials; ends with StopDialing
	stop    context.CancelCauseFunc
}

var _ raft.StreamLayer = (*Raft)(nil)

// NewRaft returns the stream layer of node over l and d; resolve tells where a
// node is. There is one for a Listener.
func NewRaft(node string, l *Listener, d *Dialer, resolve func(node string) (address string, ok bool)) *Raft {
	r := &Raft{node: node, l: l.Protocol(ProtocolRaft), d: d, resolve: resolve}
	r.ctx, r.stop = context.WithCancelCause(context.Background())
	return r
}

// RaftAddress is a node's address for raft: its id. It serves where raft wants
// to be told the address of a node.
func RaftAddress(node string) (address string, ok bool) { return node, node != "" }

// StartAfter lets nothing through, in either direction, until open is closed. Call it
// before Raft has the stream layer.
func (r *Raft) StartAfter(open <-chan struct{}) { r.open = open }

// Dial implements raft.StreamLayer; address is a node id.
func (r *Raft) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node := string(address)
	where, ok := r.resolve(node)
	if !ok {
		return nil, fmt.Errorf("connecting to node %s: %w", node, ErrUnknownNode)
	}
	ctx := r.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if r.open != nil {
		select {
		case <-r.open:
		case <-ctx.Done():
			return nil, fmt.Errorf("connecting to node %s: this node takes no part in Raft yet: %w", node, context.Cause(ctx))
		}
	}
	c, err := r.d.dial(ctx, where, ProtocolRaft, node)
	if err != nil {
		return nil, err // not a nil *Conn in a net.Conn
	}
	return c, nil
}

// Accept implements net.Listener.
func (r *Raft) Accept() (net.Conn, error) {
	if r.open != nil {
		select {
		case <-r.open:
		case <-r.ctx.Done():
			return nil, net.ErrClosed
		}
	}
	return r.l.Accept()
}

// Close implements net.Listener. The port stays open for the other protocol.
func (r *Raft) Close() error {
	r.StopDialing()
	return r.l.Close()
}

// StopDialing ends dials under way, and refuses later ones. Raft closes its
// stream layer only when all its goroutines have ended, and one of them may be
// in a handshake with a node that is frozen.
func (r *Raft) StopDialing() { r.stop(net.ErrClosed) }

// Addr returns the own node id as an address: raft tells it to the others as
// the leader's.
func (r *Raft) Addr() net.Addr { return nodeAddr(r.node) }

type nodeAddr string

func (a nodeAddr) Network() string { return "kahu" }
func (a nodeAddr) String() string  { return string(a) }
