package statemachine

import (
	"cmp"
	"slices"

	"github.com/kahu-sh/kahu/replication"
)

// txEnd commits or rolls back. The first end decides, and is remembered: whoever
// asks again gets its outcome, whatever is asked for (contract: T15, T16).
func (m *Machine) txEnd(c *command, op *replication.TxEnd) {
	if m.busy(c) {
		return
	}
	ref := op.GetTx()
	if ref.GetId() == nil || ref.Id.PhysicalMs == 0 && ref.Id.Counter == 0 {
		c.invalid("the transaction's id is missing")
		return
	}
	id := toHLC(ref.Id)
	if t := m.tx.open[id]; t != nil && ref.Id.Node == 0 && t.coordinates(ref) {
		outcome := txRolledBack
		if op.Commit && m.live(t.end) {
			outcome = m.commit(c, t)
		}
		m.endTx(t, outcome)
		m.clearTransactions(txClearedAtEnd) // of a small one nothing is left
	}
	if t := m.tx.ended[id]; t != nil && ref.Id.Node == 0 && t.coordinates(ref) && m.live(saturating(t.end, TxOutcomeNS)) {
		m.answerEnded(c, t.outcome, t.anchor, t.writes)
		return
	}
	// An id is the label of a command: a younger one than all that were forgotten
	// has no outcome because it never committed, and now never will.
	if ref.Id.Node == 0 && id.after(m.tx.forgotten) && !id.after(c.label) && m.tx.open[id] == nil && m.tx.ended[id] == nil &&
		c.label.ms-id.ms < TxOutcomeMS {
		outcome := txRolledBack
		if op.Commit {
			outcome = txAborted
		}
		m.answerEnded(c, outcome, "", 0)
		return
	}
	c.refuse(replication.Code_CODE_NOT_FOUND, "the transaction is unknown, or was forgotten")
	c.answer.Result = &replication.Answer_TxEnded{TxEnded: new(replication.TxEnded)}
}

func (m *Machine) answerEnded(c *command, outcome byte, anchor string, writes uint32) {
	e := &replication.TxEnded{Outcome: replication.TxOutcome(outcome), RecordAnchorKey: anchor}
	switch outcome {
	case txCommitted:
		e.Writes = writes
	case txAborted:
		if c.answer.Code == replication.Code_CODE_OK {
			c.refuse(replication.Code_CODE_ABORTED, "the transaction was aborted; nothing was changed")
		}
	}
	c.answer.Result = &replication.Answer_TxEnded{TxEnded: e}
}

// commit carries out a transaction, or says why not and changes nothing.
func (m *Machine) commit(c *command, t *transaction) (outcome byte) {
	if why := m.commitProblem(t); why != "" {
		c.refuse(replication.Code_CODE_ABORTED, "%s", why)
		return txAborted
	}
	refs := t.written()
	for _, ref := range refs {
		if m.intrude(t, ref, t.yield) != nil {
			panic(damaged(txKey(t.id), "a lock that appeared during a commit"))
		}
	}
	writes := make([][]*replication.WriteItem, len(refs))
	for i, ref := range refs {
		writes[i] = m.stagedItems(t, ref)
	}
	for i, ref := range refs {
		for _, item := range writes[i] {
			m.commitItem(c, ref, item)
		}
	}
	m.work += int64(t.writes)*writeCost + int64(t.stagedBytes)
	return txCommitted
}

// commitItem applies one staged write. Its condition was judged when it was
// staged, and what that depended on is unchanged; a key that expired under the
// transaction's own lock is not there any more to be deleted or extended.
func (m *Machine) commitItem(c *command, ref keyRef, item *replication.WriteItem) {
	h := m.head(ref.d, ref.name)
	if item.Kind == replication.WriteKind_WRITE_KIND_SET || h.alive(&m.state) {
		m.change(item, h, c.label)
	}
}

// written lists the keys that a transaction has written, in the order of their
// first writes.
func (t *transaction) written() []keyRef {
	refs := make([]keyRef, 0, len(t.staged))
	for ref := range t.staged { // sorted below
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b keyRef) int { return cmp.Compare(t.staged[a].first, t.staged[b].first) })
	return refs
}

// commitProblem is the one rule of commits (contract/decisions.md 32): for
// everything read, either the lock that covered it has been held without a gap
// since, or it is unchanged; and no live foreign lock covers a written key. It
// returns why a transaction cannot commit, "" when it can.
//
// That something changed is noted when it changes: see noticeChange. Nobody but
// the transaction could change what its locks covered, so those notes need no
// second look. What is left is what ended by the clock.
func (m *Machine) commitProblem(t *transaction) string {
	switch {
	case t.trouble != "":
		return t.trouble
	case t.brokenMore || len(t.broken) > 0:
		return "something that the transaction read has changed since"
	}
	held := m.heldSince(t)
	for ref, o := range t.reads { // any problem is the same problem
		if o.exists && o.end != 0 && !m.live(o.end) && !held(ref, o.at) && !m.head(ref.d, ref.name).alive(&m.state) {
			return "something that the transaction read has expired since"
		}
	}
	for _, p := range t.predicates {
		if p.end != 0 && !m.live(p.end) && !m.spanHeldSince(t, p) {
			return "something in a range that the transaction read has expired since"
		}
	}
	for ref := range t.staged {
		if m.blocker(t, ref, t.yield) != nil {
			return "another transaction holds a lock on a key that this one has written"
		}
	}
	for ref := range t.staged {
		if t.durable && ref.d == replication.Durability_DURABILITY_EPHEMERAL {
			return "a durable transaction has written an ephemeral key"
		}
	}
	return ""
}

// spanHeldSince reports whether one prefix or range lock of t has covered all
// that was read, without a gap since then.
func (m *Machine) spanHeldSince(t *transaction, read *txSpan) bool {
	return slices.ContainsFunc(t.spans, func(s *txSpan) bool {
		return m.live(s.end) && !s.at.after(read.at) && s.contains(read)
	})
}
