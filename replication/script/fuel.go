package script

import (
	"errors"

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

// ParseFuel is what parsing a text costs. Run charges for it.
func ParseFuel(text []byte) int64 { return priceTextByte * int64(len(text)) }
