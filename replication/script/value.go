package script

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// kind is the type of a value.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindLong
	kindDouble
	kindString
	kindArray
)

// String returns the name that error reasons use (contract: scripts.md 51).
func (k kind) String() string {
	return [...]string{"NullType", "BoolType", "LongType", "DoubleType", "StringType", "ArrayType"}[k]
}

// value is what an expression comes to. Values are never changed: an array may be
// shared by many.
type value struct {
	kind    kind
	bits    int64 // Bool: 0 or 1; Long; Double: its IEEE bits
	str     string
	array   *array
	rev     int64 // of the key that it was read from, else -1
	expires int64 // wall label of that key, else 0
}

// array is the body of an array, with its size in bytes, all that it holds
// included, however often it is shared.
type array struct {
	elems []value
	size  int64
}

// valueBytes is what one value costs besides its text.
const valueBytes = 64

var null = value{kind: kindNull, rev: -1}

func boolean(b bool) value {
	v := value{kind: kindBool, rev: -1}
	if b {
		v.bits = 1
	}
	return v
}

func long(n int64) value { return value{kind: kindLong, bits: n, rev: -1} }
func double(f float64) value {
	return value{kind: kindDouble, bits: int64(math.Float64bits(f)), rev: -1}
}
func text(s string) value { return value{kind: kindString, str: s, rev: -1} }

// list makes an array. Its own revision is 0 (scripts-second-reading.md 59).
func list(elems []value) value {
	a := &array{elems: elems}
	for i := range elems {
		a.size += elems[i].size()
	}
	return value{kind: kindArray, array: a}
}

func (v *value) isTrue() bool   { return v.bits != 0 }
func (v *value) float() float64 { return math.Float64frombits(uint64(v.bits)) }

// size is an upper bound of the memory that keeping v takes.
func (v *value) size() int64 {
	n := int64(valueBytes + len(v.str))
	if v.array != nil {
		n += v.array.size
	}
	return n
}

// isNumber reports whether v is a Long or a Double.
func (v *value) isNumber() bool { return v.kind == kindLong || v.kind == kindDouble }

// asFloat is the value of a number as a Double.
func (v *value) asFloat() float64 {
	if v.kind == kindLong {
		return float64(v.bits)
	}
	return v.float()
}

// render is the text that a value is stored as (scripts.md 34). Arrays have
// none.
func (v *value) render() (string, bool) {
	switch v.kind {
	case kindNull:
		return "", true
	case kindBool:
		if v.isTrue() {
			return "true", true
		}
		return "false", true
	case kindLong:
		return strconv.FormatInt(v.bits, 10), true
	case kindDouble:
		return formatDouble(v.float()), true
	case kindString:
		return v.str, true
	}
	return "", false
}

// bytes is render for the store: null is an empty value.
func (v *value) bytes() ([]byte, bool) {
	if v.kind == kindLong {
		return strconv.AppendInt(make([]byte, 0, 20), v.bits, 10), true
	}
	s, ok := v.render()
	if !ok {
		return nil, false
	}
	return []byte(s), true
}

// fromStore is the text that a stored value is read as. Bytes that are no UTF-8
// become U+FFFD, one for each: binary does not survive a read and a write
// (scripts-second-reading.md 46).
func fromStore(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	size := len(b)
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if i += n; r == utf8.RuneError && n == 1 {
			size += len(string(utf8.RuneError)) - 1
		}
	}
	out := make([]byte, 0, size)
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		out = utf8.AppendRune(out, r)
		i += n
	}
	return string(out)
}
