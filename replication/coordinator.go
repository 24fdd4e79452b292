// Package replication is the contract between everything that asks and
// everything that decides: one Request in, one Answer out.
//
// The messages are declared in replication.proto and generated into this
// package; the same bytes travel over the local socket, between agents and
// inside a log entry. What the requests mean is written in package
// statemachine, the only place that decides.
package replication

import (
	"context"
	"errors"
	"fmt"
)

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-vtproto_out=. --go-vtproto_opt=paths=source_relative,features=marshal+unmarshal+size+unmarshal_unsafe -I. replication.proto

// A Coordinator takes one request and returns one answer. On a voter it is the
// local Raft node, on a proxy a client of the voters; nothing above it knows
// which. All methods may be called concurrently.
type Coordinator interface {
	// Do carries out req and returns its answer, however often the leader
	// changes meanwhile. It gives req its id: the caller leaves Session, Number
	// and DoneBelow empty, and does not touch req afterwards. It blocks until
	// the answer is there or ctx ends.
	//
	// A refusal is an Answer with its Code, not an error. Errors are:
	// ErrUnavailable (certainly not applied), ErrUnknownOutcome (perhaps
	// applied), ErrStopped, or an error that wraps ctx's cause together with
	// one of the first two.
	Do(ctx context.Context, req *Request) (*Answer, error)

	// Watch tells fn what happens to the holds and queue places of a session
	// until ctx ends or the watch breaks, and then returns why. The first event
	// is always LISTED with everything that the session has. fn is called from
	// one goroutine at a time and must not block for long. A broken watch is
	// normal (the leader changed): call Watch again.
	Watch(ctx context.Context, session []byte, fn func(*Event)) error
}

var (
	// ErrUnavailable means that no quorum could be reached in time. The request
	// was certainly not applied, and never will be.
	ErrUnavailable = errors.New("no quorum of voters could be reached in time")
	// ErrUnknownOutcome means that the request may have been applied, and that
	// nobody can tell any more, or not before the deadline.
	ErrUnknownOutcome = errors.New("the outcome is unknown: the request may have been applied")
	// ErrStopped means that this agent is shutting down; the request was not sent.
	ErrStopped = errors.New("the agent is stopping")
)

// NotLeaderError says that the voter asked does not lead. The request was
// certainly not applied by it. It travels between agents; users never see it.
type NotLeaderError struct {
	Leader string // node id of the presumed leader, empty when unknown
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "not the leader, and no leader is known"
	}
	return fmt.Sprintf("not the leader; the leader is presumably %s", e.Leader)
}

// A RefusedError is an Answer that is not CODE_OK, as a Go error, for those
// who want one.
type RefusedError struct {
	Code   Code
	Detail string
}

// Error implements error.
func (e *RefusedError) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Code.String()
}

// Refused returns nil for CODE_OK and a *RefusedError for everything else.
func (x *Answer) Refused() error {
	if x.GetCode() == Code_CODE_OK {
		return nil
	}
	return &RefusedError{Code: x.GetCode(), Detail: x.GetDetail()}
}
