package kahuna

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// handler gives the requests of one kind of stream their meaning.
type handler[Req, Resp any] interface {
	// frame returns the requests in a message that is a frame.
	frame(*Req) (items []*Req, is bool)
	// serve answers one request. charge is what the answer takes of the budget.
	serve(context.Context, *Req) (answer *Resp, charge int)
	// refuse answers a request that met a bug of ours.
	refuse(*Req) *Resp
	// outcome names the rpc that an answer is of, and its code, for the Observer.
	outcome(*Resp) (method, result string)
}

// batch serves one stream: requests at the same time, answers in the order in
// which they are ready, at most Config.MaxInFlight of both together. A request counts
// until its answer is written, so that a client that does not read is not read
// either (decisions.md 53).
//
// One goroutine reads. Each request is served by a goroutine of the pool; the one
// whose answer finds nobody writing becomes the writer and takes along whatever
// others answer meanwhile. So answers share a write when there are many, and wait
// for nobody when there is one.
type batch[Req, Resp any] struct {
	s       *Service
	ctx     context.Context // of the stream
	stream  grpc.BidiStreamingServer[Req, Resp]
	handler handler[Req, Resp]
	limit   coarseDeadline // of one request; used by the reader alone
	stalled chan struct{}  // gets a token when the client does not read

	mu       sync.Mutex
	inFlight int  // requests being served, and answers unwritten
	writing  bool // somebody is the writer
	full     bool // the reader waits for room
	closed   bool // no more requests are taken
	ready    []*Resp
	spare    []*Resp
	charged  int           // what ready takes of the budget
	err      error         // why nothing is sent any more
	room     chan struct{} // gets a token when inFlight falls below its bound
	change   chan struct{} // gets a token when the stream may have come to its end
}

// errAgentStops ends the streams of an agent that stops, after their answers.
var errAgentStops = status.Error(codes.Unavailable, "the agent is stopping")

// errNotRead ends a stream whose client does not read.
var errNotRead = status.Error(codes.ResourceExhausted, "the answers of this stream are not read")

// serveBatch serves a stream to its end: the client's half-close with all answers
// written, a broken stream, or the end of the Service.
func serveBatch[Req, Resp any](s *Service, stream grpc.BidiStreamingServer[Req, Resp], h handler[Req, Resp]) error {
	if err := s.beginStream(); err != nil {
		return err
	}
	defer s.endStream()
	ctx := stream.Context()
	b := &batch[Req, Resp]{s: s, ctx: ctx, stream: stream, handler: h, limit: coarseDeadline{parent: ctx, d: s.cfg.LeaderWait},
		stalled: make(chan struct{}, 1), room: make(chan struct{}, 1), change: make(chan struct{}, 1)}
	read := make(chan error, 1)
	go func() { // ends when the stream does; Service.Close waits for it
		defer s.endReader()
		read <- b.read()
	}()
	return b.wait(read)
}

// wait returns when the stream is over.
func (b *batch[Req, Resp]) wait(read <-chan error) error {
	var ended error // why no more requests come
	done := false
	stopping := b.s.stopping.Done()
	for {
		if over, err := b.over(done); over {
			if err != nil {
				return err
			}
			return ended
		}
		select {
		case err := <-read:
			done = true
			if ended == nil && !errors.Is(err, io.EOF) {
				ended = err
			}
		case <-stopping:
			stopping, done, ended = nil, true, errAgentStops
			b.close()
		case <-b.change:
		case <-b.ctx.Done():
			err := status.FromContextError(b.ctx.Err()).Err()
			b.fail(err)
			return err
		case <-b.stalled:
			b.fail(errNotRead)
			return errNotRead
		}
	}
}

// over reports whether the stream has come to its end, and with which error of
// the sending.
func (b *batch[Req, Resp]) over(done bool) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.writing:
		return false, nil
	case b.err != nil:
		return true, b.err
	case !done || b.inFlight > 0:
		return false, nil
	}
	b.err = io.ErrClosedPipe // nothing is sent after the handler has returned
	return true, nil
}

// close takes no more requests.
func (b *batch[Req, Resp]) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// fail takes no more requests and ends the sending of answers. Somebody may still
// be writing, until the handler has returned.
func (b *batch[Req, Resp]) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.closed = true
}

