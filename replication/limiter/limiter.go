// Package limiter makes rate limits out of scripts: how many permits were taken
// from a name, and whether there is room for more, is decided in one log entry,
// so that all callers everywhere share one budget.
//
// The main types are Take, a rate limit, and Lease, a permit to be one of so many
// that do something at the same time, which its holder renews and releases and
// which ends by itself. They give the text and the parameters of a script; whoever
// runs scripts runs it, and Parse or ParseLease reads what came back. The package
// does nothing itself, and knows no clock: time is the cluster's (hlc in a script). Like the
// limiters of Kahuna's clients the scripts answer "1:LEFT" or "0:MS", where MS is
// after how many milliseconds it is worth trying again; a Lease that is refused
// also says how many permits are held.
package limiter

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Algorithm says how permits come back.
type Algorithm string

const (
	// Bucket gives one permit back at a time, evenly, and allows the whole budget
	// at once after a pause.
	Bucket Algorithm = "bucket"
	// Window counts within windows of fixed bounds: up to twice the budget may pass
	// around a bound.
	Window Algorithm = "window"
	// Sliding counts within the window that ends now, in ten segments.
	Sliding Algorithm = "sliding"
)

// Algorithms are all there are, the default first.
var Algorithms = []Algorithm{Bucket, Window, Sliding}

// segments of a sliding window.
const segments = 10

// Bounds of a rate.
const (
	MaxPermits = 1_000_000_000
	MaxPeriod  = 366 * 24 * 3600 * 1000 // milliseconds
)

// Rate is so many permits in so many milliseconds.
type Rate struct {
	Permits  int64
	PeriodMS int64
}

// String prints the rate as ParseRate reads it.
func (r Rate) String() string {
	for _, u := range units {
		if r.PeriodMS%u.ms == 0 {
			n := strconv.FormatInt(r.PeriodMS/u.ms, 10)
			return strconv.FormatInt(r.Permits, 10) + "/" + n + u.name
		}
	}
	panic("limiter: milliseconds divide everything")
}

var units = []struct {
	name string
	ms   int64
}{{"d", 86_400_000}, {"h", 3_600_000}, {"m", 60_000}, {"s", 1000}, {"ms", 1}}

// ParseRate reads PERMITS/PERIOD, such as 100/1m, 5/s or 1/250ms.
func ParseRate(s string) (Rate, error) {
	permits, period, ok := strings.Cut(s, "/")
	bad := fmt.Errorf("the rate %.40q is not PERMITS/PERIOD, such as 100/1m, 5/s or 1/250ms", s)
	if !ok {
		return Rate{}, bad
	}
	n, err := strconv.ParseInt(permits, 10, 64)
	if err != nil {
		return Rate{}, bad
	}
	digits := strings.TrimRight(period, "abcdefghijklmnopqrstuvwxyz")
	count := int64(1)
	if digits != "" {
		if count, err = strconv.ParseInt(digits, 10, 64); err != nil {
			return Rate{}, bad
		}
	}
	for _, u := range units {
		if u.name != period[len(digits):] {
			continue
		}
		if count < 0 || count > math.MaxInt64/u.ms { // it would overflow, into what looks like a period
			return Rate{}, bad
		}
		r := Rate{n, count * u.ms}
		return r, r.check()
	}
	return Rate{}, bad
}

func (r Rate) check() error {
	switch {
	case r.Permits < 1 || r.Permits > MaxPermits:
		return fmt.Errorf("a rate has 1 to %d permits, not %d", MaxPermits, r.Permits)
	case r.PeriodMS < 1 || r.PeriodMS > MaxPeriod:
		return fmt.Errorf("a rate's period is 1 ms to 366 days, not %d ms", r.PeriodMS)
	}
	return nil
}

// Take asks for permits.
type Take struct {
	Algorithm  Algorithm // empty: Bucket
	Key        string    // where the state is kept, an ephemeral key unless Persistent
	Rate       Rate
	Permits    int64 // 0: only look whether one would be given
	Persistent bool  // the state survives what ephemeral keys do not
}

// Param is one parameter of a script, its name with the @.
type Param struct{ Name, Value string }

// Script returns the script that takes the permits. It is one log entry.
func (t Take) Script() (text string, params []Param, err error) {
	if err := t.Rate.check(); err != nil {
		return "", nil, err
	}
	switch {
	case t.Key == "":
		return "", nil, errors.New("the limit has no name")
	case t.Permits < 0:
		return "", nil, fmt.Errorf("%d permits cannot be taken", t.Permits)
	case t.Permits > t.Rate.Permits:
		return "", nil, fmt.Errorf("%d permits are more than the rate %s ever has", t.Permits, t.Rate)
	}
	params = []Param{{"@key", t.Key}, number("@limit", t.Rate.Permits), number("@permits", t.Permits)}
	switch t.Algorithm {
	case Bucket, "":
		text = bucketScript
		params = append(params, number("@period_us", t.Rate.PeriodMS*1000))
	case Window:
		text = windowScript
		params = append(params, number("@window", t.Rate.PeriodMS))
	case Sliding:
		text = slidingScript
		segment := max((t.Rate.PeriodMS+segments-1)/segments, 1)
		params = append(params, number("@segment", segment), number("@segments", segments))
	default:
		return "", nil, fmt.Errorf("%q is no algorithm of limits: bucket, window or sliding", t.Algorithm)
	}
	return durable(text, t.Persistent), params, nil
}

// KeptMS is for how many milliseconds a script of this package may ask for its state to
// be kept, and 0 for all other scripts. What is no number counts as 0.
func KeptMS(text string, param func(name string) string) int64 {
	n := func(name string) int64 {
		n, _ := strconv.ParseInt(param(name), 10, 64)
		return n
	}
	is := func(script string) bool { return text == script || text == durable(script, true) }
	switch {
	case is(bucketScript): // at most all permits at their cost, which is rounded up
		return (n("@period_us")+n("@limit"))/1000 + 1000
	case is(windowScript):
		return n("@window") + 1000
	case is(slidingScript):
		return (n("@segments")+1)*n("@segment") + 1000
	case is(acquireScript), is(renewScript):
		return n("@ttl")
	}
	return 0
}

func number(name string, n int64) Param { return Param{name, strconv.FormatInt(n, 10)} }

// durable makes a script use the persistent table.
func durable(text string, persistent bool) string {
	if !persistent {
		return text
	}
	return strings.NewReplacer("EGET ", "GET ", "ESET ", "SET ", "EDELETE ", "DELETE ").Replace(text)
}

// Answer is what a script answered.
type Answer struct {
	Granted bool
	Left    int64 // permits left, when granted
	RetryMS int64 // when refused: the soonest that it may be granted, 0: cannot tell
}

// Parse reads the value that a script returned.
func Parse(value []byte) (Answer, error) {
	mark, rest, ok := strings.Cut(string(value), ":")
	n, err := strconv.ParseInt(rest, 10, 64)
	if !ok || err != nil || n < 0 || mark != "0" && mark != "1" {
		return Answer{}, fmt.Errorf("the limit's script answered %.40q", value)
	}
	if mark == "1" {
		return Answer{Granted: true, Left: n}, nil
	}
	return Answer{RetryMS: n}, nil
}
