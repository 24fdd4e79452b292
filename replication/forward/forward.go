// Package forward is the one place that guesses the leader, follows its hints
// and sends again what was not answered.
//
// A Forwarder is the Coordinator of every agent: on a voter the local node is
// one of its targets and is asked first, on a proxy all targets are remote. It
// gives each change its request id (session, number) and keeps it over every
// attempt, so that a change whose answer was lost meets its receipt and is
// never applied twice (HAZARDS.md 22). Nothing above re-sends, and nothing
// below does so under another id.
//
// An agent that is cut off from the leader alone has another voter pass its requests
// on, under the same id (detour.go).
//
// What a request does is left to package statemachine, how it reaches another
// agent to package link, and what becomes of it on the leader to package voter.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// attemptTimeout bounds one attempt: a leader that is stopped or cut off
	// neither answers nor breaks the connection. Above any election.
	attemptTimeout = 2 * time.Second
	// minPause and maxPause bound the wait before the next attempt when nobody
	// leads; a pause is drawn between half and all of a doubling value.
	minPause = 5 * time.Millisecond
	maxPause = 200 * time.Millisecond
)

// Local is the voter of this process.
type Local interface {
	// Serve answers req if this voter can: changes only when it leads, reads
	// also when it follows. It returns *replication.NotLeaderError when
	// certainly nothing was applied, replication.ErrUnknownOutcome otherwise. It
	// gives up by itself on a change when its log hangs: no timeout guards it,
	// because one for each change costs more than handing it over does.
	Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error)
	// WatchLocal is Coordinator.Watch, served only while this voter leads.
	WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error
}

// Remote reaches the other voters. Errors are as Local's; anything else may
// have been applied.
type Remote interface {
	Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error)
	Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error
}

// Config is what a Forwarder needs. All fields without "optional" are required.
type Config struct {
	Node   string          // id of this agent
	Host   string          // host name, shown with the request session
	Local  Local           // optional: nil on a proxy
	Remote Remote          // reaches the others
	Relay  Relay           // optional: by way of whom a leader is asked that is not reached
	Voters func() []string // node ids of voters known now, in any order
	// News tells fn who leads in which term (empty: unknown), as node, a voter or
	// this one, knows: at once, and with each change, until ctx ends or the news
	// break off. It is called concurrently; fn does not block. Optional: without
	// it the end of a leader shows only in what is not answered.
	News   func(ctx context.Context, node string, fn func(term uint64, leader string)) error
	Logger *slog.Logger
}

// Forwarder implements replication.Coordinator. Close ends it.
type Forwarder struct {
	cfg    Config
	leader atomic.Pointer[string] // last hint that worked or was given
	reign  atomic.Pointer[reign]  // who leads; never nil
	silent atomic.Pointer[silence]
	detour atomic.Pointer[detour] // nil: the leader is asked itself
	// saidDetour is when a detour was last said; nil: never.
	saidDetour atomic.Pointer[time.Time]
	open       atomic.Int64  // attempts at other agents under way
	ended      atomic.Uint64 // attempts at other agents that have ended, however
	resting    atomic.Bool   // who listens has stopped its clock
	roused     chan struct{} // holds one element: it is to go again
	ids        *numberer
	stop       context.CancelCauseFunc
	stopped    context.Context
	done       sync.WaitGroup // the renewer, and who listens
}

// A silence is of the node that last let an attempt time out: it is left out of
// rounds over all voters for a while. If it leads all the same, the others name it.
type silence struct {
	node  string
	until time.Time
}

// holds reports whether the silence is of node, and not over.
func (s *silence) holds(node string) bool {
	return s.node == node && node != "" && time.Now().Before(s.until)
}

var _ replication.Coordinator = (*Forwarder)(nil)

// New returns a Forwarder and starts what keeps the request session alive while it
// is in use, and what listens to News.
func New(cfg Config) *Forwarder {
	ctx, stop := context.WithCancelCause(context.Background())
	f := &Forwarder{cfg: cfg, roused: make(chan struct{}, 1), stop: stop, stopped: ctx}
	f.reign.Store(newReign(0, "", false))
	f.ids = newNumberer(f.openSession)
	f.done.Go(func() { f.ids.renewLoop(ctx, f.renewSession) })
	if cfg.News != nil {
		f.done.Go(func() { f.listen(ctx) })
	}
	return f
}

// Close ends renewals and news and refuses new requests with ErrStopped. Requests
// under way end with the attempt they are at, or with their own context.
func (f *Forwarder) Close() error {
	f.stop(replication.ErrStopped)
	f.done.Wait()
	return nil
}

// Leader is the presumed leader's node id, empty when unknown.
func (f *Forwarder) Leader() string {
	if p := f.leader.Load(); p != nil {
		return *p
	}
	return ""
}

// Do implements replication.Coordinator.
func (f *Forwarder) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if f.stopped.Err() != nil {
		return nil, replication.ErrStopped
	}
	if req.IsInternal() || req.GetOp() == nil {
		return &replication.Answer{Code: replication.Code_CODE_INVALID, Detail: "this request may not come from outside"}, nil
	}
	if !req.TakesReceipt() {
		ans, _, err := f.send(ctx, req)
		return ans, err
	}
	for {
		id, err := f.ids.take(ctx)
		if err != nil {
			return nil, err
		}
		req.Session, req.Number, req.DoneBelow = id.session, id.number, id.doneBelow
		ans, attempts, err := f.send(ctx, req)
		f.ids.finish(id)
		if err == nil && ans.GetCode() == replication.Code_CODE_UNKNOWN_OUTCOME {
			// The session has ended, or the number fell below the watermark. A
			// request sent exactly once and answered so was certainly not applied.
			f.ids.retire(id.session)
			if attempts == 1 {
				continue
			}
			return nil, fmt.Errorf("sending %T: %w", req.GetOp(), replication.ErrUnknownOutcome)
		}
		return ans, err
	}
}

