// Package script is Kahuna's script language: lexer, parser, printer, evaluator.
//
// Work in progress; see the other files.
package script
