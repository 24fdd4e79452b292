package client

import (
	"context"
	"errors"
	"os"

	"github.com/kahu-sh/kahu/localapi/client/hold"
	"github.com/kahu-sh/kahu/replication/stream"
)

type (
	// Hold is a lock kept alive by the agent, or a place in line for it. All
	// methods may be called concurrently. Whoever has a Hold must Close it in the
	// end.
	Hold = hold.Hold
	// HoldOptions ask for a lock that the agent keeps alive.
	HoldOptions = hold.Options
)

// Hold takes a lock and blocks until it is held, acknowledged and safe to work
// under. ErrBusy when it was not got within Wait, else as OpenHold.
func (c *Client) Hold(ctx context.Context, o HoldOptions) (*Hold, error) {
	h, err := c.open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	select {
	case <-h.Held():
		return h, nil
	case <-ctx.Done():
		err = fail("given up while standing in line: "+context.Cause(ctx).Error(), ErrBusy, context.Cause(ctx))
	case <-h.Done():
		if err = h.Err(); err == nil {
			err = fail("it was not free in time", ErrBusy)
		}
	}
	_ = h.Close() // always nil; the place in line is given up
	return nil, about("lock", o.Lock, err)
}

// OpenHold starts standing in line and returns at once: Events, Held and Lost
// tell the rest. The Client's connection is the witness: the hold ends with it.
// When the agent is restarted the hold is taken up again by itself, and told as
// Held once more; until then its deadline stands. ErrInvalid when the TTL does not cover its margin; ErrDenied,
// ErrUnavailable, ErrNoAgent, ErrAnotherHost. ctx bounds the opening only; the
// hold lives until Release or Close.
func (c *Client) OpenHold(ctx context.Context, o HoldOptions) (*Hold, error) {
	return c.open(ctx, o, false)
}

func (c *Client) open(ctx context.Context, o HoldOptions, autoAck bool) (*Hold, error) {
	if o.Process || len(o.Pidfds) > 0 || o.TreeEnds || o.LastEndsTree {
		return nil, about("lock", o.Lock, fail("processes can be the witness on a connection of their own only: see DialHold", ErrInvalid))
	}
	o.NeedAck = o.NeedAck || autoAck
	for attempt := 1; ; attempt++ {
		conn, err := c.connection(ctx)
		if err != nil {
			return nil, about("lock", o.Lock, err)
		}
		h, err := hold.Open(ctx, conn, o, autoAck, c.connection)
		// An open that was lost with its connection left nothing behind: the
		// connection was its witness.
		if errors.Is(err, stream.ErrBroken) && attempt < maxAttempts && ctx.Err() == nil {
			continue
		}
		return h, about("lock", o.Lock, err)
	}
}

// DialHold is OpenHold on a connection of its own, which can carry pidfds and
// ends with the hold. It is what the guard uses.
func DialHold(ctx context.Context, o Options, h HoldOptions) (*Hold, error) {
	return hold.Dial(ctx, o.where(), h)
}

// DialAttach takes up the process hold of this id again on a new connection,
// after the one before broke, and hands its witnesses over again: an agent that
// was restarted may have no other way to see them. They stay the caller's.
// ErrNotFound when the agent has no such hold.
func DialAttach(ctx context.Context, o Options, id string, pidfds ...*os.File) (*Hold, error) {
	return hold.Attach(ctx, o.where(), id, pidfds...)
}

func (o Options) where() hold.Where {
	w := hold.Where{Socket: o.Socket}
	if o.Logger != nil {
		w.Logger = o.Logger
	}
	return w
}

// DefaultSocket returns the path to use: explicit when it is not empty (the
// --socket flag), else $KAHU_SOCKET, else for a user other than root
// $XDG_RUNTIME_DIR/kahu/kahu.sock unless only the system's exists, else
// /run/kahu/kahu.sock.
func DefaultSocket(explicit string) string { return hold.DefaultSocket(explicit) }
