package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kahu-sh/kahu/replication/stream"
)

// follow pushes who leads to an agent that follows this voter.
func (s *Server) follow(ctx context.Context, _ Identity, in *stream.Incoming) (stream.Message, error) {
	if s.o.Voter == nil {
		return nil, errNoVoter
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return nil, s.o.Voter.FollowLeader(ctx, func(term uint64, leader string) {
		if err := in.Send(&Leads{Term: term, Leader: leader}); err != nil {
			cancel(err)
		}
	})
}

// Follow tells fn who leads in which term, as node knows: at once, and whenever
// that changes, until ctx ends or the news break off, and returns why. A leader is
// empty while node knows of none. The connection is the one that requests to node
// use, so that it is warm when node begins to lead. An older voter has no news:
// ErrRefused.
func (p *Pool) Follow(ctx context.Context, node string, fn func(term uint64, leader string)) error {
	c, err := p.voter(ctx, node)
	if err != nil {
		return err
	}
	s, err := c.Open(ctx, methodFollow, nil)
	if err != nil {
		return fromWire(node, err)
	}
	defer s.Close()
	for {
		payload, err := s.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: node %s has ended its news", ErrBroken, node)
		}
		if err != nil {
			return fromWire(node, err)
		}
		var news Leads
		if err := news.UnmarshalVT(payload); err != nil {
			return fmt.Errorf("reading the news of node %s: %w", node, err)
		}
		if len(news.GetLeader()) > maxNodeBytes {
			return fmt.Errorf("node %s names a leader of %d bytes", node, len(news.GetLeader()))
		}
		fn(news.GetTerm(), news.GetLeader())
	}
}

// Expect forgets that node could not be reached lately: there is reason to think
// that it is back, and who asks it next connects at once.
func (p *Pool) Expect(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.nodes[node]; e != nil {
		e.retryAt = time.Time{}
	}
}
