package caller

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// MaxFiles is how many file descriptors a caller may send before they are
// claimed. Beyond it all of them are closed, and TakeFiles says so.
const MaxFiles = 16

// Conn is a connection with its Caller. Descriptors that the peer passes
// (SCM_RIGHTS) are collected while its bytes are read.
type Conn struct {
	*net.UnixConn
	caller *Caller

	plain atomic.Bool // no descriptors are taken any more

	// Owned by the one reader: whether it has read anything, and what it reads from
	// when the peer speaks HTTP/2.
	begun bool
	ahead *bufio.Reader

	// mu guards what follows; it is never held over a system call that blocks.
	mu      sync.Mutex
	files   []*os.File
	tooMany bool
	closed  bool
	onClose func()
	oob     []byte // owned by the one reader
}

// Caller returns who connected.
func (c *Conn) Caller() *Caller { return c.caller }

// OnClose has f called once when the connection is closed from this side. It is
// called by whoever accepted the connection, before anybody else has it.
func (c *Conn) OnClose(f func()) { c.onClose = f }

// Read implements net.Conn with recvmsg. It is for one goroutine at a time.
//
// net/http reads each frame of HTTP/2 with two reads of its own: where the peer
// begins with HTTP/2, Read reads ahead. Descriptors mean nothing there.
func (c *Conn) Read(p []byte) (int, error) {
	if c.ahead != nil {
		return c.ahead.Read(p)
	}
	n, err := c.receive(p)
	if !c.begun && n > 0 {
		c.begun = true
		if bytes.HasPrefix(p[:n], []byte("PRI * HTTP/2.0")) {
			c.ahead = bufio.NewReaderSize(reader(c.receive), aheadBytes)
		}
	}
	return n, err
}

// aheadBytes is what one read from the kernel takes at most, once it reads ahead:
// some tens of frames.
const aheadBytes = 8 << 10

// reader is an io.Reader.
type reader func(p []byte) (int, error)

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) { return r(p) }

// receive reads bytes and descriptors.
func (c *Conn) receive(p []byte) (int, error) {
	if c.plain.Load() || len(p) == 0 {
		return c.UnixConn.Read(p)
	}
	if c.oob == nil {
		c.oob = make([]byte, unix.CmsgSpace(4*MaxFiles))
	}
	// Go sets MSG_CMSG_CLOEXEC.
	n, oobn, flags, _, err := c.UnixConn.ReadMsgUnix(p, c.oob)
	if oobn > 0 || flags&unix.MSG_CTRUNC != 0 {
		c.collect(c.oob[:oobn], flags&unix.MSG_CTRUNC != 0)
	}
	return max(n, 0), err // recvmsg's -1, with an error, is no count for a reader
}

// collect keeps the descriptors of one control message. A truncated one lost
// some, which the kernel has closed: the rest means nothing.
func (c *Conn) collect(oob []byte, truncated bool) {
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		if rights, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range fds {
		c.files = append(c.files, os.NewFile(uintptr(fd), "passed"))
	}
	if truncated || err != nil || len(c.files) > MaxFiles {
		c.tooMany = true
	}
	if c.tooMany || c.closed {
		c.closeFilesLocked()
	}
}

// TakeFiles hands over the descriptors received so far, in the order sent; the
// caller of it closes them.
func (c *Conn) TakeFiles() ([]*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	files, tooMany := c.files, c.tooMany
	c.files, c.tooMany = nil, false
	if tooMany {
		return nil, fmt.Errorf("more than %d file descriptors were passed", MaxFiles)
	}
	return files, nil
}

// DropFiles closes the descriptors received so far: nothing asks for them.
func (c *Conn) DropFiles() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeFilesLocked()
	c.tooMany = false
}

// NoMoreFiles makes Read cheaper: descriptors that come from now on are closed
// by the kernel. Those received stay.
func (c *Conn) NoMoreFiles() { c.plain.Store(true) }

// Close implements net.Conn. Descriptors that nobody took are closed, and so is
// the caller's pidfd.
func (c *Conn) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.closeFilesLocked()
	c.mu.Unlock()
	if first && c.caller.Pidfd != nil {
		_ = c.caller.Pidfd.Close() // Ended then says "not known to have ended"
	}
	if first && c.onClose != nil {
		c.onClose()
	}
	return c.UnixConn.Close()
}

func (c *Conn) closeFilesLocked() {
	for _, f := range c.files {
		_ = f.Close() // not ours, and nothing was written to it
	}
	c.files = nil
}

type contextKey struct{}

// ConnContext is for http.Server: it makes From and ConnFrom work on the
// contexts of the connection's requests.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if own, ok := c.(*Conn); ok {
		return context.WithValue(ctx, contextKey{}, own)
	}
	return ctx
}

// ConnFrom returns the connection of a request, nil when it did not come from a
// Listener of this package.
func ConnFrom(ctx context.Context) *Conn {
	c, _ := ctx.Value(contextKey{}).(*Conn)
	return c
}

// From returns the caller of a request: the one that With gave, else that of the
// connection; nil when it did not come from a Listener of this package either.
func From(ctx context.Context) *Caller {
	if c, ok := ctx.Value(remoteKey{}).(*Caller); ok {
		return c
	}
	if c := ConnFrom(ctx); c != nil {
		return c.caller
	}
	return nil
}
