// Package questions asks an agent random questions about a few keys, locks and
// sequences, and records each with its answer in a history.Recorder.
//
// The main type is Asker: one Question is one operation (for a lock, a try and
// the unlock after it). How many clients ask, how often, and which errors are
// failures is left to the test.
package questions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/history"
)

// leaseBeyondTest is a lease that no test outlives, as the model wants it.
const leaseBeyondTest = 12 * time.Hour

const (
	keys      = 4
	sequences = 2
)

// An Asker asks. Its methods may be called concurrently.
type Asker struct {
	History  *history.Recorder
	Prefix   string        // before the name of every object
	Locks    int           // so many locks; at least 1
	Patience time.Duration // of one operation that has to be asked again until it is answered

	returns sync.WaitGroup // locks being given back
}

// Wait blocks until every lock that was got without an answer is given back, or
// its life has ended.
func (a *Asker) Wait() { a.returns.Wait() }

// Prepare makes the sequences.
func (a *Asker) Prepare(ctx context.Context, c *client.Client) error {
	for i := range sequences {
		if _, err := c.SequenceCreate(ctx, a.sequence(i), wire.SequenceCreate{}); err != nil {
			return fmt.Errorf("making a sequence for the workload: %w", err)
		}
	}
	return nil
}

func (a *Asker) sequence(i int) string { return fmt.Sprintf("%ss%d", a.Prefix, i) }

// Question asks one thing; the n-th of the client of this name, with the
// revisions that it has seen, by key. changed says that a change was
// acknowledged or refused by the quorum. An error is one that a user would
// see. A lock that may have been got is then given back in the background,
// however long that takes, or until life ends: see Wait. It asks by
// a client of its own.
func (a *Asker) Question(ctx, life context.Context, c *client.Client, name string, n int, revisions map[string]int64) (changed bool, err error) {
	key := fmt.Sprintf("%sk%d", a.Prefix, rand.IntN(keys))
	value := fmt.Sprintf("%s.%d", name, n)
	switch rand.IntN(6) {
	case 0:
		p := a.History.Set(key, value)
		got, err := c.KVSet(ctx, key, []byte(value), client.WriteOptions{})
		return wrote(p, got, err)
	case 1:
		revision := revisions[key]
		p := a.History.SetIf(key, value, revision)
		got, err := c.KVSet(ctx, key, []byte(value), client.WriteOptions{If: client.Condition{Revision: &revision}})
		return wrote(p, got, err)
	case 2, 3:
		return false, a.get(ctx, c, key, revisions)
	case 4:
		sequence := a.sequence(rand.IntN(sequences))
		p := a.History.Next(sequence, 1)
		got, err := c.SequenceNext(ctx, sequence, "")
		if err != nil {
			return false, unanswered(p, err)
		}
		p.Got(got.Start, got.End)
		return true, nil
	}
	return a.pair(ctx, life, c, value)
}

func (a *Asker) get(ctx context.Context, c *client.Client, key string, revisions map[string]int64) error {
	p := a.History.Get(key)
	got, err := c.KVGet(ctx, key, client.ReadOptions{})
	switch {
	case errors.Is(err, client.ErrNotFound):
		p.Missing()
		return nil
	case err != nil:
		p.Never() // a read without an answer says nothing
		return err
	}
	revisions[key] = got.Revision
	p.Found(got.Revision, string(got.Value))
	return nil
}

// wrote records what became of a set.
func wrote(p *history.Pending, got wire.Written, err error) (bool, error) {
	var failed *client.ConditionError
	switch {
	case errors.As(err, &failed):
		p.Refused(failed.Revision)
		return true, nil
	case err != nil:
		return false, unanswered(p, err)
	}
	p.Done(got.Revision)
	return true, nil
}

// questionsPerLock is how many questions are asked, of all kinds, before other
// locks are tried: some faults long. What a judge has to try doubles with each
// change of a lock whose outcome is unknown.
const questionsPerLock = 1500

// pair tries a lock and gives it back.
func (a *Asker) pair(ctx, life context.Context, c *client.Client, owner string) (bool, error) {
	lock := fmt.Sprintf("%sgate%d-%d", a.Prefix, rand.IntN(a.Locks), a.History.Count()/questionsPerLock)
	p := a.History.Try(lock, owner)
	got, err := c.LockTry(ctx, lock, []byte(owner), leaseBeyondTest, client.LockOptions{})
	switch {
	case errors.Is(err, client.ErrBusy):
		p.Busy()
		return true, nil
	case err != nil:
		if err = unanswered(p, err); !certainlyNot(err) {
			a.returns.Go(func() { a.giveBack(life, c.Socket(), lock, owner) }) // it may be ours, and nobody else would ever get it
		}
		return false, err
	}
	p.Granted(got.Token)
	p = a.History.Unlock(lock, owner)
	if err := c.LockUnlock(ctx, lock, []byte(owner), client.LockOptions{}); err != nil {
		err = unanswered(p, err)
		a.returns.Go(func() { a.giveBack(life, c.Socket(), lock, owner) })
		return false, err
	}
	p.Unlocked(true)
	return true, nil
}

// giveBack unlocks until there is an answer, or life ends.
func (a *Asker) giveBack(life context.Context, socket, lock, owner string) {
	c := client.New(client.Options{Socket: socket})
	defer c.Close()
	for life.Err() == nil {
		ctx, cancel := context.WithTimeout(life, a.Patience)
		p := a.History.Unlock(lock, owner)
		err := c.LockUnlock(ctx, lock, []byte(owner), client.LockOptions{})
		switch {
		case err == nil:
			p.Unlocked(true)
		case errors.Is(err, client.ErrNotFound), errors.Is(err, client.ErrNotOwner):
			p.Unlocked(false)
			err = nil
		default:
			_ = unanswered(p, err)
		}
		if err == nil {
			cancel()
			return
		}
		select { // not too often: the agent is being started again
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		cancel()
	}
}

// unanswered records a change without an answer, and returns the error.
func unanswered(p *history.Pending, err error) error {
	if certainlyNot(err) {
		p.Never()
	} else {
		p.Unknown()
	}
	return err
}

// certainlyNot says that a change with this error has not happened, and will not.
func certainlyNot(err error) bool {
	return errors.Is(err, client.ErrNoAgent) || errors.Is(err, client.ErrUnavailable)
}
