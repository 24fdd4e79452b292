// Package statemachine decides: it is the deterministic machine that every
// voter runs over the log, and the only place where the rules are written.
package statemachine
