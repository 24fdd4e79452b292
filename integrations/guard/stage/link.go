package stage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// A Link is one end of a socket pair between two stages. A message arrives whole
// or not at all. Send may be called concurrently; Recv by one goroutine.
type Link struct {
	file *os.File
	in   []byte // of Recv
}

func newLink(fd int) *Link {
	_ = syscall.SetNonblock(fd, true) // so that the runtime's poller takes it
	return &Link{file: os.NewFile(uintptr(fd), "stage link")}
}

// maxMessageBytes bounds a message: a lock's name and a socket's path at most,
// both far below.
const maxMessageBytes = 16 << 10

// Kind is the first byte of a message.
type Kind byte

// The messages, by direction.
const (
	Listening Kind = 'l' // face → keeper, first: signals are caught from now on
	Signal    Kind = 's' // face → keeper → init: forward signal Number, unless the whole job had it

	Started   Kind = 'g' // init → keeper: the command runs; keeper → face: it is about to, Text is its Files
	Contained Kind = 'c' // keeper → face: Text is the control group's path; Number is 1 when Again may come
	Again     Kind = 'a' // keeper → face: the lease was lost, and nothing of the tree is left; start another keeper
	Ended     Kind = 'x' // init → keeper: how the command ended; keeper → face: how to end

	Ready  Kind = 'r' // init → keeper: contained, waiting for Start
	Failed Kind = 'f' // init → keeper: Number is the errno, Text says of what

	// Start is keeper → init: run the command, which is the last Number words of
	// os.Args. Text is its file, and after it, each behind a zero, its environment.
	// At is the deadline.
	Start    Kind = 'b'
	Deadline Kind = 'd' // keeper → init: At is the new deadline
	Stop     Kind = 't' // keeper → init: signal Number to the tree, 0 is SIGTERM; or Text for sh
)

// A Message is what travels on a Link.
type Message struct {
	Kind   Kind
	BySig  bool          // Ended: Number is a signal, not an exit code
	Number int           // exit code, signal or errno
	At     time.Duration // an absolute boot time
	Text   string
}

const headerBytes = 14

// Send writes one message. It blocks only while the other side's buffer is full.
func (l *Link) Send(m Message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	if _, err := l.file.Write(b); err != nil {
		return fmt.Errorf("send to another stage: %w", err)
	}
	return nil
}

// TrySend is Send for whom nobody may hold up: when the other side does not read,
// because it is stopped, the message is lost and the error wraps syscall.EAGAIN.
func (l *Link) TrySend(m Message) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("send to another stage: %w", err)
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		_, failed = syscall.Write(int(fd), b)
		return !errors.Is(failed, syscall.EINTR)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("send to another stage: %w", err)
	}
	return nil
}

func (m Message) encode() ([]byte, error) {
	b := make([]byte, headerBytes, headerBytes+len(m.Text))
	b[0] = byte(m.Kind)
	if m.BySig {
		b[1] = 1
	}
	binary.LittleEndian.PutUint32(b[2:], uint32(m.Number))
	binary.LittleEndian.PutUint64(b[6:], uint64(m.At))
	b = append(b, m.Text...)
	if len(b) > maxMessageBytes {
		return nil, fmt.Errorf("send to another stage: %d bytes are more than %d", len(b), maxMessageBytes)
	}
	return b, nil
}

// Recv blocks for the next message. It returns io.EOF when the other stage has
// ended, however it did.
func (l *Link) Recv() (Message, error) {
	if l.in == nil {
		l.in = make([]byte, maxMessageBytes)
	}
	b := l.in
	n, err := l.file.Read(b)
	if errors.Is(err, syscall.ECONNRESET) {
		// The other stage ended without reading all that we had sent. The kernel
		// says so once, ahead of what the stage itself had still sent.
		n, err = l.file.Read(b)
	}
	switch {
	case err != nil:
		return Message{}, err
	case n < headerBytes:
		return Message{}, fmt.Errorf("message from another stage: %d bytes, a header has %d", n, headerBytes)
	}
	return Message{
		Kind:   Kind(b[0]),
		BySig:  b[1] == 1,
		Number: int(int32(binary.LittleEndian.Uint32(b[2:]))),
		At:     time.Duration(binary.LittleEndian.Uint64(b[6:])),
		Text:   string(b[headerBytes:n]),
	}, nil
}

// Close closes this end: the other side reads io.EOF.
func (l *Link) Close() error { return l.file.Close() }
