package link

import (
	"context"

	"github.com/kahu-sh/kahu/replication"
)

// Pool keeps one connection to each node that is asked something.
type Pool struct{}

// Do asks node to carry out req.
func (p *Pool) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	return nil, ErrBroken
}

// Watch watches a session at node until ctx ends or the watch breaks.
func (p *Pool) Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error {
	return ErrBroken
}

// ReadIndex asks node, which has to lead, for an index at which a read is linearizable.
func (p *Pool) ReadIndex(ctx context.Context, node string) (uint64, error) { return 0, ErrBroken }

// Term asks node for its current raft term.
func (p *Pool) Term(ctx context.Context, node string) (uint64, error) { return 0, ErrBroken }
