package script

import (
	"fmt"
	"slices"
)

// Warning is something in a program that fails where it is run, if it is: it parses,
// and what is never reached harms nothing.
type Warning struct {
	Line    int
	Problem string // as the reason of the failure, without the line
}

// Warnings finds what will fail wherever it is reached: functions that there are not,
// too few or too many arguments, and variables that nothing ever assigns. In order of
// lines.
func (p *Program) Warnings() []Warning {
	w := &warner{assigned: make([]bool, len(p.slots))}
	// The assignments first: one in a loop counts before it.
	walk{stmt: w.assignment, expr: func(expr) {}}.block(p.body, 0)
	walk{stmt: w.statement, expr: w.expr}.block(p.body, 0)
	slices.SortStableFunc(w.out, func(a, b Warning) int { return a.Line - b.Line })
	return slices.Compact(w.out)
}

type warner struct {
	assigned []bool // by slot
	out      []Warning
}

func (w *warner) warn(line int, format string, args ...any) {
	w.out = append(w.out, Warning{line, fmt.Sprintf(format, args...)})
}

func (w *warner) assignment(s stmt, _ int) {
	var b binding
	switch s := s.(type) {
	case *setStmt:
		b = s.bind
	case *deleteStmt:
		b = s.bind
	case *extendStmt:
		b = s.bind
	case *readStmt:
		b = s.bind
	case *letStmt:
		b = s.bind
	case *forStmt:
		b = s.bind
	}
	if b != nil {
		w.assigned[b.slot] = true
	}
}

func (w *warner) statement(s stmt, begins int) {
	switch s := s.(type) {
	case *beginStmt:
		if begins > 0 {
			w.warn(s.line(), "Nested transactions are not supported")
		}
	case *sleepStmt:
		if s.ms < 0 || s.ms > MaxSleepMS {
			w.warn(s.line(), "Invalid SLEEP duration %d", s.ms)
		}
	}
}

func (w *warner) expr(x expr) {
	switch x := x.(type) {
	case *variable:
		if !w.assigned[x.slot] {
			w.warn(x.line(), "Undefined variable: %s", x.name)
		}
	case *call:
		switch {
		case x.fn == nil:
			w.warn(x.line(), "Undefined function %s expression", x.name)
		case len(x.args) < x.fn.min || len(x.args) > x.fn.max:
			w.warn(x.line(), "Invalid number of arguments for '%s' function", x.fn.name)
		}
	}
}
