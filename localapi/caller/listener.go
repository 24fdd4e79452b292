package caller

import (
	"errors"
	"log/slog"
	"net"
)

// ListenOptions configure Listen.
type ListenOptions struct {
	// GID owns the socket and its directory when it is made here, -1: the process's own group.
	GID int
	// Open lets every user connect (policy decides); else user and group only.
	Open bool
	// Logger gets lines about callers that could not be identified. Nil: none.
	Logger *slog.Logger
}

// Listener accepts connections of the Unix socket, each with its Caller.
type Listener struct{ net.Listener }

// Listen makes the socket at path and takes it over from a dead agent. Errors
// are one line that says what to do: the path is too long, another agent lives
// there, the directory cannot be used.
func Listen(path string, o ListenOptions) (*Listener, error) { return nil, errors.New("not built yet") }

// Wrap takes over a listening Unix socket made elsewhere (systemd).
func Wrap(ln *net.UnixListener, o ListenOptions) *Listener { return &Listener{} }
