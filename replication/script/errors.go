package script

import "fmt"

// A SyntaxError says where a text is no script, and what could have stood there.
type SyntaxError struct {
	Line, Column int      // both from 1; 0 when the text has no token at all
	Token        string   // what stood there, by the name of the reference's generator
	Near         string   // its text
	Expecting    []string // names of tokens, or a description; may be empty
	Problem      string   // instead of the three above: what is wrong
}

// Error implements error in the form that clients of Kahuna match on: it begins
// with "Syntax error" and ends with "at line N" (decisions.md 47).
func (e *SyntaxError) Error() string {
	if e.Problem != "" {
		return fmt.Sprintf("Syntax error, %s at line %d, column %d at line %d", e.Problem, e.Line, e.Column, e.Line)
	}
	s := "Syntax error, unexpected " + e.Token
	for i, t := range e.Expecting {
		if i == 0 {
			s += ", expecting " + t
		} else {
			s += ", or " + t
		}
	}
	if e.Line == 0 {
		return s + " at line 0"
	}
	return fmt.Sprintf("%s at line %d, column %d near '%s' at line %d", s, e.Line, e.Column, e.Near, e.Line)
}

// Describe says the same in words, without the place.
func (e *SyntaxError) Describe() string {
	if e.Problem != "" {
		return e.Problem
	}
	s := "unexpected "
	switch {
	case e.Token == "EOF":
		s += "end of the script"
	default:
		s += fmt.Sprintf("%q", e.Near)
	}
	for i, t := range e.Expecting {
		switch {
		case i == 0:
			s += ", expected " + describeToken(t)
		default:
			s += " or " + describeToken(t)
		}
	}
	return s
}

// scriptError is an error of the script itself: Errored, everything dropped.
type scriptError struct {
	message string
	line    int
}

func (e *scriptError) Error() string { return fmt.Sprintf("%s at line %d", e.message, e.line) }

func failAt(line int, format string, args ...any) error {
	return &scriptError{fmt.Sprintf(format, args...), line}
}
