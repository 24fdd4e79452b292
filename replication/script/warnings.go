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
	w.collecting = true // the assignments first: one in a loop counts before it
	w.block(p.body, 0)
	w.collecting = false
	w.block(p.body, 0)
	slices.SortStableFunc(w.out, func(a, b Warning) int { return a.Line - b.Line })
	return slices.Compact(w.out)
}

type warner struct {
	collecting bool
	assigned   []bool // by slot
	out        []Warning
}

func (w *warner) warn(line int, format string, args ...any) {
	if !w.collecting {
		w.out = append(w.out, Warning{line, fmt.Sprintf(format, args...)})
	}
}

func (w *warner) bind(b binding) {
	if b != nil {
		w.assigned[b.slot] = true
	}
}

func (w *warner) block(body []stmt, begins int) {
	for _, s := range body {
		w.statement(s, begins)
	}
}

// statement looks at one. begins is how many BEGINs it stands in.
func (w *warner) statement(s stmt, begins int) {
	switch s := s.(type) {
	case *setStmt:
		w.bind(s.bind)
		for _, f := range s.flags {
			w.expr(f.x)
		}
		w.expr(s.value)
	case *deleteStmt:
		w.bind(s.bind)
	case *extendStmt:
		w.bind(s.bind)
		w.expr(s.ms)
	case *readStmt:
		w.bind(s.bind)
		w.expr(s.asOf)
	case *letStmt:
		w.bind(s.bind)
		w.expr(s.value)
	case *returnStmt:
		w.expr(s.value)
	case *throwStmt:
		w.expr(s.value)
	case *ifStmt:
		w.expr(s.cond)
		w.block(s.then, begins)
		w.block(s.else_, begins)
	case *forStmt:
		w.bind(s.bind)
		w.expr(s.over)
		w.block(s.body, begins)
	case *switchStmt:
		w.expr(s.subject)
		for _, c := range s.cases {
			for _, x := range c.values {
				w.expr(x)
			}
			w.block(c.body, begins)
		}
		w.block(s.else_, begins)
	case *beginStmt:
		if begins > 0 {
			w.warn(s.line(), "Nested transactions are not supported")
		}
		w.block(s.body, begins+1)
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
	case *unary:
		w.expr(x.x)
	case *binary:
		w.expr(x.x)
		w.expr(x.y)
	case *index:
		w.expr(x.x)
		w.expr(x.i)
	case *call:
		for _, a := range x.args {
			w.expr(a)
		}
		switch {
		case x.fn == nil:
			w.warn(x.line(), "Undefined function %s expression", x.name)
		case len(x.args) < x.fn.min || len(x.args) > x.fn.max:
			w.warn(x.line(), "Invalid number of arguments for '%s' function", x.fn.name)
		}
	case *arrayExpr:
		for _, e := range x.elems {
			w.expr(e)
		}
	case *command:
		w.expr(x.read.asOf)
	}
}
