package script

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/replication"
)

// Parse reads a script. Its errors are *SyntaxError. It takes time in proportion
// to the text, and never panics.
func Parse(text string) (*Program, error) {
	switch {
	case len(text) > MaxTextBytes:
		return nil, &SyntaxError{Line: 1, Column: 1, Problem: fmt.Sprintf("the script is longer than %d bytes", MaxTextBytes)}
	case !utf8.ValidString(text):
		return nil, &SyntaxError{Line: 1, Column: 1, Problem: "the script is not valid UTF-8"}
	}
	p := &parser{lexer: newLexer(text), program: &Program{text: text, partsFuel: partsFuel(text)},
		slots: make(map[string]int), params: make(map[string]int)}
	if err := p.script(); err != nil {
		return nil, err
	}
	return p.program, nil
}

// parser reads statements by recursive descent, with one token of look-ahead.
type parser struct {
	lexer   lexer
	tok     token // the next one
	before  token // the one taken last
	program *Program

	slots, params map[string]int
	depth         int // of blocks
	nesting       int // of operands
	switches      int // how many SWITCH we are in
}

func (p *parser) script() error {
	if err := p.advance(); err != nil {
		return err
	}
	if p.tok.kind == tokEOF {
		return &SyntaxError{Token: "EOF"}
	}
	for p.tok.kind != tokEOF {
		s, err := p.statement()
		if err != nil {
			return err
		}
		p.program.body = append(p.program.body, s)
	}
	return nil
}

// advance moves to the next token.
func (p *parser) advance() error {
	p.before = p.tok
	t, err := p.lexer.next()
	if err != nil {
		return err
	}
	p.tok = t
	return nil
}

// unexpected is the error at the next token. At the end of the text the place is
// that of the last one.
func (p *parser) unexpected(expecting ...string) error {
	at := p.tok
	if at.kind == tokEOF {
		at = p.before
	}
	return &SyntaxError{Line: at.line, Column: p.lexer.column(&at), Token: tokenNames[p.tok.kind], Near: at.raw, Expecting: expecting}
}

func (p *parser) tooDeep(what string, limit int) error {
	return &SyntaxError{Line: p.tok.line, Column: p.lexer.column(&p.tok), Problem: fmt.Sprintf("%s nest deeper than %d levels", what, limit)}
}

// take accepts a token of this kind, or says that it was expected.
func (p *parser) take(kind tokenKind) (token, error) {
	t := p.tok
	if t.kind != kind {
		return t, p.unexpected(tokenNames[kind])
	}
	return t, p.advance()
}

// accept takes a token of this kind if it is next.
func (p *parser) accept(kind tokenKind) (bool, error) {
	if p.tok.kind != kind {
		return false, nil
	}
	return true, p.advance()
}

// isWord reports whether the next token is this unquoted name, which is no
// reserved word: SWITCH and CASE stay usable as names elsewhere.
func (p *parser) isWord(word string) bool {
	return p.tok.kind == tokIdent && p.tok.quote == 0 && strings.EqualFold(p.tok.text, word)
}

func (p *parser) bind(t token) binding {
	slot, ok := p.slots[t.text]
	if !ok {
		slot = len(p.program.slots)
		p.slots[t.text] = slot
		p.program.slots = append(p.program.slots, t.text)
	}
	return &variable{at(t.line), t.text, slot}
}

func (p *parser) param(t token) int {
	i, ok := p.params[t.text]
	if !ok {
		i = len(p.program.params)
		p.params[t.text] = i
		p.program.params = append(p.program.params, t.text)
	}
	return i
}

