package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// TxOptions of TransactWith. The zero value is an optimistic transaction.
type TxOptions struct {
	// ReadOnly reads all keys as of one moment, without a transaction at the
	// quorum: it never conflicts, writes no log, and refuses writes and locks. The
	// moment is that of the first read, or AsOf.
	ReadOnly bool
	// AsOf is the past moment of a ReadOnly one (wire.ParseMoment). ErrTooOld when
	// history does not go back so far.
	AsOf *replication.Timestamp
	// Pessimistic locks what is read and written at the first touch, so that
	// nobody else changes it before the end: for what is contended for or costly
	// to run again. Who finds something locked begins again; nobody waits with
	// locks in hand, so that there are no deadlocks.
	Pessimistic bool
	// Lock names keys, in the persistent table, that are locked before the
	// function runs, all or none.
	Lock []string
	// Timeout of one run of the function; 0: 5 s. Rounded up to milliseconds, at
	// most 5 min. The quorum ends a transaction 15 s after it.
	Timeout time.Duration
	// Durable aborts a commit that has written an ephemeral key.
	Durable bool
	// Priority in line for a slot: background, low, normal (also when empty), high
	// or critical.
	Priority string
}

// How conflicts and lost answers are met.
const (
	txFirstPause = 2 * time.Millisecond
	txMaxPause   = 250 * time.Millisecond
	// txSlowRuns in a row that the clock has ended are no bad luck.
	txSlowRuns = 3
	// txCommitPatience bounds asking for the outcome of a commit when ctx does not.
	// Outcomes are remembered for 5 minutes.
	txCommitPatience = time.Minute
	// txRollbackPatience bounds a rollback, which also the clock would do.
	txRollbackPatience = 2 * time.Second
)

// Transact runs fn in an optimistic transaction and commits what it wrote: all of
// it, if nothing that it read has changed meanwhile, or nothing. On a conflict fn
// runs again from its beginning, in a new transaction, after a growing pause,
// until ctx ends: fn must have no effect but through tx, or one that may be
// repeated. What is committed is strictly serializable with everything else.
//
// An error of fn, and a panic, roll back; the error is returned as it is. It may
// rest on reads of which one has changed since: only a commit checks that. An
// error of tx that fn drops is returned by the commit, but for ErrNotFound and
// ErrConditionFailed, which are answers.
//
// ErrUnknownOutcome: the commit was sent, and ctx ended, or the agent was gone for
// a minute, before its outcome was known. It is never answered by running fn
// again. A lost answer alone is no such case: operations and the commit carry ids,
// are sent again, and give their first answer.
//
// ErrConflict together with the cause of ctx: there was no run without a conflict
// before ctx ended. ErrLimit: three runs in a row took longer than the
// transaction's timeout, or fn touched too many keys. ErrUnavailable: no quorum,
// or no slot for another transaction. Nothing was changed in these cases.
func (c *Client) Transact(ctx context.Context, fn func(tx *Tx) error) error {
	return c.TransactWith(ctx, TxOptions{}, fn)
}

// TransactWith is Transact with options.
func (c *Client) TransactWith(ctx context.Context, o TxOptions, fn func(tx *Tx) error) error {
	start, err := o.start()
	if err != nil {
		return fmt.Errorf("transaction: %w", err)
	}
	pause, slow := txFirstPause, 0
	for {
		again, err := c.runTx(ctx, o, start, fn)
		if again == nil {
			return err
		}
		if errors.Is(again, errTxSlow) {
			if slow++; slow == txSlowRuns {
				return fail(fmt.Sprintf("transaction: %d runs took longer than its timeout of %s; ask for more", slow, o.timeout()), ErrLimit)
			}
		} else {
			slow = 0
		}
		timer := time.NewTimer(time.Duration(mathrand.Int64N(int64(pause))) + pause/2)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fail("transaction: given up after a conflict: "+again.Error(), ErrConflict, context.Cause(ctx))
		}
		pause = min(2*pause, txMaxPause)
	}
}

// errTxSlow marks a conflict that is the clock's.
var errTxSlow = errors.New("the transaction took longer than its timeout")

