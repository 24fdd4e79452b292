package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// attemptTimeout bounds one attempt of what may be sent again: a server that is
	// stopped or cut off neither answers nor breaks the connection.
	attemptTimeout = 2 * time.Second
	// minPause and maxPause bound the wait before the next attempt; a pause is drawn
	// between half and all of a doubling value.
	minPause = 5 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// manner is how a request may be treated. The zero manner is for one that could do
// harm if it were applied twice: what may have been applied is not sent again.
type manner struct {
	repeat  bool // applying it twice is applying it once
	reads   bool // nothing is applied
	patient bool // it takes its time: no attempt is given up before its caller gives up
}

var (
	once       = manner{}
	repeatable = manner{repeat: true}
	reading    = manner{repeat: true, reads: true}
	patient    = manner{repeat: true, patient: true}
)

// errUndecided is what MustRetry and Errored are: nobody says what became of it.
var errUndecided = errors.New("the cluster did not say what became of it (MustRetry)")

// ask asks one server after another until one decides, ctx ends, or the request
// may have been applied and must not be sent again. undecided says that an answer
// is none. maybe says that an attempt before the answered one may have been
// applied. A refusal by gRPC itself is a *replication.RefusedError; other errors
// wrap one of replication's.
func ask[A any](ctx context.Context, c *Client, m manner, call func(context.Context, *endpoint) (A, error), undecided func(A) bool) (answer A, maybe bool, err error) {
	var (
		none  A
		last  error
		avoid *endpoint
		pause = minPause
		tries = 0
	)
	for ctx.Err() == nil && c.ctx.Err() == nil {
		e := c.pool.pick(avoid)
		a, sent, err := attempt(ctx, e, m, call)
		tries++
		switch {
		case err == nil && !undecided(a):
			c.pool.answered(e)
			return a, maybe, nil
		case err == nil:
			last, maybe = errUndecided, true
		case refusal(err) != nil:
			c.pool.answered(e)
			return none, maybe, refusal(err)
		default:
			last = fmt.Errorf("%s: %s", e.url, textOf(err))
			maybe = maybe || sent
			if ctx.Err() == nil {
				c.pool.failed(e, textOf(err))
			}
		}
		if maybe && !m.repeat {
			return none, true, fmt.Errorf("%w (%w)", replication.ErrUnknownOutcome, last)
		}
		avoid = e
		if err != nil && tries < len(c.pool.list) {
			continue // the others have not been asked
		}
		sleep(ctx, pause/2+rand.N(pause/2+1))
		pause = min(2*pause, maxPause)
	}
	return none, maybe, c.gaveUp(ctx, m, maybe, last)
}

// attempt asks one server once.
func attempt[A any](ctx context.Context, e *endpoint, m manner, call func(context.Context, *endpoint) (A, error)) (a A, sent bool, err error) {
	ctx, flag := withSent(ctx)
	if m.repeat && !m.patient { // else giving up early would only make the outcome unknown
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
	}
	a, err = call(ctx, e)
	return a, flag.Load(), err
}

// gaveUp tells certainly-not from perhaps, with the cause of the end of ctx.
func (c *Client) gaveUp(ctx context.Context, m manner, maybe bool, last error) error {
	outcome, cause := replication.ErrUnavailable, context.Cause(ctx)
	if ctx.Err() == nil {
		outcome, cause = replication.ErrStopped, context.Canceled
	}
	if maybe && !m.reads {
		outcome = replication.ErrUnknownOutcome
	}
	if last == nil {
		return fmt.Errorf("%w (%w)", outcome, cause)
	}
	return fmt.Errorf("%w (%w; last attempt: %v)", outcome, cause, last)
}

// refusal turns a status that says that nothing was done into a refusal; nil for
// the others.
func refusal(err error) error {
	code := replication.Code_CODE_INVALID
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange:
	case codes.Unimplemented:
		return refuse(code, "the Kahuna cluster behind this agent (upstream mode) does not have this call: %s", textOf(err))
	case codes.PermissionDenied, codes.Unauthenticated:
		code = replication.Code_CODE_DENIED
	case codes.ResourceExhausted:
		code = replication.Code_CODE_LIMIT
	default:
		return nil
	}
	return refuse(code, "the Kahuna cluster behind this agent refuses: %s", textOf(err))
}

// notHere refuses what no request to a stock Kahuna cluster can do.
func notHere(what string) error {
	return refuse(replication.Code_CODE_INVALID, "this agent is in upstream mode, in front of a stock Kahuna cluster, which cannot %s", what)
}

func refuse(code replication.Code, format string, args ...any) error {
	return &replication.RefusedError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// textOf is what an error of gRPC says, in one line.
func textOf(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
		if text == "" {
			text = s.Code().String()
		}
	}
	return strings.Join(strings.Fields(text), " ")
}
