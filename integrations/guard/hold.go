package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// State is what the agent says about a hold.
type State string

// The states of a hold, named as in the agent's API.
const (
	Queued   State = "queued"   // in line
	Held     State = "held"     // granted, to be acknowledged
	Renewed  State = "renewed"  // the deadline moved, or the ack was in time
	AtRisk   State = "at-risk"  // the quorum is silent; the lock is safe until the deadline
	Lost     State = "lost"     // last: stop at once
	Released State = "released" // last: given back, or never got
)

// An Event is one step of a hold.
type Event struct {
	State    State
	Hold     string // id, for Attach
	Position uint32 // Queued: 1 is next
	Token    int64  // Held: the fencing token
	// Deadline is the absolute CLOCK_BOOTTIME, under the boot BootID, at which
	// nothing of the tree may be left. The grace is before it, the time that a kill
	// takes behind it. Zero when the event has none.
	Deadline time.Duration
	BootID   string
	Reason   string // Lost, Released
}

// Witnesses prove to the agent that the command's tree lives: the hold outlasts
// the connection until all of them have ended.
type Witnesses struct {
	// Pidfds stay the guard's. The agent gets duplicates (SCM_RIGHTS).
	Pidfds []*os.File
	// TreeEnds says that the end of all of them proves that nothing of the tree
	// is left. Otherwise it only ends the renewals.
	TreeEnds bool
	// Group, optional, has the control group that the tree is in: cgroup.kill open for
	// writing, and cgroup.events. The agent ends what is left in it when all of
	// Pidfds have ended. They stay the guard's.
	Group []*os.File
	// Contain names the rung, for whoever asks who holds the lock.
	Contain Containment
	// LastEndsTree says that the last of Pidfds is of PID 1 of the pid namespace
	// that the guard lives in, a container's: its end alone proves that nothing of
	// the tree is left, and its life proves nothing.
	LastEndsTree bool
}

// An Agent opens the guard's one hold. Lock, TTL, grace and how long to wait are
// the implementation's. Errors that wrap ErrUnavailable may pass; ErrUnknownHold
// is Attach's answer for a hold that the agent does not have; all others are
// final and shown to the user. Methods with a context return soon after it ended.
type Agent interface {
	// Open asks for the lock and returns when the agent has the request.
	Open(ctx context.Context, w Witnesses) (Lock, error)
	// Attach takes up the hold again after its connection broke. The agent
	// answers with its present state as the first event.
	Attach(ctx context.Context, hold string, w Witnesses) (Lock, error)
	// GiveBack frees the lock of a hold that no connection stands for now: its
	// agent is being restarted, or has lost its lease table. It is called only once
	// the tree is gone, and returns nil when the lock is free or another's.
	GiveBack(ctx context.Context, hold string) error
}

// A Lock is one connection's view of the hold. Next is called by one goroutine,
// the other methods by another.
type Lock interface {
	// Next blocks for the next event. Any error means that the connection is of
	// no use any more, and nothing about the hold.
	Next(ctx context.Context) (Event, error)
	// Ack accepts a grant. The agent answers with a Renewed event if it came in
	// time, with Queued or Lost otherwise.
	Ack() error
	// Release gives the lock or the place in line back, and returns nil once the
	// quorum has confirmed.
	Release(ctx context.Context) error
	// Close drops the connection; the hold lives on while its witnesses do.
	Close() error
}

var (
	// ErrUnavailable is wrapped by errors of an Agent that cannot be reached.
	ErrUnavailable = errors.New("no agent answers")
	// ErrUnknownHold is wrapped by errors of Attach when the agent does not have
	// the hold.
	ErrUnknownHold = errors.New("the agent does not know the hold")
)

// An ExitCoder is an error of an Agent that decides the guard's exit code; without
// one it is ExitUsage, or ExitUnavailable for ErrUnavailable.
type ExitCoder interface{ ExitCode() int }

var errNotConnected = errors.New("not connected to the agent")

// Bounds of the pause between two attempts to reach an agent that is gone. An
// agent's restart takes longer than the first and is noticed within the last.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// hold follows the agent's events over however many connections it takes.
type hold struct {
	agent     Agent
	witnesses Witnesses
	patient   func(error) bool // whether to wait for an agent that never answered
	events    chan Event       // never closed
	failed    chan error       // one final error at most
	again     chan struct{}    // the answer to Lost: nothing has started, stand in line anew
	cancel    func()           // ends follow
	followed  chan struct{}    // closed when follow has ended
	asked     chan struct{}    // closed when the first attempt to open has ended

	mu   sync.Mutex // guards what follows
	lock Lock       // nil while not connected
	held string     // id once confirmed: the lock may be ours at the quorum

	// Of follow only.
	id string
	// confirmed says that the reader of events may have started the command: it
	// was given a Renewed. From then on this hold is the only one.
	confirmed bool
}

