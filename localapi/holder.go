package localapi

import (
	"context"
	"os"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Both ends share these words; package wire says what they mean.
type (
	// Witness is wire.Witness.
	Witness = wire.Witness
	// HoldEventType is wire.HoldEventType.
	HoldEventType = wire.HoldEventType
	// HoldEvent is wire.HoldEvent.
	HoldEvent = wire.HoldEvent
	// HoldInfo is wire.HoldInfo.
	HoldInfo = wire.HoldInfo
)

// The witnesses of a hold.
const (
	WitnessConnection = wire.WitnessConnection
	WitnessProcess    = wire.WitnessProcess
)

// The events of a hold, in the order in which they can come.
const (
	HoldQueued   = wire.HoldQueued
	HoldHeld     = wire.HoldHeld
	HoldRenewed  = wire.HoldRenewed
	HoldAtRisk   = wire.HoldAtRisk
	HoldLost     = wire.HoldLost
	HoldReleased = wire.HoldReleased
)

// HoldRequest asks for a hold: a lock kept alive by the agent.
type HoldRequest struct {
	Lock       string
	Durability replication.Durability
	TTL        time.Duration // lease length at the quorum
	Wait       time.Duration // 0: do not queue; negative: for ever
	Grace      time.Duration // between SIGTERM and SIGKILL of the holder; part of the margin
	Witness    Witness
	// Pidfds are the witnesses of a process hold; the Holder owns and closes
	// them. TreeEnds says that the tree is dead for certain once all of them
	// have ended (the first is PID 1 of a pid namespace). Otherwise their end
	// only stops the renewals: the lease then ends by itself. The last two may be of
	// the control group that the tree is in, cgroup.kill open for writing and
	// cgroup.events: what is left in it is ended once all pidfds have, and when the
	// deadline passes, and the lock is free when it is empty.
	Pidfds   []*os.File
	TreeEnds bool
	// LastEndsTree says that the last of two or more pidfds is of PID 1 of a pid
	// namespace that the whole tree lives in, as in a container: its end alone
	// proves that the tree is dead, and its life proves nothing.
	LastEndsTree bool
	// NeedAck holds back a grant that is not acknowledged within a few seconds:
	// it goes to the next in line.
	NeedAck bool
	// Resume says that the holder, whose connection is the witness, takes its hold
	// up again by its id when the connection broke: a restart of the agent then
	// costs nothing, and one that does not come back keeps the lock for one TTL.
	Resume bool
	Info   *replication.HolderInfo
}

// Holder keeps holds on behalf of local processes. agent/holds implements it.
type Holder interface {
	// Open starts standing in line and returns at once. Errors are bad input
	// (a TTL too short for its margin) or replication.ErrStopped.
	Open(ctx context.Context, req HoldRequest) (Hold, error)
	// Attach takes up a process hold again after its connection broke, and one
	// whose connection was the witness after the agent was restarted. pidfds are
	// the witnesses handed over again, as in HoldRequest; the Holder owns and
	// closes them. It returns an error when no such hold lives in this agent.
	Attach(ctx context.Context, id string, pidfds []*os.File) (Hold, error)
	// List shows the holds of this agent in order of lock name. It does not block.
	List() []HoldInfo
	// Find shows the one of this id, if List would. It does not block, and costs the
	// same however many there are.
	Find(id string) (HoldInfo, bool)
}

// Hold is one hold, used by one connection at a time.
type Hold interface {
	// ID is 32 lower-case hex characters.
	ID() string
	// Next blocks for the next event. It returns io.EOF after lost or released.
	// An intermediate event may be skipped when a newer one of its kind is there.
	Next(ctx context.Context) (HoldEvent, error)
	// Ack accepts the grant (see HoldRequest.NeedAck). An ack that came in time
	// is answered by a HoldRenewed event at once, one that came too late by
	// HoldQueued or HoldLost: the guard starts its command only after the first,
	// because the grant may have gone to the next while the ack was under way.
	Ack()
	// Release gives the lock or the place in line back, and blocks until the
	// quorum has confirmed or ctx ends; the agent goes on trying after that.
	Release(ctx context.Context) error
	// Disconnect says that the connection is gone. What follows depends on the witness.
	Disconnect()
}
