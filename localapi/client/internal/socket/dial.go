package socket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication/stream"
)

const (
	// DialTimeout bounds dialling and the upgrade: an agent that is alive answers
	// from memory.
	DialTimeout = 5 * time.Second
	// maxPathBytes is what the kernel takes.
	maxPathBytes = 107
)

// Dial connects and upgrades. logger may be nil. files travel with the first bytes and stay the
// caller's. Errors are ErrNoAgent, ErrDenied, ErrUnavailable or ErrInvalid:
// nothing was asked for yet.
func Dial(ctx context.Context, socket string, files []*os.File, logger stream.Logger) (*stream.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	conn, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	// A deadline in the past wakes whoever reads or writes.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	up, err := upgrade(conn, files)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close() // nothing was asked for
		var f *Failure
		if errors.As(err, &f) {
			return nil, err
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, Fail(fmt.Sprintf("the agent at %s takes connections and does not answer in time: look whether it is stopped, its host out of processor time, or, under systemd, cannot start (journalctl -u kahu)", socket), ErrNoAgent, err)
		}
		return nil, Fail(fmt.Sprintf("the agent at %s does not answer as it should: %v", socket, err), ErrNoAgent, err)
	}
	return stream.New(up, stream.Options{KeepAlive: -1, Logger: logger}), nil
}

// connectStep is how often a connect looks whether it is still wanted, while the
// agent does not accept.
const connectStep = 50 * time.Millisecond

// connect is what net.Dialer does, without package net (see stream.Transport).
func connect(ctx context.Context, socket string) (*os.File, error) {
	if len(socket) > maxPathBytes {
		return nil, Fail(fmt.Sprintf("the socket path %s has %d bytes, and the kernel takes %d", socket, len(socket), maxPathBytes), ErrInvalid)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, DialError(socket, os.NewSyscallError("socket", err))
	}
	step := unix.NsecToTimeval(connectStep.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &step)
	for err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) { // EAGAIN: its queue is full
			break
		}
		err = ctx.Err()
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that the runtime's poller takes it
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was sent
		return nil, DialError(socket, os.NewSyscallError("connect", err))
	}
	return os.NewFile(uintptr(fd), socket), nil
}

// DialError says what it means that the socket cannot be dialled, and what to do.
func DialError(socket string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Fail(fmt.Sprintf("no agent: there is no socket at %s; start one with `kahu agent`, or name its socket with --socket or KAHU_SOCKET", socket), ErrNoAgent, err)
	case errors.Is(err, unix.ECONNREFUSED):
		return Fail(fmt.Sprintf("no agent: nobody serves the socket %s any more; start the agent again", socket), ErrNoAgent, err)
	case errors.Is(err, fs.ErrPermission):
		return Fail(fmt.Sprintf("you may not connect to %s; ask for membership in the group kahu, or a rule in the agent's policy", socket), ErrNoAgent, ErrDenied, err)
	}
	return Fail(fmt.Sprintf("no agent answers at %s: %v", socket, err), ErrNoAgent, err)
}

// upgrade asks for the stream and returns the connection behind the answer.
func upgrade(conn *os.File, files []*os.File) (stream.Transport, error) {
	request := []byte("GET " + holdwire.StreamPath + " HTTP/1.1\r\nHost: kahu\r\nConnection: Upgrade\r\nUpgrade: " + holdwire.UpgradeProtocol + "\r\n\r\n")
	// An agent with too many connections answers and closes before it reads: the
	// answer is there although sending failed.
	failed := sendWithFiles(conn, request, files)
	if failed != nil && !errors.Is(failed, unix.EPIPE) {
		return nil, fmt.Errorf("send the first request: %w", failed)
	}
	in := bufio.NewReaderSize(conn, 4<<10)
	answer, err := readAnswer(in)
	if err != nil {
		if failed != nil {
			return nil, fmt.Errorf("send the first request: %w", failed)
		}
		return nil, fmt.Errorf("read the first answer: %w", err)
	}
	if answer.status != switchingProtocols {
		return nil, Refusal(answer.status, answer.body(in)) // the connection ends
	}
	if n := in.Buffered(); n > 0 {
		head, _ := in.Peek(n)
		return &prefixedConn{File: conn, prefix: append([]byte(nil), head...)}, nil
	}
	return conn, nil
}

// sendWithFiles sends b; the files arrive with its first byte.
func sendWithFiles(conn *os.File, b []byte, files []*os.File) error {
	if len(files) == 0 {
		_, err := conn.Write(b)
		return err
	}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return err
		}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		n, failed = unix.SendmsgN(int(fd), b, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return failed != unix.EAGAIN && failed != unix.EINTR // false: wait until there is room
	})
	err = errors.Join(err, failed)
	if err == nil && n < len(b) {
		_, err = conn.Write(b[n:])
	}
	runtime.KeepAlive(files) // fds mean the files until here
	return err
}

// prefixedConn gives back what was read too early.
type prefixedConn struct {
	*os.File
	prefix []byte
}

// Read implements io.Reader.
func (c *prefixedConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.File.Read(p)
}
