package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Passing on.
//
// An agent that is cut off from the leader alone asks another voter to pass its
// requests on. The mark is the method: who is asked to pass on asks the leader with
// the plain one, which nobody passes on, so that there is one hop, never a circle.
// The request is the same with the same id, and what is refused to the asker is
// refused here: the leader sees a voter's certificate, but what may be passed on is
// what proxies may ask as well.

// relayTimeout bounds how long a voter waits for the leader when it passes a request
// on. Shorter than the patience of who asks (forward), who so learns which of the
// two is silent.
const relayTimeout = 1500 * time.Millisecond

// Relay reaches the leader for a voter that is asked to pass a request on. A Pool is one.
type Relay interface {
	Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error)
	Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error
}

// relayDo answers like do, and asks the leader when this voter does not lead.
func (s *Server) relayDo(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req, err := s.request(from, in)
	if err != nil {
		return nil, err
	}
	answer, err := s.o.Voter.Serve(ctx, req)
	if leader := s.passTo(err); leader != "" {
		ctx, cancel := context.WithTimeoutCause(ctx, relayTimeout, fmt.Errorf("the leader %s has not answered for %s", leader, relayTimeout))
		defer cancel()
		answer, err = s.o.Relay.Do(ctx, leader, req)
	}
	if err != nil {
		return nil, err // not a nil *Answer in a Message
	}
	return answer, nil
}

// relayWatch watches like watch, and at the leader when this voter does not lead.
func (s *Server) relayWatch(ctx context.Context, _ Identity, in *stream.Incoming) (stream.Message, error) {
	return nil, s.watching(ctx, in, func(ctx context.Context, session []byte, fn func(*replication.Event)) error {
		err := s.o.Voter.WatchLocal(ctx, session, fn)
		if leader := s.passTo(err); leader != "" {
			return s.o.Relay.Watch(ctx, leader, session, fn)
		}
		return err
	})
}

// passTo is the leader that err names, if there is one and it can be asked.
func (s *Server) passTo(err error) (leader string) {
	var notLeader *replication.NotLeaderError
	if s.o.Relay != nil && errors.As(err, &notLeader) {
		return notLeader.Leader
	}
	return ""
}

// DoVia has via, a voter, carry out req, or pass it on to the leader when it does
// not lead itself. Errors are those of Do; the leader's not being reached is one of
// them. Of a voter that is too old to pass anything on: replication.ErrUnavailable.
func (p *Pool) DoVia(ctx context.Context, via string, req *replication.Request) (*replication.Answer, error) {
	answer := new(replication.Answer)
	if err := p.ask(ctx, via, methodRelayDo, req, answer); err != nil {
		return nil, notPassedOn(err)
	}
	return answer, nil
}

// WatchVia is Watch at whoever leads, by way of via, a voter.
func (p *Pool) WatchVia(ctx context.Context, via string, session []byte, fn func(*replication.Event)) error {
	return notPassedOn(p.watch(ctx, via, methodRelayWatch, session, fn))
}

// notPassedOn makes sure that a refusal says that nothing was carried out.
func notPassedOn(err error) error {
	if errors.Is(err, ErrRefused) {
		return fmt.Errorf("%w: %w", replication.ErrUnavailable, err)
	}
	return err
}
