package localapi

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Server needs. All fields without "optional" are required.
type Config struct {
	Coordinator replication.Coordinator
	Holder      Holder
	Policy      *policy.Policy
	// Status is called for each request of the status and readiness routes and
	// must answer from memory.
	Status func() wire.Status
	// Registry gets the server's metrics, and is what /metrics shows.
	Registry *prometheus.Registry
	Logger   *slog.Logger
	// Boottime reads CLOCK_BOOTTIME and BootID is the kernel's, for the handshake
	// of holds (integrations/boottime has both).
	Boottime func() time.Duration
	BootID   string
	// RequestTimeout bounds a request whose caller gave no deadline. 0: 10 s.
	RequestTimeout time.Duration
	// MaxValueBytes bounds one value. 0: replication.MaxValueBytes.
	MaxValueBytes int64
}

// Server serves kahu's own API.
type Server struct{}

// New returns a Server that listens nowhere yet, and registers its metrics.
func New(cfg Config) (*Server, error) { return &Server{}, nil }

// Serve serves the whole API on a listener whose connections carry a caller
// (caller.Listen, caller.Wrap). It blocks until Close, and then returns nil, or
// until the listener fails. The Server closes ln.
func (s *Server) Serve(ln net.Listener) error { return nil }

// ServeTCP serves health and metrics only, to whoever connects. As Serve.
func (s *Server) ServeTCP(ln net.Listener) error { return nil }

// Close stops listening, lets requests in flight end until ctx does, ends holds'
// connections (Hold.Disconnect) at once, and waits for every goroutine.
func (s *Server) Close(ctx context.Context) error { return nil }
