package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Magic is what every connection of this protocol begins with. Its first byte
// is zero, as in no HTTP request and no TLS record.
const Magic = "\x00kahust"

// Limits and times, used where Options leaves a zero.
const (
	DefaultMaxFrameBytes    = 17 << 20 // one request of replication.MaxRequestBytes and its envelope
	DefaultMaxInFlight      = 4096
	DefaultMaxInFlightBytes = 64 << 20
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
	DefaultKeepAlive        = 15 * time.Second
	DefaultPlaceTimeout     = 10 * time.Second

	// WindowBytes is what may be on its way, not yet taken, in one direction of a stream.
	WindowBytes = 256 << 10
	// MessageCostBytes is what a message counts for beyond its payload.
	MessageCostBytes = 64
	// maxQueuedBytes is how much may wait to be written before senders wait.
	maxQueuedBytes = 1 << 20
	// writeChunkBytes is how much has to go out within one WriteTimeout.
	writeChunkBytes = 256 << 10
	// maxErrorBytes is where the text of a RemoteError is cut when it is sent.
	maxErrorBytes = 4 << 10
	// flushTimeout is how long Close tries to write what was queued before it.
	flushTimeout = time.Second
)

// Message is what can be sent: vtprotobuf's generated messages are, and Bytes.
type Message interface {
	SizeVT() int
	MarshalToSizedBufferVT(b []byte) (int, error)
}

// Bytes is a Message that is its own encoding.
type Bytes []byte

// SizeVT implements Message.
func (b Bytes) SizeVT() int { return len(b) }

// MarshalToSizedBufferVT implements Message.
func (b Bytes) MarshalToSizedBufferVT(to []byte) (int, error) {
	return copy(to[len(to)-len(b):], b), nil
}

// Handler serves one request of the peer. It runs in a goroutine of its own, at
// most MaxInFlight at a time; ctx ends when the caller gives up or the
// connection ends. It answers a call with Reply or Fail once; a stream ends
// when it returns or calls Fail. The payload belongs to the handler.
type Handler func(ctx context.Context, in *Incoming)

// Options configure a Conn. The zero value is usable by a pure caller.
type Options struct {
	// Handler serves the peer's requests. Nil: each is failed with CodeNoHandler.
	Handler Handler
	// Timeout, optional, bounds the ctx of a call by what its payload says, before
	// the handler runs; 0 and less: not at all. It is called by the reader and
	// must be quick. One ctx with a deadline costs half of one inside another.
	Timeout func(method uint8, payload []byte) time.Duration
	// MaxFrameBytes bounds one frame in both directions (the peer may accept less).
	MaxFrameBytes int
	// MaxInFlight bounds the peer's unanswered requests, and so the goroutines it can cost.
	MaxInFlight int
	// MaxInFlightBytes bounds the sum of their payloads (a single one may be larger).
	MaxInFlightBytes int64
	// HandshakeTimeout bounds the wait for the peer's hello.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a write may go without progress before the peer
	// counts as one that never reads.
	WriteTimeout time.Duration
	// KeepAlive is the longest silence of the peer before it counts as dead; it
	// is pinged at half of it. Negative: never.
	KeepAlive time.Duration
	// Peer, optional, names the other end in the log.
	Peer fmt.Stringer
	// PlaceTimeout is how long a request waits for a place within the peer's limits,
	// before it fails with ErrFull: streams may stay open for days. Negative: for ever.
	PlaceTimeout time.Duration
	// Full is called once, when the peer has as many requests unanswered as it may for
	// the first time: its next ones wait on its side. It must not block. Optional.
	Full func()
	// Logger gets one line when the connection ends: a warning when the peer broke
	// the protocol, debug otherwise; and a warning when Full is called. Nil: none.
	Logger Logger
}

// A Logger is a *slog.Logger, or what else takes its lines. kahu exec needs none,
// and does without package log/slog, which starts late.
type Logger interface {
	Debug(msg string, args ...any)
	Warn(msg string, args ...any)
}

type noLogger struct{}

func (noLogger) Debug(string, ...any) {}
func (noLogger) Warn(string, ...any)  {}

// Transport is what a Conn is made of: a net.Conn, or a file that is a socket.
// This package does without package net for the sake of kahu exec, whose start
// would otherwise wait for it.
type Transport interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// ErrClosed is what this end's own Close leads to. errors.Is takes it for
// net.ErrClosed.
var ErrClosed error = closed{}

type closed struct{}

const closedText = "use of closed network connection" // of net.ErrClosed

func (closed) Error() string { return closedText }

// Is implements what errors.Is asks for.
func (closed) Is(target error) bool { return target.Error() == closedText }

// ErrBroken means that the connection ended before an answer came. The peer may
// or may not have carried the request out, unless ErrNotSent is there as well.
var ErrBroken = errors.New("connection lost")

// ErrNotSent means that no byte of the request has left: it was certainly not
// carried out.
var ErrNotSent = errors.New("request not sent")

// ErrFull means that the peer takes no more requests at a time on this connection,
// and none of them has ended for Options.PlaceTimeout. It comes with ErrNotSent.
var ErrFull = errors.New("as many requests are unanswered on this connection as the other side takes")

// ErrTooLarge means that a message does not fit the peer's largest frame.
var ErrTooLarge = errors.New("message larger than the other side accepts")

// ErrProtocol means that the peer broke the rules of doc.go, or is not kahu.
var ErrProtocol = errors.New("stream protocol violated")

// Codes of RemoteError from 1<<31 up belong to this package.
const (
	// CodeUnspecified is the code of an error that was not a RemoteError.
	CodeUnspecified uint32 = 0
	// CodeNoHandler: the peer serves nothing on this connection.
	CodeNoHandler uint32 = 1<<31 + 1
	// CodeNoAnswer: the peer's handler returned without an answer.
	CodeNoAnswer uint32 = 1<<31 + 2
	// CodeTooLarge: the answer does not fit the caller's largest frame.
	CodeTooLarge uint32 = 1<<31 + 3
)

// RemoteError is an error that the other side answered with.
type RemoteError struct {
	Code uint32 // meaning is the caller's and the handler's
	Text string // one line
}

// Error implements error.
func (e *RemoteError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("error %d from the other side", e.Code)
	}
	return e.Text
}

func (o Options) withDefaults() Options {
	if o.MaxFrameBytes <= 0 {
		o.MaxFrameBytes = DefaultMaxFrameBytes
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = DefaultMaxInFlight
	}
	if o.MaxInFlightBytes <= 0 {
		o.MaxInFlightBytes = DefaultMaxInFlightBytes
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = DefaultWriteTimeout
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = DefaultKeepAlive
	}
	if o.PlaceTimeout == 0 {
		o.PlaceTimeout = DefaultPlaceTimeout
	}
	if o.Logger == nil {
		o.Logger = noLogger{}
	}
	return o
}
