package script

import (
	"errors"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/replication"
)

// Limits of scripts. A change of one changes outcomes and needs a feature level.
const (
	// MaxTextBytes bounds the text of a script.
	MaxTextBytes = 1 << 20
	// MaxStatementDepth bounds how deep blocks nest.
	MaxStatementDepth = 100
	// MaxExpressionDepth bounds the height of an expression's tree.
	MaxExpressionDepth = 500
	// MaxParams bounds the parameters of one run.
	MaxParams = 10_000
	// MaxArrayElements bounds one array.
	MaxArrayElements = 100_000
	// MaxValueBytes bounds one computed value, arrays with all that they hold.
	MaxValueBytes = 16 << 20
	// MaxVariableBytes bounds what all variables hold together.
	MaxVariableBytes = 64 << 20
	// MaxWrittenBytes bounds the keys and values that one script writes.
	MaxWrittenBytes = 16 << 20
	// MaxReadBytes bounds the keys and values of one bucket or scan.
	MaxReadBytes = 16 << 20
	// MaxResultBytes bounds the keys and values of an answer, which is kept as a
	// receipt. One value that was read may be larger.
	MaxResultBytes = replication.MaxPageBytes
	// MaxReasonBytes is what is told of a thrown text: a reason is for people, and
	// is kept as a receipt, too.
	MaxReasonBytes = 64 << 10
	// MaxSleepMS bounds one SLEEP (scripts.md 49).
	MaxSleepMS = 300_000
)

// Prices of fuel. One unit is at most about a nanosecond of an unhurried core, so
// that EntryFuel is no more than 10 ms; BenchmarkPrices measures the table (0.3 to
// 0.9 ns when it was made, 1.2 for texts that are parsed anew). A change needs a
// feature level: what is spent on one voter must be spent on all.
const (
	// EntryFuel is what scripts may spend at apply, and what one read-only script
	// may spend in the read path.
	EntryFuel = 10_000_000

	priceTextByte  = 20     // per byte of text, parsed or remembered alike
	priceStatement = 50     // per statement carried out
	priceNode      = 60     // per node of an expression evaluated
	priceByte      = 1      // per byte of text made, compared or copied
	priceDigit     = 5      // per byte of text that is looked at as a number
	priceLetter    = 20     // per byte of a letter beyond ASCII whose case is changed
	priceElement   = 25     // per element of an array made or walked
	priceRead      = 5000   // per key looked up
	priceHistory   = 50_000 // per key looked up in its history
	priceRow       = 3000   // per row of a range
	priceWrite     = 8000   // per write judged
	priceRowByte   = 3      // per byte of a key or value read or written
)

// Since dearerLevel some work is dearer, which a benchmark found far too cheap.
const (
	dearerLevel = 4
	// priceHardDouble is for a text that is a Double which needs long arithmetic to
	// be rounded: 20 to 28 µs, for as little as 1E309.
	priceHardDouble = 30_000
	// priceSearch is per byte of a text that is gone through for a separator, or for
	// blanks of all of Unicode, beside priceByte.
	priceSearch = 2
	// longNumberBytes is how long digits in a text must be to be a Double of that
	// kind, as there is no exponent in a script.
	longNumberBytes = 300
	// priceToken is per word, sign and string of a text, beside its bytes: 1+1+1+1 is
	// more to parse than a remark as long.
	priceToken = 150
)

// dearer reports whether the prices since dearerLevel count.
func (r *run) dearer() bool { return r.env.Level == 0 || r.env.Level >= dearerLevel }

// ErrFuelSpent ends a run that used up its fuel. Nothing of it may take effect;
// it is never shown to a user: the script runs again as a session.
var ErrFuelSpent = errors.New("the script's fuel is spent")

// burn takes fuel, and asks for more when there is none left.
func (r *run) burn(units int64) error {
	r.fuel -= units
	if r.fuel >= 0 {
		return nil
	}
	return r.refill()
}

func (r *run) refill() error {
	if r.env.Refill == nil || r.env.Fuel <= 0 {
		return ErrFuelSpent
	}
	for r.fuel < 0 {
		if err := r.env.Refill(); err != nil {
			return err
		}
		r.refilled += r.env.Fuel
		r.fuel += r.env.Fuel
	}
	return nil
}

// ParseFuel is what parsing a text costs at a feature level. Run charges for it.
func ParseFuel(text []byte, level uint32) int64 {
	price := priceTextByte * int64(len(text))
	if level >= dearerLevel {
		price += partsFuel(text)
	}
	return price
}

// ParseFuel is what parsing its text costs.
func (p *Program) ParseFuel(level uint32) int64 {
	price := priceTextByte * int64(len(p.text))
	if level >= dearerLevel {
		price += p.partsFuel
	}
	return price
}

// partsFuel is what the parts of a text cost beside its bytes.
func partsFuel[T string | []byte](text T) int64 {
	return priceHardDouble*longNumbers(text) + priceToken*tokens(text)
}

// tokens counts the words, signs and strings of a text, about as the lexer has them.
// Remarks are none.
func tokens[T string | []byte](text T) (n int64) {
	word := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == ' ' || c >= '\t' && c <= '\r' || c == ';':
			word = false
			continue
		case c == '_' || c == '.' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= utf8.RuneSelf:
			if !word {
				n++
			}
			word = true
			continue
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
			word = false
			continue
		case c == '\'' || c == '"' || c == '`':
			for i++; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		}
		n++
		word = false
	}
	return n
}

// longNumbers counts what may be a number of longNumberBytes and more in a text.
func longNumbers[T string | []byte](text T) (n int64) {
	if len(text) < longNumberBytes {
		return 0
	}
	digits := 0
	for i := range len(text) {
		if c := text[i]; !isDigit(c) && c != '.' {
			digits = 0
		} else if digits++; digits == longNumberBytes {
			n++
		}
	}
	return n
}