// send tries target after target until one answers or ctx ends. It returns how
// many attempts may have reached a state machine, the answered one included.
func (f *Forwarder) send(ctx context.Context, req *replication.Request) (*replication.Answer, int, error) {
	var (
		search   search
		attempts int
		lastErr  error
	)
	search.begin(f, req.IsRead())
	for ctx.Err() == nil {
		to, ok := search.next()
		if !ok {
			if f.stopped.Err() != nil {
				return nil, attempts, stoppedAfter(attempts, req)
			}
			search.pause(ctx)
			continue
		}
		attempts++
		under := f.reign.Load()
		ans, err := f.attempt(ctx, to, req)
		if err == nil && attempts > 1 && undecided(ans) {
			// This attempt is in no entry, but an earlier one may be: go on.
			err = fmt.Errorf("%w: %w", replication.ErrUnavailable, ans.Refused())
		}
		if err == nil {
			search.answered(to, req, ans, under)
			return ans, attempts, nil
		}
		if isStopped(err) {
			return nil, attempts, stoppedAfter(attempts-1, req)
		}
		lastErr = err
		if notApplied(err) {
			attempts--
		}
		if ctx.Err() == nil || !to.passesOn() { // who asks has given up: that says nothing of the way
			search.failed(to, err)
		}
	}
	return nil, attempts, f.gaveUp(ctx, req, attempts, lastErr)
}

// undecided reports whether ans refuses a change that never reached the state
// machine: the leader's queue was full.
func undecided(ans *replication.Answer) bool {
	return ans.GetCode() == replication.Code_CODE_LIMIT && ans.GetIndex() == 0
}

// stoppedAfter is the error of a request that this agent's end cut short, after
// so many attempts that may have been applied.
func stoppedAfter(attempts int, req *replication.Request) error {
	if attempts > 0 && !req.IsRead() {
		return fmt.Errorf("%w (%v)", replication.ErrUnknownOutcome, replication.ErrStopped)
	}
	return replication.ErrStopped
}

// gaveUp tells certainly-not from perhaps, with the cause of the end of ctx.
func (f *Forwarder) gaveUp(ctx context.Context, req *replication.Request, attempts int, last error) error {
	outcome := replication.ErrUnavailable
	if attempts > 0 && !req.IsRead() {
		outcome = replication.ErrUnknownOutcome
	}
	if last == nil {
		return fmt.Errorf("%w (%w)", outcome, context.Cause(ctx))
	}
	return fmt.Errorf("%w (%w; last attempt: %v)", outcome, context.Cause(ctx), last)
}

// attempt asks one target once.
func (f *Forwarder) attempt(ctx context.Context, to target, req *replication.Request) (*replication.Answer, error) {
	local := to.node == f.cfg.Node && f.cfg.Local != nil
	if local && !req.IsRead() {
		return f.cfg.Local.Serve(ctx, req)
	}
	asking, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if local {
		return f.cfg.Local.Serve(asking, req)
	}
	// A node that is cut off is silent. Once it is known who leads now, the request
	// goes there at once.
	defer f.deposed(asking, to.who(), cancel)()
	do := f.cfg.Remote.Do
	if to.passesOn() {
		do = f.cfg.Relay.DoVia
	}
	f.open.Add(1)
	f.rouse()
	ans, err := do(asking, to.node, req)
	f.open.Add(-1)
	f.ended.Add(1)
	if err != nil && ctx.Err() == nil && errors.Is(asking.Err(), context.DeadlineExceeded) {
		f.silent.Store(&silence{to.node, time.Now().Add(2 * attemptTimeout)})
	}
	return ans, err
}

// Watch implements replication.Coordinator.
func (f *Forwarder) Watch(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	var search search
	search.begin(f, false)
	for ctx.Err() == nil {
		to, ok := search.next()
		if !ok {
			if f.stopped.Err() != nil {
				return replication.ErrStopped
			}
			search.pause(ctx)
			continue
		}
		began := false
		err := f.watchOne(ctx, to, session, func(ev *replication.Event) {
			began = true
			fn(ev)
		})
		if began || isStopped(err) {
			return err
		}
		if ctx.Err() == nil || !to.passesOn() {
			search.failed(to, err)
		}
	}
	return context.Cause(ctx)
}

func (f *Forwarder) watchOne(ctx context.Context, to target, session []byte, fn func(*replication.Event)) error {
	if to.node == f.cfg.Node && f.cfg.Local != nil {
		return f.cfg.Local.WatchLocal(ctx, session, fn)
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	defer f.deposed(ctx, to.who(), leave)()
	if to.passesOn() {
		return f.cfg.Relay.WatchVia(ctx, to.node, session, fn)
	}
	return f.cfg.Remote.Watch(ctx, to.node, session, fn)
}

func isStopped(err error) bool { return errors.Is(err, replication.ErrStopped) }

// notApplied reports whether err proves that the attempt changed nothing.
func notApplied(err error) bool {
	var notLeader *replication.NotLeaderError
	return errors.As(err, &notLeader) || errors.Is(err, replication.ErrUnavailable)
}
