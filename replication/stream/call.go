package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
)

func sizeOf(m Message) int {
	if m == nil {
		return 0
	}
	return m.SizeVT()
}

func notSent(err error) error { return fmt.Errorf("%w: %w", ErrNotSent, err) }

// Call sends one request and waits for its answer, which belongs to the caller.
// m (nil: an empty one) is encoded before Call returns and not kept. Call waits
// for the hello, and for a place within the peer's limits.
//
// Errors are a *RemoteError, or wrap ErrBroken, or wrap the cause of ctx; the
// last two wrap ErrNotSent as well when nothing was sent, and so does
// ErrTooLarge. When ctx ends the peer is told to stop.
func (c *Conn) Call(ctx context.Context, method uint8, m Message) (payload []byte, err error) {
	cl := c.calls.get(sizeOf(m))
	id, err := c.calls.start(ctx, cl)
	if err != nil {
		return nil, notSent(err)
	}
	if err := c.out.put(ctx, id, kindCall, method, m); err != nil {
		c.calls.withdraw(id, cl)
		return nil, notSent(err)
	}
	var r result
	select {
	case r = <-cl.done:
	case <-ctx.Done():
		if c.calls.abandon(id, cl) {
			if !c.out.putNow(id, kindCancel, nil) {
				c.end(errNotReading, false)
			}
			return nil, fmt.Errorf("waiting for an answer: %w", context.Cause(ctx))
		}
		r = <-cl.done
	}
	c.calls.pool.Put(cl)
	return r.payload, r.err
}

// Stream is the caller's end of an open stream.
type Stream struct {
	c         *Conn
	id        uint64
	call      *call
	ctx       context.Context
	inbox     *inbox
	allowance *allowance
	unwatch   func() bool // stops watching ctx
}

// Open opens a stream with m as its first message and does not wait for an
// answer. The stream ends when ctx does, with Close, or when the peer ends it.
// Whoever opens a stream must Close it, or end ctx. Errors are those of Call,
// all before anything was sent.
func (c *Conn) Open(ctx context.Context, method uint8, m Message) (*Stream, error) {
	s := &Stream{c: c, ctx: ctx, inbox: newInbox(), allowance: newAllowance()}
	s.call = &call{costBytes: int64(sizeOf(m)), stream: s}
	id, err := c.calls.start(ctx, s.call)
	if err != nil {
		return nil, notSent(err)
	}
	s.id = id
	if err := c.out.put(ctx, id, kindOpen, method, m); err != nil {
		c.calls.withdraw(id, s.call)
		return nil, notSent(err)
	}
	s.unwatch = context.AfterFunc(ctx, func() { s.stop(context.Cause(ctx)) })
	return s, nil
}

// Recv returns the peer's next message, which belongs to the caller. It returns
// io.EOF when the peer ended the stream, ErrClosed after Close, the cause of
// Open's ctx after that ended, else errors as Call does. One goroutine at a time.
func (s *Stream) Recv(ctx context.Context) ([]byte, error) {
	p, credit, err := s.inbox.take(ctx)
	if credit > 0 && !s.c.out.putNow(s.id, kindCreditDown, creditMessage(credit)) {
		s.c.end(errNotReading, false)
	}
	return p, err
}

// Send sends a message up. It blocks while the peer does not take messages,
// until the stream ends, and then returns why as Recv does. One goroutine at a
// time.
func (s *Stream) Send(m Message) error {
	if err := s.allowance.spend(s.ctx, sizeOf(m)); err != nil {
		return err
	}
	return s.c.out.put(s.ctx, s.id, kindUp, 0, m)
}

// Close tells the peer that nobody listens any more. It does not block, may be
// called more than once and concurrently with everything, and returns nil.
func (s *Stream) Close() error {
	s.unwatch()
	s.stop(ErrClosed)
	return nil
}

// stop ends the stream from this side.
func (s *Stream) stop(why error) {
	s.inbox.end(why)
	s.allowance.end(why)
	if s.c.calls.abandonOnce(s.id, s.call) && !s.c.out.putNow(s.id, kindCancel, nil) {
		s.c.end(errNotReading, false)
	}
}

// ended is called on the stream's last frame, or when the connection is lost.
func (s *Stream) ended(err error) {
	s.inbox.end(err)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the other side has ended the stream: %w", err)
	}
	s.allowance.end(err)
}
