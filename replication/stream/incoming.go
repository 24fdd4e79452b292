package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// errCanceled is the cause of a request's ctx when its caller gave up.
var errCanceled = fmt.Errorf("the caller has given up: %w", context.Canceled)

var (
	errAnswered  = errors.New("the request was answered before")
	errNotStream = errors.New("not a stream: it takes one answer")
	errIsStream  = errors.New("a stream is not answered, it ends")
)

// Incoming is one request of the peer. Reply, Fail and Send are for one
// goroutine at a time, Recv for another.
type Incoming struct {
	Method  uint8
	Payload []byte // the handler may keep it

	c         *Conn
	id        uint64
	costBytes int64
	answered  bool // owned by the handler
	ctx       context.Context
	cancel    context.CancelFunc
	inbox     *inbox     // nil for a call
	allowance *allowance // nil for a call
}

// Streaming reports whether the peer opened a stream rather than called.
func (in *Incoming) Streaming() bool { return in.inbox != nil }

// Conn returns the connection that the request came on, for those who tell
// callers apart by it or call back.
func (in *Incoming) Conn() *Conn { return in.c }

// Reply answers a call with m (nil: an empty answer), and takes the request out
// of the peer's limit: the handler should return soon after. It blocks while the
// peer does not read. Errors: the connection is lost; or there was an answer
// before; or m is too large, and the caller was told so.
func (in *Incoming) Reply(m Message) error {
	if in.Streaming() {
		return errIsStream
	}
	return in.last(kindAnswer, m)
}

// Fail ends the request with err: a *RemoteError in its chain travels with its
// code, anything else as CodeUnspecified with its text. It blocks and errs like
// Reply.
func (in *Incoming) Fail(err error) error {
	remote := &RemoteError{Code: CodeUnspecified, Text: err.Error()}
	errors.As(err, &remote)
	return in.last(kindFail, remote)
}

// Send sends a message down the stream. It blocks while the peer does not take
// messages, until the request's ctx ends.
func (in *Incoming) Send(m Message) error {
	if !in.Streaming() {
		return errNotStream
	}
	if in.answered {
		return errAnswered
	}
	if err := in.allowance.spend(in.ctx, sizeOf(m)); err != nil {
		return err
	}
	return in.c.out.put(in.ctx, in.id, kindDown, 0, m)
}

// Recv returns the caller's next message up the stream. It ends with ctx and
// with the request's own.
func (in *Incoming) Recv(ctx context.Context) ([]byte, error) {
	if !in.Streaming() {
		return nil, errNotStream
	}
	p, credit, err := in.inbox.take(ctx)
	if credit > 0 && !in.c.out.putNow(in.id, kindCreditUp, creditMessage(credit)) {
		in.c.end(errNotReading, false)
	}
	return p, err
}

// last sends the request's last frame. The request leaves the table first, so
// that a peer which starts another one on seeing the frame is within its limit.
func (in *Incoming) last(k kind, m Message) error {
	if in.answered {
		return errAnswered
	}
	in.answered = true
	in.c.served.remove(in.id)
	err := in.c.out.put(in.c.ctx, in.id, k, 0, m)
	if errors.Is(err, ErrTooLarge) {
		told := in.c.out.put(in.c.ctx, in.id, kindFail, 0, &RemoteError{Code: CodeTooLarge, Text: err.Error()})
		return errors.Join(err, told)
	}
	return err
}

// SizeVT and MarshalToSizedBufferVT make RemoteError the payload of a fail frame.

// SizeVT implements Message.
func (e *RemoteError) SizeVT() int { return 4 + len(e.text()) }

// MarshalToSizedBufferVT implements Message.
func (e *RemoteError) MarshalToSizedBufferVT(b []byte) (int, error) {
	n := e.SizeVT()
	b = b[len(b)-n:]
	binary.BigEndian.PutUint32(b, e.Code)
	copy(b[4:], e.text())
	return n, nil
}

