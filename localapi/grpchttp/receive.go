package grpchttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// RecvMsg implements grpc.ServerStream: io.EOF when the client has half-closed
// the stream, or the server is closing.
func (c *stream) RecvMsg(m any) error {
	err := c.receive(m)
	if err == nil && c.method.stream != nil {
		c.server.cfg.Observer.Message(c.method.path, true)
	}
	return err
}

// receive reads and decodes one message.
func (c *stream) receive(m any) error {
	size, compressed, err := c.head()
	if err != nil {
		return err
	}
	payload, done, err := c.payload(size)
	if err != nil {
		return err
	}
	if compressed {
		done() // who waits for room must not hold any
		if payload, done, err = c.unpack(payload); err != nil {
			return err
		}
	}
	defer done()
	return decode(payload, m)
}

// head reads what stands before a message: a flag for compression, and its size.
func (c *stream) head() (size int, compressed bool, err error) {
	head, err := c.body.Peek(headBytes)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF) && len(head) == 0:
		return 0, false, io.EOF
	default:
		return 0, false, c.readError(err)
	}
	flag, n := head[0], parseSize(head)
	_, _ = c.body.Discard(headBytes) // they are in the buffer
	if flag > 1 || flag == 1 && !c.gzip {
		return 0, false, status.Errorf(codes.Internal, "a message has the flag %d for compression, and the request does not say how it is compressed", flag)
	}
	if most := c.server.cfg.MaxMessageBytes; n > uint32(most) {
		return 0, false, tooLarge(fmt.Sprintf("has %d bytes", n), most)
	}
	return int(n), flag == 1, nil
}

func tooLarge(what string, most int) error {
	return status.Errorf(codes.ResourceExhausted, "the message %s, and the limit is %d", what, most)
}

// payload reads a message of size bytes into memory of its own, which decoded
// messages may point into. A large one takes turns with all others, and has to
// come in time: whoever announces much and sends little must not hold memory that
// others need. done gives the turn back.
func (c *stream) payload(size int) (p []byte, done func(), err error) {
	if size <= smallMessageBytes {
		p = make([]byte, size)
		_, err := io.ReadFull(c.body, p)
		return p, func() {}, c.readError(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, largeMessageTimeout)
	defer cancel()
	if err := c.server.large.Acquire(ctx, int64(size)); err != nil {
		return nil, nil, status.Error(codes.ResourceExhausted, "too many large messages at a time")
	}
	release := func() { c.server.large.Release(int64(size)) }
	c.readUntil(time.Now().Add(largeMessageTimeout))
	p = make([]byte, size)
	if _, err := io.ReadFull(c.body, p); err != nil {
		release()
		return nil, nil, c.readError(err)
	}
	c.readUntil(time.Time{})
	return p, release, nil
}

// readUntil bounds reading, unless the handler has returned: somebody it left
// behind must not touch the response. An error means that the stream has ended,
// which the read finds out.
func (c *stream) readUntil(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finished {
		_ = c.rc.SetReadDeadline(t)
	}
}

// readError is what became of a read as a status, nil for nil.
func (c *stream) readError(err error) error {
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return status.FromContextError(c.ctx.Err()).Err()
	case c.drained.Load():
		return io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return status.Error(codes.Internal, "the stream ended within a message")
	}
	return status.Errorf(codes.Canceled, "the stream broke: %v", err)
}