// read takes requests until the client or the stream ends.
func (b *batch[Req, Resp]) read() error {
	for {
		message, err := b.stream.Recv()
		if err != nil {
			return err
		}
		items, is := b.handler.frame(message)
		if !is {
			if !b.take(message) {
				return nil
			}
			continue
		}
		for _, req := range items {
			if !b.take(req) {
				return nil
			}
		}
	}
}

// take has one request served, and reports false when the stream is over.
func (b *batch[Req, Resp]) take(req *Req) bool {
	if !b.enter() {
		return false
	}
	if !b.s.pool.run(b.ctx, &batchItem[Req, Resp]{b: b, ctx: b.limit.now(), req: req, began: time.Now()}) {
		b.leave(1)
		return false
	}
	return true
}

// enter counts one more request, and waits while there are too many.
func (b *batch[Req, Resp]) enter() bool {
	for {
		b.mu.Lock()
		switch {
		case b.err != nil || b.closed:
			b.mu.Unlock()
			return false
		case b.inFlight < b.s.cfg.MaxInFlight:
			b.inFlight++
			b.mu.Unlock()
			return true
		}
		b.full = true
		b.mu.Unlock()
		select {
		case <-b.room:
		case <-b.ctx.Done():
			return false
		}
	}
}

func (b *batch[Req, Resp]) leave(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaveLocked(n)
}

// leaveLocked uncounts requests whose answers were written, or never will be.
func (b *batch[Req, Resp]) leaveLocked(n int) {
	b.inFlight -= n
	if b.full {
		b.full = false
		token(b.room)
	}
	if b.inFlight == 0 || b.err != nil {
		token(b.change)
	}
}

// token leaves one in c, unless there is one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// answer queues one answer, and writes all that are queued unless somebody is at
// it.
func (b *batch[Req, Resp]) answer(r *Resp, charge int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		b.s.answers.give(charge)
		b.leaveLocked(1)
		return
	}
	b.ready, b.charged = append(b.ready, r), b.charged+charge
	if b.writing {
		return
	}
	b.writing = true
	for len(b.ready) > 0 && b.err == nil {
		b.writeReady()
	}
	b.s.answers.give(b.charged)
	n := len(b.ready)
	b.ready, b.charged, b.writing = nil, 0, false
	b.leaveLocked(n)
	token(b.change)
}

// writeReady writes what is queued. It is called with mu held, which is free
// meanwhile.
func (b *batch[Req, Resp]) writeReady() {
	out, charged := b.ready, b.charged
	b.ready, b.spare, b.charged = b.spare[:0], nil, 0
	b.mu.Unlock()
	slow := time.AfterFunc(b.s.cfg.WriteTimeout, func() { token(b.stalled) })
	err := b.send(out)
	slow.Stop()
	b.s.answers.give(charged)
	n := len(out)
	clear(out)
	b.mu.Lock()
	b.spare = out[:0]
	if err != nil && b.err == nil {
		b.err = err
	}
	b.leaveLocked(n)
}

// send blocks while the client does not read, and fails when the handler has
// returned.
func (b *batch[Req, Resp]) send(out []*Resp) error {
	for _, r := range out {
		if err := b.stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// batchItem is one request on its way.
type batchItem[Req, Resp any] struct {
	b   *batch[Req, Resp]
	ctx context.Context
	req *Req

	began time.Time
}

// work implements job.
func (i *batchItem[Req, Resp]) work() {
	answer, charge := i.serve()
	method, result := i.b.handler.outcome(answer)
	i.b.s.cfg.Observer.Answered(method, result, time.Since(i.began))
	i.b.answer(answer, charge)
}

// serve turns a panic into an answer: one request must not end the agent, which
// keeps the locks of this host alive.
func (i *batchItem[Req, Resp]) serve() (answer *Resp, charge int) {
	defer func() {
		if p := recover(); p != nil {
			i.b.s.cfg.Logger.Error("a request of a batch stream panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			answer, charge = i.b.handler.refuse(i.req), 0
		}
	}()
	return i.b.handler.serve(i.ctx, i.req)
}
