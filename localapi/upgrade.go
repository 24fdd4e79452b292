package localapi

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// upgraded is one connection that speaks the multiplexed stream.
type upgraded struct {
	server *Server
	conn   *caller.Conn
	who    *caller.Caller
	stream *stream.Conn

	calls atomic.Int64  // being served, holds apart
	idle  chan struct{} // gets a token when calls falls to zero while the server closes
}

// upgrade turns the connection into a stream and returns when that has ended.
func (s *Server) upgrade(x *exchange) error {
	conn := caller.ConnFrom(x.r.Context())
	if conn == nil {
		return wire.Refuse(wire.Denied, "the stream is for the Unix socket")
	}
	if !s.cfg.Policy.AllowsSomewhere(x.who, policy.Read) && !s.cfg.Policy.AllowsSomewhere(x.who, policy.Lock) &&
		!s.cfg.Policy.AllowsSomewhere(x.who, policy.Write) && !s.cfg.Policy.AllowsSomewhere(x.who, policy.Sequence) {
		return wire.Refuse(wire.Denied, "the policy of this agent lets you do nothing here")
	}
	if x.r.ProtoMajor != 1 || !strings.EqualFold(x.r.Header.Get("Upgrade"), wire.UpgradeProtocol) || !hasToken(x.r.Header.Get("Connection"), "upgrade") {
		x.w.Header().Set("Upgrade", wire.UpgradeProtocol)
		x.w.Header().Set("Connection", "Upgrade")
		return wire.Refuse(wire.UpgradeRequired, "send HTTP/1.1 with Connection: Upgrade and Upgrade: "+wire.UpgradeProtocol)
	}
	if !s.begin() {
		return replication.ErrStopped
	}
	defer s.serving.Done()
	raw, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	s.serveStream(raw, buffered, conn, x)
	return nil
}

func hasToken(header, token string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if strings.EqualFold(strings.TrimSpace(part), token) {
			return true
		}
	}
	return false
}

// serveStream owns raw from here on.
func (s *Server) serveStream(raw net.Conn, buffered *bufio.ReadWriter, conn *caller.Conn, x *exchange) {
	_ = raw.SetDeadline(time.Now().Add(ReadHeaderTimeout))
	_, err := fmt.Fprintf(raw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\n%s: %s\r\n\r\n",
		wire.UpgradeProtocol, requestIDHeader, x.id)
	if err != nil {
		_ = raw.Close() // the caller is gone
		return
	}
	_ = raw.SetDeadline(time.Time{})
	conn.NoMoreFiles()
	u := &upgraded{server: s, conn: conn, who: x.who, idle: make(chan struct{}, 1)}
	if n := buffered.Reader.Buffered(); n > 0 { // sent before our answer
		head, _ := buffered.Reader.Peek(n)
		raw = &prefixedConn{Conn: raw, prefix: append([]byte(nil), head...)}
	}
	ready := make(chan struct{})
	u.stream = stream.New(raw, stream.Options{Peer: raw.RemoteAddr(), MaxInFlight: MaxStreamInFlight, MaxInFlightBytes: MaxStreamInFlightBytes,
		WriteTimeout: WriteTimeout, KeepAlive: -1, // the kernel tells when a local peer dies
		Timeout: u.timeout, Full: s.metrics.streamsFull.Inc, Logger: s.cfg.Logger, Handler: func(ctx context.Context, in *stream.Incoming) {
			<-ready
			u.handle(ctx, in)
		}})
	close(ready)
	s.mu.Lock()
	s.streams[u] = struct{}{}
	closing := s.closing.Load()
	s.mu.Unlock()
	if closing {
		_ = u.stream.Close() // always nil
	}
	<-u.stream.Done()
	_ = u.stream.Close() // waits for its goroutines; always nil
	s.mu.Lock()
	delete(s.streams, u)
	s.mu.Unlock()
}

// timeout bounds the calls that go to the quorum; the others answer from memory.
func (u *upgraded) timeout(method uint8, payload []byte) time.Duration {
	switch method {
	case wire.MethodDo:
		return u.server.limit(wire.DoTimeout(payload))
	case wire.MethodLimit, wire.MethodLease:
		return u.server.limit(0)
	}
	return 0
}

// drain closes the stream when no call is being served, or ctx ends. New calls
// are refused meanwhile.
func (u *upgraded) drain(ctx context.Context) {
	for u.calls.Load() > 0 && ctx.Err() == nil {
		select {
		case <-u.idle:
		case <-u.stream.Done():
			return
		case <-ctx.Done():
		}
	}
	_ = u.stream.Close() // always nil
}

// prefixedConn gives back what was read too early.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

// Read implements net.Conn.
func (c *prefixedConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
