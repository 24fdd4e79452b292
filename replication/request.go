package replication

import "github.com/zeebo/xxh3"

// Limits that every room shares. Each is refused at the edge with CODE_INVALID
// or CODE_LIMIT, and again by the state machine, which must not trust the edge.
const (
	// MaxEntryBytes bounds the batch in one log entry (DESIGN.md §3). A single
	// request larger than this stands alone in its entry.
	MaxEntryBytes = 1 << 20
	// MaxNameBytes bounds keys, lock names and prefixes in the state machine
	// (contract/decisions.md 10). kahu's own surface is stricter: MaxOwnNameBytes.
	MaxNameBytes = 64 << 10
	// MaxOwnNameBytes bounds names on the local socket's own API.
	MaxOwnNameBytes = 1 << 10
	// MaxValueBytes bounds one value by default; it is configurable up to MaxRequestBytes.
	MaxValueBytes = 1 << 20
	// MaxRequestBytes bounds one encoded request anywhere.
	MaxRequestBytes = 16 << 20
	// MaxWriteItems bounds the items of one Write, however small: at a few
	// microseconds each, applying more would hold up everybody (DESIGN.md §3).
	MaxWriteItems = 10_000
	// MaxPageRows bounds the rows of one unary page.
	MaxPageRows = 10_000
	// MaxPageBytes ends a page early.
	MaxPageBytes = 4 << 20
	// MaxReceipts is how many receipts a session keeps above its watermark.
	MaxReceipts = 4096
	// OperationIDBytes is the length of a transaction's operation id.
	OperationIDBytes = 16
	// SessionIDBytes is the length of a session id.
	SessionIDBytes = 16
)

// IsRead reports whether r is answered without a log entry.
func (x *Request) IsRead() bool {
	switch x.GetOp().(type) {
	case *Request_LockGet, *Request_LockList, *Request_Get, *Request_Range, *Request_History,
		*Request_SequenceGet, *Request_SequenceList, *Request_SessionGet, *Request_MachineGet,
		*Request_SnapshotFloorGet, *Request_KeySpaceList, *Request_ScriptRead, *Request_TxList:
		return true
	}
	return false
}

// IsInternal reports whether r may only be proposed by a leader itself.
func (x *Request) IsInternal() bool {
	switch x.GetOp().(type) {
	case *Request_Opening, *Request_Sweep, *Request_SetLevel, *Request_Digest, *Request_Advance,
		*Request_TokenFloor:
		return true
	}
	return false
}

// TakesReceipt reports whether r carries a request id, so that sending it again
// gives the first answer. Renewals never do (HAZARDS.md 2): an answer from a
// receipt would acknowledge a lease that was not renewed. SessionOpen is
// idempotent by its id. What a transaction reads is read again: values are not
// kept (contract/decisions.md 31).
func (x *Request) TakesReceipt() bool {
	switch x.GetOp().(type) {
	case *Request_SessionOpen, *Request_SessionRenew, *Request_SessionClose, *Request_TxRead:
		return false
	}
	return !x.IsRead() && !x.IsInternal()
}

// IsUrgent reports whether r goes first in every entry: what keeps leases
// alive and locks moving must not stand behind bulk writes (HAZARDS.md 20).
func (x *Request) IsUrgent() bool {
	switch x.GetOp().(type) {
	case *Request_SessionOpen, *Request_SessionRenew, *Request_SessionClose,
		*Request_LockTry, *Request_LockWait, *Request_LockCancel, *Request_LockExtend,
		*Request_LockUnlock, *Request_LockBreak, *Request_LockDetach,
		*Request_Opening, *Request_Sweep, *Request_Advance:
		return true
	}
	return false
}

// NeedsLevel returns the feature level from which on r is understood by every
// voter (contract/decisions.md 8). Below it the state machine does not carry it out.
func (x *Request) NeedsLevel() uint32 {
	switch x.GetOp().(type) {
	case *Request_TxStart, *Request_TxLock, *Request_TxRead, *Request_TxWrite, *Request_TxEnd, *Request_TxUnlock,
		*Request_Script, *Request_ScriptRead, *Request_TxList, *Request_SnapshotHoldAcquire, *Request_SnapshotHoldRenew,
		*Request_SnapshotHoldRelease, *Request_KeySpaceSet, *Request_SnapshotFloorGet, *Request_KeySpaceList,
		*Request_Advance:
		return 2
	case *Request_TokenFloor:
		return 3
	}
	return 1
}

// TextLower is the detail of INVALID for a SequenceUpdate that would lower the
// current value, after which values would be issued again: format it with the
// present value and the wanted one. It is in answers that all voters keep.
const TextLower = "the sequence is at %d: lowering it to %d issues values again; say allow_lower (--allow-lower) if that is meant"

// ProblemOfSequence says what is wrong with the fields of a sequence, "" when nothing.
// The maximum and the block size are optional; floor is the lowest maximum. It is in
// answers that all voters keep.
func ProblemOfSequence(increment int64, maximum *int64, blockSize *int32, floor int64) string {
	switch {
	case increment <= 0:
		return "the increment is not above zero"
	case maximum != nil && *maximum < floor:
		return "the maximum is below the present value"
	case blockSize != nil && *blockSize < 1:
		return "the block size is not above zero"
	}
	return ""
}

// HoldHash is one hold's part of SessionRenew.hold_hash: the XOR over all holds
// and queue places of a session tells whether agent and quorum know the same.
func HoldHash(owner []byte) uint64 { return xxh3.Hash(owner) }