// block reads statements up to one of the words that end it, one at least.
func (p *parser) block() ([]stmt, error) {
	if p.depth++; p.depth > MaxStatementDepth {
		return nil, p.tooDeep("blocks", MaxStatementDepth)
	}
	defer func() { p.depth-- }()
	var out []stmt
	for {
		switch {
		case len(out) > 0 && (p.tok.kind == tokEnd || p.tok.kind == tokElse || p.switches > 0 && p.isWord("case")):
			return out, nil
		case p.tok.kind == tokEOF:
			return nil, p.unexpected(tokenNames[tokEnd])
		}
		s, err := p.statement()
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
}

const (
	persistent = replication.Durability_DURABILITY_PERSISTENT
	ephemeral  = replication.Durability_DURABILITY_EPHEMERAL
)

func (p *parser) statement() (stmt, error) {
	switch t := p.tok; t.kind {
	case tokSet, tokESet, tokDelete, tokEDelete, tokExtend, tokEExtend,
		tokGet, tokEGet, tokExists, tokEExists, tokScan, tokEScan:
		return p.command(at(t.line), nil)
	case tokLet:
		return p.let()
	case tokIf:
		return p.ifThen()
	case tokFor:
		return p.forIn()
	case tokBegin:
		return p.begin()
	case tokCommit:
		return commitStmt{at(t.line)}, p.advance()
	case tokRollback:
		return rollbackStmt{at(t.line)}, p.advance()
	case tokReturn:
		return p.returnValue()
	case tokSleep:
		return p.sleep()
	case tokThrow:
		if err := p.advance(); err != nil {
			return nil, err
		}
		x, err := p.expression()
		return &throwStmt{at(t.line), x}, err
	}
	if p.isWord("switch") {
		return p.switchCase()
	}
	return nil, p.unexpected("a statement")
}

// command reads a store command, whose result goes to bind if there is one.
func (p *parser) command(line at, bind binding) (stmt, error) {
	kind := p.tok.kind
	if err := p.advance(); err != nil {
		return nil, err
	}
	switch kind {
	case tokSet, tokESet:
		return p.set(line, durability(kind, tokESet), bind)
	case tokDelete, tokEDelete:
		p.program.uses.writes = true
		key, err := p.key()
		return &deleteStmt{line, durability(kind, tokEDelete), bind, key}, err
	case tokExtend, tokEExtend:
		p.program.uses.writes = true
		key, err := p.key()
		if err != nil {
			return nil, err
		}
		ms, err := p.expression()
		return &extendStmt{line, durability(kind, tokEExtend), bind, key, ms}, err
	}
	return p.read(kind, line, bind)
}

func durability(kind, ephemeralKind tokenKind) replication.Durability {
	if kind == ephemeralKind {
		return ephemeral
	}
	return persistent
}

func (p *parser) key() (keyName, error) {
	t := p.tok
	k := keyName{at: at(t.line), kind: t.kind, text: t.text}
	switch t.kind {
	case tokIdent:
	case tokString:
		k.quote = t.quote
	case tokPlaceholder:
		k.index = p.param(t)
	default:
		return k, p.unexpected(tokenNames[tokIdent], tokenNames[tokString], tokenNames[tokPlaceholder])
	}
	return k, p.advance()
}

func (p *parser) set(line at, d replication.Durability, bind binding) (stmt, error) {
	p.program.uses.writes = true
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	x, err := p.expression()
	if err != nil {
		return nil, err
	}
	s := &setStmt{at: line, durability: d, bind: bind, key: key, value: x}
	for {
		f := setFlag{kind: p.tok.kind}
		switch f.kind {
		case tokNX, tokXX, tokNoRev:
			err = p.advance()
		case tokEX, tokCmp, tokCmpRev:
			if err = p.advance(); err == nil {
				f.x, err = p.expression()
			}
		default:
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		s.flags = append(s.flags, f)
	}
}

// read reads what follows GET, EXISTS and SCAN, in both tables.
func (p *parser) read(kind tokenKind, line at, bind binding) (*readStmt, error) {
	p.program.uses.reads = true
	s := &readStmt{at: line, bind: bind, durability: persistent}
	switch kind {
	case tokEGet, tokEExists, tokEScan:
		s.durability = ephemeral
	}
	var err error
	switch kind {
	case tokScan, tokEScan:
		s.what = readScan
		if _, err = p.take(tokBy); err == nil {
			_, err = p.take(tokPrefix)
		}
	case tokExists, tokEExists:
		s.what = readExists
	default:
		var by bool
		if by, err = p.accept(tokBy); err == nil && by {
			s.what = readBucket
			_, err = p.take(tokBucket)
		}
	}
	if err != nil {
		return nil, err
	}
	if s.key, err = p.key(); err != nil {
		return nil, err
	}
	return s, p.readState(s)
}

// readState reads AT and AS OF.
func (p *parser) readState(s *readStmt) error {
	switch {
	case p.tok.kind == tokAt && (s.what == readGet || s.what == readExists):
		if err := p.advance(); err != nil {
			return err
		}
		n, err := p.integer()
		if err != nil {
			return err
		}
		if n != int64(int32(n)) {
			return &SyntaxError{Line: p.before.line, Column: p.lexer.column(&p.before), Problem: "the revision after AT does not fit 32 bits"}
		}
		s.revision, s.hasRevision = n, true
	case p.tok.kind == tokAs:
		if err := p.advance(); err != nil {
			return err
		}
		if _, err := p.take(tokOf); err != nil {
			return err
		}
		x, err := p.expression()
		if err != nil {
			return err
		}
		s.asOf, p.program.uses.asOf = x, true
	}
	return nil
}

// integer reads a literal integer with its sign.
func (p *parser) integer() (int64, error) {
	negative, err := p.accept(tokMinus)
	if err != nil {
		return 0, err
	}
	t, err := p.take(tokInt)
	if err != nil {
		return 0, err
	}
	return p.integerOf(t, negative)
}

func (p *parser) let() (stmt, error) {
	line := at(p.tok.line)
	if err := p.advance(); err != nil {
		return nil, err
	}
	name, err := p.take(tokIdent)
	if err != nil {
		return nil, err
	}
	if _, err := p.take(tokEquals); err != nil {
		return nil, err
	}
	if isCommand(p.tok.kind) {
		return p.command(line, p.bind(name))
	}
	x, err := p.expression()
	return &letStmt{line, p.bind(name), x}, err
}

func isCommand(k tokenKind) bool { return k >= tokSet && k <= tokEScan }

func (p *parser) ifThen() (stmt, error) {
	s := &ifStmt{at: at(p.tok.line)}
	err := p.advance()
	if err == nil {
		s.cond, err = p.expression()
	}
	if err == nil {
		_, err = p.take(tokThen)
	}
	if err == nil {
		s.then, err = p.block()
	}
	if err != nil {
		return nil, err
	}
	if s.else_, err = p.otherwise(); err != nil {
		return nil, err
	}
	_, err = p.take(tokEnd)
	return s, err
}

func (p *parser) otherwise() ([]stmt, error) {
	if found, err := p.accept(tokElse); err != nil || !found {
		return nil, err
	}
	return p.block()
}

func (p *parser) forIn() (stmt, error) {
	s := &forStmt{at: at(p.tok.line)}
	if err := p.advance(); err != nil {
		return nil, err
	}
	name, err := p.take(tokIdent)
	if err == nil {
		_, err = p.take(tokIn)
	}
	if err == nil {
		s.over, err = p.expression()
	}
	if err == nil {
		_, err = p.take(tokDo)
	}
	if err != nil {
		return nil, err
	}
	s.bind = p.bind(name)
	if s.body, err = p.block(); err == nil {
		_, err = p.take(tokEnd)
	}
	return s, err
}

// switchCase reads SWITCH x CASE a, b THEN … [ELSE …] END.
func (p *parser) switchCase() (stmt, error) {
	s := &switchStmt{at: at(p.tok.line)}
	err := p.advance()
	if err == nil {
		s.subject, err = p.expression()
	}
	if err != nil {
		return nil, err
	}
	if !p.isWord("case") {
		return nil, p.unexpected("CASE")
	}
	p.switches++
	defer func() { p.switches-- }()
	for p.isWord("case") {
		var c switchCase
		if err = p.advance(); err != nil {
			return nil, err
		}
		if c.values, _, err = p.list(); err == nil {
			_, err = p.take(tokThen)
		}
		if err == nil {
			c.body, err = p.block()
		}
		if err != nil {
			return nil, err
		}
		s.cases = append(s.cases, c)
	}
	if s.else_, err = p.otherwise(); err != nil {
		return nil, err
	}
	_, err = p.take(tokEnd)
	return s, err
}

func (p *parser) returnValue() (stmt, error) {
	s := &returnStmt{at: at(p.tok.line)}
	if err := p.advance(); err != nil {
		return nil, err
	}
	// A store command after RETURN is the next statement (scripts.md 14).
	if !p.startsOperand() || isCommand(p.tok.kind) || p.switches > 0 && p.isWord("case") {
		return s, nil
	}
	x, err := p.expression()
	s.value = x
	return s, err
}

func (p *parser) sleep() (stmt, error) {
	p.program.uses.sleeps = true
	s := &sleepStmt{at: at(p.tok.line)}
	err := p.advance()
	if err == nil {
		s.ms, err = p.integer()
	}
	return s, err
}

func (p *parser) begin() (stmt, error) {
	s := &beginStmt{at: at(p.tok.line)}
	if err := p.advance(); err != nil {
		return nil, err
	}
	open, err := p.accept(tokLParen)
	for more := open; more && err == nil; {
		var o beginOption
		if o, err = p.beginOption(); err == nil {
			s.options = append(s.options, o)
			more, err = p.accept(tokComma)
		}
	}
	if open && err == nil {
		_, err = p.take(tokRParen)
	}
	if err == nil {
		s.body, err = p.block()
	}
	if err == nil {
		_, err = p.take(tokEnd)
	}
	return s, err
}

func (p *parser) beginOption() (beginOption, error) {
	name, err := p.take(tokIdent)
	if err == nil {
		_, err = p.take(tokEquals)
	}
	o := beginOption{at: at(name.line), name: name.text}
	if err != nil {
		return o, err
	}
	negative, err := p.accept(tokMinus)
	if err != nil {
		return o, err
	}
	o.value = p.tok
	p.program.uses.asOf = p.program.uses.asOf || o.name == "snapshot"
	switch {
	case p.tok.kind == tokInt || p.tok.kind == tokFloat:
		if negative {
			o.value.text, o.value.raw = "-"+o.value.text, "-"+o.value.raw
		}
		return o, p.advance()
	case negative:
	case p.tok.kind == tokIdent, p.tok.kind == tokString, p.tok.kind == tokTrue, p.tok.kind == tokFalse,
		p.tok.kind == tokNull, p.tok.kind == tokPlaceholder:
		return o, p.advance()
	}
	return o, p.unexpected("a value")
}
