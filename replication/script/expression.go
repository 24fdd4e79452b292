package script

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// precedence of the binary operators, loosest first (scripts.md 12). All group
// from the left.
func precedence(k tokenKind) int {
	switch k {
	case tokDoubleDot:
		return 1
	case tokOr:
		return 2
	case tokAnd:
		return 3
	case tokEquals, tokDoubleEquals, tokNotEquals:
		return 4
	case tokLess, tokGreater, tokLessEquals, tokGreaterEquals:
		return 5
	case tokAdd, tokMinus:
		return 6
	case tokMult, tokDiv:
		return 7
	}
	return 0
}

// startsOperand reports whether the next token can begin an expression.
func (p *parser) startsOperand() bool {
	switch p.tok.kind {
	case tokIdent, tokPlaceholder, tokInt, tokFloat, tokString, tokTrue, tokFalse, tokNull,
		tokLParen, tokLSquare, tokNot, tokMinus,
		tokGet, tokEGet, tokExists, tokEExists, tokScan, tokEScan:
		return true
	}
	return false
}

func (p *parser) expression() (expr, error) {
	x, _, err := p.operators(1)
	return x, err
}

// operators reads operands joined by operators at least as tight as min, and
// tells the height of the tree.
func (p *parser) operators(min int) (expr, int, error) {
	x, height, err := p.prefix()
	if err != nil {
		return nil, 0, err
	}
	for {
		op := p.tok.kind
		tight := precedence(op)
		if tight == 0 || tight < min {
			return x, height, nil
		}
		if err := p.advance(); err != nil {
			return nil, 0, err
		}
		y, h, err := p.operators(tight + 1)
		if err != nil {
			return nil, 0, err
		}
		if op == tokEquals {
			op = tokDoubleEquals
		}
		if height = max(height, h) + 1; height > MaxExpressionDepth {
			return nil, 0, p.tooDeep("expressions", MaxExpressionDepth)
		}
		x = &binary{at(x.line()), op, x, y}
	}
}

// deeper counts one level of nesting of operands; p.nesting-- undoes it.
func (p *parser) deeper() error {
	if p.nesting++; p.nesting > MaxExpressionDepth {
		return p.tooDeep("expressions", MaxExpressionDepth)
	}
	return nil
}

// prefix reads NOT, - and what they apply to.
func (p *parser) prefix() (expr, int, error) {
	if p.tok.kind != tokNot && p.tok.kind != tokMinus {
		return p.postfix()
	}
	if err := p.deeper(); err != nil {
		return nil, 0, err
	}
	defer func() { p.nesting-- }()
	op := p.tok
	if err := p.advance(); err != nil {
		return nil, 0, err
	}
	if op.kind == tokNot {
		if g, ok := p.guard(); ok {
			return &guard{at(op.line), g}, 1, p.advance()
		}
	}
	if op.kind == tokMinus && (p.tok.kind == tokInt || p.tok.kind == tokFloat) {
		// The sign belongs to the number, so that the least Long can be written.
		x, err := p.number(op.line, true)
		if err != nil {
			return nil, 0, err
		}
		return p.subscripts(x, 1)
	}
	x, height, err := p.prefix()
	return &unary{at(op.line), op.kind, x}, height + 1, err
}

// guard looks for what stands after NOT in a guard. DELETED and EXTENDED are
// names too: a variable that was assigned before wins.
func (p *parser) guard() (guardKind, bool) {
	switch {
	case p.tok.kind == tokFound:
		return guardFound, true
	case p.tok.kind == tokSet:
		return guardSet, true
	}
	for _, g := range []guardKind{guardDeleted, guardExtended} {
		if p.isWord(guardWords[g]) {
			_, assigned := p.slots[p.tok.text]
			return g, !assigned
		}
	}
	return 0, false
}

func (p *parser) postfix() (expr, int, error) {
	x, height, err := p.operand()
	if err != nil {
		return nil, 0, err
	}
	return p.subscripts(x, height)
}

func (p *parser) subscripts(x expr, height int) (expr, int, error) {
	for p.tok.kind == tokLSquare {
		if err := p.deeper(); err != nil {
			return nil, 0, err
		}
		err := p.advance()
		var i expr
		var h int
		if err == nil {
			i, h, err = p.operators(1)
		}
		if err == nil {
			_, err = p.take(tokRSquare)
		}
		p.nesting--
		if err != nil {
			return nil, 0, err
		}
		if height = max(height, h) + 1; height > MaxExpressionDepth {
			return nil, 0, p.tooDeep("expressions", MaxExpressionDepth)
		}
		x = &index{at(x.line()), x, i}
	}
	return x, height, nil
}

