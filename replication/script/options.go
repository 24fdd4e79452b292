package script

import (
	"math"
	"strconv"
)

// ReasonTimeout is the reason of a script that was ended by its deadline.
const ReasonTimeout = "Transaction aborted by timeout"

// Limits and defaults of BEGIN's options, in milliseconds (scripts.md 29).
const (
	DefaultTimeoutMS       = 5000
	MaxTimeoutMS           = 300_000
	DefaultAdmissionWaitMS = 5000
	MaxAdmissionWaitMS     = 30_000
)

// Options are what BEGIN asks for, or what a script without BEGIN gets.
type Options struct {
	Optimistic      bool
	AutoCommit      bool // commit at the end without COMMIT
	AsyncRelease    bool
	TimeoutMS       int64 // 0: is over at once
	AdmissionWaitMS int64
	SnapshotMS      int64  // reads see the state as of then, writes are refused; 0: none
	Priority        string // background, low, normal, high or critical; "": as the request says
}

// Options returns the options of the program. The error is a *SyntaxError-like
// reason for TypeErrored; Run gives the same.
func (p *Program) Options() (Options, error) {
	if len(p.body) == 1 {
		if s, ok := p.body[0].(*beginStmt); ok {
			return beginOptions(s)
		}
	}
	o := defaultOptions()
	o.AutoCommit = true
	return o, nil
}

func defaultOptions() Options {
	return Options{TimeoutMS: DefaultTimeoutMS, AdmissionWaitMS: DefaultAdmissionWaitMS}
}

// beginOptions reads all options, in order. Names and values are case-sensitive
// texts; what is unknown is ignored, as in the reference.
func beginOptions(s *beginStmt) (Options, error) {
	o := defaultOptions()
	if len(s.options) == 0 {
		return o, nil
	}
	line := s.options[0].line()
	seen := make(map[string]bool, len(s.options))
	for _, option := range s.options {
		if option.value.kind == tokNull || option.name == "" {
			return o, failAt(line, "Invalid BEGIN option")
		}
		if seen[option.name] {
			return o, failAt(option.line(), "BEGIN option %s is given twice", option.name)
		}
		seen[option.name] = true
	}
	for _, option := range s.options {
		if err := o.take(line, option.name, optionText(option.value)); err != nil {
			return o, err
		}
	}
	return o, nil
}

func optionText(t token) string {
	switch t.kind {
	case tokTrue:
		return "true"
	case tokFalse:
		return "false"
	}
	return t.text
}

func (o *Options) take(line int, name, text string) error {
	var ok bool
	switch name {
	case "locking":
		if text != "pessimistic" && text != "optimistic" {
			return failAt(line, "Unsupported locking option: %s", text)
		}
		o.Optimistic = text == "optimistic"
	case "autoCommit":
		if o.AutoCommit, ok = yesNo(text); !ok {
			return failAt(line, "Unsupported autoCommit option: %s", text)
		}
	case "asyncRelease":
		if o.AsyncRelease, ok = yesNo(text); !ok {
			return failAt(line, "Unsupported asyncRelease option: %s", text)
		}
	case "timeout":
		n, err := strconv.ParseInt(trimNumber(text), 10, 32)
		if err != nil || n < 0 {
			return failAt(line, "Invalid timeout option: %s", text)
		}
		o.TimeoutMS = min(n, MaxTimeoutMS)
	case "admissionWait":
		n, err := strconv.ParseInt(trimNumber(text), 10, 32)
		if err != nil {
			return failAt(line, "Invalid admissionWait option: %s", text)
		}
		if n > 0 {
			o.AdmissionWaitMS = min(n, MaxAdmissionWaitMS)
		}
	case "snapshot":
		n, ok := parseLong(text)
		if !ok || n == 0 || n == math.MinInt64 {
			return failAt(line, "snapshot must be a non-zero Unix epoch millisecond value")
		}
		o.SnapshotMS = n
	case "priority":
		switch text {
		case "background", "low", "normal", "high", "critical":
			o.Priority = text
		default:
			return failAt(line, "Unsupported priority option: %s", text)
		}
	}
	return nil
}

func yesNo(text string) (value, ok bool) {
	switch text {
	case "true", "yes":
		return true, true
	case "false", "no":
		return false, true
	}
	return false, false
}
