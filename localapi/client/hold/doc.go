// Package hold is one lock kept alive by the agent, as its holder sees it.
//
// It promises that a Hold says lost no later than its local deadline, whether or
// not the agent still answers, and that a deadline is on this process's own
// CLOCK_BOOTTIME. The main type is Hold. Programs get theirs from package client,
// which has it under its own name; the guard opens it here, since this package
// imports little and kahu exec pays for its start (see package holdwire). What
// happens to the holder when the lock is lost is left to it.
package hold

import "github.com/kahu-sh/kahu/localapi/client/internal/socket"

// Errors, for errors.Is: those of package client that a hold can give.
var (
	ErrInvalid        = socket.ErrInvalid
	ErrNotFound       = socket.ErrNotFound
	ErrBusy           = socket.ErrBusy
	ErrNotOwner       = socket.ErrNotOwner
	ErrLimit          = socket.ErrLimit
	ErrDenied         = socket.ErrDenied
	ErrUnavailable    = socket.ErrUnavailable
	ErrUnknownOutcome = socket.ErrUnknownOutcome
	ErrNoAgent        = socket.ErrNoAgent
	ErrInternal       = socket.ErrInternal
	ErrLost           = socket.ErrLost
	ErrAnotherHost    = socket.ErrAnotherHost
)
