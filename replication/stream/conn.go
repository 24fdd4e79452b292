package stream

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"
)

// Conn is one connection. All methods may be called concurrently.
type Conn struct {
	conn Transport
	o    Options

	out     *outbox
	calls   calls
	served  served
	workers workers

	ready chan struct{} // closed when the peer's hello has come

	// ctx ends with the connection; its cause is what Err returns.
	ctx context.Context
	// ending makes end act once, for whoever finds the connection's end first.
	ending  sync.Once
	cancel  context.CancelCauseFunc
	running sync.WaitGroup // reader, writer, handlers
}

// New takes over conn and starts the protocol on it. It does not block: calls
// wait for the peer's hello. The caller must Close it; it also closes itself
// when the peer goes away (see Done).
func New(conn Transport, o Options) *Conn {
	o = o.withDefaults()
	c := &Conn{conn: conn, o: o, ready: make(chan struct{})}
	c.calls.byID, c.calls.patience = make(map[uint64]*call), o.PlaceTimeout
	c.served.byID = make(map[uint64]*Incoming)
	c.workers.next = make(chan *Incoming)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.out = newOutbox(appendHello(nil, limits{
		frameBytes:    uint32(o.MaxFrameBytes),
		inFlight:      uint32(o.MaxInFlight),
		inFlightBytes: uint64(o.MaxInFlightBytes),
	}))
	// The reader ends when the socket is closed, the writer when ctx ends; both
	// are waited for by Close.
	c.running.Go(func() { c.end(c.read(), false) })
	c.running.Go(c.write)
	return c
}

// Ready is closed when the peer's hello has come: it speaks this protocol, and
// calls are sent from now on. It stays open when the connection ends before.
func (c *Conn) Ready() <-chan struct{} { return c.ready }

// Done is closed when the connection has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Err returns nil while the connection works, then an error that wraps
// ErrBroken and says why it ended (ErrClosed after Close, io.EOF when the
// peer closed it).
func (c *Conn) Err() error { return context.Cause(c.ctx) }

// Close ends the connection and waits until both goroutines and all handlers
// have returned; their ctx has ended. What was queued before is still written,
// for at most a second. Calls that wait get ErrBroken. A handler must not call
// Close. It returns nil.
func (c *Conn) Close() error {
	c.end(ErrClosed, true)
	c.running.Wait()
	return nil
}

// end ends the connection because of cause, once. With flush the writer closes
// the socket after it has written what was queued.
func (c *Conn) end(cause error, flush bool) {
	c.ending.Do(func() {
		err := fmt.Errorf("%w: %w", ErrBroken, cause)
		c.out.end(err)
		if !flush {
			c.conn.Close()
		}
		c.cancel(err)
		c.calls.end(err)
		c.served.end(err)
		if errors.Is(cause, ErrProtocol) {
			c.o.Logger.Warn("connection ended: the peer broke the protocol", "peer", c.o.Peer, "error", cause)
		} else {
			c.o.Logger.Debug("connection ended", "peer", c.o.Peer, "error", cause)
		}
	})
}

// write is the writer: it owns writing to the socket until ctx ends, and closes
// the socket when it returns.
func (c *Conn) write() {
	defer c.conn.Close()
	var b []byte
	for {
		select {
		case <-c.out.ready:
		case <-c.ctx.Done():
			// What was queued before a Close, if the socket is still open.
			_ = c.conn.SetWriteDeadline(time.Now().Add(flushTimeout))
			if b = c.out.take(b); b != nil {
				_, _ = c.conn.Write(b) // nobody is left to tell
			}
			return
		}
		for {
			// Let whoever is about to send something do so first: one write then
			// carries many frames. An idle processor makes this free.
			runtime.Gosched()
			if b = c.out.take(b); b == nil {
				break
			}
			if err := c.writeAll(b); err != nil {
				c.end(err, false)
				return
			}
		}
	}
}

func (c *Conn) writeAll(b []byte) error {
	for len(b) > 0 {
		chunk := b[:min(len(b), writeChunkBytes)]
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.o.WriteTimeout)); err != nil {
			return err
		}
		if _, err := c.conn.Write(chunk); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("the other side has read nothing for %v: %w", c.o.WriteTimeout, err)
			}
			return err
		}
		b = b[len(chunk):]
	}
	return nil
}

