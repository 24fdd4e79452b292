package client

import (
	"context"
	"log/slog"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Options configure a Client. The zero value is a client of the default socket.
type Options struct {
	// Socket is the path of the agent's socket. Empty: DefaultSocket("").
	Socket string
	// Logger gets debug lines about the connection. Nil: none.
	Logger *slog.Logger
}

// DefaultSocket returns the path to use: explicit when it is not empty (the
// --socket flag), else $KAHU_SOCKET, else for a user other than root
// $XDG_RUNTIME_DIR/kahu/kahu.sock when there is one, else /run/kahu/kahu.sock.
func DefaultSocket(explicit string) string { return explicit }

// Client speaks to one agent. All methods may be called concurrently.
//
// Every method blocks until the answer is there or ctx ends; without a deadline
// in ctx the agent's own applies (it answers ErrUnavailable after 10 s without
// a quorum).
type Client struct{}

// New returns a Client. It does not dial: the first request does.
func New(o Options) *Client { return &Client{} }

// Socket returns the path that the client dials.
func (c *Client) Socket() string { return "" }

// Close ends the connection and waits for its goroutines. Holds of this client
// lose their connection.
func (c *Client) Close() error { return nil }

// Do carries out one request of the contract. A refusal is an Answer with its
// Code, not an error (Refusal turns it into one); errors are ErrNoAgent,
// ErrDenied, ErrInvalid, ErrUnavailable, ErrUnknownOutcome, ErrInternal, or the
// cause of ctx together with one of the last four. req keeps Session and Number
// empty: the agent gives ids. It is not changed and not kept.
func (c *Client) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	return nil, ErrNoAgent
}

// Status returns what the agent tells about itself.
func (c *Client) Status(ctx context.Context) (wire.Status, error) {
	return wire.Status{}, ErrNoAgent
}
