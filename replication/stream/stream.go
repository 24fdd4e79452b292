package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Limits and times, used where Options leaves a zero.
const (
	DefaultMaxFrameBytes    = 17 << 20 // one request of replication.MaxRequestBytes and its envelope
	DefaultMaxInFlight      = 4096
	DefaultMaxInFlightBytes = 64 << 20
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
	DefaultKeepAlive        = 15 * time.Second
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
	// Logger gets one debug line when the connection ends. Nil: none.
	Logger *slog.Logger
}

// ErrBroken means that the connection ended before an answer came. The peer may
// or may not have carried the request out, unless ErrNotSent is there as well.
var ErrBroken = errors.New("connection lost")

// ErrNotSent means that no byte of the request has left: it was certainly not
// carried out.
var ErrNotSent = errors.New("request not sent")

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

// Conn is one connection. All methods may be called concurrently.
type Conn struct {
	conn net.Conn
	o    Options
}

// New takes over conn and starts the protocol on it. It does not block: calls
// wait for the peer's hello. The caller must Close it; it also closes itself
// when the peer goes away (see Done).
func New(conn net.Conn, o Options) *Conn { return &Conn{conn: conn, o: o} }

// Call sends one request and waits for its answer, which belongs to the caller.
// m is encoded before Call returns and not kept. Errors are a *RemoteError, or
// wrap ErrBroken, or wrap the cause of ctx; the last two wrap ErrNotSent as well
// when nothing was sent. When ctx ends the peer is told to stop.
func (c *Conn) Call(ctx context.Context, method uint8, m Message) (payload []byte, err error) {
	return nil, ErrBroken
}

// Open opens a stream with m as its first message and does not wait for an
// answer. The stream ends when ctx does, with Close, or when the peer ends it.
// Whoever opens a stream must Close it, or end ctx.
func (c *Conn) Open(ctx context.Context, method uint8, m Message) (*Stream, error) {
	return nil, ErrBroken
}

// Done is closed when the connection has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} { return nil }

// Err returns nil while the connection works, then an error that wraps
// ErrBroken and says why it ended.
func (c *Conn) Err() error { return ErrBroken }

// Close ends the connection and waits until both goroutines and all handlers
// have returned; their ctx has ended. A handler must not call it.
func (c *Conn) Close() error { return c.conn.Close() }

// Stream is the caller's end of an open stream.
type Stream struct{}

// Recv returns the peer's next message, which belongs to the caller. It returns
// io.EOF when the peer ended the stream, else errors as Call does. One
// goroutine at a time.
func (s *Stream) Recv(ctx context.Context) ([]byte, error) { return nil, ErrBroken }

// Send sends a message up. It blocks while the peer does not take messages. One
// goroutine at a time.
func (s *Stream) Send(ctx context.Context, m Message) error { return ErrBroken }

// Close tells the peer that nobody listens any more. It does not block, and may
// be called more than once.
func (s *Stream) Close() error { return nil }

// Incoming is one request of the peer. Reply, Fail and Send are for one
// goroutine at a time, Recv for another.
type Incoming struct {
	Method  uint8
	Payload []byte
	stream  bool
}

// Streaming reports whether the peer opened a stream rather than called.
func (in *Incoming) Streaming() bool { return in.stream }

// Conn returns the connection that the request came on.
func (in *Incoming) Conn() *Conn { return nil }

// Reply answers a call. A second answer is refused with an error.
func (in *Incoming) Reply(m Message) error { return ErrBroken }

// Fail ends the request with err: a *RemoteError in its chain travels with its
// code, anything else as CodeUnspecified with its text.
func (in *Incoming) Fail(err error) error { return ErrBroken }

// Send sends a message down the stream. It blocks while the peer does not take
// messages, until the request's ctx ends.
func (in *Incoming) Send(m Message) error { return ErrBroken }

// Recv returns the caller's next message up the stream.
func (in *Incoming) Recv(ctx context.Context) ([]byte, error) { return nil, ErrBroken }
