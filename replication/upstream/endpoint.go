package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

const (
	// keepaliveTime is how long a connection may be silent, and keepaliveTimeout
	// how long it may not answer a ping, before it is given up: what waits on it is
	// told then. grpc-go pings no more often.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 2 * time.Second
	// maxAnswerBytes bounds one answer, as Kahuna's clients do (keyvalue.md 8).
	maxAnswerBytes = 64 << 20
)

// ParseEndpoint reads the URL of one server: https://HOST:PORT, or http://HOST:PORT
// for clear text. The result is as it is written to users. The error is one line.
func ParseEndpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Port() == "0" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("%q is not scheme, host and port; write for example https://kahuna-1:8082", text)
	}
	return u.Scheme + "://" + u.Host, nil
}

// endpoint is one server of the cluster.
type endpoint struct {
	url       string
	conn      *grpc.ClientConn
	locks     pb.LockerClient
	keys      pb.KeyValuerClient
	sequences pb.SequencerClient
	cluster   pb.ClusterClient

	// Guarded by pool.mu.
	failedAt   time.Time // zero: the last word from it was an answer
	failure    string
	answeredAt time.Time     // zero: never
	took       time.Duration // of the last probe
}

// dial makes an endpoint. Nothing is connected before the first call.
func dial(text string, c *Config) (*endpoint, error) {
	text, err := ParseEndpoint(text)
	if err != nil {
		return nil, err
	}
	scheme, host, _ := strings.Cut(text, "://")
	creds := insecure.NewCredentials()
	if scheme == "https" {
		settings := &tls.Config{}
		if c.TLS != nil {
			settings = c.TLS.Clone()
		}
		settings.ServerName, _, _ = net.SplitHostPort(host)
		creds = credentials.NewTLS(settings)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithStatsHandler(sentTracker{}),
		// An attempt that may have been applied is sent again here or not at all, but
		// by nobody below (HAZARDS.md 22).
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout,
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes), grpc.MaxCallSendMsgSize(replication.MaxRequestBytes)),
		grpc.WithUserAgent("kahu"),
	}
	if c.Token != nil && scheme == "https" { // a token in clear text is anybody's
		options = append(options, grpc.WithPerRPCCredentials(bearer{c.Token}))
	}
	if c.Dial != nil {
		options = append(options, grpc.WithContextDialer(c.Dial))
	}
	conn, err := grpc.NewClient("dns:///"+host, options...)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to %s: %w", text, err)
	}
	return &endpoint{url: text, conn: conn, locks: pb.NewLockerClient(conn), keys: pb.NewKeyValuerClient(conn),
		sequences: pb.NewSequencerClient(conn), cluster: pb.NewClusterClient(conn)}, nil
}

// bearer adds the token to every call.
type bearer struct {
	token func() (string, error)
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: the token
// never travels in clear text, whatever was configured.
func (b bearer) RequireTransportSecurity() bool { return true }

// sentTracker notes whether a call reached the wire: one that did not was certainly
// not applied.
type sentTracker struct{}

type sentKey struct{}

// withSent returns a context whose calls set the flag.
func withSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent
}

// TagRPC implements stats.Handler.
func (sentTracker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (sentTracker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, is := s.(*stats.OutHeader); !is {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

// TagConn implements stats.Handler.
func (sentTracker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (sentTracker) HandleConn(context.Context, stats.ConnStats) {}
