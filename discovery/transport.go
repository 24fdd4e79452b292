package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxPacketBytes is the largest UDP payload that there can be.
	maxPacketBytes = 65507
	// packetBacklog is how many packets wait for memberlist. Gossip may lose any;
	// what comes beyond is dropped.
	packetBacklog = 256
)

// transport is memberlist's network: packets over one socket, streams over
// connections that others make safe. Shutdown, which memberlist calls, ends it.
type transport struct {
	ip      net.IP // told to the others
	port    int
	packets net.PacketConn
	streams net.Listener
	dial    func(ctx context.Context, address string) (net.Conn, error)
	log     *slog.Logger

	packetCh chan *memberlist.Packet
	streamCh chan net.Conn
	ctx      context.Context // ends with Shutdown
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// newTransport takes over packets and streams; start begins to read both.
func newTransport(ip net.IP, port int, cfg Config) *transport {
	t := &transport{ip: ip, port: port, packets: cfg.Packets, streams: cfg.Streams, dial: cfg.Dial, log: cfg.Logger,
		packetCh: make(chan *memberlist.Packet, packetBacklog), streamCh: make(chan net.Conn)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

func (t *transport) start() {
	// Both end when Shutdown closes what they read.
	t.running.Go(t.readPackets)
	t.running.Go(t.acceptStreams)
}

func (t *transport) readPackets() {
	buf := make([]byte, maxPacketBytes)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		switch {
		case t.ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// An answer of the network to something sent before: nothing is lost by it.
			t.log.Debug("reading a packet of gossip", "error", err)
			if !t.pause() {
				return
			}
			continue
		case n == 0:
			continue
		}
		packet := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packetCh <- packet:
		default: // memberlist is behind
		}
	}
}

func (t *transport) acceptStreams() {
	for {
		conn, err := t.streams.Accept()
		switch {
		case t.ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = conn.Close() // nobody has used it
			}
			return
		case err != nil:
			t.log.Debug("accepting a stream of gossip", "error", err)
			if !t.pause() {
				return
			}
			continue
		}
		select {
		case t.streamCh <- t.endsWith(conn):
		case <-t.ctx.Done():
			_ = conn.Close() // nobody has used it
			return
		}
	}
}

// pause keeps an error that stays from spinning. It reports whether to go on.
func (t *transport) pause() bool {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) { return t.ip, t.port, nil }

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, address string) (time.Time, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return time.Time{}, fmt.Errorf("sending gossip: %w", err)
	}
	_, err = t.packets.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return t.endsWith(conn), nil
}

// stream is a connection that ends with the transport: memberlist would wait for
// somebody who does not answer for as long as its own timeout takes.
type stream struct {
	net.Conn
	forget func() bool
}

func (t *transport) endsWith(conn net.Conn) net.Conn {
	return &stream{conn, context.AfterFunc(t.ctx, func() { _ = conn.Close() })} // nobody uses it any more
}

// Close implements net.Conn.
func (s *stream) Close() error {
	s.forget()
	return s.Conn.Close()
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streamCh }

// Shutdown implements memberlist.Transport: it closes both, and waits.
func (t *transport) Shutdown() error {
	t.cancel()
	err := errors.Join(t.packets.Close(), t.streams.Close())
	t.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
