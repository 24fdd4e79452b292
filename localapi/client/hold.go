package client

import (
	"context"
	"os"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
)

// HoldOptions ask for a lock that the agent keeps alive.
type HoldOptions struct {
	Lock      string
	Ephemeral bool
	TTL       time.Duration // lease length at the quorum; 0: 30 s
	Wait      time.Duration // 0: do not queue; negative: for ever
	Grace     time.Duration // what the holder needs to stop; part of the margin before the deadline
	Command   string        // shown to others
	Reason    string        // shown to others

	// Process makes processes the witness (DialHold only): Pidfds[0] and so on
	// are handed to the agent with the request and stay the caller's. TreeEnds:
	// see localapi.HoldRequest.
	Process  bool
	Pidfds   []*os.File
	TreeEnds bool
	// NeedAck: the grant goes to the next in line unless Ack is called within a
	// few seconds. Held is then closed when the agent has confirmed the ack.
	NeedAck bool
}

// Hold is a lock kept alive by the agent, or a place in line for it. All
// methods may be called concurrently.
type Hold struct{}

// Hold takes a lock and blocks until it is held, acknowledged and safe to work
// under. ErrBusy when it was not got in time, else as OpenHold.
func (c *Client) Hold(ctx context.Context, o HoldOptions) (*Hold, error) { return nil, ErrNoAgent }

// OpenHold starts standing in line and returns at once: Events, Held and Lost
// tell the rest. The Client's connection is the witness. ErrInvalid when the
// TTL does not cover its margin; ErrDenied, ErrUnavailable, ErrNoAgent.
// ctx bounds the opening only; the hold lives until Release or Close.
func (c *Client) OpenHold(ctx context.Context, o HoldOptions) (*Hold, error) { return nil, ErrNoAgent }

// DialHold is OpenHold on a connection of its own, which can carry pidfds and
// ends with the hold. It is what the guard uses.
func DialHold(ctx context.Context, o Options, h HoldOptions) (*Hold, error) { return nil, ErrNoAgent }

// DialAttach takes up the process hold of this id again on a new connection,
// after the one before broke. ErrNotFound when the agent has no such hold.
func DialAttach(ctx context.Context, o Options, id string) (*Hold, error) { return nil, ErrNoAgent }

// ID is 32 lower-case hex characters: the owner of the lock at the quorum.
func (h *Hold) ID() string { return "" }

// Events delivers what happens, in order, and is closed after the last event
// (lost or released) or when the connection is gone (then Err says why). When
// nobody reads, superseded queued and renewed events are dropped, never others.
// Every deadline in it is on this process's CLOCK_BOOTTIME.
func (h *Hold) Events() <-chan wire.HoldEvent { return nil }

// State is the type of the last event; held after renewed; lost as soon as the
// deadline has passed. Empty before the first event.
func (h *Hold) State() wire.HoldEventType { return "" }

// Held is closed when the lock is held (and the ack, when needed, confirmed).
func (h *Hold) Held() <-chan struct{} { return nil }

// Lost is closed when the holder must not go on: the agent said lost, or the
// deadline passed without a renewal. It is not closed by released.
func (h *Hold) Lost() <-chan struct{} { return nil }

// Done is closed when no more events will come: after lost, released, or the
// end of the connection. A process hold may live on: see DialAttach.
func (h *Hold) Done() <-chan struct{} { return nil }

// Err says why Done was closed: nil after released, ErrLost after lost, else
// what happened to the connection. It is nil before.
func (h *Hold) Err() error { return nil }

// Token is the fencing token, valid once Held is closed.
func (h *Hold) Token() int64 { return 0 }

// Deadline is the instant on CLOCK_BOOTTIME by which the holder must have
// stopped, unless a renewal moves it. ok is false before the lock is held.
func (h *Hold) Deadline() (boottime time.Duration, ok bool) { return 0, false }

// AtRisk reports whether the quorum is silent; work may go on until Deadline.
func (h *Hold) AtRisk() bool { return false }

// Ack accepts the grant. It does not wait for the confirmation: Held does.
func (h *Hold) Ack() error { return nil }

// Release gives the lock or the place in line back and blocks until the quorum
// has confirmed it or ctx ends; the agent goes on trying after that.
func (h *Hold) Release(ctx context.Context) error { return nil }

// Close ends the connection to the hold. A hold with the connection as witness
// is released by it, a process hold lives on.
func (h *Hold) Close() error { return nil }