func (e *RemoteError) text() string { return e.Text[:min(len(e.Text), maxErrorBytes)] }

// accept starts the handler of a new request.
func (c *Conn) accept(f frame) error {
	in := &Incoming{Method: f.method, Payload: f.payload, c: c, id: f.id, costBytes: int64(len(f.payload))}
	if f.kind == kindOpen {
		in.inbox, in.allowance = newInbox(), newAllowance()
	}
	full, err := c.served.add(in, c.o)
	if err != nil {
		return err
	}
	if full {
		c.o.Logger.Warn("a peer has as many requests unanswered on one connection as it may: its next ones wait on its side, and fail when none ends; it should use another connection",
			"peer", c.o.Peer, "limit", c.o.MaxInFlight)
		if c.o.Full != nil {
			c.o.Full()
		}
	}
	if c.o.Handler == nil {
		c.served.remove(f.id)
		if !c.out.putNow(f.id, kindFail, &RemoteError{Code: CodeNoHandler, Text: "nothing is served on this connection"}) {
			return errNotReading
		}
		return nil
	}
	// The handler ends when it likes; its ctx asks it to, and Close waits for it.
	in.ctx, in.cancel = c.bounded(in)
	c.workers.run(c.ctx, &c.running, in)
	return nil
}

// bounded is the ctx that the handler gets: it ends with the connection, when
// the caller gives up, and after Options.Timeout.
func (c *Conn) bounded(in *Incoming) (context.Context, context.CancelFunc) {
	if c.o.Timeout != nil && !in.Streaming() {
		if limit := c.o.Timeout(in.Method, in.Payload); limit > 0 {
			return context.WithTimeout(c.ctx, limit)
		}
	}
	return context.WithCancel(c.ctx)
}

func (in *Incoming) serve() {
	defer in.cancel()
	in.c.o.Handler(in.ctx, in)
	// An error here means that the connection is lost, which nobody is left to hear.
	switch {
	case in.answered:
	case in.Streaming():
		_ = in.last(kindEnd, nil)
	default:
		_ = in.last(kindFail, &RemoteError{Code: CodeNoAnswer, Text: "the request was not answered"})
	}
	if in.Streaming() {
		in.inbox.end(errAnswered)
		in.allowance.end(errAnswered)
	}
}

// served are the peer's requests that have not seen their last frame.
type served struct {
	mu    sync.Mutex
	byID  map[uint64]*Incoming
	bytes int64
	full  bool // the limit of requests has been reached once
	err   error
}

// add refuses what the peer may not send. It reports when the limit of requests is
// reached for the first time.
func (t *served) add(in *Incoming, o Options) (full bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return false, t.err
	}
	if t.byID[in.id] != nil {
		return false, fmt.Errorf("%w: request %d is in flight already", ErrProtocol, in.id)
	}
	if len(t.byID) >= o.MaxInFlight {
		return false, fmt.Errorf("%w: more than %d requests in flight", ErrProtocol, o.MaxInFlight)
	}
	if len(t.byID) > 0 && t.bytes+in.costBytes > o.MaxInFlightBytes {
		return false, fmt.Errorf("%w: requests of more than %d bytes in flight", ErrProtocol, o.MaxInFlightBytes)
	}
	t.byID[in.id] = in
	t.bytes += in.costBytes
	full = len(t.byID) >= o.MaxInFlight && !t.full
	t.full = t.full || full
	return full, nil
}

// find returns nil for a request that has ended: what the caller sent before it
// saw the last frame is ignored.
func (t *served) find(id uint64) *Incoming {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

func (t *served) remove(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in := t.byID[id]; in != nil {
		delete(t.byID, id)
		t.bytes -= in.costBytes
	}
}

// end ends the streams of all requests; their ctx ends with the connection's.
func (t *served) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	for _, in := range t.byID {
		if in.inbox != nil {
			in.inbox.end(err)
			in.allowance.end(err)
		}
	}
}
