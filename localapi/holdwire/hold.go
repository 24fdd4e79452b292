package holdwire

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

// Last reports whether nothing can follow.
func (t HoldEventType) Last() bool { return t == HoldLost || t == HoldReleased }

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

// HoldRequest asks for a hold: the body of POST /kahu/v1/holds, and the first
// frame of a stream opened with MethodHold.
type HoldRequest struct {
	Lock       string     `json:"lock"`
	Durability Durability `json:"durability,omitempty"`
	TTL        string     `json:"ttl,omitempty"`   // default "30s"
	Wait       string     `json:"wait,omitempty"`  // "0" (default): do not queue; a duration; "forever"
	Grace      string     `json:"grace,omitempty"` // between SIGTERM and SIGKILL of the holder; default "0"
	Witness    Witness    `json:"witness,omitempty"`
	TreeEnds   bool       `json:"tree_ends,omitempty"`      // see localapi.HoldRequest
	LastEnds   bool       `json:"last_ends_tree,omitempty"` // see localapi.HoldRequest
	NeedAck    bool       `json:"need_ack,omitempty"`       // stream only: the grant waits for an "ack" message
	Resume     bool       `json:"resume,omitempty"`         // see localapi.HoldRequest
	Command    string     `json:"command,omitempty"`        // shown to others; cut at MaxTextBytes
	Reason     string     `json:"reason,omitempty"`         // shown to others; cut at MaxTextBytes
	Contain    string     `json:"contain,omitempty"`        // shown to others; cut at MaxTextBytes
	// Attach takes up the hold of this id again, with pidfds as for Open if it is a
	// process hold (on the stream only); everything else is left empty.
	Attach string `json:"attach,omitempty"`
}

// HoldOpened is the first message down a stream opened with MethodHold, before
// any HoldEvent. With it the client checks that it reads the same clock.
type HoldOpened struct {
	Hold       string `json:"hold"`
	BootID     string `json:"boot_id"`
	BoottimeNS int64  `json:"boottime_ns"` // the agent's CLOCK_BOOTTIME when this was written
}

// HoldMessage goes up a stream opened with MethodHold.
type HoldMessage struct {
	Do string `json:"do"` // HoldAck or HoldRelease
}

// What a client can ask of its hold.
const (
	// HoldAck accepts the grant.
	HoldAck = "ack"
	// HoldRelease gives the lock, or the place in line, back: a released or lost
	// event ends the stream.
	HoldRelease = "release"
)
