package doors

import "time"

// Limits bound what peers may use. The zero value of a field is its default.
type Limits struct {
	// Connections bounds open connections over all listeners, and
	// ConnectionsPerAddress those of one IP address (of one /64 in IPv6). Beyond
	// either a connection is closed at once.
	Connections           int
	ConnectionsPerAddress int
	// Requests bounds requests that are being served, streams of gRPC included,
	// over all connections. Beyond it a request is answered 503 or
	// RESOURCE_EXHAUSTED.
	Requests int
	// StreamsPerConnection bounds the requests that one HTTP/2 connection has open.
	// Clients are told, and wait or open another; one who does not care has its
	// streams refused and then its connection closed.
	StreamsPerConnection int
	// HeaderTimeout is how long a TLS handshake and the head of a request may take.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may stay without a request.
	IdleTimeout time.Duration
	// SilenceTimeout is how long an HTTP/2 connection may be silent before it is
	// asked for a sign of life, which then has half as long to come. A frame that
	// drips in byte by byte is silence. WriteTimeout is how long a connection may
	// take nothing of what is written to it.
	SilenceTimeout time.Duration
	WriteTimeout   time.Duration
}

// Defaults of Limits.
const (
	DefaultConnections           = 4096
	DefaultConnectionsPerAddress = 1024
	DefaultRequests              = 8192
	DefaultStreamsPerConnection  = 256
	DefaultHeaderTimeout         = 10 * time.Second
	DefaultIdleTimeout           = 5 * time.Minute
	DefaultSilenceTimeout        = 20 * time.Second
	DefaultWriteTimeout          = 30 * time.Second
)

// What cannot be set.
const (
	maxHeaderBytes = 64 << 10
	// receiveBytes may wait unread on a connection, and streamReceiveBytes on one of
	// its streams: several streams that are not read must not stop the others.
	receiveBytes       = 2 << 20
	streamReceiveBytes = 256 << 10
)

func (l Limits) withDefaults() Limits {
	or := func(n *int, d int) {
		if *n <= 0 {
			*n = d
		}
	}
	orTime := func(t *time.Duration, d time.Duration) {
		if *t <= 0 {
			*t = d
		}
	}
	or(&l.Connections, DefaultConnections)
	or(&l.ConnectionsPerAddress, DefaultConnectionsPerAddress)
	or(&l.Requests, DefaultRequests)
	or(&l.StreamsPerConnection, DefaultStreamsPerConnection)
	orTime(&l.HeaderTimeout, DefaultHeaderTimeout)
	orTime(&l.IdleTimeout, DefaultIdleTimeout)
	orTime(&l.SilenceTimeout, DefaultSilenceTimeout)
	orTime(&l.WriteTimeout, DefaultWriteTimeout)
	return l
}
