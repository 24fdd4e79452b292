package kahuna

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/scriptrun"
)

// Config is what a Service needs. All fields without "optional" are required.
type Config struct {
	// Coordinator decides: the local voter, or a proxy's forwarder.
	Coordinator replication.Coordinator
	// Policy says what a caller (caller.From of the request's context) may do.
	Policy *policy.Policy
	// Cluster knows who the members are and who leads.
	Cluster Cluster
	// Backups takes backups. Optional: without it every rpc of the service answers
	// NotConfigured, as Kahuna does without a backup directory.
	Backups Backups
	Logger  *slog.Logger
	// Host and Node are shown to whoever asks who holds a lock. Optional.
	Host, Node string
	// LeaderWait bounds how long a request waits for a leader, when its caller's own
	// deadline is not shorter, before it is answered MustRetry. Optional: 10 s.
	LeaderWait time.Duration
	// MaxValueBytes bounds one value. Optional: replication.MaxValueBytes.
	MaxValueBytes int64
	// MaxMessageBytes bounds one message from a client. Optional: MaxValueBytes and
	// 3 MiB more, and at least 4 MiB, as Kahuna has it.
	MaxMessageBytes int
	// AnswerBytes bounds large answers that wait for slow clients. Optional:
	// DefaultAnswerBytes.
	AnswerBytes int64
	// MaxStreams bounds batch streams. Optional: DefaultMaxStreams.
	MaxStreams int
	// MaxInFlight bounds the requests of one batch stream that are served, or whose
	// answers are not written. Optional: DefaultMaxInFlight.
	MaxInFlight int
	// WriteTimeout is how long a client may leave answers of a batch stream unread
	// before the stream ends. Optional: DefaultWriteTimeout.
	WriteTimeout time.Duration
	// Observer hears of the requests of batch streams. Optional.
	Observer Observer
}

// Service is Kahuna's wire, translated to replication.Coordinator: one method
// for each rpc, called by gRPC and by the REST handlers alike. All methods may be
// called concurrently.
//
// A method judges the caller of its context by the policy, asks the Coordinator
// and blocks until it has answered, ctx ends or LeaderWait is over. An outcome
// that Kahuna has a code for is a response with that code, and no error. Errors
// are those of package status: PermissionDenied when the policy forbids it,
// ResourceExhausted for what is beyond a limit, Canceled and DeadlineExceeded
// when ctx has ended.
type Service struct {
	cfg     Config
	hint    atomic.Pointer[pb.GrpcRouteHint] // the last one made: see route
	scripts *scriptrun.Runner
	pool    *pool
	answers budget
	reads   chan struct{} // a slot for each read of a batch stream

	stopping context.Context // ends when Close is called
	stop     context.CancelFunc
	mu       sync.Mutex // guards streams, and adding to running against Close
	streams  int
	running  sync.WaitGroup // batch streams and their readers
}

var (
	_ pb.LockerServer    = (*Service)(nil)
	_ pb.KeyValuerServer = (*Service)(nil)
	_ pb.SequencerServer = (*Service)(nil)
	_ pb.ClusterServer   = (*Service)(nil)
	_ pb.BackupsServer   = (*Service)(nil)
)

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if cfg.Coordinator == nil || cfg.Policy == nil || cfg.Cluster == nil || cfg.Logger == nil {
		return nil, errors.New("kahuna: a required field of Config is missing")
	}
	if cfg.LeaderWait <= 0 {
		cfg.LeaderWait = DefaultLeaderWait
	}
	if cfg.MaxValueBytes <= 0 {
		cfg.MaxValueBytes = replication.MaxValueBytes
	}
	if cfg.MaxMessageBytes <= 0 {
		cfg.MaxMessageBytes = max(DefaultMaxMessageBytes, int(cfg.MaxValueBytes)+messageRoomBytes)
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = DefaultMaxStreams
	}
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = DefaultMaxInFlight
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = DefaultWriteTimeout
	}
	if cfg.AnswerBytes <= 0 {
		cfg.AnswerBytes = DefaultAnswerBytes
	}
	s := &Service{cfg: cfg, scripts: scriptrun.New(patient{cfg.Coordinator, cfg.LeaderWait}, scriptrun.Options{BucketsExclude: true}), answers: budget{limit: cfg.AnswerBytes}, reads: make(chan struct{}, MaxReads)}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.pool = newPool(s.stopping.Done())
	return s, nil
}

// Close takes no more requests from batch streams, lets those end whose requests
// are answered, and waits for all goroutines of the Service. Streams that are
// still open when ctx ends are left to their server, whose end breaks them; the
// error says so.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends with the last stream
		s.running.Wait()
		s.pool.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for batch streams to end: %w", context.Cause(ctx))
	}
}

// beginStream counts a batch stream and its reader; endStream and endReader
// uncount them. The error is a status.
func (s *Service) beginStream() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Err() != nil {
		return errAgentStops
	}
	if s.streams >= s.cfg.MaxStreams {
		return status.Errorf(codes.ResourceExhausted, "this agent serves %d streams, and no more at a time", s.cfg.MaxStreams)
	}
	s.streams++
	s.running.Add(2)
	return nil
}

func (s *Service) endStream() {
	s.mu.Lock()
	s.streams--
	s.mu.Unlock()
	s.running.Done()
}

func (s *Service) endReader() { s.running.Done() }

// Register adds all five services to a gRPC server, which bounds messages at
// MaxMessageBytes and lets clients ping as they like: those of .NET do every 30 s.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	pb.RegisterLockerServer(r, s)
	pb.RegisterKeyValuerServer(r, s)
	pb.RegisterSequencerServer(r, s)
	pb.RegisterClusterServer(r, s)
	pb.RegisterBackupsServer(r, s)
}
