package kahuna

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// errRetry says that nobody decided anything before the time was over, or that
// the outcome is unknown. It is answered as MustRetry and never leaves the package
// (decisions.md 22, 23).
var errRetry = errors.New("no answer from a quorum in time")

// bounded is a context whose deadline is already that of one request.
type bounded struct {
	context.Context
	caller context.Context // without the deadline
}

// bound returns ctx with the end of the wait for a leader: LeaderWait from now,
// or the caller's own deadline where that is nearer.
func (s *Service) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, is := ctx.(bounded); is {
		return ctx, func() {}
	}
	return s.boundBy(ctx, s.cfg.LeaderWait)
}

// boundBy is bound with another wait, for what takes longer by its nature.
func (s *Service) boundBy(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if b, is := ctx.(bounded); is {
		ctx = b.caller
	}
	c, cancel := context.WithTimeout(ctx, wait)
	return bounded{c, ctx}, cancel
}

// ask has a request decided. The error is errRetry, or a status when the caller
// has gone or asks too much.
func (s *Service) ask(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if n := req.SizeVT(); n > replication.MaxRequestBytes {
		return nil, status.Errorf(codes.ResourceExhausted, "the request has %d bytes, and the limit is %d", n, replication.MaxRequestBytes)
	}
	limited, cancel := s.bound(ctx)
	defer cancel()
	a, err := s.cfg.Coordinator.Do(limited, req)
	if err != nil {
		return nil, s.undecided(ctx)
	}
	if a.GetCode() == replication.Code_CODE_LIMIT && a.GetIndex() == 0 && !req.IsRead() {
		return nil, errRetry // the leader's queue was full: it reached no entry
	}
	return a, nil
}

// undecided is the error of a request that the Coordinator gave up on: that the
// caller has gone, or that it should ask again.
func (s *Service) undecided(ctx context.Context) error {
	if gone := ctx.Err(); errors.Is(gone, context.Canceled) {
		return status.FromContextError(gone).Err()
	}
	return errRetry
}

// retries reports whether err is answered with MustRetry.
func retries(err error) bool { return errors.Is(err, errRetry) }

// need judges the caller of ctx.
func (s *Service) need(ctx context.Context, verb policy.Verb, name string) error {
	if s.cfg.Policy.Allows(caller.From(ctx), verb, name) {
		return nil
	}
	return denied(verb, name)
}

// needSomewhere is need for what has no name.
func (s *Service) needSomewhere(ctx context.Context, verb policy.Verb) error {
	if s.cfg.Policy.AllowsSomewhere(caller.From(ctx), verb) {
		return nil
	}
	return denied(verb, "")
}

func denied(verb policy.Verb, name string) error {
	if name == "" {
		return status.Errorf(codes.PermissionDenied, "the policy of this agent does not let you %s here", verb)
	}
	return status.Errorf(codes.PermissionDenied, "the policy of this agent does not let you %s %.200q", verb, name)
}

// valueFits refuses a value beyond the configured limit.
func (s *Service) valueFits(value []byte) error {
	if n := int64(len(value)); n > s.cfg.MaxValueBytes {
		return status.Errorf(codes.ResourceExhausted, "the value has %d bytes, and the limit is %d", n, s.cfg.MaxValueBytes)
	}
	return nil
}

// elapsedMS is TimeElapsedMs of an answer.
func elapsedMS(since time.Time) int32 { return int32(min(time.Since(since).Milliseconds(), 1<<31-1)) }

// holderInfo describes the caller to whoever asks who holds a lock.
func (s *Service) holderInfo(ctx context.Context) *replication.HolderInfo {
	info := &replication.HolderInfo{Host: s.cfg.Host, Node: s.cfg.Node}
	who := caller.From(ctx)
	switch {
	case who == nil:
	case who.Kind == caller.Process:
		info.Pid, info.Uid, info.Command = int64(who.PID), int64(who.UID), who.Command
	default:
		info.Reason = fmt.Sprintf("%s at %.60s", strings.TrimSpace(fmt.Sprintf("%s %.100s", who.Kind, first(who.Names))), who.Remote)
	}
	return info
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}
