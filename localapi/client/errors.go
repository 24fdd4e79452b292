package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
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

// failure is one line, and what errors.Is finds in it.
type failure struct {
	text   string
	causes []error
}

func (f *failure) Error() string   { return f.text }
func (f *failure) Unwrap() []error { return f.causes }

func fail(text string, causes ...error) error { return &failure{text: text, causes: causes} }

// sentinels says which error a kind is. A test walks wire.Kinds.
var sentinels = map[wire.Kind]error{
	wire.Invalid:          ErrInvalid,
	wire.NotFound:         ErrNotFound,
	wire.Busy:             ErrBusy,
	wire.NotOwner:         ErrNotOwner,
	wire.ConditionFailed:  ErrConditionFailed,
	wire.Exists:           ErrExists,
	wire.Exhausted:        ErrExhausted,
	wire.KeyReused:        ErrConflict,
	wire.Locked:           ErrConflict,
	wire.SessionLost:      ErrLost,
	wire.UnknownOutcome:   ErrUnknownOutcome,
	wire.TooOld:           ErrTooOld,
	wire.Limit:            ErrLimit,
	wire.StandsStill:      ErrStandsStill,
	wire.Denied:           ErrDenied,
	wire.Aborted:          ErrConflict,
	wire.Unavailable:      ErrUnavailable,
	wire.Stopping:         ErrUnavailable,
	wire.Overloaded:       ErrUnavailable,
	wire.NoRoute:          ErrNoAgent, // something else serves the socket
	wire.MethodNotAllowed: ErrNoAgent,
	wire.TooLarge:         ErrInvalid,
	wire.MediaType:        ErrInvalid,
	wire.UpgradeRequired:  ErrNoAgent,
	wire.Internal:         ErrInternal,
	wire.ScriptFailed:     ErrScript,
	wire.AdmissionRefused: ErrUnavailable,
	wire.FuelSpent:        ErrLimit,
}

// errorOfKind is a refusal by the agent or the quorum.
func errorOfKind(k wire.Kind, detail string) error {
	if detail == "" {
		detail = k.Title()
	}
	return fail(detail, sentinels[k])
}

// Refusal returns nil for CODE_OK and else the typed error for an answer of Do.
func Refusal(a *replication.Answer) error {
	if e := wire.ErrorOfAnswer(a); e != nil {
		return errorOfKind(e.Kind, e.Detail)
	}
	return nil
}

// about puts what was asked for in front of a refusal.
func about(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %.100q: %w", what, name, err)
}

// errorOfCall explains an error of the stream. safe: asking again changes
// nothing.
func errorOfCall(ctx context.Context, err error, safe bool) error {
	var remote *stream.RemoteError
	switch {
	case errors.As(err, &remote):
		switch remote.Code {
		case stream.CodeTooLarge:
			return fail("the answer is larger than this client takes; ask for a smaller page", ErrLimit)
		default:
			return errorOfKind(wire.KindOfNumber(remote.Code), remote.Text)
		}
	case errors.Is(err, stream.ErrTooLarge):
		return fail("the request is larger than the agent takes", ErrInvalid, err)
	case ctx.Err() != nil && (safe || errors.Is(err, stream.ErrNotSent)):
		return fail("given up before an answer came: "+context.Cause(ctx).Error(), ErrUnavailable, context.Cause(ctx))
	case ctx.Err() != nil:
		return fail("given up before an answer came, and it may have been carried out: "+context.Cause(ctx).Error(),
			ErrUnknownOutcome, context.Cause(ctx))
	case safe || errors.Is(err, stream.ErrNotSent):
		return fail("the connection to the agent was lost before an answer came", ErrNoAgent, err)
	}
	return fail("the connection to the agent was lost, and the request may have been carried out; look before asking again", ErrUnknownOutcome, err)
}
