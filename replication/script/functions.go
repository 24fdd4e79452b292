package script

import (
	"math"
	"strings"
)

// builtin is a function of the language. Names are case-sensitive.
type builtin struct {
	name     string // the canonical one, for reasons
	min, max int    // arguments
	clock    bool   // it tells the time
	apply    func(r *run, line int, args []value) (value, error)
}

// builtins by name and alias (scripts.md 62, and the documentation's pages on
// functions). Filled by init, since functions refer to evaluation.
var builtins map[string]*builtin

func init() {
	builtins = make(map[string]*builtin)
	for _, f := range []struct {
		names    string // canonical name first
		min, max int
		apply    func(r *run, line int, args []value) (value, error)
	}{
		{"to_int to_integer to_long to_number", 1, 1, toInt},
		{"to_double to_float", 1, 1, toDouble},
		{"to_str to_string", 1, 1, toStr},
		{"to_bool to_boolean", 1, 1, toBool},
		{"to_json", 1, 1, toJSON},
		{"is_long is_int is_integer", 1, 1, isKind(kindLong)},
		{"is_double is_float", 1, 1, isKind(kindDouble)},
		{"is_string is_str", 1, 1, isKind(kindString)},
		{"is_bool is_boolean", 1, 1, isKind(kindBool)},
		{"is_null", 1, 1, isKind(kindNull)},
		{"is_array", 1, 1, isKind(kindArray)},
		{"abs", 1, 1, abs},
		{"ceil", 1, 1, whole("ceil", math.Ceil)},
		{"floor", 1, 1, whole("floor", math.Floor)},
		{"round", 2, 2, round},
		{"pow", 2, 2, power},
		{"min", 2, 2, extreme("min", func(a, b int64) bool { return a < b }, math.Min)},
		{"max", 2, 2, extreme("max", func(a, b int64) bool { return a > b }, math.Max)},
		{"nearly_equals", 3, 3, nearlyEquals},
		{"upper", 1, 1, letterCase("upper", upperRune)},
		{"lower", 1, 1, letterCase("lower", lowerRune)},
		{"concat", 2, 2, concat},
		{"length len", 1, 1, length},
		{"substring", 2, 3, substring},
		{"starts_with", 2, 2, affix("starts_with", strings.HasPrefix)},
		{"ends_with", 2, 2, affix("ends_with", strings.HasSuffix)},
		{"index_of", 2, 2, indexOf},
		{"split", 2, 2, split},
		{"trim", 1, 1, trim},
		{"count", 1, 1, count},
		{"revision rev", 1, 1, revision},
		{"expires", 1, 1, expires},
		{"current_time", 0, 0, now},
		{"hlc", 0, 0, now},
		{"hlc_counter", 0, 0, counter},
	} {
		names := strings.Fields(f.names)
		b := &builtin{name: names[0], min: f.min, max: f.max, apply: f.apply}
		b.clock = f.max == 0
		for _, n := range names {
			builtins[n] = b
		}
	}
}

// Functions returns the names of the built-in functions, aliases included,
// unsorted, for completion.
func Functions() []string {
	out := make([]string, 0, len(builtins))
	for n := range builtins {
		out = append(out, n)
	}
	return out
}

// wrongArgument is the reason of most functions. Numeric ones say "with", others
// "on".
func wrongArgument(line int, name, preposition string, v *value) error {
	return failAt(line, "Cannot use '%s' function %s argument %s", name, preposition, v.kind)
}

func toInt(_ *run, line int, args []value) (value, error) {
	v := args[0]
	switch v.kind {
	case kindLong:
		return v, nil
	case kindBool:
		return long(v.bits), nil
	case kindDouble:
		return long(truncate(v.float())), nil
	case kindString:
		if v.str == "" {
			return long(0), nil
		}
		if n, ok := parseLong(v.str); ok {
			return long(n), nil
		}
		return null, failAt(line, "Cannot cast string value '%.100s' to int", v.str)
	}
	return null, failAt(line, "Cannot cast %s to int", v.kind)
}

func toDouble(r *run, line int, args []value) (value, error) {
	v := args[0]
	if r.dearer() {
		if err := r.priceAsNumber(&v); err != nil {
			return null, err
		}
	}
	switch v.kind {
	case kindDouble:
		return v, nil
	case kindBool, kindLong:
		return double(float64(v.bits)), nil
	case kindString:
		if v.str == "" {
			return double(0), nil
		}
		if f, ok := parseDouble(v.str, true); ok {
			return double(f), nil
		}
		return null, failAt(line, "Cannot cast string value '%.100s' to double", v.str)
	}
	return null, failAt(line, "Cannot cast %s to double", v.kind)
}

