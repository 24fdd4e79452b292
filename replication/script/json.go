package script

import (
	"math"
	"strings"
	"unicode/utf16"
)

// toJSON renders a value as JSON. Arrays are JSON arrays, as documented (the
// reference shows its own object for each element).
func toJSON(r *run, line int, args []value) (value, error) {
	switch args[0].kind {
	case kindNull, kindBool:
		return null, wrongArgument(line, "to_json", "on", &args[0])
	}
	j := jsonWriter{run: r, line: line}
	if err := j.value(&args[0]); err != nil {
		return null, err
	}
	if err := r.burn(2 * priceByte * int64(j.out.Len())); err != nil { // more work than a copy
		return null, err
	}
	return r.made(line, text(j.out.String()))
}

type jsonWriter struct {
	run  *run
	line int
	out  strings.Builder
}

func (j *jsonWriter) value(v *value) error {
	if j.out.Len() > MaxValueBytes {
		return failAt(j.line, "A value is larger than %d bytes", MaxValueBytes)
	}
	switch v.kind {
	case kindNull:
		j.out.WriteString("null")
	case kindString:
		if err := j.run.burn(priceByte * int64(len(v.str))); err != nil {
			return err
		}
		j.text(v.str)
	case kindArray:
		return j.array(v)
	case kindDouble:
		if f := v.float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return failAt(j.line, "JSON has no %s", formatDouble(f))
		}
		fallthrough
	default:
		s, _ := v.render()
		j.out.WriteString(s)
	}
	return nil
}

func (j *jsonWriter) array(v *value) error {
	if err := j.run.burn(priceElement * int64(len(v.array.elems)+1)); err != nil {
		return err
	}
	j.out.WriteByte('[')
	for i := range v.array.elems {
		if i > 0 {
			j.out.WriteByte(',')
		}
		if err := j.value(&v.array.elems[i]); err != nil {
			return err
		}
	}
	j.out.WriteByte(']')
	return nil
}

// text quotes as .NET's serializer does: everything outside of ASCII, and what
// could be mistaken inside of HTML, as \uXXXX.
func (j *jsonWriter) text(s string) {
	j.out.WriteByte('"')
	for _, c := range s {
		switch c {
		case '\b':
			j.out.WriteString(`\b`)
		case '\f':
			j.out.WriteString(`\f`)
		case '\n':
			j.out.WriteString(`\n`)
		case '\r':
			j.out.WriteString(`\r`)
		case '\t':
			j.out.WriteString(`\t`)
		case '\\':
			j.out.WriteString(`\\`)
		default:
			j.letter(c)
		}
	}
	j.out.WriteByte('"')
}

func (j *jsonWriter) letter(c rune) {
	switch {
	case c > 0xffff:
		a, b := utf16.EncodeRune(c)
		j.escape(a)
		j.escape(b)
	case c < ' ' || c > '~' || strings.IndexByte("\"&'+<>`", byte(c)) >= 0:
		j.escape(c)
	default:
		j.out.WriteRune(c)
	}
}

// escape writes one UTF-16 unit.
func (j *jsonWriter) escape(c rune) {
	const hex = "0123456789ABCDEF"
	b := [...]byte{'\\', 'u', hex[c>>12&15], hex[c>>8&15], hex[c>>4&15], hex[c&15]}
	j.out.Write(b[:])
}
