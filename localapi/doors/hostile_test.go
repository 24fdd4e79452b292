package doors_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kahu-sh/kahu/localapi/doors"
)

// limited is an open server with its limits changed.
func limited(t *testing.T, change func(*doors.Limits)) *server {
	return start(t, func(_ *server, c *doors.Config) {
		c.Insecure = true
		change(&c.Limits)
	})
}

// answers reports that others are served while something is done to the server.
func (s *server) answers(t *testing.T) {
	t.Helper()
	for _, c := range []client{{clear: true}, {h2: true}} {
		if code, body, err := s.rest(t, c, "/x"); code != 200 || body != "anonymous " || err != nil {
			t.Errorf("others are answered %d %q, %v", code, body, err)
		}
	}
}

func (s *server) connect(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ends waits until the server has closed the connection.
func ends(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection is still open", what)
	}
}

// peer speaks HTTP/2 by hand.
type peer struct {
	net.Conn
	*http2.Framer
	head bytes.Buffer
	hp   *hpack.Encoder
}

func (s *server) peer(t *testing.T, settings ...http2.Setting) *peer {
	t.Helper()
	p := &peer{Conn: s.connect(t)}
	p.hp = hpack.NewEncoder(&p.head)
	if _, err := io.WriteString(p.Conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	p.Framer = http2.NewFramer(p.Conn, p.Conn)
	if err := p.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return p
}

// fields encodes the head of a request. The next call overwrites it.
func (p *peer) fields(method, path string, more ...string) []byte {
	p.head.Reset()
	all := append([]string{":method", method, ":scheme", "http", ":authority", "kahu", ":path", path}, more...)
	for i := 0; i < len(all); i += 2 {
		_ = p.hp.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}) // into memory
	}
	return p.head.Bytes()
}

// Whoever says little, or nothing, is shown out in time: nothing at all, half a
// head, half a TLS handshake, half a frame of HTTP/2.
func TestSlowloris(t *testing.T) {
	s := limited(t, func(l *doors.Limits) {
		l.HeaderTimeout, l.SilenceTimeout = 100*time.Millisecond, 100*time.Millisecond
	})
	silent, half, handshake := s.connect(t), s.connect(t), s.connect(t)
	if _, err := io.WriteString(half, "POST /v1/kv/try-set HTTP/1.1\r\nHost: k\r\nX: "); err != nil {
		t.Fatal(err)
	}
	if _, err := handshake.Write([]byte{0x16, 3, 1, 2, 0, 1}); err != nil {
		t.Fatal(err)
	}
	drip := s.peer(t)
	if err := drip.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	// A frame of 100 bytes, of which one comes now and then. Its sender reads pings
	// and cannot answer them inside the frame.
	if _, err := drip.Write([]byte{0, 0, 100, byte(http2.FrameHeaders), byte(http2.FlagHeadersEndHeaders), 0, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 60 {
			select {
			case <-tick.C:
				if _, err := drip.Write([]byte{0}); err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	}()
	s.answers(t)
	ends(t, "silent", silent)
	ends(t, "half a head", half)
	ends(t, "half a handshake", handshake)
	ends(t, "half a frame", drip)
	s.answers(t)
	until(t, "their places are free", func() bool { return s.metric(t, "kahu_kahuna_connections", "") == 0 })
}

// 10,000 streams of somebody who does not look at the settings: the first 256 are
// served, and others do not notice.
func TestTenThousandStreams(t *testing.T) {
	s := limited(t, func(*doors.Limits) {})
	p := s.peer(t)
	var refused atomic.Int64
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			if rst, ok := f.(*http2.RSTStreamFrame); ok && rst.ErrCode == http2.ErrCodeRefusedStream {
				refused.Add(1)
			}
		}
	}()
	const streams = 10_000
	var opened int
	for ; opened < streams; opened++ {
		if p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*opened + 1), EndHeaders: true, EndStream: true, BlockFragment: p.fields("GET", "/block")}) != nil {
			break // it was thrown out
		}
	}
	until(t, "the first are served", func() bool {
		return s.metric(t, "kahu_kahuna_requests_in_flight", "") == doors.DefaultStreamsPerConnection
	})
	s.answers(t)
	if opened == streams {
		until(t, "the rest is refused", func() bool {
			select {
			case <-read: // with its connection
				return true
			default:
				return refused.Load() == streams-doors.DefaultStreamsPerConnection
			}
		})
	}
	if got := s.metric(t, "kahu_kahuna_requests_in_flight", ""); got > doors.DefaultStreamsPerConnection {
		t.Errorf("%v requests are served for one connection", got)
	}
	p.Close()
	<-read
	until(t, "its streams are over", func() bool { return s.metric(t, "kahu_kahuna_requests_in_flight", "") == 0 })
	s.answers(t)
}

