package script

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// lexer cuts a text into tokens. What separates them is white space (space, tab,
// CR, LF, semicolon: decisions.md 46) and comments from # to the end of the line.
type lexer struct {
	text      string
	at        int
	line      int
	lineStart int // offset of the line's first byte
}

func newLexer(s string) lexer { return lexer{text: s, line: 1} }

// next returns the next token. At the end it is tokEOF, again and again.
func (l *lexer) next() (token, error) {
	l.skip()
	t := token{line: l.line, lineStart: l.lineStart, start: l.at}
	if l.at == len(l.text) {
		return t, nil
	}
	start := l.at
	c := l.text[l.at]
	switch {
	case isLetter(c):
		l.word(&t)
	case isDigit(c):
		l.number(&t)
	case c == '"' || c == '\'' || c == '`':
		if err := l.quoted(&t, c); err != nil {
			return token{}, err
		}
	case c == '@' && l.at+1 < len(l.text) && isNameByte(l.text[l.at+1]):
		l.at++
		l.name()
		t.kind, t.text = tokPlaceholder, l.text[start:l.at]
	default:
		if err := l.operator(&t); err != nil {
			return token{}, err
		}
	}
	t.raw = l.text[start:l.at]
	return t, nil
}

// column tells at which character of its line a token begins. It is for errors
// only: doing it for each token would take a long line's length squared.
func (l *lexer) column(t *token) int { return utf8.RuneCountInString(l.text[t.lineStart:t.start]) + 1 }

func (l *lexer) newline() {
	l.line++
	l.lineStart = l.at
}

func (l *lexer) skip() {
	for l.at < len(l.text) {
		switch l.text[l.at] {
		case ' ', '\t', '\r', ';':
			l.at++
		case '\n':
			l.at++
			l.newline()
		case '#':
			n := strings.IndexByte(l.text[l.at:], '\n')
			if n < 0 {
				l.at = len(l.text)
				return
			}
			l.at += n
		default:
			return
		}
	}
}

func isLetter(c byte) bool   { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
func isNameByte(c byte) bool { return isLetter(c) || isDigit(c) }

func (l *lexer) name() {
	for l.at < len(l.text) && isNameByte(l.text[l.at]) {
		l.at++
	}
}

func (l *lexer) word(t *token) {
	start := l.at
	l.name()
	t.text = l.text[start:l.at]
	t.kind = tokIdent
	if k, ok := reserved(t.text); ok {
		t.kind = k
	}
}

// reserved looks a word up in any case.
func reserved(s string) (tokenKind, bool) {
	var b [8]byte
	if len(s) > len(b) {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		b[i] = c
	}
	k, ok := words[string(b[:len(s)])]
	return k, ok
}

// number reads digits, digits.digits or 0xHEX. A sign is an operator.
func (l *lexer) number(t *token) {
	start := l.at
	t.kind = tokInt
	if strings.HasPrefix(l.text[l.at:], "0x") && l.at+2 < len(l.text) && isHex(l.text[l.at+2]) {
		for l.at += 2; l.at < len(l.text) && isHex(l.text[l.at]); l.at++ {
		}
		t.text = l.text[start:l.at]
		return
	}
	for l.at < len(l.text) && isDigit(l.text[l.at]) {
		l.at++
	}
	if l.at+1 < len(l.text) && l.text[l.at] == '.' && isDigit(l.text[l.at+1]) {
		t.kind = tokFloat
		for l.at++; l.at < len(l.text) && isDigit(l.text[l.at]); l.at++ {
		}
	}
	t.text = l.text[start:l.at]
}

func isHex(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

// quoted reads a string or a back-quoted name. A backslash takes the next
// character with it; only one before the delimiter is decoded, since stored bytes
// depend on it (decisions.md 46). Strings stand on one line; names may not.
func (l *lexer) quoted(t *token, quote byte) error {
	t.kind, t.quote = tokString, quote
	if quote == '`' {
		t.kind = tokIdent
	}
	open := *l
	l.at++
	start := l.at
	var decoded []byte
	for l.at < len(l.text) {
		c := l.text[l.at]
		switch {
		case c == quote:
			t.text = l.text[start:l.at]
			if decoded != nil {
				t.text = string(append(decoded, t.text...))
			}
			l.at++
			return nil
		case c == '\\' && l.at+1 < len(l.text) && l.text[l.at+1] == quote:
			decoded = append(append(decoded, l.text[start:l.at]...), quote)
			l.at += 2
			start = l.at
		case c == '\\' && l.at+1 < len(l.text) && l.text[l.at+1] != '\n' && l.text[l.at+1] != '\r':
			l.at += 2
		case c == '\n' && quote == '`':
			l.at++
			l.newline()
		case c == '\n' || c == '\r' && quote != '`':
			*l = open
			return l.problem("the string is not closed on its line")
		case c < ' ' && !(quote == '`' && (c == '\r' || c == '\t')):
			return l.problem(fmt.Sprintf("the control character 0x%02x may not stand in quotes", c))
		default:
			l.at++
		}
	}
	*l = open
	return l.problem("the quote " + string(quote) + " is not closed")
}

func (l *lexer) problem(what string) error {
	return &SyntaxError{Line: l.line, Column: l.column(&token{lineStart: l.lineStart, start: l.at}), Problem: what}
}

func (l *lexer) operator(t *token) error {
	if l.at+1 < len(l.text) {
		if k, ok := doubles[l.text[l.at:l.at+2]]; ok {
			t.kind = k
			l.at += 2
			return nil
		}
	}
	k, ok := singles[l.text[l.at]]
	if !ok {
		r, _ := utf8.DecodeRuneInString(l.text[l.at:])
		return l.problem(fmt.Sprintf("unexpected character %q", r))
	}
	t.kind = k
	l.at++
	return nil
}

var doubles = map[string]tokenKind{
	"==": tokDoubleEquals, "!=": tokNotEquals, "<>": tokNotEquals, "<=": tokLessEquals, ">=": tokGreaterEquals,
	"..": tokDoubleDot, "&&": tokAnd, "||": tokOr,
}

var singles = map[byte]tokenKind{
	'(': tokLParen, ')': tokRParen, '[': tokLSquare, ']': tokRSquare, ',': tokComma, '=': tokEquals, '<': tokLess, '>': tokGreater,
	'+': tokAdd, '-': tokMinus, '*': tokMult, '/': tokDiv, '!': tokNot, '@': tokAt,
}
