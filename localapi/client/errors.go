package client

import (
	"context"
	"fmt"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Errors of every method, for errors.Is. The text of what is returned is one
// line that says what happened and, where it helps, what to do next.
var (
	// ErrInvalid: the request is malformed; asking again will not help.
	ErrInvalid = socket.ErrInvalid
	// ErrNotFound: the lock is free or lapsed, the key, sequence or hold does not exist.
	ErrNotFound = socket.ErrNotFound
	// ErrBusy: the lock is held by another owner, or others are waiting for it.
	ErrBusy = socket.ErrBusy
	// ErrNotOwner: the lock is held, but not by this owner.
	ErrNotOwner = socket.ErrNotOwner
	// ErrConditionFailed: a compare-and-set condition did not hold. A
	// *ConditionError in the chain carries the current revision.
	ErrConditionFailed = socket.ErrConditionFailed
	// ErrExists: a sequence of this name exists.
	ErrExists = socket.ErrExists
	// ErrExhausted: the sequence has fewer values left than asked for.
	ErrExhausted = socket.ErrExhausted
	// ErrConflict: locked by a transaction, a conflict in one, or an idempotency
	// key that was used otherwise.
	ErrConflict = socket.ErrConflict
	// ErrTooOld: history does not reach back so far.
	ErrTooOld = socket.ErrTooOld
	// ErrLimit: a named limit was reached.
	ErrLimit = socket.ErrLimit
	// ErrStandsStill: a restored sequence waits for an operator to name its next value.
	ErrStandsStill = socket.ErrStandsStill
	// ErrDenied: the agent's policy does not let this user do it.
	ErrDenied = socket.ErrDenied
	// ErrUnavailable: no quorum answered in time, or the agent is stopping. The
	// request was certainly not carried out: it may be asked again.
	ErrUnavailable = socket.ErrUnavailable
	// ErrUnknownOutcome: the request may have been carried out. Look before asking again.
	ErrUnknownOutcome = socket.ErrUnknownOutcome
	// ErrNoAgent: nobody serves the socket, or not this user. The request was
	// certainly not carried out.
	ErrNoAgent = socket.ErrNoAgent
	// ErrInternal: the agent's answer makes no sense, or it said that it has a bug.
	ErrInternal = socket.ErrInternal
	// ErrLost: the hold is lost.
	ErrLost = socket.ErrLost
	// ErrScript: the script is none, or failed while it ran; nothing was changed.
	ErrScript = socket.ErrScript
	// ErrClosed: the Client or Hold was closed.
	ErrClosed = socket.ErrClosed
	// ErrAnotherHost: the agent on this socket runs under another kernel, so that
	// its deadlines mean nothing here.
	ErrAnotherHost = socket.ErrAnotherHost
)

// ConditionError says what a compare-and-set found. errors.Is(err, ErrConditionFailed).
type ConditionError struct {
	Key string
	// Revision is the key's current one, -1 when it was never written.
	Revision int64
}

// Error implements error.
func (e *ConditionError) Error() string {
	if e.Revision < 0 {
		return fmt.Sprintf("key %q: the condition did not hold; it was never written", e.Key)
	}
	return fmt.Sprintf("key %q: the condition did not hold; its revision is %d", e.Key, e.Revision)
}

// Is makes errors.Is(err, ErrConditionFailed) true.
func (e *ConditionError) Is(target error) bool { return target == ErrConditionFailed }

func fail(text string, causes ...error) error { return socket.Fail(text, causes...) }

// about puts what was asked for in front of a refusal.
func about(what, name string, err error) error { return socket.About(what, name, err) }

// errorOfKind is a refusal by the agent or the quorum.
func errorOfKind(k wire.Kind, detail string) error { return socket.ErrorOfKind(k, detail) }

// errorOfCall explains an error of the stream. safe: asking again changes
// nothing.
func errorOfCall(ctx context.Context, err error, safe bool) error {
	return socket.ErrorOfCall(ctx, err, safe)
}

// Refusal returns nil for CODE_OK and else the typed error for an answer of Do.
func Refusal(a *replication.Answer) error {
	if e := wire.ErrorOfAnswer(a); e != nil {
		return errorOfKind(e.Kind, e.Detail)
	}
	return nil
}
