package socket

import (
	"context"
	"errors"
	"fmt"

	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Errors of every method, for errors.Is. The text of what is returned is one
// line that says what happened and, where it helps, what to do next.
var (
	// ErrInvalid: the request is malformed; asking again will not help.
	ErrInvalid = errors.New("the request is not valid")
	// ErrNotFound: the lock is free or lapsed, the key, sequence or hold does not exist.
	ErrNotFound = errors.New("not found")
	// ErrBusy: the lock is held by another owner, or others are waiting for it.
	ErrBusy = errors.New("the lock is held by another")
	// ErrNotOwner: the lock is held, but not by this owner.
	ErrNotOwner = errors.New("the lock is not held by this owner")
	// ErrConditionFailed: a compare-and-set condition did not hold. A
	// *ConditionError in the chain carries the current revision.
	ErrConditionFailed = errors.New("the condition did not hold")
	// ErrExists: a sequence of this name exists.
	ErrExists = errors.New("it exists already")
	// ErrExhausted: the sequence has fewer values left than asked for.
	ErrExhausted = errors.New("the sequence is used up")
	// ErrConflict: locked by a transaction, a conflict in one, or an idempotency
	// key that was used otherwise.
	ErrConflict = errors.New("in conflict with another change")
	// ErrTooOld: history does not reach back so far.
	ErrTooOld = errors.New("older than what history keeps")
	// ErrLimit: a named limit was reached.
	ErrLimit = errors.New("a limit was reached")
	// ErrStandsStill: a restored sequence waits for an operator to name its next value.
	ErrStandsStill = errors.New("the sequence stands still since a restore")
	// ErrDenied: the agent's policy does not let this user do it.
	ErrDenied = errors.New("the agent's policy does not allow it")
	// ErrUnavailable: no quorum answered in time, or the agent is stopping. The
	// request was certainly not carried out: it may be asked again.
	ErrUnavailable = errors.New("no quorum of voters answered in time")
	// ErrUnknownOutcome: the request may have been carried out. Look before asking again.
	ErrUnknownOutcome = errors.New("the outcome is unknown")
	// ErrNoAgent: nobody serves the socket, or not this user. The request was
	// certainly not carried out.
	ErrNoAgent = errors.New("no agent answers")
	// ErrInternal: the agent's answer makes no sense, or it said that it has a bug.
	ErrInternal = errors.New("internal error")
	// ErrLost: the hold is lost.
	ErrLost = errors.New("the lock is lost")
	// ErrScript: the script is none, or failed while it ran; nothing was changed.
	ErrScript = errors.New("the script failed")
	// ErrClosed: the Client or Hold was closed.
	ErrClosed = errors.New("closed")
	// ErrAnotherHost: the agent on this socket runs under another kernel, so that
	// its deadlines mean nothing here.
	ErrAnotherHost = errors.New("the agent runs on another host")
)

// ErrClient says that the client or hold that was asked was closed.
var ErrClient = Fail("the client was closed", ErrClosed)

// Failure is one line, and what errors.Is finds in it.
type Failure struct {
	text   string
	causes []error
}

// Error implements error.
func (f *Failure) Error() string { return f.text }

// Unwrap returns the causes.
func (f *Failure) Unwrap() []error { return f.causes }

// Fail makes a Failure.
func Fail(text string, causes ...error) error { return &Failure{text: text, causes: causes} }

// sentinels says which error a kind is. A test walks holdwire.Kinds.
var sentinels = map[holdwire.Kind]error{
	holdwire.Invalid:          ErrInvalid,
	holdwire.NotFound:         ErrNotFound,
	holdwire.Busy:             ErrBusy,
	holdwire.NotOwner:         ErrNotOwner,
	holdwire.ConditionFailed:  ErrConditionFailed,
	holdwire.Exists:           ErrExists,
	holdwire.Exhausted:        ErrExhausted,
	holdwire.KeyReused:        ErrConflict,
	holdwire.Locked:           ErrConflict,
	holdwire.SessionLost:      ErrLost,
	holdwire.UnknownOutcome:   ErrUnknownOutcome,
	holdwire.TooOld:           ErrTooOld,
	holdwire.Limit:            ErrLimit,
	holdwire.StandsStill:      ErrStandsStill,
	holdwire.Denied:           ErrDenied,
	holdwire.Aborted:          ErrConflict,
	holdwire.Unavailable:      ErrUnavailable,
	holdwire.Stopping:         ErrUnavailable,
	holdwire.Overloaded:       ErrUnavailable,
	holdwire.NoRoute:          ErrNoAgent, // something else serves the socket
	holdwire.MethodNotAllowed: ErrNoAgent,
	holdwire.TooLarge:         ErrInvalid,
	holdwire.MediaType:        ErrInvalid,
	holdwire.UpgradeRequired:  ErrNoAgent,
	holdwire.Internal:         ErrInternal,
	holdwire.ScriptFailed:     ErrScript,
	holdwire.AdmissionRefused: ErrUnavailable,
	holdwire.FuelSpent:        ErrLimit,
}

// ErrorOfKind is a refusal by the agent or the quorum.
func ErrorOfKind(k holdwire.Kind, detail string) error {
	if detail == "" {
		detail = k.Title()
	}
	return Fail(detail, sentinels[k])
}

// About puts what was asked for in front of a refusal.
func About(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %.100q: %w", what, name, err)
}

// ErrorOfCall explains an error of the stream. safe: asking again changes
// nothing.
func ErrorOfCall(ctx context.Context, err error, safe bool) error {
	var remote *stream.RemoteError
	switch {
	case errors.As(err, &remote):
		switch remote.Code {
		case stream.CodeTooLarge:
			return Fail("the answer is larger than this client takes; ask for a smaller page", ErrLimit)
		default:
			return ErrorOfKind(holdwire.KindOfNumber(remote.Code), remote.Text)
		}
	case errors.Is(err, stream.ErrFull):
		return Fail("nothing was asked: "+err.Error()+"; close holds that are not needed, or use another Client for more", ErrLimit, err)
	case errors.Is(err, stream.ErrTooLarge):
		return Fail("the request is larger than the agent takes", ErrInvalid, err)
	case ctx.Err() != nil && (safe || errors.Is(err, stream.ErrNotSent)):
		return Fail("given up before an answer came: "+context.Cause(ctx).Error(), ErrUnavailable, context.Cause(ctx))
	case ctx.Err() != nil:
		return Fail("given up before an answer came, and it may have been carried out: "+context.Cause(ctx).Error(),
			ErrUnknownOutcome, context.Cause(ctx))
	case safe || errors.Is(err, stream.ErrNotSent):
		return Fail("the connection to the agent was lost before an answer came", ErrNoAgent, err)
	}
	return Fail("the connection to the agent was lost, and the request may have been carried out; look before asking again", ErrUnknownOutcome, err)
}