// Past Requests somebody is told so, in REST and in gRPC, until there is room.
func TestTooManyRequests(t *testing.T) {
	s := limited(t, func(l *doors.Limits) { l.Requests = 2 })
	conn := s.dial(t, client{clear: true})
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.who(t, conn, client{}, "block")
			ended <- err
		}()
		<-s.came
	}
	if code, _, err := s.rest(t, client{clear: true}, "/x"); code != http.StatusServiceUnavailable || err != nil {
		t.Errorf("REST: %d, %v", code, err)
	}
	if _, err := s.who(t, conn, client{}, ""); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("gRPC: %v", err)
	}
	s.release()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	until(t, "there is room", func() bool { return s.metric(t, "kahu_kahuna_requests_in_flight", "") == 0 })
	s.answers(t)
	if got := s.metric(t, "kahu_kahuna_refused_total", "too_many_requests"); got != 2 {
		t.Errorf("%v requests are counted as refused, want 2", got)
	}
}

func TestTooManyConnections(t *testing.T) {
	for name, change := range map[string]func(*doors.Limits){
		"of one address": func(l *doors.Limits) { l.ConnectionsPerAddress = 3 },
		"of all":         func(l *doors.Limits) { l.Connections = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			s := limited(t, func(l *doors.Limits) {
				l.HeaderTimeout = time.Hour // nobody is closed for being silent
				change(l)
			})
			var held []net.Conn
			for range 3 {
				held = append(held, s.connect(t))
			}
			until(t, "three are taken", func() bool { return s.metric(t, "kahu_kahuna_connections", "") == 3 })
			ends(t, "the fourth", s.connect(t))
			for _, conn := range held {
				conn.Close()
			}
			until(t, "their places are free", func() bool { return s.metric(t, "kahu_kahuna_connections", "") == 0 })
			s.answers(t)
		})
	}
}

// Who sends 1 GiB in one message is refused at its first bytes; who sends as much
// to a stream that is not read is stopped at its window, and its other streams go on.
func TestOneGibibyte(t *testing.T) {
	s := limited(t, func(*doors.Limits) {})
	p := s.peer(t)
	grpc := []string{"content-type", "application/grpc", "te", "trailers"}
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: p.fields("POST", "/Who/Am", grpc...)}); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteData(1, false, []byte{0, 0x40, 0, 0, 0, 'x'}); err != nil { // 1 GiB is announced
		t.Fatal(err)
	}
	if got := p.grpcStatus(t, 1); got != "8" {
		t.Errorf("a message of 1 GiB ended with status %q, want 8, RESOURCE_EXHAUSTED", got)
	}

	conn := s.dial(t, client{clear: true})
	st := s.open(t.Context(), t, conn)
	if err := st.SendMsg(wrapperspb.String("block")); err != nil {
		t.Fatal(err)
	}
	<-s.came // from now on nobody reads the stream
	var taken atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 1 << 15 { // of 32 KiB: 1 GiB
			if st.SendMsg(wrapperspb.String(strings.Repeat("x", 32<<10))) != nil {
				return
			}
			taken.Add(32 << 10)
		}
	}()
	until(t, "the window is full", func() bool { return taken.Load() >= 256<<10 })
	for range 100 {
		if _, err := s.who(t, conn, client{}, ""); err != nil {
			t.Fatalf("another call on the connection: %v", err)
		}
	}
	s.answers(t)
	if got := taken.Load(); got > 1<<20 { // the window, and what the client's side keeps
		t.Errorf("%d bytes were taken from a stream that nobody reads", got)
	}
	conn.Close()
	<-ended
}

// grpcStatus reads until the stream has ended and returns how.
func (p *peer) grpcStatus(t *testing.T, stream uint32) (status string) {
	t.Helper()
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == "grpc-status" {
			status = f.Value
		}
	})
	if err := p.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for status == "" {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.HeadersFrame); ok && h.StreamID == stream {
			if _, err := dec.Write(h.HeaderBlockFragment()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return status
}

// Who opens its windows wide and then reads nothing loses the connection.
func TestPeerThatReadsNothing(t *testing.T) {
	s := start(t, func(_ *server, c *doors.Config) {
		c.Insecure, c.Limits.WriteTimeout = true, 100*time.Millisecond
		inner := c.Handler
		c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/endless" {
				inner.ServeHTTP(w, r)
				return
			}
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		})
	})
	p := s.peer(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
	if err := p.WriteWindowUpdate(0, math.MaxInt32-65535); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: p.fields("GET", "/endless")}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is served", func() bool { return s.metric(t, "kahu_kahuna_requests_in_flight", "") == 1 })
	s.answers(t)
	until(t, "it is thrown out", func() bool {
		return s.metric(t, "kahu_kahuna_requests_in_flight", "") == 0 && s.metric(t, "kahu_kahuna_connections", "") == 0
	})
}

// A flood of requests without credentials costs their sender's connection nothing
// but answers, and nobody else anything.
func TestGarbageIsAnswered(t *testing.T) {
	s := limited(t, func(l *doors.Limits) { l.HeaderTimeout = time.Second })
	for _, garbage := range []string{"\x00\x01\x02", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "\x16\x03\x01\x00\x05hello",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n"} {
		conn := s.connect(t)
		_, _ = io.WriteString(conn, garbage) // it may be thrown out meanwhile
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		ends(t, garbage[:3], conn)
	}
	tlsConn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(tlsConn, "not HTTP/2 at all, although h2 was agreed on")
	ends(t, "no preface", tlsConn)
	s.answers(t)
}
