package stream

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// outbox collects frames until the writer takes them all at once, so that many
// frames share a syscall. Messages are encoded straight into it.
type outbox struct {
	// ready holds a token while buf may be non-empty.
	ready chan struct{}

	mu    sync.Mutex
	buf   []byte
	spare []byte        // the buffer that the writer gave back
	max   uint32        // largest frame the peer accepts; set before anything but pings is put
	room  chan struct{} // closed when the writer takes buf; nil while nobody waits
	err   error         // set once: nothing is accepted any more
}

func newOutbox(hello []byte) *outbox {
	o := &outbox{ready: make(chan struct{}, 1), buf: hello}
	o.ready <- struct{}{}
	return o
}

// put appends a frame and waits while too much is queued, until ctx ends.
func (o *outbox) put(ctx context.Context, id uint64, k kind, method uint8, m Message) error {
	o.mu.Lock()
	for len(o.buf) >= maxQueuedBytes && o.err == nil {
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		o.mu.Lock()
	}
	defer o.mu.Unlock()
	return o.append(id, k, method, m)
}

// putNow appends a frame without waiting. It is for the small frames that the
// reader and those who take messages send. It reports false when the peer has
// made us queue far too much without reading any of it.
func (o *outbox) putNow(id uint64, k kind, m Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) >= 2*maxQueuedBytes+int(o.max) {
		return false
	}
	_ = o.append(id, k, 0, m) // fails only when the connection has ended
	return true
}

// append needs mu.
func (o *outbox) append(id uint64, k kind, method uint8, m Message) error {
	if o.err != nil {
		return o.err
	}
	size := 0
	if m != nil {
		size = m.SizeVT()
	}
	if o.max > 0 && size > int(o.max)-headBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, int(o.max)-headBytes)
	}
	was := len(o.buf)
	total := prefixBytes + headBytes + size
	o.buf = slices.Grow(o.buf, total)[:was+total]
	putHead(o.buf[was:], id, k, method, size)
	if size > 0 {
		n, err := m.MarshalToSizedBufferVT(o.buf[was+prefixBytes+headBytes:])
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes announced, %d written", size, n)
		}
		if err != nil {
			o.buf = o.buf[:was]
			return fmt.Errorf("encoding a message: %w", err)
		}
	}
	if was == 0 {
		select {
		case o.ready <- struct{}{}:
		default:
		}
	}
	return nil
}

// take hands everything queued to the writer, or nil. The writer gives the
// buffer back with the next take.
func (o *outbox) take(back []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if back != nil && cap(back) <= maxQueuedBytes {
		o.spare = back[:0]
	}
	if len(o.buf) == 0 {
		return nil
	}
	b := o.buf
	o.buf, o.spare = o.spare, nil
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
	return b
}

// peerAccepts sets the peer's largest frame.
func (o *outbox) peerAccepts(max uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.max = max
}

// end refuses everything from now on with err. What is queued may still be taken.
func (o *outbox) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}
