package script

import (
	"math"
	"strconv"
	"strings"
)

// formatDouble renders a Double as .NET does: the shortest digits that read back
// the same, in scientific form from 1E+15 and below 1E-04.
func formatDouble(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case f == 0 && math.Signbit(f):
		return "-0"
	case f == 0:
		return "0"
	}
	b := strconv.AppendFloat(make([]byte, 0, 32), f, 'E', -1, 64)
	mark := strings.IndexByte(string(b), 'E')
	exponent, err := strconv.Atoi(string(b[mark+1:]))
	if err != nil {
		panic("script: strconv gave the exponent " + string(b[mark+1:]))
	}
	if exponent >= -4 && exponent < 15 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	sign := byte('+')
	if exponent < 0 {
		sign, exponent = '-', -exponent
	}
	b = append(b[:mark], 'E', sign)
	if exponent < 10 {
		b = append(b, '0')
	}
	return string(strconv.AppendInt(b, int64(exponent), 10))
}

// maxNumberBytes is the longest text that is looked at as a number, blanks around
// it included.
const maxNumberBytes = 1000

// priceAsNumber charges for looking at v as a number, if it is a text.
func (r *run) priceAsNumber(v *value) error {
	if v.kind != kindString {
		return nil
	}
	price := priceDigit * int64(min(len(v.str), maxNumberBytes))
	if r.dearer() && hardDouble(v.str) {
		price += priceHardDouble
	}
	return r.burn(price)
}

// hardDouble reports whether a text is a number that strconv may have to round with
// long arithmetic: of more digits than fit 64 bits, or close to or beyond the least
// and the largest Doubles. It may say so of others that look like that.
func hardDouble(s string) bool {
	if len(s) > maxNumberBytes {
		return false // not looked at
	}
	s = strings.TrimLeft(trimNumber(s), "+-")
	i, digits, exponent, point := 0, 0, -1, false // of the first digit that is not 0
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.' && !point:
			point = true
			continue
		case c == ',':
			continue
		case !isDigit(c):
		case c != '0' || digits > 0:
			if digits++; !point {
				exponent++
			}
			continue
		case point:
			exponent--
			continue
		default:
			continue
		}
		break
	}
	if digits == 0 {
		return false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		power, err := strconv.Atoi(s[i+1:])
		if err != nil {
			return true // of very many digits, or no number
		}
		exponent += power
	}
	return digits > 19 || exponent > 307 || exponent < -306
}

// trimNumber removes the blanks that .NET allows around a number.
func trimNumber(s string) string {
	blank := func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
	for len(s) > 0 && blank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && blank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// parseLong reads a decimal int64, with a sign and blanks around it.
func parseLong(s string) (int64, bool) {
	if len(s) > maxNumberBytes {
		return 0, false
	}
	s = trimNumber(s)
	digits := strings.TrimLeft(s, "+-")
	if digits == "" || len(s)-len(digits) > 1 {
		return 0, false
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// parseDouble reads a Double as .NET's NumberStyles.Float does: sign, point,
// exponent, and the names of what is no number. What is too large is infinite.
// With thousands it skips commas before the point.
func parseDouble(s string, thousands bool) (float64, bool) {
	if len(s) > maxNumberBytes {
		return 0, false
	}
	s = trimNumber(s)
	negative := false
	body := s
	if body != "" && (body[0] == '-' || body[0] == '+') {
		negative, body = body[0] == '-', body[1:]
	}
	switch {
	case strings.EqualFold(body, "Infinity"):
		if negative {
			return math.Inf(-1), true
		}
		return math.Inf(1), true
	case strings.EqualFold(body, "NaN"):
		return math.NaN(), true
	}
	clean, ok := decimal(body, thousands)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(clean, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	if negative {
		f = -f
	}
	return f, true
}

// decimal checks digits [. digits] [E [sign] digits], with digits on one side of
// the point at least, and returns it without commas.
func decimal(s string, thousands bool) (string, bool) {
	out := make([]byte, 0, len(s))
	i, digits := 0, 0
	for ; i < len(s) && (isDigit(s[i]) || thousands && s[i] == ',' && digits > 0); i++ {
		if s[i] != ',' {
			out = append(out, s[i])
			digits++
		}
	}
	if i < len(s) && s[i] == '.' {
		out = append(out, '.')
		for i++; i < len(s) && isDigit(s[i]); i++ {
			out = append(out, s[i])
			digits++
		}
	}
	if digits == 0 {
		return "", false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		out = append(out, 'e')
		i++
		if i < len(s) && (s[i] == '-' || s[i] == '+') {
			out = append(out, s[i])
			i++
		}
		start := i
		for ; i < len(s) && isDigit(s[i]); i++ {
			out = append(out, s[i])
		}
		if i == start {
			return "", false
		}
	}
	return string(out), i == len(s)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// numeric is the view of a text as a number: a Long if it is one, else a Double
// (scripts.md 52).
func numeric(s string) (value, bool) {
	if n, ok := parseLong(s); ok {
		return long(n), true
	}
	if f, ok := parseDouble(s, false); ok {
		return double(f), true
	}
	return value{}, false
}

// truncate is the Long of a Double: towards zero, ending at the bounds. Go leaves
// what is out of bounds to the processor, so it must not be asked.
func truncate(f float64) int64 {
	switch {
	case math.IsNaN(f):
		return 0
	case f >= 1<<63:
		return math.MaxInt64
	case f < -1<<63:
		return math.MinInt64
	}
	return int64(f)
}
