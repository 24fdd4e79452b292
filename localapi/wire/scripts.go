package wire

import (
	"time"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/replication"
)

// Script is the body of a script to run.
type Script struct {
	Script string `json:"script"`
	// Parameters; of several with one name the first counts.
	Parameters []ScriptParameter `json:"parameters,omitempty"`
	// Hash is BLAKE3-256 in hex of a script that was sent before; it is looked at
	// only when Script is empty.
	Hash     string `json:"hash,omitempty"`
	Priority string `json:"priority,omitempty"` // background, low, normal, high or critical
	Timeout  string `json:"timeout,omitempty"`  // "30s": how long to wait for the answer
}

// ScriptParameter is @NAME in a script.
type ScriptParameter struct {
	Name  string `json:"name"` // with or without the @
	Value string `json:"value"`
}

// ScriptType says what the last statement of a script came to.
type ScriptType string

// The types. From ScriptErrored on nothing was changed.
const (
	ScriptSet              ScriptType = "set"
	ScriptNotSet           ScriptType = "not-set"
	ScriptExtended         ScriptType = "extended"
	ScriptGot              ScriptType = "get"
	ScriptDeleted          ScriptType = "deleted"
	ScriptExists           ScriptType = "exists"
	ScriptDoesNotExist     ScriptType = "does-not-exist"
	ScriptErrored          ScriptType = "errored"
	ScriptInvalidInput     ScriptType = "invalid-input"
	ScriptMustRetry        ScriptType = "must-retry"
	ScriptAborted          ScriptType = "aborted"
	ScriptAdmissionRefused ScriptType = "admission-refused"
)

var scriptTypes = map[replication.ScriptKind]ScriptType{
	replication.ScriptKind_SCRIPT_KIND_SET: ScriptSet, replication.ScriptKind_SCRIPT_KIND_NOT_SET: ScriptNotSet,
	replication.ScriptKind_SCRIPT_KIND_EXTENDED: ScriptExtended, replication.ScriptKind_SCRIPT_KIND_GOT: ScriptGot,
	replication.ScriptKind_SCRIPT_KIND_DELETED: ScriptDeleted, replication.ScriptKind_SCRIPT_KIND_EXISTS: ScriptExists,
	replication.ScriptKind_SCRIPT_KIND_DOES_NOT_EXIST: ScriptDoesNotExist, replication.ScriptKind_SCRIPT_KIND_ERRORED: ScriptErrored,
	replication.ScriptKind_SCRIPT_KIND_INVALID_INPUT: ScriptInvalidInput, replication.ScriptKind_SCRIPT_KIND_MUST_RETRY: ScriptMustRetry,
	replication.ScriptKind_SCRIPT_KIND_ABORTED: ScriptAborted, replication.ScriptKind_SCRIPT_KIND_ADMISSION_REFUSED: ScriptAdmissionRefused,
}

// ScriptResult is what a script answered. Type is one of those before
// ScriptErrored: the others are problems.
type ScriptResult struct {
	Type   ScriptType    `json:"type"`
	Values []ScriptValue `json:"values"`
}

// ScriptValue is one value of an answer.
type ScriptValue struct {
	Key string `json:"key,omitempty"` // empty for computed values
	// Value is nil when there is none; Text is the same when it is valid UTF-8.
	Value    []byte  `json:"value"`
	Text     *string `json:"text,omitempty"`
	Revision int64   `json:"revision"` // -1: of no key
	Modified string  `json:"modified,omitempty"`
	Expires  string  `json:"expires,omitempty"`
}

var priorities = map[string]replication.TxPriority{
	"": replication.TxPriority_TX_PRIORITY_UNSPECIFIED, "background": replication.TxPriority_TX_PRIORITY_BACKGROUND,
	"low": replication.TxPriority_TX_PRIORITY_LOW, "normal": replication.TxPriority_TX_PRIORITY_NORMAL,
	"high": replication.TxPriority_TX_PRIORITY_HIGH, "critical": replication.TxPriority_TX_PRIORITY_CRITICAL,
}

// Request returns the script as the contract has it, and how long its caller
// waits, 0 when it does not say.
func (s *Script) Request() (*replication.Script, time.Duration, error) {
	p, ok := priorities[s.Priority]
	switch {
	case !ok:
		return nil, 0, Refuse(Invalid, "the priority is background, low, normal, high or critical")
	case s.Script == "" && s.Hash == "":
		return nil, 0, Refuse(Invalid, "the script is missing")
	}
	var timeout time.Duration
	if s.Timeout != "" {
		var err error
		if timeout, err = parseLength("timeout", s.Timeout); err != nil {
			return nil, 0, err
		}
	}
	out := &replication.Script{Text: []byte(s.Script), Hash: []byte(s.Hash), Priority: p}
	for _, p := range s.Parameters {
		if p.Name == "" || p.Name[0] != '@' {
			p.Name = "@" + p.Name
		}
		out.Parameters = append(out.Parameters, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
	}
	return out, timeout, nil
}

// ScriptResultOf converts a result, or makes the problem of it that it is.
func ScriptResultOf(r *replication.ScriptResult) (ScriptResult, *Error) {
	t, ok := scriptTypes[r.GetKind()]
	refuse := func(k Kind) (ScriptResult, *Error) {
		e := Refuse(k, r.GetReason())
		if r.GetReason() == "" {
			e = Refuse(k, "the script was answered with "+string(t))
		}
		return ScriptResult{Type: t}, e
	}
	switch {
	case !ok:
		return ScriptResult{}, Refuse(Internal, "a script was answered with a type that nobody knows")
	case t == ScriptErrored:
		return refuse(ScriptFailed)
	case t == ScriptInvalidInput:
		return refuse(Invalid)
	case t == ScriptAborted:
		return refuse(Aborted)
	case t == ScriptMustRetry:
		return refuse(Locked)
	case t == ScriptAdmissionRefused:
		return refuse(AdmissionRefused)
	}
	out := ScriptResult{Type: t, Values: make([]ScriptValue, 0, len(r.GetValues()))}
	for _, v := range r.GetValues() {
		sv := ScriptValue{Key: v.GetKey(), Value: v.GetValue(), Revision: v.GetRevision(),
			Modified: stampText(v.GetModified()), Expires: timeText(v.GetExpiresAtMs())}
		if s := string(v.GetValue()); v.Value != nil && utf8.ValidString(s) {
			sv.Text = &s
		}
		out.Values = append(out.Values, sv)
	}
	return out, nil
}

// LimitTake is the body of a take from a rate limit.
type LimitTake struct {
	Rate      string `json:"rate"`                // PERMITS/PERIOD, such as 100/1m
	Permits   *int64 `json:"permits,omitempty"`   // absent: 1; 0 only looks
	Algorithm string `json:"algorithm,omitempty"` // bucket (default), window or sliding
	// Durability of the count: ephemeral (default) or persistent.
	Durability Durability `json:"durability,omitempty"`
}

// LimitRequest is LimitTake on the stream.
type LimitRequest struct {
	Name string    `json:"name"`
	Take LimitTake `json:"take"`
}

// LimitTaken answers a take.
type LimitTaken struct {
	Limit   string `json:"limit"`
	Granted bool   `json:"granted"`
	Left    int64  `json:"left"` // permits left when granted
	// RetryAfterMS is the soonest that asking again may help, when refused.
	RetryAfterMS int64 `json:"retry_after_ms"`
}

// CheckScriptText says what is wrong with a parameter of a script.
func CheckScriptText(what, s string) error {
	if !utf8.ValidString(s) {
		return Refuse(Invalid, what+" is not valid UTF-8; scripts are text")
	}
	return nil
}
