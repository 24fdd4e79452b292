package script

import (
	"fmt"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// String prints the program in one form: a statement a line, reserved words in
// capitals, no more parentheses than needed. Parsing it gives the same tree.
func (p *Program) String() string {
	w := &printer{}
	w.block(p.body)
	return w.String()
}

type printer struct {
	strings.Builder
	indent int
}

func (w *printer) block(body []stmt) {
	for _, s := range body {
		w.WriteString(strings.Repeat("  ", w.indent))
		w.statement(s)
		w.WriteByte('\n')
	}
}

func (w *printer) inner(body []stmt) {
	w.WriteByte('\n')
	w.indent++
	w.block(body)
	w.indent--
	w.WriteString(strings.Repeat("  ", w.indent))
}

func (w *printer) statement(s stmt) {
	switch s := s.(type) {
	case *setStmt, *deleteStmt, *extendStmt, *readStmt:
		w.command(s)
	case *letStmt:
		w.binding(s.bind)
		w.expr(s.value, 0)
	case *ifStmt:
		w.WriteString("IF ")
		w.expr(s.cond, 0)
		w.WriteString(" THEN")
		w.inner(s.then)
		w.otherwise(s.else_)
	case *forStmt:
		w.WriteString("FOR " + printName(s.bind.name) + " IN ")
		w.expr(s.over, 0)
		w.WriteString(" DO")
		w.inner(s.body)
		w.WriteString("END")
	case *switchStmt:
		w.WriteString("SWITCH ")
		w.expr(s.subject, 0)
		w.WriteByte('\n')
		w.indent++
		for _, c := range s.cases {
			w.WriteString(strings.Repeat("  ", w.indent) + "CASE ")
			w.list(c.values)
			w.WriteString(" THEN\n")
			w.indent++
			w.block(c.body)
			w.indent--
		}
		w.indent--
		w.WriteString(strings.Repeat("  ", w.indent))
		w.otherwise(s.else_)
	case *beginStmt:
		w.begin(s)
	case commitStmt:
		w.WriteString("COMMIT")
	case rollbackStmt:
		w.WriteString("ROLLBACK")
	case *returnStmt:
		w.WriteString("RETURN")
		if s.value != nil {
			w.WriteByte(' ')
			w.expr(s.value, 0)
		}
	case *sleepStmt:
		fmt.Fprintf(w, "SLEEP %d", s.ms)
	case *throwStmt:
		w.WriteString("THROW ")
		w.expr(s.value, 0)
	default:
		panic(fmt.Sprintf("script: no form for the statement %T", s))
	}
}

func (w *printer) otherwise(body []stmt) {
	if body != nil {
		w.WriteString("ELSE")
		w.inner(body)
	}
	w.WriteString("END")
}

func (w *printer) begin(s *beginStmt) {
	w.WriteString("BEGIN")
	for i, o := range s.options {
		if i == 0 {
			w.WriteString(" (")
		} else {
			w.WriteString(", ")
		}
		w.WriteString(printName(o.name) + "=" + o.value.raw)
	}
	if s.options != nil {
		w.WriteByte(')')
	}
	w.inner(s.body)
	w.WriteString("END")
}

func (w *printer) binding(b binding) {
	if b != nil {
		w.WriteString("LET " + printName(b.name) + " = ")
	}
}

func (w *printer) command(s stmt) {
	switch s := s.(type) {
	case *setStmt:
		w.binding(s.bind)
		w.verb("SET", s.durability, s.key)
		w.WriteByte(' ')
		w.expr(s.value, 0)
		for _, f := range s.flags {
			w.WriteString(" " + tokenNames[f.kind][1:])
			if f.x != nil {
				w.WriteByte(' ')
				w.expr(f.x, 0)
			}
		}
	case *deleteStmt:
		w.binding(s.bind)
		w.verb("DELETE", s.durability, s.key)
	case *extendStmt:
		w.binding(s.bind)
		w.verb("EXTEND", s.durability, s.key)
		w.WriteByte(' ')
		w.expr(s.ms, 0)
	case *readStmt:
		w.binding(s.bind)
		w.read(s)
	}
}

func (w *printer) verb(verb string, d replication.Durability, key keyName) {
	if d == ephemeral {
		w.WriteByte('E')
	}
	w.WriteString(verb + " ")
	switch key.kind {
	case tokIdent:
		w.WriteString(printName(key.text))
	case tokString:
		w.WriteString(printQuoted(key.text, key.quote))
	default:
		w.WriteString(key.text)
	}
}

func (w *printer) read(s *readStmt) {
	verbs := [...]string{readGet: "GET", readExists: "EXISTS", readBucket: "GET BY BUCKET", readScan: "SCAN BY PREFIX"}
	w.verb(verbs[s.what], s.durability, s.key)
	if s.hasRevision {
		fmt.Fprintf(w, " AT %d", s.revision)
	}
	if s.asOf != nil {
		w.WriteString(" AS OF ")
		w.expr(s.asOf, 0)
	}
}

// tightness of what is not a binary operator.
const (
	tightUnary   = 8
	tightPostfix = 9
)

// expr prints x, in parentheses if it binds looser than min.
func (w *printer) expr(x expr, min int) {
	tight := tightPostfix
	switch x := x.(type) {
	case *binary:
		tight = precedence(x.op)
	case *unary:
		tight = tightUnary
	case *guard:
		tight = tightUnary
	case *command:
		tight = -1 // alone it would be a statement, and AS OF takes all that follows
	}
	if tight < min {
		w.WriteByte('(')
		defer w.WriteByte(')')
	}
	switch x := x.(type) {
	case *literal:
		switch {
		case x.quote != 0:
			w.WriteString(printQuoted(x.text, x.quote))
		default:
			w.WriteString(x.text)
		}
	case *variable:
		w.WriteString(printName(x.name))
	case *placeholder:
		w.WriteString(x.name)
	case *unary:
		w.unary(x)
	case *binary:
		w.expr(x.x, tight)
		op := symbols[x.op]
		if x.op != tokDoubleDot {
			op = " " + op + " "
		}
		w.WriteString(op)
		w.expr(x.y, tight+1)
	case *index:
		w.expr(x.x, tightPostfix)
		w.WriteByte('[')
		w.expr(x.i, 0)
		w.WriteByte(']')
	case *call:
		w.WriteString(printName(x.name) + "(")
		w.list(x.args)
		w.WriteByte(')')
	case *arrayExpr:
		w.WriteByte('[')
		w.list(x.elems)
		w.WriteByte(']')
	case *guard:
		w.WriteString("NOT " + guardWords[x.what])
	case *command:
		w.read(x.read)
	default:
		panic(fmt.Sprintf("script: no form for the expression %T", x))
	}
}

func (w *printer) unary(x *unary) {
	if x.op == tokNot {
		w.WriteString("NOT ")
		w.expr(x.x, tightUnary)
		return
	}
	w.WriteByte('-')
	// A number right after the sign would become one with it.
	if l, ok := x.x.(*literal); ok && l.value.isNumber() {
		w.WriteString("(" + l.text + ")")
		return
	}
	if i, ok := x.x.(*index); ok {
		w.WriteByte('(')
		w.expr(i, 0)
		w.WriteByte(')')
		return
	}
	w.expr(x.x, tightUnary)
}

func (w *printer) list(xs []expr) {
	for i, x := range xs {
		if i > 0 {
			w.WriteString(", ")
		}
		w.expr(x, 0)
	}
}

// printName prints a name, in back-quotes unless it is a plain one.
func printName(s string) string {
	plain := s != "" && isLetter(s[0])
	for i := 0; plain && i < len(s); i++ {
		plain = isNameByte(s[i])
	}
	_, word := reserved(s)
	for _, w := range []string{"switch", "case", "deleted", "extended"} { // names, but not everywhere
		word = word || strings.EqualFold(s, w)
	}
	if word || !plain {
		return printQuoted(s, '`')
	}
	return s
}

// printQuoted is the inverse of the lexer's quoted: backslashes pair up from the
// left, so only a bare delimiter needs one.
func printQuoted(s string, quote byte) string {
	b := []byte{quote}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == quote:
			b = append(b, '\\', quote)
		case c == '\\' && i+1 < len(s):
			b = append(b, c, s[i+1])
			i++
		default:
			b = append(b, c)
		}
	}
	return string(append(b, quote))
}
