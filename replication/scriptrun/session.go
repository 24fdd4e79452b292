package scriptrun

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// rollbackTime bounds how long a session that failed tries to free its locks at
// once; the quorum ends it by its clock in any case.
const rollbackTime = 5 * time.Second

// errTimeout is the cause of a session's context that has reached the script's
// own timeout.
var errTimeout = errors.New("the script's own timeout")

const (
	reasonSlots   = "Node is at its transaction admission limit"
	reasonAborted = "Transaction aborted"
)

// session runs a script as a transaction that this agent holds open. A
// pessimistic one takes all its locks in one command before the first statement
// (decisions.md 41).
func (r *Runner) session(ctx context.Context, p *script.Program, o script.Options, s *replication.Script) (*replication.Answer, error) {
	select {
	case r.sessions <- struct{}{}:
		defer func() { <-r.sessions }()
	default:
		return answer(script.Result{Type: script.TypeAdmissionRefused, Reason: reasonSlots}), nil
	}
	if o.TimeoutMS == 0 {
		return answer(script.Result{Type: script.TypeAborted, Reason: script.ReasonTimeout}), nil
	}
	t := &transaction{coordinator: r.coordinator, options: o, yield: s.GetYield()}
	res, err := t.start(ctx, s.GetPriority())
	if err != nil || res != nil {
		return res, noEffect(err)
	}
	// The time that a script has begins when it was admitted.
	limited, cancel := context.WithTimeoutCause(ctx, time.Duration(o.TimeoutMS)*time.Millisecond, errTimeout)
	defer cancel()
	t.ctx = limited
	result, err := t.run(p, script.ParamsOf(s))
	if err = noEffect(err); err == nil && result.Commit {
		result, err = t.commit(result)
	} else {
		t.rollback(ctx)
	}
	switch {
	case errors.Is(err, replication.ErrUnknownOutcome):
		return nil, err
	case err != nil && errors.Is(context.Cause(limited), errTimeout):
		result = script.Result{Type: script.TypeAborted, Reason: script.ReasonTimeout}
	case err != nil:
		return nil, err
	}
	a := answer(result)
	a.Index, a.Time = t.index, t.label
	return a, nil
}

// noEffect is the error of a step before the commit: whatever became of the step,
// the script has had no effect, and never will.
func noEffect(err error) error {
	if errors.Is(err, replication.ErrUnknownOutcome) {
		return fmt.Errorf("%w: before the commit: %v", replication.ErrUnavailable, err)
	}
	return err
}

// transaction is the store of a session. It is used by one goroutine.
type transaction struct {
	ctx         context.Context
	coordinator replication.Coordinator
	options     script.Options
	yield       bool

	ref     *replication.TxRef
	index   uint64
	label   *replication.Timestamp // of the last answer
	labelAt time.Time              // when it came
}

func (t *transaction) ask(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	a, err := t.coordinator.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	if a.GetTime() != nil {
		t.index, t.label, t.labelAt = a.GetIndex(), a.GetTime(), time.Now()
	}
	return a, nil
}

var priorities = map[string]replication.TxPriority{
	"background": replication.TxPriority_TX_PRIORITY_BACKGROUND, "low": replication.TxPriority_TX_PRIORITY_LOW,
	"normal": replication.TxPriority_TX_PRIORITY_NORMAL, "high": replication.TxPriority_TX_PRIORITY_HIGH,
	"critical": replication.TxPriority_TX_PRIORITY_CRITICAL,
}

// start begins the transaction. An answer says that it was not let in.
func (t *transaction) start(ctx context.Context, priority replication.TxPriority) (*replication.Answer, error) {
	o := t.options
	if own, ok := priorities[o.Priority]; ok {
		priority = own
	}
	op := &replication.TxStart{
		TimeoutMs: o.TimeoutMS, AsyncRelease: o.AsyncRelease, AutoCommit: o.AutoCommit, Priority: priority,
		AdmissionWaitMs: o.AdmissionWaitMS, Yield: t.yield, ReadTimestamp: asOf(o.SnapshotMS),
	}
	if o.Optimistic {
		op.Locking = replication.TxLocking_TX_LOCKING_OPTIMISTIC
	}
	a, err := t.ask(ctx, &replication.Request{Op: &replication.Request_TxStart{TxStart: op}})
	switch {
	case err != nil:
		return nil, err
	case a.GetCode() == replication.Code_CODE_ADMISSION_REFUSED:
		return answer(script.Result{Type: script.TypeAdmissionRefused, Reason: a.GetDetail()}), nil
	case a.GetCode() != replication.Code_CODE_OK:
		return a, nil
	}
	t.ref = &replication.TxRef{Id: a.GetTxStarted().GetId()}
	return nil, nil
}

// run takes the locks and evaluates the script.
func (t *transaction) run(p *script.Program, params []script.Param) (script.Result, error) {
	if !t.options.Optimistic && t.options.SnapshotMS == 0 {
		locks, err := p.Locks(params)
		if err != nil {
			return script.ParseResult(err), nil
		}
		if refused, err := t.lock(locks); err != nil || refused != nil {
			return script.Result{Type: script.TypeAborted, Reason: reasonOf(refused)}, err
		}
	}
	return p.Run(t, script.Env{Params: params, Fuel: script.EntryFuel, Refill: t.refill, Sleep: t.sleep})
}