func (o TxOptions) timeout() time.Duration {
	if o.Timeout <= 0 {
		return 5 * time.Second
	}
	return o.Timeout
}

// start is the request that begins a run; nil for ReadOnly.
func (o TxOptions) start() (*replication.TxStart, error) {
	switch {
	case o.AsOf != nil && !o.ReadOnly:
		return nil, fail("a moment to read as of is for ReadOnly", ErrInvalid)
	case o.ReadOnly && (o.Pessimistic || o.Durable || len(o.Lock) > 0):
		return nil, fail("what only reads needs no locks, and commits nothing", ErrInvalid)
	case o.Timeout < 0:
		return nil, fail("the timeout is negative", ErrInvalid)
	case o.ReadOnly:
		return nil, nil
	}
	b := wire.TxBegin{Priority: o.Priority, Durable: o.Durable}
	if o.Pessimistic {
		b.Locking = "pessimistic"
	}
	s, err := b.Request(wire.NewTxSecret())
	if err != nil {
		return nil, fail(err.Error(), ErrInvalid)
	}
	s.TimeoutMs = int64((o.timeout() + time.Millisecond - 1) / time.Millisecond)
	return s, nil
}

// runTx runs fn once. again is the conflict that is to be answered by another run.
func (c *Client) runTx(ctx context.Context, o TxOptions, start *replication.TxStart, fn func(*Tx) error) (again, err error) {
	t := &Tx{client: c, ctx: ctx, options: o, asOf: o.AsOf}
	if start != nil {
		if err := t.begin(start); err != nil {
			return nil, err
		}
	}
	ended := false
	defer func() { // also when fn panics
		t.finish(!ended)
	}()
	if len(o.Lock) > 0 {
		err = t.Lock(o.Lock...)
	}
	if err == nil {
		err = fn(t)
	}
	if broken := t.trouble(); broken != nil && t.conflicted() {
		return broken, nil
	} else if err == nil {
		err = broken
	}
	if err != nil || start == nil {
		return nil, err
	}
	ended = true
	return t.commit()
}

// Tx is a transaction while the function of Transact runs. Its methods block
// until their answer is there, and may be called concurrently, one at a time
// being carried out; after the function has returned they fail with ErrClosed.
// An error other than ErrNotFound and ErrConditionFailed ends it: what follows
// fails with the same error.
type Tx struct {
	client  *Client
	ctx     context.Context
	options TxOptions
	ref     replication.TxRef // without an operation
	ends    time.Time         // when the quorum ends it, at the earliest

	mu     sync.Mutex
	broken error                  // what ended it
	again  bool                   // broken is answered by another run
	ended  bool                   // the function has returned
	asOf   *replication.Timestamp // ReadOnly: once known
}

// Context returns the context that Transact was given.
func (t *Tx) Context() context.Context { return t.ctx }

func (t *Tx) begin(start *replication.TxStart) error {
	t.ref.CoordinatorKey = start.CoordinatorKey
	began := time.Now()
	for {
		a, err := t.client.Do(t.ctx, &replication.Request{Op: &replication.Request_TxStart{TxStart: start}})
		if err == nil {
			err = Refusal(a)
		}
		if err == nil {
			t.ref.Id = a.GetTxStarted().GetId()
			t.ends = time.Now().Add(time.Duration(a.GetTxStarted().GetRemainingMs()) * time.Millisecond)
			return nil
		}
		// One that was begun and nobody knows of is ended by the clock.
		if !errors.Is(err, ErrUnknownOutcome) || t.ctx.Err() != nil || time.Since(began) > txCommitPatience {
			if errors.Is(err, ErrUnknownOutcome) {
				err = fail("no transaction was begun: "+err.Error(), ErrUnavailable, context.Cause(t.ctx))
			}
			return fmt.Errorf("transaction: %w", err)
		}
		if !t.rest(txFirstPause) {
			return fail("no transaction was begun: "+context.Cause(t.ctx).Error(), ErrUnavailable, context.Cause(t.ctx))
		}
	}
}

// rest waits, and reports whether ctx lives.
func (t *Tx) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

