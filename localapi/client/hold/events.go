package hold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication/stream"
)

// open opens a hold on a connection and starts its two goroutines.
func open(ctx context.Context, conn *stream.Conn, r holdwire.HoldRequest, autoAck bool, resume *resumption) (*Hold, error) {
	boot, err := bootID()
	if err != nil {
		return nil, socket.Fail(err.Error(), socket.ErrInternal, err)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, socket.Fail("the hold cannot be encoded: "+err.Error(), socket.ErrInvalid, err)
	}
	// The stream outlives ctx, which bounds the opening alone.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	opening := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	sent := boottime()
	st, err := conn.Open(life, holdwire.MethodHold, stream.Bytes(body))
	if err != nil {
		end(err)
		return nil, errorOfOpen(ctx, err)
	}
	h := &Hold{stream: st, life: life, end: end, resume: resume, resumed: make(chan struct{}), bootID: boot, autoAck: autoAck, needAck: r.NeedAck,
		process: r.Witness == holdwire.WitnessProcess || r.Attach != "",
		events:  make(chan holdwire.HoldEvent, eventsKept), held: make(chan struct{}), lost: make(chan struct{}), done: make(chan struct{})}
	err = h.greet(ctx, st, sent)
	if !opening() && err == nil {
		err = errorOfOpen(ctx, context.Cause(ctx))
	}
	if err == nil {
		h.alarm, err = newAlarm()
	}
	if err != nil {
		_ = st.Close() // always nil
		end(err)
		return nil, err
	}
	// read ends with the stream, watch with the alarm: Close ends both and waits.
	h.running.Go(h.read)
	h.running.Go(h.watch)
	return h, nil
}

// greet takes the first message and compares clocks.
func (h *Hold) greet(ctx context.Context, st *stream.Stream, sent time.Duration) error {
	payload, err := st.Recv(ctx)
	received := boottime()
	if err != nil {
		return errorOfOpen(ctx, err)
	}
	var opened holdwire.HoldOpened
	if err := json.Unmarshal(payload, &opened); err != nil {
		return socket.Fail("the agent's answer cannot be decoded: "+err.Error(), socket.ErrInternal, err)
	}
	h.offset = bootOffset(time.Duration(opened.BoottimeNS), sent, received)
	// One boot may have two names: systemd-nspawn gives a container an id of its
	// own, and a service with ProtectKernelTunables= inside it sees the host's
	// again. A clock that was read between two readings of ours is the same clock.
	if opened.BootID != h.bootID && h.offset != 0 {
		return socket.Fail(fmt.Sprintf("the agent runs under boot %.40q and this process under %q: its deadlines mean nothing here; use the socket of this host's agent", opened.BootID, h.bootID), socket.ErrAnotherHost)
	}
	if h.id == "" {
		h.id = opened.Hold
	}
	h.agentBootID = opened.BootID
	return nil
}

// errorOfOpen explains why a hold was not opened.
func errorOfOpen(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, stream.ErrBroken) {
		return socket.Fail("the agent ended the hold without a word", socket.ErrInternal, err)
	}
	// The connection is the witness, or the caller looks again: nothing is left
	// behind that this side could not tell.
	return socket.ErrorOfCall(ctx, err, true)
}

// read takes events off the stream until its end.
func (h *Hold) read() {
	defer close(h.done)
	defer close(h.events)
	for {
		payload, err := h.stream.Recv(context.Background())
		if err != nil {
			if h.takeUpAgain(err) {
				continue
			}
			h.broken(err)
			return
		}
		var event holdwire.HoldEvent
		if err := json.Unmarshal(payload, &event); err != nil {
			h.broken(fmt.Errorf("an event cannot be decoded: %w", err))
			return
		}
		if event.DeadlineBoottimeNS != 0 {
			if event.BootID != h.agentBootID {
				h.broken(fmt.Errorf("a deadline of another boot, %.40q", event.BootID))
				return
			}
			event.DeadlineBoottimeNS += h.offset.Nanoseconds()
			event.BootID = h.bootID // of the clock that it is on now
		}
		ack := h.apply(&event)
		h.deliver(event)
		if event.Type.Last() {
			return
		}
		if ack {
			_ = h.send(holdwire.HoldAck) // else the stream is at its end, and Recv says so
		}
	}
}

