package client

import "errors"

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