// read is the reader: it takes frames off the socket until one of them, or the
// socket, ends the connection. Nothing in it waits for the peer to read or for
// a handler, so pongs, answers and cancellations always get through.
func (c *Conn) read() error {
	in := bufio.NewReaderSize(&liveReader{c: c}, 64<<10)
	_ = c.conn.SetReadDeadline(time.Now().Add(c.o.HandshakeTimeout))
	peer, err := readHello(c.conn)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("no hello from the other side in %v: %w", c.o.HandshakeTimeout, err)
		}
		return err
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	peer.frameBytes = min(peer.frameBytes, uint32(c.o.MaxFrameBytes))
	c.out.peerAccepts(peer.frameBytes)
	c.calls.peerAccepts(peer)
	close(c.ready)
	for {
		f, err := readFrame(in, uint32(c.o.MaxFrameBytes))
		if err != nil {
			return err
		}
		if err := c.dispatch(f); err != nil {
			return err
		}
	}
}

var errNotReading = errors.New("the other side reads none of what it asked for")

// dispatch acts on one frame. An error ends the connection.
func (c *Conn) dispatch(f frame) error {
	known := true
	switch f.kind {
	case kindCall, kindOpen:
		return c.accept(f)
	case kindUp:
		if in := c.served.find(f.id); in != nil && (in.inbox == nil || !in.inbox.push(f.payload)) {
			return fmt.Errorf("%w: message beyond the window of request %d", ErrProtocol, f.id)
		}
	case kindCreditDown:
		if in := c.served.find(f.id); in != nil && (in.allowance == nil || !in.allowance.add(binary.BigEndian.Uint32(f.payload))) {
			return fmt.Errorf("%w: credit beyond the window of request %d", ErrProtocol, f.id)
		}
	case kindCancel:
		if in := c.served.find(f.id); in != nil {
			in.cancel()
			if in.inbox != nil {
				in.inbox.end(errCanceled)
			}
		}
	case kindAnswer:
		known = c.calls.last(f.id, isUnary, result{payload: f.payload})
	case kindEnd:
		known = c.calls.last(f.id, isStream, result{err: io.EOF})
	case kindFail:
		err := &RemoteError{Code: binary.BigEndian.Uint32(f.payload), Text: string(f.payload[4:])}
		known = c.calls.last(f.id, isAny, result{err: err})
	case kindDown:
		cl := c.calls.find(f.id)
		if known = cl != nil && cl.stream != nil; known && !cl.stream.inbox.push(f.payload) {
			return fmt.Errorf("%w: message beyond the window of stream %d", ErrProtocol, f.id)
		}
	case kindCreditUp:
		cl := c.calls.find(f.id)
		if known = cl != nil && cl.stream != nil; known && !cl.stream.allowance.add(binary.BigEndian.Uint32(f.payload)) {
			return fmt.Errorf("%w: credit beyond the window of stream %d", ErrProtocol, f.id)
		}
	case kindPing:
		if !c.out.putNow(0, kindPong, nil) {
			return errNotReading
		}
	case kindPong: // that it came is all
	}
	if !known {
		return fmt.Errorf("%w: frame of kind %d for request %d, which is not in flight", ErrProtocol, f.kind, f.id)
	}
	return nil
}

// liveReader reads the socket and notices when the peer is dead: after half of
// KeepAlive without a byte it pings, after the other half it gives up.
type liveReader struct {
	c       *Conn
	pinged  bool
	armedAt time.Time
}

func (r *liveReader) Read(p []byte) (int, error) {
	every := r.c.o.KeepAlive / 2
	for {
		// Arming costs as much as a small read: it is done anew only when an
		// eighth of the time has gone.
		if now := time.Now(); every > 0 && (r.pinged || now.Sub(r.armedAt) >= every/8) {
			r.armedAt = now
			if err := r.c.conn.SetReadDeadline(now.Add(every)); err != nil {
				return 0, err
			}
		}
		n, err := r.c.conn.Read(p)
		if n > 0 {
			r.pinged = false
			return n, nil
		}
		if every <= 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if r.pinged {
			return 0, fmt.Errorf("the other side has been silent for %v: %w", r.c.o.KeepAlive, err)
		}
		r.pinged = true
		if !r.c.out.putNow(0, kindPing, nil) {
			return 0, errNotReading
		}
	}
}
