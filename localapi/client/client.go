package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Options configure a Client. The zero value is a client of the default socket.
type Options struct {
	// Socket is the path of the agent's socket. Empty: DefaultSocket("").
	Socket string
	// Logger gets debug lines about the connection. Nil: none.
	Logger *slog.Logger
}

func (o Options) socket() string { return DefaultSocket(o.Socket) }

// Client speaks to one agent. All methods may be called concurrently.
//
// Every method blocks until the answer is there or ctx ends; without a deadline
// in ctx the agent's own applies (it answers ErrUnavailable after 10 s without
// a quorum).
type Client struct {
	socket string
	logger *slog.Logger

	// conn is the connection in use; it may have ended. dialling has one slot:
	// whoever has it may replace conn.
	conn     atomic.Pointer[stream.Conn]
	dialling chan struct{}
	closed   atomic.Bool
}

// New returns a Client. It does not dial: the first request does.
func New(o Options) *Client {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Client{socket: o.socket(), logger: logger, dialling: make(chan struct{}, 1)}
}

// Socket returns the path that the client dials.
func (c *Client) Socket() string { return c.socket }

// Close ends the connection and waits for its goroutines. Holds of this client
// lose their connection. It returns nil.
func (c *Client) Close() error {
	c.closed.Store(true)
	c.dialling <- struct{}{} // a dial in progress ends within socket.DialTimeout
	defer func() { <-c.dialling }()
	if conn := c.conn.Swap(nil); conn != nil {
		return conn.Close()
	}
	return nil
}

var errClosed = socket.ErrClient

// connection returns a live connection, dialling when there is none.
func (c *Client) connection(ctx context.Context) (*stream.Conn, error) {
	if conn := c.live(); conn != nil {
		return conn, nil
	}
	select {
	case c.dialling <- struct{}{}:
		defer func() { <-c.dialling }()
	case <-ctx.Done():
		return nil, fail("given up before the agent was reached: "+context.Cause(ctx).Error(), ErrUnavailable, context.Cause(ctx))
	}
	if c.closed.Load() {
		return nil, errClosed
	}
	if conn := c.live(); conn != nil {
		return conn, nil
	}
	conn, err := socket.Dial(ctx, c.socket, nil, c.logger)
	if err != nil {
		return nil, err
	}
	if old := c.conn.Swap(conn); old != nil {
		_ = old.Close() // it has ended, and always returns nil
	}
	return conn, nil
}

func (c *Client) live() *stream.Conn {
	conn := c.conn.Load()
	if conn == nil {
		return nil
	}
	select {
	case <-conn.Done():
		return nil
	default:
		return conn
	}
}

// maxAttempts bounds dialling again for one request. What may have been sent is
// never sent again, unless it is a read.
const maxAttempts = 3

// call makes one unary call; safe says that it may be sent again.
func (c *Client) call(ctx context.Context, method uint8, m stream.Message, safe bool) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		conn, err := c.connection(ctx)
		if err != nil {
			return nil, err
		}
		payload, err := conn.Call(ctx, method, m)
		if err == nil {
			return payload, nil
		}
		again := errors.Is(err, stream.ErrBroken) && (safe || errors.Is(err, stream.ErrNotSent))
		if !again || attempt == maxAttempts || ctx.Err() != nil {
			return nil, errorOfCall(ctx, err, safe)
		}
	}
}

// Do carries out one request of the contract. A refusal is an Answer with its
// Code, not an error (Refusal turns it into one); errors are ErrNoAgent,
// ErrDenied, ErrInvalid, ErrUnavailable, ErrUnknownOutcome, ErrInternal, or the
// cause of ctx together with one of the last three. req keeps Session and Number
// empty: the agent gives ids. It is not changed and not kept.
func (c *Client) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	d := wire.DoRequest{Request: req}
	if deadline, ok := ctx.Deadline(); ok {
		// The agent answers a little earlier: it knows whether the request was
		// carried out, and this side would not.
		left := time.Until(deadline)
		d.Timeout = max(left-min(left/10, 100*time.Millisecond), time.Millisecond)
	}
	payload, err := c.call(ctx, wire.MethodDo, &d, req.IsRead())
	if err != nil {
		return nil, err
	}
	a := &replication.Answer{}
	if err := a.UnmarshalVTUnsafe(payload); err != nil {
		return nil, fail("the agent's answer cannot be decoded: "+err.Error(), ErrInternal, err)
	}
	return a, nil
}

// ask is Do with refusals as errors. The answer is there for some refusals, too.
func (c *Client) ask(ctx context.Context, what, name string, req *replication.Request) (*replication.Answer, error) {
	a, err := c.Do(ctx, req)
	if err != nil {
		return nil, about(what, name, err)
	}
	return a, about(what, name, Refusal(a))
}

// Status returns what the agent tells about itself.
func (c *Client) Status(ctx context.Context) (wire.Status, error) {
	var out wire.Status
	err := c.json(ctx, wire.MethodStatus, &out)
	return out, err
}

// Holds lists the holds of the agent in order of lock name.
func (c *Client) Holds(ctx context.Context) (wire.Holds, error) {
	var out wire.Holds
	err := c.json(ctx, wire.MethodHolds, &out)
	return out, err
}

func (c *Client) json(ctx context.Context, method uint8, out any) error {
	payload, err := c.call(ctx, method, nil, true)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, out); err != nil {
		return fail(fmt.Sprintf("the agent's answer cannot be decoded: %v", err), ErrInternal, err)
	}
	return nil
}

// table is the contract's word for where a name is.
func table(ephemeral bool) replication.Durability {
	if ephemeral {
		return replication.Durability_DURABILITY_EPHEMERAL
	}
	return replication.Durability_DURABILITY_PERSISTENT
}
