package script

import "github.com/kahu-sh/kahu/replication"

// expr is a node of an expression. line is where it begins, for reasons.
type expr interface{ line() int }

type at int // a line, from 1

func (a at) line() int { return int(a) }

type (
	// literal is a constant; quote is the delimiter it was written in, or 0.
	literal struct {
		at
		value value
		quote byte
		text  string // as printed, without quotes
	}
	// variable is a name; slot is its place among the run's variables.
	variable struct {
		at
		name string
		slot int
	}
	// placeholder is @name; index is its place among the program's parameters.
	placeholder struct {
		at
		name  string
		index int
	}
	unary struct {
		at
		op tokenKind // tokNot, tokMinus
		x  expr
	}
	binary struct {
		at
		op   tokenKind
		x, y expr
	}
	index struct {
		at
		x, i expr
	}
	call struct {
		at
		name string
		fn   *builtin // nil when there is none of this name
		args []expr
	}
	arrayExpr struct {
		at
		elems []expr
	}
	// guard is NOT FOUND, NOT SET and their like.
	guard struct {
		at
		what guardKind
	}
	// command is a store command in the place of an operand.
	command struct {
		at
		read *readStmt
	}
)

// guardKind is the result that a guard looks at.
type guardKind uint8

const (
	guardFound guardKind = iota
	guardSet
	guardDeleted
	guardExtended
)

var guardWords = [...]string{"FOUND", "SET", "DELETED", "EXTENDED"}

// stmt is a statement.
type stmt interface{ line() int }

// keyName names a key: a literal text, or a parameter's value.
type keyName struct {
	at
	kind  tokenKind // tokIdent, tokString, tokPlaceholder
	quote byte      // of a string
	text  string
	index int // of the parameter
}

// setFlag is one modifier of SET. x is nil for NX, XX and NOREV.
type setFlag struct {
	kind tokenKind
	x    expr
}

// binding is the variable that a command's result goes to; nil for none.
type binding = *variable

type (
	setStmt struct {
		at
		durability replication.Durability
		bind       binding
		key        keyName
		value      expr
		flags      []setFlag
	}
	deleteStmt struct {
		at
		durability replication.Durability
		bind       binding
		key        keyName
	}
	extendStmt struct {
		at
		durability replication.Durability
		bind       binding
		key        keyName
		ms         expr
	}
	readStmt struct {
		at
		what        readKind
		durability  replication.Durability
		bind        binding
		key         keyName
		revision    int64
		hasRevision bool
		asOf        expr // nil for now
	}
	letStmt struct {
		at
		bind  binding
		value expr
	}
	ifStmt struct {
		at
		cond        expr
		then, else_ []stmt
	}
	forStmt struct {
		at
		bind binding
		over expr
		body []stmt
	}
	switchStmt struct {
		at
		subject expr
		cases   []switchCase
		else_   []stmt
	}
	switchCase struct {
		values []expr
		body   []stmt
	}
	beginStmt struct {
		at
		options []beginOption
		body    []stmt
	}
	beginOption struct {
		at
		name  string
		value token
	}
	commitStmt   struct{ at }
	rollbackStmt struct{ at }
	returnStmt   struct {
		at
		value expr // nil: keep the last result
	}
	sleepStmt struct {
		at
		ms int64
	}
	throwStmt struct {
		at
		value expr
	}
)

// readKind is what a reading command asks for.
type readKind uint8

const (
	readGet readKind = iota
	readExists
	readBucket
	readScan
)

// Program is a parsed script. It is never changed, and may be run many times at
// once.
type Program struct {
	text   string
	body   []stmt
	slots  []string // names of the variables
	params []string // names of the parameters, with the @
	uses   uses

	partsFuel int64 // of the text
}

// uses says what a program may do, whichever way it goes.
type uses struct {
	reads, writes, sleeps, clock, nested, asOf bool
}

// Text returns the script as it was given to Parse.
func (p *Program) Text() string { return p.text }

// Params returns the names of the parameters that the program refers to, with
// their @, in order of appearance.
func (p *Program) Params() []string { return p.params }