func (t *Tx) trouble() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken
}

func (t *Tx) conflicted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.again
}

// finish makes t useless, and rolls it back when it was not committed. An error
// is not looked at: the clock rolls back as well.
func (t *Tx) finish(rollback bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	if !rollback || t.ref.Id == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), txRollbackPatience)
	defer cancel()
	_, _ = t.client.Do(ctx, &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: t.reference(nil)}}})
}

func (t *Tx) reference(operation []byte) *replication.TxRef {
	return &replication.TxRef{Id: t.ref.Id, CoordinatorKey: t.ref.CoordinatorKey, Operation: operation}
}

// passing reports errors after which the same request, under the same operation
// id, may be sent again.
func passing(err error) bool {
	return errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoAgent)
}

// send carries out one operation, sending it again while its answer is lost. An
// error of it has ended t, if it is no answer. The caller has t.mu.
func (t *Tx) send(what, name string, req *replication.Request) (*replication.Answer, error) {
	for pause := txFirstPause; ; pause = min(2*pause, txMaxPause) {
		a, err := t.client.Do(t.ctx, req)
		if err == nil {
			err = Refusal(a)
		}
		switch {
		case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrConditionFailed):
			return a, about(what, name, err)
		case passing(err) && time.Now().Before(t.ends) && t.rest(pause):
			continue
		}
		t.broken = about(what, name, err)
		t.again = errors.Is(err, ErrConflict)
		if t.again && time.Now().After(t.ends) {
			t.broken = fmt.Errorf("%w: %w", errTxSlow, t.broken)
		}
		if errors.Is(err, ErrUnknownOutcome) { // nothing is committed yet, and never will be
			t.broken = fail(t.broken.Error(), ErrUnavailable, context.Cause(t.ctx))
		}
		return a, t.broken
	}
}

var errTxEnded = fail("the transaction has ended: its function has returned", ErrClosed)

// usable returns why t is of no use any more. The caller has t.mu.
func (t *Tx) usable(writes bool) error {
	switch {
	case t.ended:
		return errTxEnded
	case t.broken != nil:
		return t.broken
	case writes && t.options.ReadOnly:
		t.broken = fail("a transaction that only reads cannot write or lock", ErrInvalid)
	}
	return t.broken
}

func newOperation() []byte {
	b := make([]byte, replication.OperationIDBytes)
	_, _ = rand.Read(b) // never fails
	return b
}

// commit asks for the end until it is known. again is a conflict.
func (t *Tx) commit() (again, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, errTxEnded
	}
	req := &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: t.reference(nil), Commit: true}}}
	doubt, began := false, time.Now()
	for pause := txFirstPause; ; pause = min(2*pause, txMaxPause) {
		a, err := t.client.Do(t.ctx, req)
		if err == nil {
			if a.GetTxEnded().GetOutcome() == replication.TxOutcome_TX_OUTCOME_COMMITTED {
				return nil, nil
			}
			if a.GetTxEnded().GetOutcome() == replication.TxOutcome_TX_OUTCOME_ROLLED_BACK {
				return fmt.Errorf("%w: it was rolled back by the clock", errTxSlow), nil
			}
			if err = Refusal(a); err == nil {
				err = fail("the agent answered a commit without an outcome", ErrInternal)
			}
		}
		switch {
		case errors.Is(err, ErrConflict):
			return err, nil // nothing was changed: the first end decides
		case !passing(err):
			if doubt { // sent before, and now nobody remembers it
				return nil, fail("committing: the outcome is unknown: "+err.Error(), ErrUnknownOutcome)
			}
			return nil, fmt.Errorf("committing: %w", err)
		}
		doubt = doubt || errors.Is(err, ErrUnknownOutcome)
		if time.Since(began) < txCommitPatience && t.rest(pause) {
			continue
		}
		if doubt {
			return nil, fail("committing: given up before the outcome was known; look before running it again: "+err.Error(),
				ErrUnknownOutcome, context.Cause(t.ctx))
		}
		return nil, fmt.Errorf("committing: %w", err)
	}
}
