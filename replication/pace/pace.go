// Package pace has what one process looks at now and then be looked at together.
//
// An idle process pays for each time that it is woken, far more than for what it
// then does: a thread, another one that is woken to help it, and Go's monitor of
// them. Loops that look at something every second, each at a moment of its own, wake
// it as often as there are loops. Those that wait for Next wake it once, and on a
// leader together with a heartbeat.
//
// It is for looks at memory and files. What goes to other hosts at such a moment
// would go there from all hosts at once, since their clocks agree: such loops wait
// for random times instead.
package pace

import "time"

// Next is how long to wait for the next of the moments that lie every apart:
// multiples of every on the wall clock, so that a second's are also those of its
// tenths. It is above 0 and at most every, also when the clock is stepped.
//
// A loop asks for it again each time. While the clock is slowed down it may wake
// twice at one moment.
func Next(every time.Duration) time.Duration {
	now := time.Now()
	return now.Truncate(every).Add(every).Sub(now)
}
