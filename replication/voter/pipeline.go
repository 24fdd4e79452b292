package voter

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline is an open pipeline of AppendEntries to one follower. It withholds what
// is sent while the disk stalls, and holds back what is answered until it may
// count (transport).
type pipeline struct {
	raft.AppendPipeline
	transport *transport

	answers chan raft.AppendFuture // what Raft consumes, in the order it was sent
	open    context.Context        // ends with Close, or when the transport is cut
	end     context.CancelFunc
	closed  chan struct{}
	relay   sync.WaitGroup
}

func newPipeline(t *transport, inner raft.AppendPipeline) *pipeline {
	p := &pipeline{AppendPipeline: inner, transport: t, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	p.open, p.end = context.WithCancel(t.stopping)
	p.relay.Go(p.pass) // until Close
	return p
}

// AppendEntries implements raft.AppendPipeline. An error ends the pipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.transport.stalled() {
		return nil, errStalled
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline. Raft calls it once.
func (p *pipeline) Close() error {
	p.end()
	close(p.closed)
	err := p.AppendPipeline.Close()
	p.relay.Wait()
	return err
}

// pass hands answers on to Raft. After one that is not a success Raft takes no
// more, and may still be about to send: what comes then is dropped, so that
// sending does not wait for it.
func (p *pipeline) pass() {
	inner := p.AppendPipeline.Consumer()
	for ended := false; ; {
		var f raft.AppendFuture
		select {
		case f = <-inner:
		case <-p.closed:
			return
		}
		if ended {
			continue
		}
		if err := p.transport.hold(p.open, f.Request(), f.Response()); err != nil {
			f.Response().Success = false // it does not count, and Raft asks again
		}
		ended = !f.Response().Success
		select {
		case p.answers <- f:
		case <-p.closed:
			return
		}
	}
}