func newHold(agent Agent, w Witnesses) *hold {
	return &hold{
		agent: agent, witnesses: w,
		events: make(chan Event), failed: make(chan error, 1), again: make(chan struct{}, 1), asked: make(chan struct{}),
	}
}

// start begins to follow, until stop.
func (h *hold) start() {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.followed = cancel, make(chan struct{})
	go func() { defer close(h.followed); h.follow(ctx) }()
}

// stop drops the connection and returns when follow has ended.
func (h *hold) stop() {
	h.cancel()
	<-h.followed
}

// forget gives back what was asked for, and stops: another hold of the same keeper
// does not find it in its way. Nobody else reads the events any more.
func (h *hold) forget() {
	go h.ignoreEvents()
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	select {
	case <-h.asked:
		_ = h.release(ctx) // the agent sees the end of the witnesses, too
	case <-ctx.Done():
	}
	h.stop()
}

// ignoreEvents keeps a connection readable while the lock is released. It ends
// with follow.
func (h *hold) ignoreEvents() {
	for {
		select {
		case <-h.events:
		case <-h.followed:
			return
		}
	}
}

// follow runs until ctx ends, a final error, or Released.
func (h *hold) follow(ctx context.Context) {
	lock, err := h.agent.Open(ctx, h.witnesses)
	if err == nil {
		h.connected(lock)
	}
	close(h.asked)
	if errors.Is(err, ErrUnavailable) && h.patient(err) {
		lock, err = h.reconnect(ctx)
	}
	if err != nil {
		h.failed <- err
		return
	}
	for lock != nil {
		h.connected(lock)
		last := h.read(ctx, lock)
		h.connected(nil)
		switch last {
		case Released:
			return
		case Lost:
			select {
			case <-h.again:
				h.id, h.confirmed = "", false
				h.hasLock("")
			case <-ctx.Done():
				return
			}
		}
		if lock, err = h.reconnect(ctx); err != nil {
			h.failed <- err
			return
		}
	}
}

// read passes the events of one connection on. It returns the last one of the
// hold, or "" when only the connection has ended.
func (h *hold) read(ctx context.Context, lock Lock) State {
	defer lock.Close()
	for {
		e, err := lock.Next(ctx)
		if err != nil {
			return ""
		}
		if e.Hold != "" {
			h.id = e.Hold
		}
		switch e.State {
		case Renewed:
			h.confirmed = true
			h.hasLock(h.id)
		case Queued:
			h.confirmed = false
			h.hasLock("")
		}
		select {
		case h.events <- e:
		case <-ctx.Done():
			return ""
		}
		if e.State == Lost || e.State == Released {
			return e.State
		}
	}
}

// reconnect tries until it has a connection, ctx ends (nil, nil), or the answer
// is final.
func (h *hold) reconnect(ctx context.Context) (Lock, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if ctx.Err() != nil {
			return nil, nil
		}
		lock, err := h.connect(ctx)
		if err == nil {
			return lock, nil
		}
		final := !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUnknownHold)
		if final && !h.confirmed && ctx.Err() == nil {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (h *hold) connect(ctx context.Context) (Lock, error) {
	if h.id == "" {
		return h.agent.Open(ctx, h.witnesses)
	}
	lock, err := h.agent.Attach(ctx, h.id, h.witnesses)
	if errors.Is(err, ErrUnknownHold) && !h.confirmed {
		h.id = "" // restarted without our request: ask again
		return h.agent.Open(ctx, h.witnesses)
	}
	return lock, err
}

func (h *hold) connected(lock Lock) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lock = lock
}

func (h *hold) hasLock(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = id
}

// ack accepts the grant. An error needs no answer: the connection is gone, and
// the next one begins with the state.
func (h *hold) ack() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lock == nil {
		return errNotConnected
	}
	return h.lock.Ack()
}

// release gives the lock back: over the connection, or without one when the lock
// may be ours all the same.
func (h *hold) release(ctx context.Context) error {
	h.mu.Lock()
	lock, held := h.lock, h.held
	h.mu.Unlock()
	err := errNotConnected
	if lock != nil {
		err = lock.Release(ctx)
	}
	if errors.Is(err, io.EOF) {
		err = nil // it was the last event
	}
	if err != nil && held != "" && ctx.Err() == nil {
		err = h.agent.GiveBack(ctx, held)
	}
	if err != nil {
		return fmt.Errorf("release the lock: %w", err)
	}
	return nil
}