func reasonOf(l *script.Lock) string {
	if l == nil {
		return reasonAborted
	}
	return script.LockRefused(*l)
}

// lock takes all locks or none, and returns the one that was refused.
func (t *transaction) lock(locks []script.Lock) (*script.Lock, error) {
	if len(locks) == 0 {
		return nil, nil
	}
	op := &replication.TxLock{Tx: t.ref}
	for _, l := range locks {
		item := &replication.TxLockItem{Durability: l.Durability, Key: l.Name}
		if l.Bucket {
			item.Kind = replication.TxLockKind_TX_LOCK_KIND_PREFIX
		}
		op.Locks = append(op.Locks, item)
	}
	a, err := t.ask(t.ctx, &replication.Request{Op: &replication.Request_TxLock{TxLock: op}})
	switch {
	case err != nil:
		return nil, err
	case a.GetCode() == replication.Code_CODE_OK:
		return nil, nil
	case a.GetCode() == replication.Code_CODE_LOCKED && int(a.GetTxLocked().GetBlocked()) < len(locks):
		return &locks[a.GetTxLocked().GetBlocked()], nil
	}
	return &locks[0], nil
}

// refill lets the script go on as long as it has time.
func (t *transaction) refill() error { return context.Cause(t.ctx) }

func (t *transaction) sleep(ms int64) error {
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// Clock implements script.Store: the label of the last answer, and the time since.
func (t *transaction) Clock() script.Time {
	now := timeOf(t.label)
	if since := time.Since(t.labelAt).Milliseconds(); since > 0 {
		now = script.Time{MS: now.MS + since}
	}
	return now
}

// Get implements script.Store. What asks for another state than the present one
// sees committed values only, and the commit does not depend on it
// (scripts-second-reading.md 27, 28).
func (t *transaction) Get(key script.Key, at script.At, withValue bool) (script.Row, error) {
	if at != (script.At{}) {
		p := plain{ctx: t.ctx, coordinator: t.coordinator}
		return p.Get(key, at, withValue)
	}
	a, err := t.ask(t.ctx, &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{
		Tx: t.ref, Keys: []*replication.GetKey{getKey(key, at)}, KeysOnly: !withValue}}})
	if err != nil {
		return script.Row{}, err
	}
	if a.GetCode() == replication.Code_CODE_ABORTED {
		return script.Row{}, &script.AbortError{Reason: reasonAborted}
	}
	return rowOf(key, a)
}

// Range implements script.Store. Each page is a read of its own: what comes in
// between is found at the commit.
func (t *transaction) Range(r script.Range, yield func(*script.Row) bool) (looked int, err error) {
	op := &replication.Range{Durability: r.Durability, Prefix: r.Prefix, Bucket: r.Bucket}
	for {
		req := &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: t.ref, Range: op}}}
		if r.AsOfMS != 0 {
			op.AsOf = asOf(r.AsOfMS)
			req = &replication.Request{Op: &replication.Request_Range{Range: op}}
		}
		a, err := t.ask(t.ctx, req)
		switch {
		case err != nil:
			return 0, err
		case a.GetCode() == replication.Code_CODE_ABORTED:
			return 0, &script.AbortError{Reason: reasonAborted}
		case a.GetCode() != replication.Code_CODE_OK:
			return 0, refused(a)
		}
		entries := a.GetEntries().GetEntries()
		for _, e := range entries {
			row := entryRow(e)
			if !yield(&row) {
				return 0, nil
			}
		}
		if !a.GetEntries().GetMore() {
			return 0, nil
		}
		var last string
		switch resume := a.GetEntries().Resume; {
		case resume != nil:
			last = *resume
		case len(entries) == 0:
			return 0, fmt.Errorf("a page of %q has no rows, and there are more", r.Prefix)
		default:
			last = entries[len(entries)-1].GetKey()
		}
		op = &replication.Range{Durability: r.Durability, Prefix: r.Prefix, Bucket: r.Bucket, Start: &last, StartExclusive: true}
	}
}

// Write implements script.Store.
func (t *transaction) Write(item *replication.WriteItem) (script.Written, error) {
	item.Yield = t.yield
	a, err := t.ask(t.ctx, &replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{
		Tx: t.ref, Items: []*replication.WriteItem{item}}}})
	if err != nil {
		return script.Written{}, err
	}
	items := a.GetWritten().GetItems()
	if a.GetCode() == replication.Code_CODE_ABORTED || len(items) == 1 && items[0].GetCode() == replication.Code_CODE_LOCKED {
		return script.Written{}, &script.AbortError{Reason: reasonAborted}
	}
	return written(a)
}

// commit ends the transaction for good. A commit that failed hides its cause, as
// in the reference (scripts.md 72).
func (t *transaction) commit(res script.Result) (script.Result, error) {
	a, err := t.ask(t.ctx, &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: t.ref, Commit: true}}})
	if err != nil {
		return script.Result{}, err
	}
	if a.GetTxEnded().GetOutcome() != replication.TxOutcome_TX_OUTCOME_COMMITTED {
		return script.Result{Type: script.TypeAborted, Reason: reasonAborted, Fuel: res.Fuel}, nil
	}
	return res, nil
}

// rollback frees the locks, also when ctx has ended. Its failure changes nothing.
func (t *transaction) rollback(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	_, _ = t.coordinator.Do(ctx, &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: t.ref}}})
}
