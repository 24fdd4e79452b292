package main

import (
	"context"
	"errors"

	"github.com/kahu-sh/kahu/localapi/client"
)

// A codedError ends the program with a certain exit code.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// withCode gives err an exit code. A nil err stays nil.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code: code, err: err}
}

// usageError is a mistake in how the command was called.
func usageError(message string) error {
	return withCode(exitUsage, errors.New(message))
}

// A quietError ends the program with a code and without a word: the command
// has said everything already, or passes on another program's code.
type quietError struct{ code int }

func (e *quietError) Error() string { return "" }

// errorCodes maps the client's errors to exit codes. The first match counts:
// what nobody knows comes before what the context says about it.
var errorCodes = []struct {
	err  error
	code int
}{
	{client.ErrUnknownOutcome, exitUnknown},
	{client.ErrNoAgent, exitUnavailable},
	{client.ErrInvalid, exitUsage},
	{client.ErrNotFound, exitNotFound},
	{client.ErrBusy, exitBusy},
	{client.ErrNotOwner, exitBusy},
	{client.ErrDenied, exitDenied},
	{client.ErrUnavailable, exitTemporary},
	{client.ErrConditionFailed, exitRefused},
	{client.ErrExists, exitRefused},
	{client.ErrExhausted, exitRefused},
	{client.ErrConflict, exitRefused},
	{client.ErrScript, exitRefused},
	{client.ErrTooOld, exitRefused},
	{client.ErrLimit, exitRefused},
	{client.ErrStandsStill, exitRefused},
	{client.ErrLost, exitLeaseLost},
	{client.ErrAnotherHost, exitUnavailable},
	{client.ErrInternal, exitInternal},
	{context.DeadlineExceeded, exitTemporary},
	{context.Canceled, exitInterrupted},
}

// exitCode finds the code for err.
func exitCode(err error) int {
	var quiet *quietError
	if errors.As(err, &quiet) {
		return quiet.code
	}
	var coded *codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	for _, row := range errorCodes {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	return exitInternal
}
