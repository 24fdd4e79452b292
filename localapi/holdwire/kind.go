package holdwire

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
// the stream's errors: never reuse one. Statuses are those of HTTP.
var kinds = []struct {
	kind   Kind
	number uint32
	status int
	title  string
}{
	{Invalid, 1, 400, "The request is not valid"},
	{NotFound, 2, 404, "Not found"},
	{Busy, 3, 409, "The lock is held by another"},
	{NotOwner, 4, 409, "The lock is not held by this owner"},
	{ConditionFailed, 5, 412, "The condition did not hold"},
	{Exists, 6, 409, "It exists already"},
	{Exhausted, 7, 409, "The sequence is used up"},
	{KeyReused, 8, 422, "The idempotency key was used for another request"},
	{Locked, 9, 423, "A transaction has locked the key"},
	{SessionLost, 10, 410, "The session has ended"},
	{UnknownOutcome, 12, 504, "The outcome is unknown"},
	{TooOld, 13, 410, "Older than what history keeps"},
	{Limit, 14, 429, "A limit was reached"},
	{StandsStill, 15, 409, "The sequence stands still since a restore"},
	{Denied, 16, 403, "The policy does not allow it"},
	{Aborted, 17, 409, "In conflict with another change"},
	{Unavailable, 32, 503, "No quorum of voters answered in time"},
	{Stopping, 33, 503, "The agent is stopping"},
	{Overloaded, 34, 503, "Too many requests at a time"},
	{NoRoute, 35, 404, "There is no such route"},
	{MethodNotAllowed, 36, 405, "The route does not take this method"},
	{TooLarge, 37, 413, "The body is too large"},
	{MediaType, 38, 415, "The body has the wrong type"},
	{UpgradeRequired, 39, 426, "The route speaks another protocol"},
	{Internal, 40, 500, "The agent has a bug"},
	{ScriptFailed, 41, 422, "The script failed"},
	{AdmissionRefused, 42, 503, "No slot for another transaction became free in time"},
	{FuelSpent, 43, 422, "The script takes more than one entry allows"},
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

// row looks through few rows, and for refusals only; a map would be made at the
// start of every process. What is none is Internal.
func (k Kind) row() int {
	internal := 0
	for i, row := range kinds {
		switch row.kind {
		case k:
			return i
		case Internal:
			internal = i
		}
	}
	return internal
}

// KindOfNumber returns the kind for the code of a stream's error.
func KindOfNumber(n uint32) Kind {
	for _, row := range kinds {
		if row.number == n {
			return row.kind
		}
	}
	return Internal
}
