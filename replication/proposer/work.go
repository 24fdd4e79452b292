package proposer

import (
	"errors"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// batch is one closed entry.
type batch struct {
	waiters []*waiter
	entry   replication.LogEntry
}

// work is the loop of one worker: collect, propose, answer. One worker collects
// at a time, and only workers without an entry in flight do: that is the bound.
func (p *Proposer) work() {
	var b batch
	linger := newStoppedTimer()
	defer linger.Stop()
	for {
		select {
		case p.turn <- struct{}{}:
		case <-p.stop:
			return
		}
		ok := p.collect(&b, linger)
		<-p.turn
		if !ok {
			return
		}
		p.propose(&b)
	}
}

// collect blocks until there is something to propose, lets it linger, closes
// the batch and stamps it. It returns false when the proposer stops.
func (p *Proposer) collect(b *batch, linger *time.Timer) bool {
	clear(b.waiters)
	b.waiters = b.waiters[:0]
	for {
		if !p.await(1, nil) {
			return false
		}
		if !p.linger(linger) {
			return false
		}
		if p.close(b) {
			return true
		}
		// Withdrawn or resigned meanwhile: wait for the next one.
	}
}

// linger waits for callers that were just answered, as long as they keep coming.
// It returns false when the proposer stops.
func (p *Proposer) linger(timer *time.Timer) bool {
	expected, queued := p.takeExpected()
	for range lingerRounds {
		if expected <= 1 || queued >= expected {
			break
		}
		timer.Reset(MaxLinger)
		ok := p.await(expected, timer.C)
		timer.Stop()
		if !ok {
			return false
		}
		before := queued
		if queued = p.Queued(); queued-before < max(1, expected/lingerShare) {
			break
		}
	}
	return true
}

// takeExpected returns how many requests are worth lingering for, once, and how
// many are queued.
func (p *Proposer) takeExpected() (expected, queued int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.expected
	p.expected = 0
	return min(n, MaxEntryRequests), p.lanes.count
}

// landed notes that an entry with n requests was decided. Those who asked for it
// are likely to ask again at once, on top of those who wait already.
func (p *Proposer) landed(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
	p.expected = p.lanes.count + n
	p.wakeLocked()
}

// await blocks until n requests are queued while leading, or enough to fill an
// entry, or timeout fires. It returns false when the proposer stops.
func (p *Proposer) await(n int, timeout <-chan time.Time) bool {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return false
	}
	p.want = n
	p.wakeLocked()
	p.mu.Unlock()
	select {
	case <-p.arrived:
		return true
	case <-timeout:
	case <-p.stop:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want == 0 {
		<-p.arrived // told in this very moment
	}
	p.want = 0
	return !p.stopped
}

// close moves what is queued into b, and only then stamps it: the lease clock of
// an entry must not be older than a renewal in it (HAZARDS.md 3).
func (p *Proposer) close(b *batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reign == nil || p.suspended {
		return false
	}
	b.waiters = p.lanes.take(b.waiters)
	if len(b.waiters) == 0 {
		return false
	}
	p.inFlight++
	b.entry.Term = p.reign.Term
	b.entry.Level = p.reign.Level()
	b.entry.LeaseClockNs = p.reign.LeaseClock()
	b.entry.WallMs = p.wall().UnixMilli()
	return true
}

// propose hands b to Raft, waits, and answers everybody in it.
func (p *Proposer) propose(b *batch) {
	for _, w := range b.waiters {
		b.entry.Requests = append(b.entry.Requests, w.req)
	}
	data, err := statemachine.EncodeEntry(&b.entry)
	clear(b.entry.Requests)
	b.entry.Requests = b.entry.Requests[:0]
	if err != nil {
		p.landed(len(b.waiters))
		b.finishAll(fmt.Errorf("%w: %w", replication.ErrUnavailable, err))
		return
	}
	future := p.raft.Apply(data, enqueueTimeout)
	err = future.Error()
	p.landed(len(b.waiters))
	if err != nil {
		if notApplied(err) {
			p.mu.Lock()
			leader := p.leader
			p.mu.Unlock()
			b.finishAll(&replication.NotLeaderError{Leader: leader})
		} else {
			b.finishAll(fmt.Errorf("%w: %w", replication.ErrUnknownOutcome, err))
		}
		return
	}
	answers, ok := future.Response().([]*replication.Answer)
	if !ok || len(answers) != len(b.waiters) {
		b.finishAll(fmt.Errorf("%w: the state machine gave %d answers to %d requests",
			replication.ErrUnknownOutcome, len(answers), len(b.waiters)))
		return
	}
	if answers[0].GetCode() == replication.Code_CODE_PROPOSE_AGAIN {
		p.again(b, true)
		return
	}
	// Costly requests beyond what one entry may spend come back one by one.
	left := b.waiters[:0]
	for i, w := range b.waiters {
		if answers[i].GetCode() == replication.Code_CODE_PROPOSE_AGAIN {
			left = append(left, w)
			continue
		}
		w.finish(answers[i], nil)
	}
	if b.waiters = left; len(left) > 0 {
		p.again(b, false)
	}
}

// again puts requests back that were not applied. An entry that is stale was
// appended in a later term than the one it was stamped in: under a newer reign it
// is proposed at once; under the same one the voter is about to say what comes next.
func (p *Proposer) again(b *batch, stale bool) {
	p.mu.Lock()
	if p.reign != nil && !p.stopped {
		p.suspended = p.suspended || stale && p.reign.Term <= b.entry.Term
		p.lanes.pushFront(b.waiters)
		p.wakeLocked()
		p.mu.Unlock()
		return
	}
	leader, stopped := p.leader, p.stopped
	p.mu.Unlock()
	if stopped {
		b.finishAll(replication.ErrStopped)
		return
	}
	b.finishAll(&replication.NotLeaderError{Leader: leader})
}

// finishAll gives everybody in b the same error.
func (b *batch) finishAll(err error) {
	if err == nil {
		panic(errors.New("proposer: finishing a batch without an outcome"))
	}
	for _, w := range b.waiters {
		w.finish(nil, err)
	}
}

// newStoppedTimer returns a timer to Reset.
func newStoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