func (p *parser) operand() (expr, int, error) {
	t := p.tok
	line := at(t.line)
	var x expr
	switch t.kind {
	case tokInt, tokFloat:
		x, err := p.number(t.line, false)
		return x, 1, err
	case tokString:
		x = &literal{line, text(t.text), t.quote, t.text}
	case tokTrue, tokFalse:
		x = &literal{at: line, value: boolean(t.kind == tokTrue), text: strings.ToLower(t.text)}
	case tokNull:
		x = &literal{at: line, value: null, text: "null"}
	case tokPlaceholder:
		x = &placeholder{line, t.text, p.param(t)}
	case tokIdent:
		return p.nameOrCall()
	case tokLParen, tokLSquare:
		return p.bracketed()
	case tokGet, tokEGet, tokExists, tokEExists, tokScan, tokEScan:
		p.program.uses.nested = true
		if err := p.deeper(); err != nil {
			return nil, 0, err
		}
		defer func() { p.nesting-- }()
		if err := p.advance(); err != nil {
			return nil, 0, err
		}
		s, err := p.read(t.kind, line, nil)
		return &command{line, s}, 1, err
	default:
		return nil, 0, p.unexpected("an expression")
	}
	return x, 1, p.advance()
}

// bracketed reads (x) and [a, b].
func (p *parser) bracketed() (expr, int, error) {
	if err := p.deeper(); err != nil {
		return nil, 0, err
	}
	defer func() { p.nesting-- }()
	open := p.tok
	if err := p.advance(); err != nil {
		return nil, 0, err
	}
	if open.kind == tokLParen {
		x, height, err := p.operators(1)
		if err == nil {
			_, err = p.take(tokRParen)
		}
		return x, height, err
	}
	a := &arrayExpr{at: at(open.line)}
	height := 0
	var err error
	if p.tok.kind != tokRSquare {
		a.elems, height, err = p.list()
	}
	if err == nil {
		_, err = p.take(tokRSquare)
	}
	return a, height + 1, err
}

// list reads expressions separated by commas, and tells the height of the
// highest.
func (p *parser) list() ([]expr, int, error) {
	var out []expr
	height := 0
	for {
		x, h, err := p.operators(1)
		if err != nil {
			return nil, 0, err
		}
		out, height = append(out, x), max(height, h)
		if more, err := p.accept(tokComma); err != nil || !more {
			return out, height, err
		}
	}
}

// number reads a literal number. Hexadecimal integers are as in the newer
// documentation.
func (p *parser) number(line int, negative bool) (expr, error) {
	t := p.tok
	sign := ""
	if negative {
		sign = "-"
	}
	l := &literal{at: at(line), text: sign + t.text}
	if t.kind == tokFloat {
		f, err := strconv.ParseFloat(sign+t.text, 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, p.unexpected(tokenNames[tokFloat])
		}
		l.value = double(f)
		return l, p.advance()
	}
	n, err := p.integerOf(t, negative)
	if err != nil {
		return nil, err
	}
	l.value = long(n)
	return l, p.advance()
}

func (p *parser) integerOf(t token, negative bool) (int64, error) {
	sign, digits, base := "", t.text, 10
	if negative {
		sign = "-"
	}
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseInt(sign+digits, base, 64)
	if err != nil {
		return 0, &SyntaxError{Line: t.line, Column: p.lexer.column(&t), Problem: fmt.Sprintf("the integer %s%s does not fit 64 bits", sign, t.text)}
	}
	return n, nil
}

func (p *parser) nameOrCall() (expr, int, error) {
	name := p.tok
	if err := p.advance(); err != nil {
		return nil, 0, err
	}
	if p.tok.kind != tokLParen {
		if slot, ok := p.slots[name.text]; ok {
			return &variable{at(name.line), name.text, slot}, 1, nil
		}
		return p.bind(name), 1, nil
	}
	if err := p.deeper(); err != nil {
		return nil, 0, err
	}
	defer func() { p.nesting-- }()
	if err := p.advance(); err != nil {
		return nil, 0, err
	}
	c := &call{at: at(name.line), name: name.text, fn: builtins[name.text]}
	if c.fn != nil && c.fn.clock {
		p.program.uses.clock = true
	}
	height := 0
	var err error
	if p.tok.kind != tokRParen {
		c.args, height, err = p.list()
	}
	if err == nil {
		_, err = p.take(tokRParen)
	}
	return c, height + 1, err
}