func toStr(_ *run, line int, args []value) (value, error) {
	if args[0].kind == kindString {
		return args[0], nil
	}
	s, ok := args[0].render()
	if !ok {
		return null, failAt(line, "Cannot cast %s to string", args[0].kind)
	}
	return text(s), nil
}

func toBool(_ *run, line int, args []value) (value, error) {
	v := args[0]
	switch v.kind {
	case kindBool:
		return v, nil
	case kindLong, kindDouble:
		t, _ := truth(&v)
		return boolean(t), nil
	case kindString:
		return boolean(strings.EqualFold(v.str, "true")), nil
	}
	return null, failAt(line, "Cannot cast %s to bool", v.kind)
}

func isKind(k kind) func(*run, int, []value) (value, error) {
	return func(_ *run, _ int, args []value) (value, error) { return boolean(args[0].kind == k), nil }
}

func abs(_ *run, line int, args []value) (value, error) {
	v := args[0]
	switch {
	case v.kind == kindLong && v.bits == math.MinInt64:
		return null, failAt(line, "The absolute value does not fit 64 bits")
	case v.kind == kindLong && v.bits < 0:
		return long(-v.bits), nil
	case v.kind == kindLong:
		return long(v.bits), nil
	case v.kind == kindDouble:
		return double(math.Abs(v.float())), nil
	}
	return null, wrongArgument(line, "abs", "with", &v)
}

// whole is ceil and floor: a Double, of a Long too.
func whole(name string, f func(float64) float64) func(*run, int, []value) (value, error) {
	return func(_ *run, line int, args []value) (value, error) {
		if !args[0].isNumber() {
			return null, wrongArgument(line, name, "with", &args[0])
		}
		return double(f(args[0].asFloat())), nil
	}
}

// round scales, rounds half to even, and scales back.
func round(_ *run, line int, args []value) (value, error) {
	v, digits := args[0], args[1]
	switch {
	case !v.isNumber():
		return null, wrongArgument(line, "round", "with", &v)
	case digits.kind != kindLong:
		return null, wrongArgument(line, "round", "with", &digits)
	case digits.bits < 0 || digits.bits > 15:
		return null, failAt(line, "Invalid value for digits %d in 'round' function", digits.bits)
	}
	f := v.asFloat()
	if math.Abs(f) >= 1e16 {
		return double(f), nil
	}
	scale := 1.0
	for i := int64(0); i < digits.bits; i++ {
		scale = float64(scale * 10)
	}
	return double(math.RoundToEven(float64(f*scale)) / scale), nil
}

func power(_ *run, line int, args []value) (value, error) {
	for i := range args {
		if !args[i].isNumber() {
			return null, wrongArgument(line, "pow", "with", &args[i])
		}
	}
	return double(pow(args[0].asFloat(), args[1].asFloat())), nil
}

// extreme is min and max: a Long of two Longs, else a Double.
func extreme(name string, before func(a, b int64) bool, of func(x, y float64) float64) func(*run, int, []value) (value, error) {
	return func(_ *run, line int, args []value) (value, error) {
		a, b := args[0], args[1]
		for i := range args {
			if !args[i].isNumber() {
				return null, wrongArgument(line, name, "with", &args[i])
			}
		}
		if a.kind == kindLong && b.kind == kindLong {
			if before(b.bits, a.bits) {
				return long(b.bits), nil
			}
			return long(a.bits), nil
		}
		return double(of(a.asFloat(), b.asFloat())), nil
	}
}

func nearlyEquals(_ *run, line int, args []value) (value, error) {
	for i := range args {
		if !args[i].isNumber() {
			return null, wrongArgument(line, "nearly_equals", "with", &args[i])
		}
	}
	return boolean(math.Abs(args[0].asFloat()-args[1].asFloat()) <= args[2].asFloat()), nil
}

func count(_ *run, line int, args []value) (value, error) {
	if args[0].kind != kindArray {
		return null, wrongArgument(line, "count", "on", &args[0])
	}
	return long(int64(len(args[0].array.elems))), nil
}

// revision carries on the revision and expiry that it tells.
func revision(_ *run, _ int, args []value) (value, error) {
	v := long(args[0].rev)
	v.rev, v.expires = args[0].rev, args[0].expires
	return v, nil
}

func expires(_ *run, _ int, args []value) (value, error) { return long(args[0].expires), nil }

func now(r *run, _ int, _ []value) (value, error) { return long(r.store.Clock().MS), nil }

func counter(r *run, _ int, _ []value) (value, error) {
	return long(int64(r.store.Clock().Counter)), nil
}
