// Package script is the script language of Kahuna: lexer, parser, printer and
// evaluator. A script reads keys, decides, and writes keys, all of it or nothing.
//
// The main type is Program: Parse makes one of a text, Run carries it out over a
// Store, String prints it so that it parses to the same tree again. What a run
// comes to depends on the program, its parameters, its fuel and what the store
// says, and on nothing else: no clock, no randomness, no map order, no fused
// multiplication. So every voter that applies a script gets the same answer and
// the same writes.
//
// Left to others: what the store shows and which writes hold (package
// statemachine), in which way a script runs and when it is stopped (package
// scriptrun), and who may run one (package localapi).
//
// # Grammar
//
// Words in capitals are read in any case. What separates tokens is white space
// (space, tab, CR, LF, semicolon) and comments from # to the end of the line.
//
//	script    = statement { statement } .
//	statement = write | read | "LET" name "=" ( write | read | expr )
//	          | "IF" expr "THEN" block [ "ELSE" block ] "END"
//	          | "SWITCH" expr case { case } [ "ELSE" block ] "END"
//	          | "FOR" name "IN" expr "DO" block "END"
//	          | "BEGIN" [ "(" option { "," option } ")" ] block "END"
//	          | "COMMIT" | "ROLLBACK" | "RETURN" [ expr ]
//	          | "SLEEP" integer | "THROW" expr .
//	block     = statement { statement } .
//	case      = "CASE" expr { "," expr } "THEN" block .
//	option    = name "=" ( name | [ "-" ] number | string | "TRUE" | "FALSE" | "NULL" | parameter ) .
//	write     = ( "SET" | "ESET" ) key expr { modifier }
//	          | ( "DELETE" | "DEL" | "EDELETE" | "EDEL" ) key
//	          | ( "EXTEND" | "EEXTEND" ) key expr .
//	modifier  = "NX" | "XX" | "NOREV" | ( "EX" | "CMP" | "CMPREV" ) expr .
//	read      = ( "GET" | "EGET" | "EXISTS" | "EEXISTS" ) key [ ( "AT" | "@" ) integer | asof ]
//	          | ( "GET" | "EGET" ) "BY" "BUCKET" key [ asof ]
//	          | ( "SCAN" | "ESCAN" ) "BY" "PREFIX" key [ asof ] .
//	asof      = "AS" "OF" expr .
//	key       = name | string | parameter .
//
//	expr      = or { ".." or } .
//	or        = and { "||" and } .
//	and       = equal { "&&" equal } .
//	equal     = order { ( "=" | "==" | "!=" | "<>" ) order } .
//	order     = sum { ( "<" | ">" | "<=" | ">=" ) sum } .
//	sum       = product { ( "+" | "-" ) product } .
//	product   = unary { ( "*" | "/" ) unary } .
//	unary     = ( "NOT" | "!" ) ( guard | unary ) | "-" unary | operand { "[" expr "]" } .
//	guard     = "SET" | "FOUND" | "DELETED" | "EXTENDED" .
//	operand   = number | string | "TRUE" | "FALSE" | "NULL" | parameter | name | read
//	          | name "(" [ expr { "," expr } ] ")" | "(" expr ")" | "[" [ expr { "," expr } ] "]" .
//
//	integer   = [ "-" ] digit { digit } .
//	number    = digit { digit } [ "." digit { digit } ] | "0x" hex { hex } .
//	name      = letter { letter | digit } | "`" { any } "`" .
//	parameter = "@" ( letter | digit ) { letter | digit } .
//	string    = '"' { any } '"' | "'" { any } "'" .
//
// A letter is A to Z, a to z or an underscore. A backslash in quotes takes the
// next character with it, and stays where it is unless that is the closing quote.
// SWITCH, CASE, DELETED and EXTENDED are names wherever they can be: SWITCH right
// after RETURN is one. After RETURN a read is the next statement, which is never
// reached.
//
// # Limits
//
// Text, nesting, arrays, values, variables, what is written and what is answered
// are bounded by the constants of this package, and the time of a run by its fuel.
// A script that goes beyond ends in an error, with nothing changed; one that is
// out of fuel ends in ErrFuelSpent, and its caller decides.
//
// # Differences from Kahuna
//
// Two readings of the stored reference and kahu's decisions are in the contract
// notes (scripts.md, scripts-second-reading.md, decisions.md §8). Accidents of the
// reference are not copied:
//
//   - All options of BEGIN count, not only a single one; one given twice is an
//     error, and so is a negative timeout (decisions.md 45).
//   - A character that belongs to nothing, and a string that is not closed, are
//     syntax errors that name the place, and are not dropped; # begins a comment,
//     as documented (46).
//   - Strings are read to their first closing quote, with all of Unicode in them; a
//     backslash before it is decoded, other escapes stay raw (46). Of two
//     back-quoted names on a line each is one.
//   - The minus is an operator: a -1 subtracts, -x negates (45a, documented).
//   - a..b includes b and is empty when b < a (43).
//   - NOT inverts numbers; NOT null is true, and NOT of a text when it is empty
//     (45, 45a).
//   - && and || look at the right side only when the left one does not decide
//     (documented). Numbers stay allowed beside Bools.
//   - EX, EXTEND and CMPREV take numbers and texts of numbers, such as parameters,
//     and are not cut to 32 bits (45a). EXTEND 0 is no expiry (16).
//   - Array literals, hexadecimal numbers, SWITCH, reads as operands, writes bound
//     to a name, SCAN inside transactions, NOT DELETED, NOT EXTENDED, texts and
//     whole Doubles as an index, and the functions split, substring, starts_with,
//     ends_with, index_of, trim, nearly_equals, hlc and hlc_counter are as in the
//     documentation, which is newer than the stored reference. to_json gives plain
//     JSON for arrays.
//   - Leading SETs are not a batch: one whose condition fails changes nothing for
//     the others (45a).
//   - Scripts of one entry do not exclude each other, however close they come: the
//     log orders them, and each sees all of the one before. The reference aborts
//     one of two that overlap. One that sleeps does exclude the others, as there,
//     and on Kahuna's wire so do two that read one bucket and write, since tests of
//     its clients want that (package scriptrun).
//   - A script that commits without a result answers Get without values (44).
//   - DELETE and EXTEND of a missing key answer DoesNotExist everywhere, and a miss
//     has revision 0, or that of its tombstone.
//   - Failures of the runtime have kahu's words and a line: "Division by zero at
//     line 1" (47).
//   - A read below what history keeps answers Aborted and says so, instead of
//     DoesNotExist (14).
//
// Where the newest documentation gives scripts another meaning that the stored
// reference accepts, the reference is followed: Doubles within 0.001 are equal,
// IF takes ELSE for what is no Bool, NOT FOUND and NOT SET look at the last result
// and the last write of any kind, division by a Double of zero is infinite,
// unknown options of BEGIN are ignored.
package script
