package voter

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// pipeline is an open pipeline of AppendEntries to one follower. It withholds what
// is sent while the disk stalls, holds back what is answered until it may count
// (transport), and rests when there is nothing to say.
//
// Raft sends a request without entries every CommitTimeout, so that a follower
// learns what is committed when writes pause, and goes on with it for ever: on an
// idle leader that was most of what it cost. When all that the log has is committed,
// and the follower has acknowledged to know that, such a request waits here, and
// with it Raft's goroutine for this follower, until the log grows: then Raft has
// something to send. Nothing is answered in place of the follower, so Raft counts
// no contact that there was not; heartbeats keep it up, whose answers come to Raft
// among those of the pipeline (credit).
//
// One is sent all the same when the last was long ago, or a heartbeat was not
// answered in time since. So it shows when this connection is broken, a follower that
// has started again learns what is committed, and a leader whose heartbeat waits for
// a packet that was lost does not lose contact over it: this is another connection.
type pipeline struct {
	raft.AppendPipeline
	transport *transport
	to        raft.ServerID

	term     atomic.Uint64        // in which this voter leads; 0: not known yet
	sentAt   time.Time            // the last request; Raft sends from one goroutine
	misses   uint64               // of contacts, before that
	underWay atomic.Int32         // requests that were not answered with success
	told     atomic.Pointer[told] // nil: nothing yet

	answers chan raft.AppendFuture // what Raft consumes, in the order it was sent
	open    context.Context        // ends with Close, or when the transport is cut
	end     context.CancelFunc
	closed  chan struct{}
	relay   sync.WaitGroup
}

// told is what a follower has acknowledged last.
type told struct {
	last   uint64 // index at which its log ended, or later
	commit uint64 // LeaderCommitIndex
}

func newPipeline(t *transport, to raft.ServerID, inner raft.AppendPipeline) *pipeline {
	p := &pipeline{AppendPipeline: inner, transport: t, to: to, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	p.open, p.end = context.WithCancel(t.stopping)
	t.pipelines.Store(to, p)
	p.relay.Go(p.pass) // until Close
	return p
}

// AppendEntries implements raft.AppendPipeline. An error ends the pipeline. The
// future is nil when nothing was sent: Raft takes answers from Consumer alone.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.term.Store(args.Term) // of all requests of one pipeline
	if p.needless(args) && p.rest(args.PrevLogEntry) {
		return nil, nil
	}
	if p.transport.stalled() {
		return nil, errStalled
	}
	p.sentAt = time.Now()
	p.misses, _ = p.transport.contacts.misses(p.to)
	p.underWay.Add(1)
	return p.AppendPipeline.AppendEntries(args, resp)
}

// needless reports whether args say nothing that the follower has not acknowledged,
// and nothing is about to change. Before Raft hands over leadership it has a request
// sent to the heir and waits until that has returned.
func (p *pipeline) needless(args *raft.AppendEntriesRequest) bool {
	known := p.told.Load()
	return p.transport.handingOver.Load() == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == args.PrevLogEntry &&
		p.underWay.Load() == 0 && known != nil && *known == told{args.PrevLogEntry, args.LeaderCommitIndex}
}

// rest blocks until the log has an entry above last, or Raft closes the pipeline,
// and returns true. It returns false when it is time for a request without entries.
func (p *pipeline) rest(last uint64) bool {
	misses, missed := p.transport.contacts.misses(p.to)
	wait := p.transport.refresh - time.Since(p.sentAt)
	if misses != p.misses || wait <= 0 {
		return false
	}
	p.transport.resting.Add(1)
	defer p.transport.resting.Add(-1)
	due := time.NewTimer(wait)
	defer due.Stop()
	select {
	case <-p.transport.log.Beyond(last):
		return true
	case <-p.open.Done():
		return true
	case <-missed:
	case <-due.C:
	}
	return false
}

// answered takes in that the follower has answered args, with success.
func (p *pipeline) answered(args *raft.AppendEntriesRequest) {
	now := told{args.PrevLogEntry + uint64(len(args.Entries)), args.LeaderCommitIndex}
	p.transport.contacts.acknowledged(p.to, args.Term, now.last)
	if before := p.told.Load(); before == nil || *before != now {
		p.told.Store(&now)
	}
}

// credit has Raft take the answer to a heartbeat, which was sent at sent over another
// connection, for one to a request of this pipeline: it then counts as contact, now.
// It reports whether Raft has taken it, and does not block: Raft may be busy with
// another answer, or have ended the pipeline.
//
// Raft looks at nothing but term, success and entries. It has none of those, and
// says nothing of the log.
func (p *pipeline) credit(sent time.Time, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) bool {
	if !resp.Success || resp.Term != args.Term || p.term.Load() != args.Term {
		return false
	}
	answer := *resp // the next heartbeat overwrites it
	select {
	case p.answers <- heartbeatAnswer{sent, args, &answer}:
		return true
	default:
		return false
	}
}

// heartbeatAnswer is a raft.AppendFuture that is done.
type heartbeatAnswer struct {
	sent time.Time
	args *raft.AppendEntriesRequest
	resp *raft.AppendEntriesResponse
}

// Error implements raft.Future.
func (heartbeatAnswer) Error() error { return nil }

// Start implements raft.AppendFuture.
func (a heartbeatAnswer) Start() time.Time { return a.sent }

// Request implements raft.AppendFuture.
func (a heartbeatAnswer) Request() *raft.AppendEntriesRequest { return a.args }

// Response implements raft.AppendFuture.
func (a heartbeatAnswer) Response() *raft.AppendEntriesResponse { return a.resp }

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline. Raft calls it once.
func (p *pipeline) Close() error {
	p.transport.pipelines.CompareAndDelete(p.to, p)
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
		if ended = !f.Response().Success; !ended {
			p.answered(f.Request())
			p.underWay.Add(-1)
		}
		select {
		case p.answers <- f:
		case <-p.closed:
			return
		}
	}
}
