package caller

import (
	"errors"
	"log/slog"
	"net"
	"sync"
)

// Listener accepts connections of a Unix socket, each with its Caller.
type Listener struct {
	unix   *net.UnixListener
	logger *slog.Logger
	addr   net.Addr

	closing sync.Once
	place   *place // nil: the socket file is somebody else's
}

// Wrap takes over a listening Unix socket made elsewhere (systemd). Its file
// stays when the Listener is closed. A nil logger means none.
func Wrap(ln *net.UnixListener, logger *slog.Logger) *Listener {
	ln.SetUnlinkOnClose(false)
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Listener{unix: ln, logger: logger, addr: ln.Addr()}
}

// Accept implements net.Listener; its connections are *Conn. Somebody who
// cannot be identified is turned away without ending the Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.unix.AcceptUnix()
		if err != nil {
			return nil, err
		}
		own, err := NewConn(conn)
		if err != nil {
			l.logger.Warn("turned away a connection: its peer could not be identified", "error", err)
			_ = conn.Close() // it is being refused
			continue
		}
		return own, nil
	}
}

// NewConn identifies the peer of an accepted connection. After an error conn is
// still the caller's.
func NewConn(conn *net.UnixConn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(errNotUnix, err)
	}
	c, err := identify(raw)
	if err != nil {
		return nil, err
	}
	return &Conn{UnixConn: conn, caller: c}, nil
}

// Close implements net.Listener. It removes the socket file when it is still
// the one that Listen made, and gives up the lock beside it.
func (l *Listener) Close() error {
	err := net.ErrClosed
	l.closing.Do(func() {
		// The file goes first: whoever dials now finds nobody rather than a
		// socket that nobody serves.
		if l.place != nil {
			l.place.remove()
		}
		err = l.unix.Close()
		if l.place != nil {
			l.place.unlock()
		}
	})
	return err
}

// Addr implements net.Listener: the path of the socket.
func (l *Listener) Addr() net.Addr { return l.addr }
