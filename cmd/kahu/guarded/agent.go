package guarded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
	"github.com/kahu-sh/kahu/localapi/client/hold"
	"github.com/kahu-sh/kahu/localapi/holdwire"
)

// agent lets the guard speak through the Go client.
type agent struct {
	where  hold.Where
	hold   hold.Options
	giveUp time.Time // when the wait that Open began is over; zero before that
}

var _ guard.Agent = (*agent)(nil)

func (a *agent) Open(ctx context.Context, w guard.Witnesses) (guard.Lock, error) {
	o := a.hold
	o.Wait = a.waitLeft()
	o.Pidfds, o.TreeEnds, o.LastEndsTree = files(w), w.TreeEnds, w.LastEndsTree
	o.Contain = string(w.Contain)
	h, err := hold.Dial(ctx, a.where, o)
	if err != nil {
		return nil, guardError(err)
	}
	return lock{h}, nil
}

// files are the witnesses in the order in which the agent takes them.
func files(w guard.Witnesses) []*os.File { return slices.Concat(w.Pidfds, w.Group) }

// waitLeft is what is left of --wait: an agent that was restarted is asked anew,
// and the user's patience is not.
func (a *agent) waitLeft() time.Duration {
	if a.hold.Wait <= 0 {
		return a.hold.Wait
	}
	if a.giveUp.IsZero() {
		a.giveUp = time.Now().Add(a.hold.Wait)
	}
	return max(time.Until(a.giveUp).Round(time.Millisecond), 0)
}

// Attach hands the witnesses over again: an agent that was restarted may not find
// them by itself.
func (a *agent) Attach(ctx context.Context, id string, w guard.Witnesses) (guard.Lock, error) {
	h, err := hold.Attach(ctx, a.where, id, files(w)...)
	if errors.Is(err, hold.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", guard.ErrUnknownHold, err)
	}
	if err != nil {
		return nil, guardError(err)
	}
	return lock{h}, nil
}

// GiveBack unlocks by the hold's id, which is the owner at the quorum.
func (a *agent) GiveBack(ctx context.Context, id string) error {
	return hold.GiveBack(ctx, a.where, a.hold.Lock, a.hold.Ephemeral, id)
}

// guardError says which errors may pass, and gives the others their exit code.
func guardError(err error) error {
	if errors.Is(err, hold.ErrNoAgent) || errors.Is(err, hold.ErrUnavailable) {
		return passing{err}
	}
	return NewRefusal(err)
}

// passing is an error of the agent that may pass: guard.ErrUnavailable, in the
// agent's words, which say already that nobody answers.
type passing struct{ error }

// Is makes errors.Is(err, guard.ErrUnavailable) true.
func (p passing) Is(target error) bool { return target == guard.ErrUnavailable }

// Unwrap returns the error itself.
func (p passing) Unwrap() error { return p.error }

// Refusal is an agent's error with the exit code that every command has for it.
type Refusal struct{ error }

// NewRefusal is err with its exit code.
func NewRefusal(err error) Refusal { return Refusal{err} }

// Unwrap returns the error itself.
func (r Refusal) Unwrap() error { return r.error }

// refusals are the rows of main's table that a hold can lead to; a test there
// compares them.
var refusals = []struct {
	err  error
	code int
}{
	{hold.ErrUnknownOutcome, 4},
	{hold.ErrNoAgent, guard.ExitUnavailable},
	{hold.ErrInvalid, guard.ExitUsage},
	{hold.ErrNotFound, 2},
	{hold.ErrBusy, 3},
	{hold.ErrNotOwner, 3},
	{hold.ErrDenied, 77},
	{hold.ErrUnavailable, guard.ExitNotGot},
	{hold.ErrLimit, 1},
	{hold.ErrLost, guard.ExitLeaseLost},
	{hold.ErrAnotherHost, guard.ExitUnavailable},
	{hold.ErrInternal, 70},
	{context.DeadlineExceeded, guard.ExitNotGot},
	{context.Canceled, 130},
}

// ExitCode implements guard.ExitCoder.
func (r Refusal) ExitCode() int {
	for _, row := range refusals {
		if errors.Is(r.error, row.err) {
			return row.code
		}
	}
	return 70 // EX_SOFTWARE
}

// lock is a client's hold as the guard sees it.
type lock struct{ *hold.Hold }

var _ guard.Lock = lock{}

// Next passes the client's events on; the agent answers an ack with a renewed
// one (localapi.Hold).
func (l lock) Next(ctx context.Context) (guard.Event, error) {
	select {
	case <-ctx.Done():
		return guard.Event{}, context.Cause(ctx)
	case e, ok := <-l.Events():
		if ok {
			return guardEvent(e), nil
		}
	}
	if err := l.Err(); err != nil {
		return guard.Event{}, err
	}
	return guard.Event{}, io.EOF
}

// guardEvent is the same in the guard's words.
func guardEvent(e holdwire.HoldEvent) guard.Event {
	out := guard.Event{
		State: guard.State(e.Type), Hold: e.Hold, Position: e.Position,
		Deadline: time.Duration(e.DeadlineBoottimeNS), BootID: e.BootID, Reason: e.Reason,
	}
	if e.Token != nil {
		out.Token = *e.Token
	}
	return out
}
