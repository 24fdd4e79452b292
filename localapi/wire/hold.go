package wire

import "github.com/kahu-sh/kahu/localapi/holdwire"

// The messages of a hold are those of package holdwire.
type (
	// Witness says what proves that a holder still lives.
	Witness = holdwire.Witness
	// HoldEventType is the kind of a HoldEvent.
	HoldEventType = holdwire.HoldEventType
	// HoldEvent is one line of a hold's story, the same in JSON and on the stream.
	HoldEvent = holdwire.HoldEvent
	// HoldRequest asks for a hold.
	HoldRequest = holdwire.HoldRequest
	// HoldOpened is the first message down a stream opened with MethodHold.
	HoldOpened = holdwire.HoldOpened
	// HoldMessage goes up a stream opened with MethodHold.
	HoldMessage = holdwire.HoldMessage
)

// The words of a hold, as in package holdwire.
const (
	WitnessConnection = holdwire.WitnessConnection
	WitnessProcess    = holdwire.WitnessProcess

	HoldQueued   = holdwire.HoldQueued
	HoldHeld     = holdwire.HoldHeld
	HoldRenewed  = holdwire.HoldRenewed
	HoldAtRisk   = holdwire.HoldAtRisk
	HoldLost     = holdwire.HoldLost
	HoldReleased = holdwire.HoldReleased

	HoldAck     = holdwire.HoldAck
	HoldRelease = holdwire.HoldRelease
)

// HoldInfo is one hold that this agent keeps.
type HoldInfo struct {
	Hold               string     `json:"hold,omitempty"` // shown to its own user and to administrators
	Lock               string     `json:"lock"`
	Durability         Durability `json:"durability"`
	State              string     `json:"state"` // queued, held, at-risk, lost, released
	Position           uint32     `json:"position,omitempty"`
	Token              *int64     `json:"fencing_token,omitempty"`
	TTLMS              int64      `json:"ttl_ms"`
	DeadlineBoottimeNS int64      `json:"deadline_boottime_ns,omitempty"`
	SafeMS             int64      `json:"safe_ms,omitempty"`
	Witness            Witness    `json:"witness"`
	Connected          bool       `json:"connected"` // a connection listens for its events
	Holder             Holder     `json:"holder"`
}

// Holds lists the holds of this agent in order of lock name.
type Holds struct {
	Holds []HoldInfo `json:"holds"`
}
