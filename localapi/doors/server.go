package doors

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/token"
)

// Config is what a Server needs. Fields without "optional" are required.
type Config struct {
	// Handler serves requests whose caller is known: caller.From(r.Context()).
	Handler http.Handler
	// Certificate is what listeners show under TLS.
	Certificate *Certificate
	// Public reports whether a request is answered to anybody, without a caller: a
	// probe has no credentials. Optional.
	Public func(*http.Request) bool
	// Insecure takes everybody as anonymous, in clear text and under TLS. Without
	// it one of ClientCA and Tokens is required, and with it neither is used.
	Insecure bool
	ClientCA *ClientCA    // verifies client certificates; optional
	Tokens   *token.Store // optional
	Limits   Limits       // optional
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// Server serves on any number of TCP listeners. Its methods may be called
// concurrently.
type Server struct {
	cfg     Config
	http    *http.Server
	metrics *metrics
	conns   *census

	requests atomic.Int64   // being served
	serving  sync.WaitGroup // the same, for Close; see begin

	// mu guards what follows.
	mu        sync.Mutex
	closed    bool // by Close
	ended     bool // no request begins any more
	splitters []*splitter
}

// New returns a Server that listens nowhere yet, and registers its metrics.
func New(cfg Config) (*Server, error) {
	if cfg.Handler == nil || cfg.Certificate == nil || cfg.Registry == nil || cfg.Logger == nil {
		return nil, errors.New("doors: a required field of Config is missing")
	}
	if cfg.Insecure == (cfg.ClientCA != nil || cfg.Tokens != nil) {
		return nil, errors.New("doors: say either who is trusted, by a client CA or tokens, or that everybody is")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	s := &Server{cfg: cfg, conns: newCensus(cfg.Limits)}
	var err error
	if s.metrics, err = newMetrics(cfg.Registry, s, cfg.Certificate); err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // for connections that Serve takes in clear text
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serveRequest), Protocols: &protocols, TLSConfig: s.tlsConfig(),
		ConnContext:       s.connContext,
		ReadHeaderTimeout: cfg.Limits.HeaderTimeout, IdleTimeout: cfg.Limits.IdleTimeout, MaxHeaderBytes: maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          cfg.Limits.StreamsPerConnection,
			MaxReceiveBufferPerConnection: receiveBytes, MaxReceiveBufferPerStream: streamReceiveBytes,
			SendPingTimeout: cfg.Limits.SilenceTimeout, PingTimeout: cfg.Limits.SilenceTimeout / 2,
			WriteByteTimeout: cfg.Limits.WriteTimeout,
			CountError:       func(kind string) { s.metrics.http2Errors.WithLabelValues(kind).Inc() },
		},
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func (s *Server) tlsConfig() *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cfg.Certificate.get,
		NextProtos: []string{"h2", "http/1.1"}}
	if s.cfg.ClientCA == nil {
		return base
	}
	// Who has none may have a token, or learn in words what is missing.
	base.ClientAuth = tls.VerifyClientCertIfGiven
	// A resumed session would not meet a client CA that was changed meanwhile.
	base.SessionTicketsDisabled = true
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		fresh := base.Clone()
		fresh.ClientCAs = s.cfg.ClientCA.pool()
		return fresh, nil
	}
	return outer
}

// connContext makes the caller of an insecure connection known to its requests.
func (s *Server) connContext(ctx context.Context, c net.Conn) context.Context {
	if s.cfg.Insecure {
		return caller.With(ctx, caller.OfNobody(c.RemoteAddr().String()))
	}
	return ctx
}

// Scheme is what one listener speaks.
type Scheme string

// The schemes.
const (
	// Any is TLS, and clear text beside it where everybody is trusted.
	Any Scheme = ""
	// HTTPS is TLS only.
	HTTPS Scheme = "https"
	// HTTP is clear text only, for a proxy in front that ends TLS. It needs Tokens,
	// unless everybody is trusted: nobody can show a certificate there.
	HTTP Scheme = "http"
)

// Serve serves on ln until Close, and then returns nil, or until ln fails. The
// Server closes ln.
func (s *Server) Serve(ln net.Listener, speaks Scheme) error {
	counted := &countedListener{Listener: ln, server: s}
	var err error
	switch {
	case speaks == HTTP && !s.cfg.Insecure && s.cfg.Tokens == nil:
		_ = ln.Close() // nothing was promised to who comes now
		return fmt.Errorf("serve %s: in clear text callers are known by tokens, and there are none", ln.Addr())
	case speaks == HTTP:
		err = s.http.Serve(counted)
	case speaks == Any && s.cfg.Insecure:
		err = s.serveBoth(counted)
	default:
		err = s.http.ServeTLS(counted, "", "")
	}
	if s.isClosed() || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// serveBoth tells TLS from clear text by its first byte.
func (s *Server) serveBoth(ln net.Listener) error {
	split := newSplitter(ln, s.cfg.Limits.HeaderTimeout)
	s.mu.Lock()
	s.splitters = append(s.splitters, split)
	closed := s.closed
	s.mu.Unlock()
	if closed {
		split.close()
	}
	var group errgroup.Group
	group.Go(split.run)
	group.Go(func() error { return s.http.Serve(split.clear) })
	group.Go(func() error { return s.http.ServeTLS(split.tls, "", "") })
	return group.Wait()
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Close stops listening, tells connections that they end (GOAWAY), and waits for
// requests under way until ctx ends; then it cuts them off, which the error says.
// Streams last until their handlers return: let them end meanwhile.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, split := range s.splitters {
		split.close()
	}
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close() // Shutdown's error says enough
		err = fmt.Errorf("requests of the Kahuna wire were cut off: %w", err)
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.serving.Wait() // with their connections gone, they end
	return err
}

// begin counts a request, unless the server has ended. The caller then ends it
// with serving.Done.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.serving.Add(1)
	return true
}