// apply makes the event the state. It reports whether the grant has to be
// acknowledged now.
func (h *Hold) apply(e *holdwire.HoldEvent) (ack bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Token != nil {
		if h.isHeld && h.token != *e.Token {
			h.err = socket.Fail("the lock was lost and granted anew", socket.ErrLost)
			h.loseLocked()
		}
		h.token = *e.Token
	}
	if e.DeadlineBoottimeNS != 0 {
		h.deadline = time.Duration(e.DeadlineBoottimeNS)
		if err := h.alarm.set(h.deadline); err != nil {
			// Without an alarm nobody would notice the deadline.
			h.err = socket.Fail("the deadline cannot be watched: "+err.Error(), socket.ErrLost, err)
			h.loseLocked()
		}
	}
	switch e.Type {
	case holdwire.HoldHeld, holdwire.HoldRenewed:
		h.state = holdwire.HoldHeld
		h.checkDeadlineLocked()
		if e.Type == holdwire.HoldHeld && h.needAck {
			return h.autoAck
		}
		h.holdLocked()
	case holdwire.HoldQueued:
		// A grant whose ack came too late: the deadline went with it.
		h.state, h.deadline = holdwire.HoldQueued, 0
	case holdwire.HoldAtRisk:
		h.state = holdwire.HoldAtRisk
	case holdwire.HoldLost:
		h.err = socket.Fail("the lock is lost: "+e.Reason, socket.ErrLost)
		h.loseLocked()
	case holdwire.HoldReleased:
		h.state, h.deadline = holdwire.HoldReleased, 0
	}
	return false
}

func (h *Hold) holdLocked() {
	if !h.isHeld && !h.isLost {
		h.isHeld = true
		close(h.held)
	}
}

func (h *Hold) loseLocked() {
	h.state = holdwire.HoldLost
	if !h.isLost {
		h.isLost = true
		close(h.lost)
	}
}

// checkDeadlineLocked: whoever looks after the deadline sees lost, whatever the
// alarm does. It stays lost: the holder may have stopped, or should have.
func (h *Hold) checkDeadlineLocked() {
	if h.isLost && h.state != holdwire.HoldReleased {
		h.state = holdwire.HoldLost
	}
	if h.deadline != 0 && boottime() >= h.deadline {
		h.loseLocked()
	}
}

// deliver never blocks: without a reader the oldest event gives way.
func (h *Hold) deliver(e holdwire.HoldEvent) {
	for {
		select {
		case h.events <- e:
			return
		default:
		}
		select {
		case <-h.events:
		default: // a reader was faster
		}
	}
}

// broken ends a hold whose stream ended without a last event.
func (h *Hold) broken(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var remote *stream.RemoteError
	switch {
	case errors.As(err, &remote):
		err = socket.ErrorOfKind(holdwire.KindOfNumber(remote.Code), remote.Text)
	case errors.Is(err, stream.ErrClosed) && !errors.Is(err, stream.ErrBroken):
		err = socket.Fail("the hold was closed", socket.ErrClosed)
	default:
		err = socket.Fail("the connection to the agent is lost", socket.ErrNoAgent, err)
	}
	if h.err == nil {
		h.err = err
	}
	// The agent releases what had this connection as its witness.
	if h.isHeld && !h.process {
		h.loseLocked()
	}
}

// watch closes Lost at the deadline, whether or not the agent still speaks.
func (h *Hold) watch() {
	for {
		if err := h.alarm.wait(); err != nil {
			return // closed
		}
		h.mu.Lock()
		h.checkDeadlineLocked()
		h.mu.Unlock()
	}
}
