package localapi

import "time"

// Limits of the server. Those of names and values are in package wire.
const (
	// MaxConns bounds the connections of one server, MaxConnsPerUID those of one
	// user other than root. Past it a connection is answered with 503 and closed.
	MaxConns       = 8192
	MaxConnsPerUID = 4096
	// MaxHTTPInFlight bounds HTTP requests that are being served, holds and
	// upgraded streams apart. Past it a request is answered with 503.
	MaxHTTPInFlight = 2048
	// MaxStreamInFlight and MaxStreamInFlightBytes bound one upgraded stream; the
	// client waits at them.
	MaxStreamInFlight      = 4096
	MaxStreamInFlightBytes = 64 << 20
	// MaxHeaderBytes bounds the head of an HTTP request: a stored lock name of
	// 64 KiB, percent-encoded, has to fit.
	MaxHeaderBytes = 256 << 10

	// receiveBytes may wait unread on an HTTP/2 connection, and streamReceiveBytes on
	// one of its streams: several streams that are not read must not stop the others.
	receiveBytes       = 2 << 20
	streamReceiveBytes = 256 << 10

	// ReadHeaderTimeout is how long the head of a request may take, BodyTimeout
	// its body, WriteTimeout writing an answer or one event, and IdleTimeout how
	// long a connection may be kept without a request.
	ReadHeaderTimeout = 10 * time.Second
	BodyTimeout       = 30 * time.Second
	WriteTimeout      = 30 * time.Second
	IdleTimeout       = 5 * time.Minute

	// DefaultRequestTimeout is used where Config and the caller name none;
	// MaxRequestTimeout cuts what a caller names.
	DefaultRequestTimeout = 10 * time.Second
	MaxRequestTimeout     = 10 * time.Minute
	// releaseTimeout bounds the wait for the quorum's word on a release.
	releaseTimeout = 30 * time.Second
)
