package script

import (
	"fmt"
	"strings"
)

// tokenKind is what a token is.
type tokenKind uint8

const (
	tokEOF tokenKind = iota
	tokIdent
	tokPlaceholder
	tokInt
	tokFloat
	tokString

	tokLParen
	tokRParen
	tokLSquare
	tokRSquare
	tokComma
	tokEquals
	tokDoubleEquals
	tokNotEquals
	tokLess
	tokGreater
	tokLessEquals
	tokGreaterEquals
	tokAdd
	tokMinus
	tokMult
	tokDiv
	tokDoubleDot
	tokAnd
	tokOr
	tokNot
	tokAt

	tokLet
	tokSet
	tokESet
	tokGet
	tokEGet
	tokDelete
	tokEDelete
	tokExtend
	tokEExtend
	tokExists
	tokEExists
	tokScan
	tokEScan
	tokBy
	tokBucket
	tokPrefix
	tokIf
	tokThen
	tokElse
	tokEnd
	tokFor
	tokIn
	tokDo
	tokBegin
	tokCommit
	tokRollback
	tokReturn
	tokSleep
	tokThrow
	tokNX
	tokXX
	tokEX
	tokCmp
	tokCmpRev
	tokNoRev
	tokFound
	tokAs
	tokOf
	tokTrue
	tokFalse
	tokNull
	tokKinds
)

// tokenNames are the names of the reference's generator, which stand in the
// reasons of syntax errors (scripts.md 70).
var tokenNames = [tokKinds]string{
	tokEOF: "EOF", tokIdent: "TIDENTIFIER", tokPlaceholder: "TPLACEHOLDER", tokInt: "TDIGIT", tokFloat: "TFLOAT", tokString: "TSTRING",
	tokLParen: "LPAREN", tokRParen: "RPAREN", tokLSquare: "LSQUAREBRACE", tokRSquare: "RSQUAREBRACE", tokComma: "TCOMMA",
	tokEquals: "TEQUALS", tokDoubleEquals: "TDOUBLEEQUALS", tokNotEquals: "TNOTEQUALS",
	tokLess: "TLESSTHAN", tokGreater: "TGREATERTHAN", tokLessEquals: "TLESSTHANEQUALS", tokGreaterEquals: "TGREATERTHANEQUALS",
	tokAdd: "TADD", tokMinus: "TMINUS", tokMult: "TMULT", tokDiv: "TDIV", tokDoubleDot: "TDOUBLEDOT",
	tokAnd: "TAND", tokOr: "TOR", tokNot: "TNOT", tokAt: "TAT",
	tokLet: "TLET", tokSet: "TSET", tokESet: "TESET", tokGet: "TGET", tokEGet: "TEGET", tokDelete: "TDELETE", tokEDelete: "TEDELETE",
	tokExtend: "TEXTEND", tokEExtend: "TEEXTEND", tokExists: "TEXISTS", tokEExists: "TEEXISTS", tokScan: "TSCAN", tokEScan: "TESCAN",
	tokBy: "TBY", tokBucket: "TBUCKET", tokPrefix: "TPREFIX", tokIf: "TIF", tokThen: "TTHEN", tokElse: "TELSE", tokEnd: "TEND",
	tokFor: "TFOR", tokIn: "TIN", tokDo: "TDO", tokBegin: "TBEGIN", tokCommit: "TCOMMIT", tokRollback: "TROLLBACK",
	tokReturn: "TRETURN", tokSleep: "TSLEEP", tokThrow: "TTHROW", tokNX: "TNX", tokXX: "TXX", tokEX: "TEX", tokCmp: "TCMP",
	tokCmpRev: "TCMPREV", tokNoRev: "TNOREV", tokFound: "TFOUND", tokAs: "TAS", tokOf: "TOF",
	tokTrue: "TTRUE", tokFalse: "TFALSE", tokNull: "TNULL",
}

// words are the reserved words, in lower case; any case is read.
var words = map[string]tokenKind{
	"let": tokLet, "set": tokSet, "eset": tokESet, "get": tokGet, "eget": tokEGet,
	"delete": tokDelete, "del": tokDelete, "edelete": tokEDelete, "edel": tokEDelete,
	"extend": tokExtend, "eextend": tokEExtend, "exists": tokExists, "eexists": tokEExists,
	"scan": tokScan, "escan": tokEScan, "by": tokBy, "bucket": tokBucket, "prefix": tokPrefix,
	"if": tokIf, "then": tokThen, "else": tokElse, "end": tokEnd, "for": tokFor, "in": tokIn, "do": tokDo,
	"begin": tokBegin, "commit": tokCommit, "rollback": tokRollback, "return": tokReturn,
	"sleep": tokSleep, "throw": tokThrow, "nx": tokNX, "xx": tokXX, "ex": tokEX, "cmp": tokCmp,
	"cmprev": tokCmpRev, "norev": tokNoRev, "not": tokNot, "found": tokFound, "at": tokAt, "as": tokAs, "of": tokOf,
	"true": tokTrue, "false": tokFalse, "null": tokNull,
}

// Words returns the reserved words of the language in lower case, unsorted, for
// completion.
func Words() []string {
	out := make([]string, 0, len(words))
	for w := range words {
		out = append(out, w)
	}
	return out
}

// describeToken says what a token name stands for, for people.
func describeToken(name string) string {
	switch name {
	case "EOF":
		return "the end of the script"
	case "TIDENTIFIER":
		return "a name"
	case "TPLACEHOLDER":
		return "a parameter (@name)"
	case "TDIGIT":
		return "an integer"
	case "TFLOAT":
		return "a number"
	case "TSTRING":
		return "a string"
	}
	for t, s := range symbols {
		if tokenNames[t] == name {
			return fmt.Sprintf("%q", s)
		}
	}
	for w, t := range words {
		if tokenNames[t] == name && w != "del" && w != "edel" {
			return strings.ToUpper(w)
		}
	}
	return name
}

// symbols are the texts of the operators. TNOT and TAT are words as well.
var symbols = map[tokenKind]string{
	tokLParen: "(", tokRParen: ")", tokLSquare: "[", tokRSquare: "]", tokComma: ",", tokEquals: "=", tokDoubleEquals: "==",
	tokNotEquals: "!=", tokLess: "<", tokGreater: ">", tokLessEquals: "<=", tokGreaterEquals: ">=", tokAdd: "+", tokMinus: "-",
	tokMult: "*", tokDiv: "/", tokDoubleDot: "..", tokAnd: "&&", tokOr: "||",
}

// token is one token and where it began.
type token struct {
	kind      tokenKind
	quote     byte   // of a string or a back-quoted name, else 0
	line      int    // from 1
	start     int    // offset in the text
	lineStart int    // offset of its line
	text      string // decoded: names and strings without their quotes
	raw       string // as written
}
