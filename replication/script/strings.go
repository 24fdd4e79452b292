package script

import (
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// units is the length of a text in UTF-16 units, as .NET counts.
func units(s string) int {
	n := 0
	for _, r := range s {
		n += utf16.RuneLen(r)
	}
	return n
}

// cutUnits returns the part of s from unit from up to unit to. A character that
// a cut goes through becomes U+FFFD, as there is no half of one in UTF-8.
func cutUnits(s string, from, to int) string {
	var b strings.Builder
	at := 0
	for _, r := range s {
		n := utf16.RuneLen(r)
		inside := min(at+n, to) - max(at, from)
		switch {
		case inside == n:
			b.WriteRune(r)
		case inside > 0:
			b.WriteRune(utf8.RuneError)
		}
		at += n
	}
	return b.String()
}

// allStrings checks the arguments of the functions on text.
func allStrings(line int, name string, args []value) error {
	for i := range args {
		if args[i].kind != kindString {
			return wrongArgument(line, name, "on", &args[i])
		}
	}
	return nil
}

func length(_ *run, line int, args []value) (value, error) {
	if err := allStrings(line, "length", args); err != nil {
		return null, err
	}
	return long(int64(units(args[0].str))), nil
}

func concat(r *run, line int, args []value) (value, error) {
	a, b := args[0], args[1]
	if a.kind != kindString || b.kind != kindString {
		return null, failAt(line, "Cannot use 'concat' function on argument %s + %s", a.kind, b.kind)
	}
	if len(a.str)+len(b.str) > MaxValueBytes {
		return null, failAt(line, "A value is larger than %d bytes", MaxValueBytes)
	}
	return r.made(line, text(a.str+b.str))
}

// letterCase is upper and lower: one letter for one, without regard to language.
func letterCase(name string, of func(rune) rune) func(*run, int, []value) (value, error) {
	return func(r *run, line int, args []value) (value, error) {
		if err := allStrings(line, name, args); err != nil {
			return null, err
		}
		letters := 0
		for i := range len(args[0].str) {
			if args[0].str[i] >= utf8.RuneSelf {
				letters++
			}
		}
		if err := r.burn(priceLetter * int64(letters)); err != nil {
			return null, err
		}
		return r.made(line, text(strings.Map(of, args[0].str)))
	}
}

// The letters that .NET's invariant culture leaves as they are, because their
// other case is of another language or is no inverse. A change of Go's Unicode
// tables needs a feature level: TestLetterCaseIsPinned says so.
func upperRune(r rune) rune {
	if r == 'ı' || r == 'ſ' {
		return r
	}
	return unicode.ToUpper(r)
}

func lowerRune(r rune) rune {
	if r == 'İ' || r == 'K' || r == 'Å' || r == 'Ω' {
		return r
	}
	return unicode.ToLower(r)
}

func affix(name string, has func(s, part string) bool) func(*run, int, []value) (value, error) {
	return func(_ *run, line int, args []value) (value, error) {
		if err := allStrings(line, name, args); err != nil {
			return null, err
		}
		return boolean(has(args[0].str, args[1].str)), nil
	}
}

func indexOf(_ *run, line int, args []value) (value, error) {
	if err := allStrings(line, "index_of", args); err != nil {
		return null, err
	}
	i := strings.Index(args[0].str, args[1].str)
	if i > 0 {
		i = units(args[0].str[:i])
	}
	return long(int64(i)), nil
}

func substring(r *run, line int, args []value) (value, error) {
	if err := allStrings(line, "substring", args[:1]); err != nil {
		return null, err
	}
	s := args[0].str
	if err := r.burn(4 * priceByte * int64(len(s))); err != nil { // gone through twice, letter by letter
		return null, err
	}
	size := int64(units(s))
	var bounds [2]int64
	for i := range args[1:] {
		n, ok := wholeNumber(&args[i+1])
		if !ok || args[i+1].kind == kindString {
			return null, wrongArgument(line, "substring", "on", &args[i+1])
		}
		bounds[i] = n
	}
	from, to := bounds[0], size
	if from < 0 || from > size {
		return null, failAt(line, "Position %d is outside of the text in 'substring' function", from)
	}
	if len(args) == 3 {
		if bounds[1] < 0 || bounds[1] > size-from {
			return null, failAt(line, "Length %d is outside of the text in 'substring' function", bounds[1])
		}
		to = from + bounds[1]
	}
	return r.made(line, text(cutUnits(s, int(from), int(to))))
}

func split(r *run, line int, args []value) (value, error) {
	if err := allStrings(line, "split", args); err != nil {
		return null, err
	}
	if args[1].str == "" {
		return null, failAt(line, "The separator is empty in 'split' function")
	}
	if err := r.search(args[0].str); err != nil {
		return null, err
	}
	n := strings.Count(args[0].str, args[1].str) + 1
	if n > MaxArrayElements {
		return null, failAt(line, "An array holds at most %d elements", MaxArrayElements)
	}
	if err := r.burn(priceElement * int64(n)); err != nil {
		return null, err
	}
	elems := make([]value, 0, n)
	rest, more := args[0].str, true
	for more {
		var part string
		part, rest, more = strings.Cut(rest, args[1].str)
		elems = append(elems, text(part))
	}
	return list(elems), nil
}

// search charges for going through a text.
func (r *run) search(s string) error {
	if !r.dearer() {
		return nil
	}
	return r.burn(priceSearch * int64(len(s)))
}

func trim(r *run, line int, args []value) (value, error) {
	if err := allStrings(line, "trim", args); err != nil {
		return null, err
	}
	if err := r.search(args[0].str); err != nil {
		return null, err
	}
	return text(strings.TrimSpace(args[0].str)), nil
}
