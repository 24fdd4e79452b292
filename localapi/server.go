package localapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Config is what a Server needs. All fields without "optional" are required.
type Config struct {
	Coordinator replication.Coordinator
	Holder      Holder
	Policy      *policy.Policy
	// Status is called for each request of the status and readiness routes and
	// must answer from memory.
	Status func() wire.Status
	// Cluster is who takes part. Optional: its routes are refused without, with
	// NoCluster as the reason.
	Cluster   Cluster
	NoCluster string
	// Registry gets the server's metrics, and is what /metrics shows.
	Registry *prometheus.Registry
	Logger   *slog.Logger
	// Boottime reads CLOCK_BOOTTIME and BootID is the kernel's, for the handshake
	// of holds (integrations/boottime has both).
	Boottime func() time.Duration
	BootID   string
	// Backup writes a backup of the whole cluster, for who may administer it. It
	// blocks while out does. Optional: without it there are none.
	Backup func(ctx context.Context, out io.Writer) error
	// Host and Node are shown to whoever asks who holds a lock: the name of this
	// host and the id of this agent. Optional.
	Host, Node string
	// RequestTimeout bounds a request whose caller gave no deadline. Optional: 10 s.
	RequestTimeout time.Duration
	// MaxValueBytes bounds one value. Optional: replication.MaxValueBytes.
	MaxValueBytes int64
	// Kahuna serves the Kahuna wire, gRPC and REST, on the Unix socket; it finds its
	// caller with caller.From. Its streams must end by themselves when the server
	// closes. Optional: without it there is none.
	Kahuna http.Handler
}

// Server serves kahu's own API on any number of listeners. All methods may be
// called concurrently.
type Server struct {
	cfg     Config
	metrics *metrics
	routes  []route
	unix    *http.Server
	tcp     *http.Server

	inFlight chan struct{} // a slot for each HTTP request being served
	ids      idSource
	closing  atomic.Bool

	// stopping ends when Close is called: holds are disconnected.
	stopping context.Context
	stop     context.CancelFunc

	// mu guards the table of connections and streams.
	mu      sync.Mutex
	perUID  map[uint32]int
	conns   int
	streams map[*upgraded]struct{}
	serving sync.WaitGroup // holds over HTTP, upgraded streams, and the Kahuna wire: see begin
}

// New returns a Server that listens nowhere yet, and registers its metrics.
func New(cfg Config) (*Server, error) {
	if cfg.Coordinator == nil || cfg.Holder == nil || cfg.Policy == nil || cfg.Status == nil ||
		cfg.Registry == nil || cfg.Logger == nil || cfg.Boottime == nil || cfg.BootID == "" {
		return nil, errors.New("localapi: a required field of Config is missing")
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = DefaultRequestTimeout
	}
	if cfg.MaxValueBytes <= 0 {
		cfg.MaxValueBytes = replication.MaxValueBytes
	}
	if cfg.MaxValueBytes > replication.MaxRequestBytes-maxEnvelopeBytes {
		return nil, fmt.Errorf("localapi: values of %d bytes do not fit a request", cfg.MaxValueBytes)
	}
	m, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, metrics: m, routes: routeTable(), inFlight: make(chan struct{}, MaxHTTPInFlight),
		ids: newIDSource(), perUID: make(map[uint32]int), streams: make(map[*upgraded]struct{})}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.unix = s.newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Kahuna != nil && isKahuna(r) {
			s.serveKahuna(w, r)
			return
		}
		s.dispatch(w, r, false)
	}))
	s.tcp = s.newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.dispatch(w, r, true) }))
	return s, nil
}

// maxEnvelopeBytes is what a request needs beside one value.
const maxEnvelopeBytes = 128 << 10

func (s *Server) newHTTPServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: &protocols, ConnContext: caller.ConnContext,
		ReadHeaderTimeout: ReadHeaderTimeout, IdleTimeout: IdleTimeout, MaxHeaderBytes: MaxHeaderBytes,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: receiveBytes, MaxReceiveBufferPerStream: streamReceiveBytes,
			WriteByteTimeout: WriteTimeout},
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// Serve serves the whole API on a listener whose connections carry a caller
// (caller.Listen, caller.Wrap); one that does not is allowed what everybody is.
// It blocks until Close, and then returns nil, or until the listener fails. The
// Server closes ln.
func (s *Server) Serve(ln net.Listener) error {
	return s.serve(s.unix, &boundedListener{Listener: ln, server: s})
}

// ServeTCP serves health and metrics only, to whoever connects. As Serve.
func (s *Server) ServeTCP(ln net.Listener) error {
	return s.serve(s.tcp, &boundedListener{Listener: ln, server: s})
}

func (s *Server) serve(h *http.Server, ln net.Listener) error {
	err := h.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// Close stops listening, ends holds' connections (Hold.Disconnect) at once, lets
// other requests in flight end until ctx does, and waits for every goroutine.
// The error says that requests were cut off.
func (s *Server) Close(ctx context.Context) error {
	s.closing.Store(true)
	s.stop()
	var wg sync.WaitGroup
	var cut [2]error
	for i, h := range []*http.Server{s.unix, s.tcp} {
		wg.Go(func() {
			if cut[i] = h.Shutdown(ctx); cut[i] != nil {
				_ = h.Close() // Shutdown's error says enough
			}
		})
	}
	s.mu.Lock()
	for u := range s.streams {
		wg.Go(func() { u.drain(ctx) })
	}
	s.mu.Unlock()
	wg.Wait()
	s.serving.Wait()
	// http.Server.Close does not wait for handlers; each has a slot.
	for range cap(s.inFlight) {
		s.inFlight <- struct{}{}
	}
	for range cap(s.inFlight) {
		<-s.inFlight
	}
	return errors.Join(cut[:]...)
}

// begin counts one long request, unless the server closes. The caller then ends
// it with serving.Done.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.serving.Add(1)
	return true
}
