package wire

import (
	"context"
	"errors"

	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication"
)

// ProblemContentType is the media type of Problem (RFC 9457).
const ProblemContentType = holdwire.ProblemContentType

type (
	// Problem is what every refused request is answered with, in HTTP.
	Problem = holdwire.Problem
	// Kind is what went wrong, for programs.
	Kind = holdwire.Kind
)

// The kinds. Unless it is UnknownOutcome or Internal, nothing was changed.
const (
	Invalid          = holdwire.Invalid
	NotFound         = holdwire.NotFound
	Busy             = holdwire.Busy
	NotOwner         = holdwire.NotOwner
	ConditionFailed  = holdwire.ConditionFailed
	Exists           = holdwire.Exists
	Exhausted        = holdwire.Exhausted
	KeyReused        = holdwire.KeyReused
	Locked           = holdwire.Locked
	SessionLost      = holdwire.SessionLost
	UnknownOutcome   = holdwire.UnknownOutcome
	TooOld           = holdwire.TooOld
	Limit            = holdwire.Limit
	StandsStill      = holdwire.StandsStill
	Denied           = holdwire.Denied
	Aborted          = holdwire.Aborted
	Unavailable      = holdwire.Unavailable
	Stopping         = holdwire.Stopping
	Overloaded       = holdwire.Overloaded
	NoRoute          = holdwire.NoRoute
	MethodNotAllowed = holdwire.MethodNotAllowed
	TooLarge         = holdwire.TooLarge
	MediaType        = holdwire.MediaType
	UpgradeRequired  = holdwire.UpgradeRequired
	ScriptFailed     = holdwire.ScriptFailed
	AdmissionRefused = holdwire.AdmissionRefused
	FuelSpent        = holdwire.FuelSpent
	Internal         = holdwire.Internal
)

// kindOfCode says which kind a code of the contract is.
var kindOfCode = map[replication.Code]Kind{
	replication.Code_CODE_INVALID:           Invalid,
	replication.Code_CODE_NOT_FOUND:         NotFound,
	replication.Code_CODE_BUSY:              Busy,
	replication.Code_CODE_INVALID_OWNER:     NotOwner,
	replication.Code_CODE_CONDITION_FAILED:  ConditionFailed,
	replication.Code_CODE_EXISTS:            Exists,
	replication.Code_CODE_EXHAUSTED:         Exhausted,
	replication.Code_CODE_KEY_REUSED:        KeyReused,
	replication.Code_CODE_LOCKED:            Locked,
	replication.Code_CODE_SESSION_LOST:      SessionLost,
	replication.Code_CODE_UNKNOWN_OUTCOME:   UnknownOutcome,
	replication.Code_CODE_TOO_OLD:           TooOld,
	replication.Code_CODE_LIMIT:             Limit,
	replication.Code_CODE_HELD:              StandsStill,
	replication.Code_CODE_DENIED:            Denied,
	replication.Code_CODE_ABORTED:           Aborted,
	replication.Code_CODE_ADMISSION_REFUSED: AdmissionRefused,
	replication.Code_CODE_FUEL_SPENT:        FuelSpent,
}

// Kinds are all of them.
func Kinds() []Kind { return holdwire.Kinds() }

// KindOfCode returns the kind for a code other than OK. Codes that must not
// come out of a Coordinator are Internal.
func KindOfCode(c replication.Code) Kind {
	if k, ok := kindOfCode[c]; ok {
		return k
	}
	return Internal
}

// KindOfNumber returns the kind for the code of a stream's error.
func KindOfNumber(n uint32) Kind { return holdwire.KindOfNumber(n) }

// Error is a refusal on its way to the caller.
type Error struct {
	Kind     Kind
	Detail   string
	Revision *int64
}

// Error implements error.
func (e *Error) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Kind.Title()
}

// Problem returns the document for e.
func (e *Error) Problem(requestID string) Problem {
	kind := KindOfNumber(e.Kind.Number()) // Internal for what is none
	return Problem{Type: "urn:kahu:problem:" + string(kind), Title: kind.Title(), Status: kind.Status(),
		Detail: e.Detail, Code: kind, Revision: e.Revision, RequestID: requestID}
}

// Refuse returns an Error with a detail.
func Refuse(k Kind, detail string) *Error { return &Error{Kind: k, Detail: detail} }

// ErrorOf turns any error of a Coordinator or Holder into an Error. What it does
// not know is Internal; its text then stays in the agent's log.
func ErrorOf(err error) *Error {
	var own *Error
	var refused *replication.RefusedError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &refused):
		return &Error{Kind: KindOfCode(refused.Code), Detail: refused.Detail}
	case errors.Is(err, replication.ErrUnknownOutcome):
		return &Error{Kind: UnknownOutcome, Detail: "the request may have been carried out; look before asking again"}
	case errors.Is(err, replication.ErrUnavailable):
		return &Error{Kind: Unavailable, Detail: "no leader answered in time: the request was not carried out, and can be sent again; kahu status says what is wrong"}
	case errors.Is(err, replication.ErrStopped):
		return &Error{Kind: Stopping, Detail: "the request was not carried out, and can be sent again"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// A Coordinator that broke its contract; nothing safer can be said.
		return &Error{Kind: UnknownOutcome, Detail: "the request was given up before an answer came"}
	}
	return &Error{Kind: Internal}
}

// ErrorOfAnswer returns nil for CODE_OK.
func ErrorOfAnswer(a *replication.Answer) *Error {
	if a.GetCode() == replication.Code_CODE_OK {
		return nil
	}
	return &Error{Kind: KindOfCode(a.GetCode()), Detail: a.GetDetail()}
}
