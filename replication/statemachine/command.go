package statemachine

import (
	"fmt"

	"github.com/kahu-sh/kahu/replication"
)

// command is one request while it is carried out.
type command struct {
	req    *replication.Request
	label  hlc
	answer *replication.Answer
	one    *writtenOne // room for the answer of a write of one item, or nil
}

// refuse says that the command changed nothing, and why.
func (c *command) refuse(code replication.Code, format string, args ...any) {
	c.answer.Code = code
	c.answer.Detail = fmt.Sprintf(format, args...)
}

// invalid refuses a command for being malformed.
func (c *command) invalid(problem string) {
	c.answer.Code, c.answer.Detail = replication.Code_CODE_INVALID, problem
}

// execute carries out one command. The error is about this voter, not the request.
func (m *Machine) execute(c *command) error {
	switch {
	case c.req.TakesReceipt(), m.level < c.req.NeedsLevel():
		// What needs a higher level is refused by dispatch, word for word as a
		// binary does that has never heard of it.
		m.once(c)
	case c.req.IsInternal():
		return m.internal(c)
	case c.req.IsRead():
		c.invalid("a read does not go through the log")
	default:
		switch op := c.req.Op.(type) {
		case *replication.Request_SessionOpen:
			m.sessionOpen(c, op.SessionOpen)
		case *replication.Request_SessionRenew:
			m.sessionRenew(c, op.SessionRenew)
		case *replication.Request_SessionClose:
			m.sessionClose(c, op.SessionClose)
		case *replication.Request_TxRead:
			m.txRead(c, op.TxRead)
		default:
			c.invalid(textNothingKnown)
		}
	}
	return nil
}

// textNothingKnown is stored in receipts, also by binaries that know less: it
// must stay as it is.
const textNothingKnown = "the request asks for nothing that this version knows"

// dispatch carries out a command that was not seen before.
func (m *Machine) dispatch(c *command) {
	if m.level < c.req.NeedsLevel() {
		c.invalid(textNothingKnown)
		return
	}
	switch op := c.req.Op.(type) {
	case *replication.Request_LockTry:
		m.lockTry(c, op.LockTry)
	case *replication.Request_LockWait:
		m.lockWait(c, op.LockWait)
	case *replication.Request_LockCancel:
		m.lockCancel(c, op.LockCancel)
	case *replication.Request_LockExtend:
		m.lockExtend(c, op.LockExtend)
	case *replication.Request_LockUnlock:
		m.lockUnlock(c, op.LockUnlock)
	case *replication.Request_LockBreak:
		m.lockBreak(c, op.LockBreak)
	case *replication.Request_LockDetach:
		m.lockDetach(c, op.LockDetach)
	case *replication.Request_Write:
		m.write(c, op.Write)
	case *replication.Request_SequenceCreate:
		m.sequenceCreate(c, op.SequenceCreate)
	case *replication.Request_SequenceNext:
		m.sequenceNext(c, op.SequenceNext)
	case *replication.Request_SequenceUpdate:
		m.sequenceUpdate(c, op.SequenceUpdate)
	case *replication.Request_SequenceDelete:
		m.sequenceDelete(c, op.SequenceDelete)
	case *replication.Request_TxStart:
		m.txStart(c, op.TxStart)
	case *replication.Request_TxLock:
		m.txLock(c, op.TxLock)
	case *replication.Request_TxUnlock:
		m.txUnlock(c, op.TxUnlock)
	case *replication.Request_TxWrite:
		m.txWrite(c, op.TxWrite)
	case *replication.Request_TxEnd:
		m.txEnd(c, op.TxEnd)
	case *replication.Request_Script:
		m.script(c, op.Script)
	case *replication.Request_SnapshotHoldAcquire:
		m.snapshotHoldAcquire(c, op.SnapshotHoldAcquire)
	case *replication.Request_SnapshotHoldRenew:
		m.snapshotHoldRenew(c, op.SnapshotHoldRenew)
	case *replication.Request_SnapshotHoldRelease:
		m.snapshotHoldRelease(c, op.SnapshotHoldRelease)
	case *replication.Request_KeySpaceSet:
		m.keySpaceSet(c, op.KeySpaceSet)
	default:
		c.invalid(textNothingKnown)
	}
}

// internal carries out what a leader proposes for itself.
func (m *Machine) internal(c *command) error {
	switch op := c.req.Op.(type) {
	case *replication.Request_Opening:
		m.openedTerm = m.term
	case *replication.Request_Sweep:
		n := m.sweep(op.Sweep.GetLimit())
		c.answer.Result = &replication.Answer_Swept{Swept: &replication.Swept{Count: n}}
	case *replication.Request_SetLevel:
		if l := op.SetLevel.GetLevel(); l < m.level {
			c.refuse(replication.Code_CODE_INVALID, "the feature level is %d and cannot go back to %d", m.level, l)
		} else {
			m.level = l
		}
	case *replication.Request_Digest:
		return m.compare(op.Digest)
	case *replication.Request_Advance:
		m.advance(op.Advance.GetAboveMs())
		m.label.fill(c.answer.Time)
	case *replication.Request_TokenFloor:
		m.raiseTokenFloor(c, op.TokenFloor.GetFloor())
	}
	return nil
}

// compare holds the leader's hash as of an index against this voter's own.
func (m *Machine) compare(d *replication.Digest) error {
	own := m.digests[d.GetIndex()%digestsKept]
	if own.index != d.GetIndex() || own.index == 0 || string(own.hash[:]) == string(d.GetHash()) {
		return nil
	}
	return fmt.Errorf("%w: as of log entry %d the hash is %x here and %x there: seed this voter anew",
		ErrDiverged, own.index, own.hash, d.GetHash())
}
