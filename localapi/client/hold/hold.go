package hold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Where says which agent is asked. The zero value is the default socket's.
type Where struct {
	// Socket is the path of the agent's socket. Empty: DefaultSocket("").
	Socket string
	// Logger gets debug lines about the connection. Nil: none.
	Logger stream.Logger
}

// DefaultSocket returns the path to use: explicit when it is not empty (the
// --socket flag), else $KAHU_SOCKET, else for a user other than root
// $XDG_RUNTIME_DIR/kahu/kahu.sock unless only the system's exists, else
// /run/kahu/kahu.sock.
func DefaultSocket(explicit string) string { return socket.Path(explicit) }

// Options ask for a lock that the agent keeps alive.
type Options struct {
	Lock      string
	Ephemeral bool
	TTL       time.Duration // lease length at the quorum; 0: 30 s
	Wait      time.Duration // 0: do not queue; negative: for ever
	Grace     time.Duration // what the holder needs to stop; part of the margin before the deadline
	Command   string        // shown to others
	Reason    string        // shown to others
	Contain   string        // shown to others: what keeps the holder's processes together

	// Process makes processes the witness (DialHold only): Pidfds[0] and so on
	// are handed to the agent with the request and stay the caller's; the last two
	// may be files of a control group (localapi.HoldRequest). TreeEnds and
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

	events chan holdwire.HoldEvent // written and closed by read alone
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
	state    holdwire.HoldEventType
	err      error
	token    int64
	deadline time.Duration // on our boot time, 0: none yet
	isHeld   bool
	isLost   bool
}

// Dial opens a hold on a connection of its own, which can carry pidfds and ends
// with the hold. It is what the guard uses. Errors are as of
// client.Client.OpenHold.
func Dial(ctx context.Context, w Where, o Options) (*Hold, error) {
	hold, err := dialHold(ctx, w, o.request(), o.Pidfds)
	return hold, socket.About("lock", o.Lock, err)
}

// Attach takes up the process hold of this id again on a new connection, after
// the one before broke, and hands its witnesses over again: an agent that was
// restarted may have no other way to see them. They stay the caller's.
// ErrNotFound when the agent has no such hold.
func Attach(ctx context.Context, w Where, id string, pidfds ...*os.File) (*Hold, error) {
	hold, err := dialHold(ctx, w, holdwire.HoldRequest{Attach: id}, pidfds)
	return hold, socket.About("hold", id, err)
}

// GiveBack frees the lock of a hold that no connection stands for, by its id,
// which is the owner at the quorum. It returns nil when the lock is free or
// another's.
func GiveBack(ctx context.Context, w Where, lock string, ephemeral bool, id string) error {
	table := holdwire.Persistent
	if ephemeral {
		table = holdwire.Ephemeral
	}
	err := socket.Post(ctx, socket.Path(w.Socket), holdwire.UnlockPath(lock), holdwire.Unlock{Owner: id, Durability: table})
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotOwner) {
		return nil
	}
	return socket.About("lock", lock, err)
}

func dialHold(ctx context.Context, w Where, r holdwire.HoldRequest, files []*os.File) (*Hold, error) {
	conn, err := socket.Dial(ctx, socket.Path(w.Socket), files, w.Logger)
	if err != nil {
		return nil, err
	}
	hold, err := open(ctx, conn, r, false, nil)
	if err != nil {
		_ = conn.Close() // always nil
		return nil, err
	}
	hold.own = conn
	return hold, nil
}

// Open opens a hold on a connection that others use as well, and that is its
// witness. connect dials it again: the hold is taken up when its agent was
// restarted. With autoAck the grant is acknowledged by itself.
func Open(ctx context.Context, conn *stream.Conn, o Options, autoAck bool, connect func(context.Context) (*stream.Conn, error)) (*Hold, error) {
	r := o.request()
	r.Resume = true
	return open(ctx, conn, r, autoAck, &resumption{connect, cmp.Or(o.TTL, holdwire.DefaultHoldTTL)})
}

func (o Options) request() holdwire.HoldRequest {
	r := holdwire.HoldRequest{Lock: o.Lock, TreeEnds: o.TreeEnds, LastEnds: o.LastEndsTree, NeedAck: o.NeedAck, Command: o.Command, Reason: o.Reason, Contain: o.Contain}
	if o.Ephemeral {
		r.Durability = holdwire.Ephemeral
	}
	if o.TTL != 0 {
		r.TTL = o.TTL.String()
	}
	if o.Wait != 0 {
		r.Wait = o.Wait.String()
	}
	if o.Wait < 0 {
		r.Wait = holdwire.Forever
	}
	if o.Grace != 0 {
		r.Grace = o.Grace.String()
	}
	if o.Process || len(o.Pidfds) > 0 {
		r.Witness = holdwire.WitnessProcess
	}
	return r
}

// ID is 32 lower-case hex characters: the owner of the lock at the quorum.
func (h *Hold) ID() string { return h.id }

// Events delivers what happens, in order, and is closed after the last event
// (lost or released) or when the connection is gone (then Err says why). When
// nobody reads, the oldest are dropped. Every deadline in it is on this
// process's CLOCK_BOOTTIME.
func (h *Hold) Events() <-chan holdwire.HoldEvent { return h.events }

// State is the type of the last event; held after renewed; lost as soon as the
// deadline has passed. Empty before the first event.
func (h *Hold) State() holdwire.HoldEventType {
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
func (h *Hold) AtRisk() bool { return h.State() == holdwire.HoldAtRisk }

// Ack accepts the grant. It does not wait for the confirmation: Held does.
func (h *Hold) Ack() error { return h.send(holdwire.HoldAck) }

// Release gives the lock or the place in line back and blocks until the quorum
// has confirmed it or ctx ends; the agent goes on trying after that. ErrLost when
// there was nothing to give back any more.
func (h *Hold) Release(ctx context.Context) error {
	for {
		resumed, err := h.sendOrWait(holdwire.HoldRelease)
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
			return socket.Fail("the release is under way and not confirmed: "+context.Cause(ctx).Error(), socket.ErrUnknownOutcome, context.Cause(ctx))
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
		h.end(socket.ErrClient) // nothing is taken up any more
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
		return socket.Fail("the connection to the hold is gone", socket.ErrNoAgent, err)
	}
	return nil
}
