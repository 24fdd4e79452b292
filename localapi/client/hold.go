package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/stream"
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
	// are handed to the agent with the request and stay the caller's. TreeEnds and
	// LastEndsTree: see localapi.HoldRequest.
	Process      bool
	Pidfds       []*os.File
	TreeEnds     bool
	LastEndsTree bool
	// NeedAck: the grant goes to the next in line unless Ack is called within a
	// few seconds. Held is then closed when the agent has confirmed the ack.
	NeedAck bool
}

// eventsKept is how many events wait in Events for a reader.
const eventsKept = 64

// Hold is a lock kept alive by the agent, or a place in line for it. All
// methods may be called concurrently. Whoever has a Hold must Close it in the
// end.
type Hold struct {
	id     string
	offset time.Duration // from the agent's boot time to ours
	bootID string
	// agentBootID is what the agent calls this boot.
	agentBootID string
	needAck     bool // Held waits for the confirmation
	autoAck     bool
	process     bool // the connection is not the witness

	resume *resumption             // nil: it is not taken up again
	life   context.Context         // ends with Close
	end    context.CancelCauseFunc // of life
	own    *stream.Conn            // of this hold alone, or nil
	alarm  *alarm

	events chan wire.HoldEvent // written and closed by read alone
	held   chan struct{}
	lost   chan struct{}
	done   chan struct{} // closed by read at its end

	sending sync.Mutex     // of stream.Send; guards stream
	stream  *stream.Stream // the last one
	resumed chan struct{}  // closed and replaced when stream is a new one
	running sync.WaitGroup // read and watch
	closing sync.Once

	// mu guards what follows.
	mu       sync.Mutex
	state    wire.HoldEventType
	err      error
	token    int64
	deadline time.Duration // on our boot time, 0: none yet
	isHeld   bool
	isLost   bool
}

// Hold takes a lock and blocks until it is held, acknowledged and safe to work
// under. ErrBusy when it was not got within Wait, else as OpenHold.
func (c *Client) Hold(ctx context.Context, o HoldOptions) (*Hold, error) {
	h, err := c.open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	select {
	case <-h.held:
		return h, nil
	case <-ctx.Done():
		err = fail("given up while standing in line: "+context.Cause(ctx).Error(), ErrBusy, context.Cause(ctx))
	case <-h.done:
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
		r := o.request()
		r.Resume = true
		h, err := openHold(ctx, conn, r, autoAck, &resumption{c.connection, cmp.Or(o.TTL, wire.DefaultHoldTTL)})
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
	hold, err := dialHold(ctx, o, h.request(), h.Pidfds)
	return hold, about("lock", h.Lock, err)
}

// DialAttach takes up the process hold of this id again on a new connection,
// after the one before broke, and hands its witnesses over again: an agent that
// was restarted may have no other way to see them. They stay the caller's.
// ErrNotFound when the agent has no such hold.
func DialAttach(ctx context.Context, o Options, id string, pidfds ...*os.File) (*Hold, error) {
	hold, err := dialHold(ctx, o, wire.HoldRequest{Attach: id}, pidfds)
	return hold, about("hold", id, err)
}

func dialHold(ctx context.Context, o Options, r wire.HoldRequest, files []*os.File) (*Hold, error) {
	conn, err := dial(ctx, o.socket(), files, o.Logger)
	if err != nil {
		return nil, err
	}
	hold, err := openHold(ctx, conn, r, false, nil)
	if err != nil {
		_ = conn.Close() // always nil
		return nil, err
	}
	hold.own = conn
	return hold, nil
}

func (o HoldOptions) request() wire.HoldRequest {
	r := wire.HoldRequest{Lock: o.Lock, TreeEnds: o.TreeEnds, LastEnds: o.LastEndsTree, NeedAck: o.NeedAck, Command: o.Command, Reason: o.Reason}
	if o.Ephemeral {
		r.Durability = wire.Ephemeral
	}
	if o.TTL != 0 {
		r.TTL = o.TTL.String()
	}
	if o.Wait != 0 {
		r.Wait = o.Wait.String()
	}
	if o.Wait < 0 {
		r.Wait = wire.Forever
	}
	if o.Grace != 0 {
		r.Grace = o.Grace.String()
	}
	if o.Process || len(o.Pidfds) > 0 {
		r.Witness = wire.WitnessProcess
	}
	return r
}

// ID is 32 lower-case hex characters: the owner of the lock at the quorum.
func (h *Hold) ID() string { return h.id }

// Events delivers what happens, in order, and is closed after the last event
// (lost or released) or when the connection is gone (then Err says why). When
// nobody reads, the oldest are dropped. Every deadline in it is on this
// process's CLOCK_BOOTTIME.
func (h *Hold) Events() <-chan wire.HoldEvent { return h.events }

// State is the type of the last event; held after renewed; lost as soon as the
// deadline has passed. Empty before the first event.
func (h *Hold) State() wire.HoldEventType {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkDeadlineLocked()
	return h.state
}

// Held is closed when the lock is held (and the ack, when needed, confirmed).
func (h *Hold) Held() <-chan struct{} { return h.held }

// Lost is closed when the holder must not go on: the agent said lost, the
// deadline passed without a renewal, or the connection, being the witness, was
// lost while the lock was held and the agent does not know the hold any more. It
// is not closed by released, and a deadline that passed stays passed.
func (h *Hold) Lost() <-chan struct{} { return h.lost }

// Done is closed when no more events will come: after lost, released, or the
// end of the connection. A process hold may live on: see DialAttach.
func (h *Hold) Done() <-chan struct{} { return h.done }

// Err says why Done was closed: nil after released, ErrLost after lost, else
// what happened to the connection. It is nil before.
func (h *Hold) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Token is the fencing token, valid once Held is closed.
func (h *Hold) Token() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.token
}

