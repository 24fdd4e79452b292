package main

import (
	"errors"
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

// A quietError ends the program with a code and without a word.
type quietError struct{ code int }

func (e *quietError) Error() string { return "" }

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
	return exitInternal
}
