package kahuna

import (
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
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
	// Now is the wall clock, which only labels the ends of leases. Optional: time.Now.
	Now func() time.Time
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
	cfg Config
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
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg}, nil
}

// Register adds all five services to a gRPC server made with ServerOptions.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	pb.RegisterLockerServer(r, s)
	pb.RegisterKeyValuerServer(r, s)
	pb.RegisterSequencerServer(r, s)
	pb.RegisterClusterServer(r, s)
	pb.RegisterBackupsServer(r, s)
}
