package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
)

// The scalars as System.Text.Json reads them with the web's defaults: numbers may
// come in strings, null is refused where a value is needed (a pointer takes it), and
// fractions and exponents are refused.
type (
	int32Value  int32
	int64Value  int64
	uint32Value uint32
	uint64Value uint64
	boolValue   bool
)

// valueError is a value that a field cannot take.
type valueError struct{ detail string }

// Error implements error.
func (v *valueError) Error() string { return v.detail }

func wrongValue(raw []byte, want string) error {
	return &valueError{cut(string(raw)) + " is not " + want}
}

// inString returns what is in the quotes of raw, if there are any.
func inString(raw []byte) (string, bool, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return string(raw), false, nil
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true, nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, true, err
}

func integer(raw []byte, bits int) (int64, error) {
	s, _, err := inString(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, bits)
	if err != nil {
		return 0, wrongValue(raw, "a whole number of "+strconv.Itoa(bits)+" bits")
	}
	return n, nil
}

func natural(raw []byte, bits int) (uint64, error) {
	s, _, err := inString(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, wrongValue(raw, "a whole number from 0 of "+strconv.Itoa(bits)+" bits")
	}
	return n, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *int32Value) UnmarshalJSON(raw []byte) error {
	n, err := integer(raw, 32)
	*v = int32Value(n)
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *int64Value) UnmarshalJSON(raw []byte) error {
	n, err := integer(raw, 64)
	*v = int64Value(n)
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *uint32Value) UnmarshalJSON(raw []byte) error {
	n, err := natural(raw, 32)
	*v = uint32Value(n)
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *uint64Value) UnmarshalJSON(raw []byte) error {
	n, err := natural(raw, 64)
	*v = uint64Value(n)
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *boolValue) UnmarshalJSON(raw []byte) error {
	switch string(raw) {
	case "true":
		*v = true
	case "false":
		*v = false
	default:
		return wrongValue(raw, "true or false")
	}
	return nil
}

// payload is a byte field: base64 with padding, where null is absent and "" is no
// bytes (R3).
type payload []byte

// UnmarshalJSON implements json.Unmarshaler.
func (v *payload) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		*v = nil
		return nil
	}
	s, quoted, err := inString(raw)
	if err != nil {
		return err
	}
	if !quoted || strings.ContainsAny(s, "\r\n") { // Go's decoder would pass over them
		return wrongValue(raw, "base64")
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return wrongValue(raw, "base64")
	}
	if b == nil {
		b = []byte{}
	}
	*v = b
	return nil
}

// hlc is a timestamp of the hybrid logical clock: node, Unix milliseconds, counter.
// Zero is none (R5).
type hlc struct {
	N int32Value  `json:"n"`
	L int64Value  `json:"l"`
	C uint32Value `json:"c"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *hlc) UnmarshalJSON(raw []byte) error {
	if len(raw) == 0 || raw[0] != '{' {
		return wrongValue(raw, `a timestamp like {"n":0,"l":0,"c":0}`)
	}
	type plain hlc
	return json.Unmarshal(raw, (*plain)(v))
}

func stamp(n int32, l int64, c uint32) hlc { return hlc{int32Value(n), int64Value(l), uint32Value(c)} }

func (v hlc) node() int32     { return int32(v.N) }
func (v hlc) physical() int64 { return int64(v.L) }
func (v hlc) counter() uint32 { return uint32(v.C) }

// text is a string that may be null, which means the same as empty.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// orNull is the other way round: empty stands for null in gRPC.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func optional[T int32 | int64, V int32Value | int64Value](v *V) *T {
	if v == nil {
		return nil
	}
	t := T(*v)
	return &t
}

func enumeration(raw []byte, names map[string]int32, flags bool) (int32, error) {
	s, quoted, err := inString(raw)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return int32(n), nil
	}
	if !quoted {
		return 0, wrongValue(raw, "a number or a name")
	}
	parts := []string{s}
	if flags {
		parts = strings.Split(s, ",")
	}
	var n int32
	for _, p := range parts {
		bit, ok := names[strings.ToLower(strings.TrimSpace(p))]
		if !ok {
			return 0, wrongValue(raw, "a name that is known here")
		}
		n |= bit
	}
	return n, nil
}

// The enums, taken by number and by name (R2, decision 52). A number that no name
// has goes on as it is: what it means is Service's to say.
type (
	durability         int32
	sequenceDurability int32
	keyFlags           int32
	lockMode           int32
	locking            int32
	readValidation     int32
	decisionDurability int32
	priority           int32
	conflictPolicy     int32
)

var (
	durabilityNames         = map[string]int32{"ephemeral": 0, "persistent": 1}
	sequenceDurabilityNames = map[string]int32{"persistent": 1}
	flagNames               = map[string]int32{"none": 0, "set": 1, "setnorevision": 2, "setifexists": 4, "setifnotexists": 8,
		"setifequaltovalue": 16, "setifequaltorevision": 32}
	lockModeNames           = map[string]int32{"exclusive": 0, "shared": 1}
	lockingNames            = map[string]int32{"pessimistic": 0, "optimistic": 1}
	readValidationNames     = map[string]int32{"none": 0, "trackandvalidate": 1}
	decisionDurabilityNames = map[string]int32{"besteffort": 0, "durable": 1}
	priorityNames           = map[string]int32{"background": 0, "low": 1, "normal": 2, "high": 3, "critical": 4}
	conflictPolicyNames     = map[string]int32{"normal": 0, "yield": 1}
)

// UnmarshalJSON implements json.Unmarshaler.
func (v *durability) UnmarshalJSON(raw []byte) error { return setEnum(v, raw, durabilityNames, false) }

// UnmarshalJSON implements json.Unmarshaler.
func (v *sequenceDurability) UnmarshalJSON(raw []byte) error {
	return setEnum(v, raw, sequenceDurabilityNames, false)
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *keyFlags) UnmarshalJSON(raw []byte) error { return setEnum(v, raw, flagNames, true) }

// UnmarshalJSON implements json.Unmarshaler.
func (v *lockMode) UnmarshalJSON(raw []byte) error { return setEnum(v, raw, lockModeNames, false) }

// UnmarshalJSON implements json.Unmarshaler.
func (v *locking) UnmarshalJSON(raw []byte) error { return setEnum(v, raw, lockingNames, false) }

// UnmarshalJSON implements json.Unmarshaler.
func (v *readValidation) UnmarshalJSON(raw []byte) error {
	return setEnum(v, raw, readValidationNames, false)
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *decisionDurability) UnmarshalJSON(raw []byte) error {
	return setEnum(v, raw, decisionDurabilityNames, false)
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *priority) UnmarshalJSON(raw []byte) error { return setEnum(v, raw, priorityNames, false) }

// UnmarshalJSON implements json.Unmarshaler.
func (v *conflictPolicy) UnmarshalJSON(raw []byte) error {
	return setEnum(v, raw, conflictPolicyNames, false)
}

func setEnum[E ~int32](v *E, raw []byte, names map[string]int32, flags bool) error {
	n, err := enumeration(raw, names, flags)
	*v = E(n)
	return err
}

// offset is the number of an enum that gRPC counts from 1, 0 being "not said":
// priority and conflict policy. What is unknown is said as 0 too.
func offset(n, last int32) int32 {
	if n < 0 || n > last {
		return 0
	}
	return n + 1
}