// Deadline is the instant on CLOCK_BOOTTIME by which the holder must have
// stopped, unless a renewal moves it. ok is false before the lock is held.
func (h *Hold) Deadline() (boottime time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.deadline, h.deadline != 0
}

// AtRisk reports whether the quorum is silent; work may go on until Deadline.
func (h *Hold) AtRisk() bool { return h.State() == wire.HoldAtRisk }

// Ack accepts the grant. It does not wait for the confirmation: Held does.
func (h *Hold) Ack() error { return h.send(wire.HoldAck) }

// Release gives the lock or the place in line back and blocks until the quorum
// has confirmed it or ctx ends; the agent goes on trying after that. ErrLost when
// there was nothing to give back any more.
func (h *Hold) Release(ctx context.Context) error {
	for {
		resumed, err := h.sendOrWait(wire.HoldRelease)
		if err != nil && h.resume == nil {
			select {
			case <-h.done: // it has ended by itself
				return h.Err()
			default:
				return err
			}
		}
		// While the agent is restarted the hold may be taken up again: then it is
		// asked again, since the one before may not have heard.
		select {
		case <-resumed:
		case <-h.done:
			return h.Err()
		case <-ctx.Done():
			return fail("the release is under way and not confirmed: "+context.Cause(ctx).Error(), ErrUnknownOutcome, context.Cause(ctx))
		}
	}
}

// sendOrWait is send, and what is closed when the hold has a new stream.
func (h *Hold) sendOrWait(what string) (resumed <-chan struct{}, err error) {
	h.sending.Lock()
	resumed = h.resumed
	h.sending.Unlock()
	return resumed, h.send(what)
}

// Close ends the connection to the hold. A hold with the connection as witness
// is released by it, a process hold lives on. It returns nil.
func (h *Hold) Close() error {
	h.closing.Do(func() {
		h.end(errClosed) // nothing is taken up any more
		h.sending.Lock()
		_ = h.stream.Close() // always nil
		h.sending.Unlock()
		if h.own != nil {
			_ = h.own.Close() // always nil
		}
		h.alarm.close()
		h.running.Wait()
	})
	return nil
}

func (h *Hold) send(what string) error {
	h.sending.Lock()
	defer h.sending.Unlock()
	if err := h.stream.Send(stream.Bytes(fmt.Sprintf(`{"do":%q}`, what))); err != nil {
		return fail("the connection to the hold is gone", ErrNoAgent, err)
	}
	return nil
}
