package localapi

import (
	"context"
	"os"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// Witness says what proves that a holder still lives.
type Witness string

const (
	// WitnessConnection releases the hold when the connection closes: the
	// program promises to stop when it is told.
	WitnessConnection Witness = "connection"
	// WitnessProcess keeps the hold until the guard releases it or every
	// witness process is gone: a closed connection proves nothing.
	WitnessProcess Witness = "process"
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
	// only stops the renewals: the lease then ends by itself.
	Pidfds   []*os.File
	TreeEnds bool
	// NeedAck holds back a grant that is not acknowledged within a few seconds:
	// it goes to the next in line.
	NeedAck bool
	Info    *replication.HolderInfo
}

// HoldEventType is the kind of a HoldEvent.
type HoldEventType string

// The events of a hold, in the order in which they can come.
const (
	HoldQueued   HoldEventType = "queued"   // Position changed
	HoldHeld     HoldEventType = "held"     // granted: Token and deadline are set
	HoldRenewed  HoldEventType = "renewed"  // deadline moved
	HoldAtRisk   HoldEventType = "at-risk"  // the quorum is silent; safe until the deadline
	HoldLost     HoldEventType = "lost"     // last event: stop at once
	HoldReleased HoldEventType = "released" // last event: given back, or never got (Reason "timeout")
)

// HoldEvent is one line of a hold's story, the same in JSON and on the stream.
type HoldEvent struct {
	Type     HoldEventType `json:"event"`
	Hold     string        `json:"hold"` // id: 32 lower-case hex characters, the owner at the quorum
	Lock     string        `json:"lock"`
	Position uint32        `json:"position,omitempty"` // queued: 1 is next
	Token    *int64        `json:"fencing_token,omitempty"`
	// DeadlineBoottimeNS is the instant, on CLOCK_BOOTTIME of the boot BootID, at
	// which the holder must have stopped. Absolute, so that reading it late
	// moves nothing (HAZARDS.md 7).
	DeadlineBoottimeNS int64  `json:"deadline_boottime_ns,omitempty"`
	BootID             string `json:"boot_id,omitempty"`
	SafeMS             int64  `json:"safe_ms,omitempty"` // what was left when this was written; for people only
	Reason             string `json:"reason,omitempty"`  // lost, released: why. held: a warning about a short TTL
}

// Holder keeps holds on behalf of local processes. agent/holds implements it.
type Holder interface {
	// Open starts standing in line and returns at once. Errors are bad input
	// (a TTL too short for its margin) or replication.ErrStopped.
	Open(ctx context.Context, req HoldRequest) (Hold, error)
	// Attach takes up a process hold again after its connection broke. It
	// returns an error when no such hold lives in this agent.
	Attach(ctx context.Context, id string) (Hold, error)
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
