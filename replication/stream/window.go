package stream

import (
	"context"
	"encoding/binary"
	"sync"
)

// creditMessage is the payload of a credit frame.
type creditMessage uint32

func (c creditMessage) SizeVT() int { return 4 }

func (c creditMessage) MarshalToSizedBufferVT(b []byte) (int, error) {
	binary.BigEndian.PutUint32(b[len(b)-4:], uint32(c))
	return 4, nil
}

// inbox is the receiving end of one direction of a stream: messages that have
// come and were not taken yet. The window bounds it.
type inbox struct {
	ready chan struct{} // holds a token when there may be something to take

	mu      sync.Mutex
	queue   [][]byte
	granted int64 // what the peer has left to send; not above WindowBytes
	taken   int64 // cost of what was taken and not given back as credit yet
	err     error // set once: why nothing comes after the queue
}

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), granted: WindowBytes}
}

func (b *inbox) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// push adds a message. It reports false when the peer had no credit for it.
func (b *inbox) push(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.granted <= 0 {
		return false
	}
	if b.err != nil {
		return true // ended on this side: nobody will take it
	}
	b.granted -= int64(len(p)) + MessageCostBytes
	b.queue = append(b.queue, p)
	b.wake()
	return true
}

// end lets take return err once the queue is empty.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.wake()
	}
}

// take waits for the next message. credit, when positive, has to be sent back.
func (b *inbox) take(ctx context.Context) (p []byte, credit int64, err error) {
	for {
		b.mu.Lock()
		if len(b.queue) > 0 {
			p, b.queue[0] = b.queue[0], nil
			b.queue = b.queue[1:]
			b.taken += int64(len(p)) + MessageCostBytes
			if b.taken >= WindowBytes/2 && b.err == nil {
				credit, b.taken = b.taken, 0
				b.granted += credit
			}
			b.mu.Unlock()
			return p, credit, nil
		}
		err := b.err
		b.mu.Unlock()
		if err != nil {
			return nil, 0, err
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

// allowance is the sending end of one direction of a stream.
type allowance struct {
	ready chan struct{}

	mu   sync.Mutex
	left int64
	err  error
}

func newAllowance() *allowance {
	return &allowance{ready: make(chan struct{}, 1), left: WindowBytes}
}

func (a *allowance) wake() {
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

// spend waits until a message of payloadBytes may be sent.
func (a *allowance) spend(ctx context.Context, payloadBytes int) error {
	for {
		a.mu.Lock()
		if a.err != nil {
			defer a.mu.Unlock()
			return a.err
		}
		if a.left > 0 {
			defer a.mu.Unlock()
			a.left -= int64(payloadBytes) + MessageCostBytes
			return nil
		}
		a.mu.Unlock()
		select {
		case <-a.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add takes credit in. It reports false for more than was ever spent.
func (a *allowance) add(n uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left+int64(n) > WindowBytes {
		return false
	}
	a.left += int64(n)
	a.wake()
	return true
}

// end fails every later spend with err.
func (a *allowance) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
		a.wake()
	}
}
