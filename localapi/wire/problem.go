package wire

import (
	"context"
	"errors"
	"net/http"

	"github.com/kahu-sh/kahu/replication"
)

// ProblemContentType is the media type of Problem (RFC 9457).
const ProblemContentType = "application/problem+json"

// Problem is what every refused request is answered with, in HTTP.
type Problem struct {
	Type   string `json:"type"` // "urn:kahu:problem:" and Code
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"` // one line for people
	Code   Kind   `json:"code"`             // for programs
	// Revision is the key's current one when a condition did not hold; -1: never written.
	Revision  *int64 `json:"revision,omitempty"`
	RequestID string `json:"request_id,omitempty"` // as in the agent's log
}

// Kind is what went wrong, for programs.
type Kind string

// The kinds. Unless it is UnknownOutcome or Internal, nothing was changed.
const (
	Invalid          Kind = "invalid"
	NotFound         Kind = "not-found"
	Busy             Kind = "busy"
	NotOwner         Kind = "not-owner"
	ConditionFailed  Kind = "condition-failed"
	Exists           Kind = "exists"
	Exhausted        Kind = "exhausted"
	KeyReused        Kind = "key-reused"
	Locked           Kind = "locked"
	SessionLost      Kind = "session-lost"
	UnknownOutcome   Kind = "unknown-outcome"
	TooOld           Kind = "too-old"
	Limit            Kind = "limit"
	StandsStill      Kind = "stands-still"
	Denied           Kind = "denied"
	Aborted          Kind = "aborted"
	Unavailable      Kind = "unavailable"
	Stopping         Kind = "stopping"
	Overloaded       Kind = "overloaded"
	NoRoute          Kind = "no-route"
	MethodNotAllowed Kind = "method-not-allowed"
	TooLarge         Kind = "too-large"
	MediaType        Kind = "media-type"
	UpgradeRequired  Kind = "upgrade-required"
	ScriptFailed     Kind = "script-failed"
	AdmissionRefused Kind = "admission-refused"
	FuelSpent        Kind = "fuel-spent"
	Internal         Kind = "internal"
)

// kinds is the one table of what a Kind is elsewhere. Numbers travel as codes of
// the stream's errors: never reuse one.
var kinds = []struct {
	kind   Kind
	number uint32
	status int
	title  string
	code   replication.Code // OK: no code of the contract
}{
	{Invalid, 1, http.StatusBadRequest, "The request is not valid", replication.Code_CODE_INVALID},
	{NotFound, 2, http.StatusNotFound, "Not found", replication.Code_CODE_NOT_FOUND},
	{Busy, 3, http.StatusConflict, "The lock is held by another", replication.Code_CODE_BUSY},
	{NotOwner, 4, http.StatusConflict, "The lock is not held by this owner", replication.Code_CODE_INVALID_OWNER},
	{ConditionFailed, 5, http.StatusPreconditionFailed, "The condition did not hold", replication.Code_CODE_CONDITION_FAILED},
	{Exists, 6, http.StatusConflict, "It exists already", replication.Code_CODE_EXISTS},
	{Exhausted, 7, http.StatusConflict, "The sequence is used up", replication.Code_CODE_EXHAUSTED},
	{KeyReused, 8, http.StatusUnprocessableEntity, "The idempotency key was used for another request", replication.Code_CODE_KEY_REUSED},
	{Locked, 9, http.StatusLocked, "A transaction has locked the key", replication.Code_CODE_LOCKED},
	{SessionLost, 10, http.StatusGone, "The session has ended", replication.Code_CODE_SESSION_LOST},
	{UnknownOutcome, 12, http.StatusGatewayTimeout, "The outcome is unknown", replication.Code_CODE_UNKNOWN_OUTCOME},
	{TooOld, 13, http.StatusGone, "Older than what history keeps", replication.Code_CODE_TOO_OLD},
	{Limit, 14, http.StatusTooManyRequests, "A limit was reached", replication.Code_CODE_LIMIT},
	{StandsStill, 15, http.StatusConflict, "The sequence stands still since a restore", replication.Code_CODE_HELD},
	{Denied, 16, http.StatusForbidden, "The policy does not allow it", replication.Code_CODE_DENIED},
	{Aborted, 17, http.StatusConflict, "In conflict with another change", replication.Code_CODE_ABORTED},
	{Unavailable, 32, http.StatusServiceUnavailable, "No quorum of voters answered in time", 0},
	{Stopping, 33, http.StatusServiceUnavailable, "The agent is stopping", 0},
	{Overloaded, 34, http.StatusServiceUnavailable, "Too many requests at a time", 0},
	{NoRoute, 35, http.StatusNotFound, "There is no such route", 0},
	{MethodNotAllowed, 36, http.StatusMethodNotAllowed, "The route does not take this method", 0},
	{TooLarge, 37, http.StatusRequestEntityTooLarge, "The body is too large", 0},
	{MediaType, 38, http.StatusUnsupportedMediaType, "The body has the wrong type", 0},
	{UpgradeRequired, 39, http.StatusUpgradeRequired, "The route speaks another protocol", 0},
	{Internal, 40, http.StatusInternalServerError, "The agent has a bug", 0},
	{ScriptFailed, 41, http.StatusUnprocessableEntity, "The script failed", 0},
	{AdmissionRefused, 42, http.StatusServiceUnavailable, "No slot for another transaction became free in time", replication.Code_CODE_ADMISSION_REFUSED},
	{FuelSpent, 43, http.StatusUnprocessableEntity, "The script takes more than one entry allows", replication.Code_CODE_FUEL_SPENT},
}

var (
	rowOfKind    = make(map[Kind]int, len(kinds))
	kindOfCode   = make(map[replication.Code]Kind, len(kinds))
	kindOfNumber = make(map[uint32]Kind, len(kinds))
)

func init() {
	for i, k := range kinds {
		rowOfKind[k.kind] = i
		kindOfNumber[k.number] = k.kind
		if k.code != replication.Code_CODE_OK {
			kindOfCode[k.code] = k.kind
		}
	}
}

// Kinds are all of them.
func Kinds() []Kind {
	all := make([]Kind, len(kinds))
	for i, k := range kinds {
		all[i] = k.kind
	}
	return all
}

// Number is the kind as the code of a stream's error.
func (k Kind) Number() uint32 { return kinds[k.row()].number }

// Status is the kind as an HTTP status.
func (k Kind) Status() int { return kinds[k.row()].status }

// Title is the kind in words.
func (k Kind) Title() string { return kinds[k.row()].title }

func (k Kind) row() int {
	if i, ok := rowOfKind[k]; ok {
		return i
	}
	return rowOfKind[Internal]
}

// KindOfCode returns the kind for a code other than OK. Codes that must not
// come out of a Coordinator are Internal.
func KindOfCode(c replication.Code) Kind {
	if k, ok := kindOfCode[c]; ok {
		return k
	}
	return Internal
}

// KindOfNumber returns the kind for the code of a stream's error.
func KindOfNumber(n uint32) Kind {
	if k, ok := kindOfNumber[n]; ok {
		return k
	}
	return Internal
}

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
	row := kinds[e.Kind.row()]
	return Problem{Type: "urn:kahu:problem:" + string(row.kind), Title: row.title, Status: row.status,
		Detail: e.Detail, Code: row.kind, Revision: e.Revision, RequestID: requestID}
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
		return &Error{Kind: Unavailable, Detail: "the request was not carried out, and can be sent again"}
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
