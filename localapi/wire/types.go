package wire

import "github.com/kahu-sh/kahu/replication"

// Durability is the table that a name is in. The same name in both is two
// unrelated things.
type Durability string

// The two tables. An empty Durability in a request means Persistent.
const (
	Persistent Durability = "persistent"
	Ephemeral  Durability = "ephemeral"
)

// Replicated returns the contract's word for d.
func (d Durability) Replicated() replication.Durability {
	if d == Ephemeral {
		return replication.Durability_DURABILITY_EPHEMERAL
	}
	return replication.Durability_DURABILITY_PERSISTENT
}

// DurabilityOf returns this surface's word for d.
func DurabilityOf(d replication.Durability) Durability {
	if d == replication.Durability_DURABILITY_EPHEMERAL {
		return Ephemeral
	}
	return Persistent
}

// Holder says who holds a lock or waits for it. It decides nothing.
type Holder struct {
	Host    string `json:"host,omitempty"`
	PID     int64  `json:"pid,omitempty"`
	UID     int64  `json:"uid"`
	Command string `json:"command,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Contain string `json:"contain,omitempty"` // what keeps the processes of kahu exec together: pidns, cgroup, …
	Node    string `json:"node,omitempty"`    // id of the agent that asked
	Since   string `json:"since,omitempty"`   // RFC 3339 with milliseconds, UTC: wall clock of the grant, a label
}

// Lock is one held lock.
type Lock struct {
	Name       string     `json:"name"`
	Durability Durability `json:"durability"`
	Token      int64      `json:"fencing_token"`
	// Owner may extend and unlock the lock: it is shown to administrators only.
	// Bytes that are not printable UTF-8 are shown as "hex:…".
	Owner       string   `json:"owner,omitempty"`
	Kept        bool     `json:"kept"` // an agent keeps it alive for a process; else it is a lease of its own
	RemainingMS int64    `json:"remaining_ms"`
	Holder      Holder   `json:"holder"`
	QueueLength uint32   `json:"queue_length"`
	Queue       []Waiter `json:"queue,omitempty"` // first in line first; the first 100
}

// Waiter is one place in a lock's queue.
type Waiter struct {
	Position uint32 `json:"position"` // 1 is next
	Holder   Holder `json:"holder"`
}

// Locks is a page of locks in order of name.
type Locks struct {
	Locks []Lock `json:"locks"`
	Next  string `json:"next,omitempty"` // cursor: ask again with ?after=
}

// Grant answers a try and an extend.
type Grant struct {
	Lock        string `json:"lock"`
	Granted     bool   `json:"granted"`
	Token       int64  `json:"fencing_token"`
	RemainingMS int64  `json:"remaining_ms"`
}

// LockTry is the body of a try.
type LockTry struct {
	Owner      string     `json:"owner"`            // 1 to 256 bytes; who knows it may extend and unlock
	TTL        string     `json:"ttl"`              // "30s"; see ParseTTL
	Reason     string     `json:"reason,omitempty"` // shown to others
	Durability Durability `json:"durability,omitempty"`
}

// LockExtend is the body of an extend: the lease ends TTL from now, or later if it did already.
type LockExtend struct {
	Owner      string     `json:"owner"`
	TTL        string     `json:"ttl"`
	Durability Durability `json:"durability,omitempty"`
}

// LockUnlock is the body of an unlock.
type LockUnlock struct {
	Owner      string     `json:"owner"`
	Durability Durability `json:"durability,omitempty"`
}

// LockBreak is the body of a break.
type LockBreak struct {
	Reason     string     `json:"reason,omitempty"` // told to the holder
	Durability Durability `json:"durability,omitempty"`
}

// Entry is one revision of one key. Value is in base64 in JSON; null is JSON
// null and not the same as empty.
type Entry struct {
	Key        string     `json:"key"`
	Durability Durability `json:"durability"`
	Revision   int64      `json:"revision"`
	// Value is nil for null. ValueLeftOut says that it was not asked for.
	Value        []byte `json:"value"`
	ValueLeftOut bool   `json:"value_left_out,omitempty"`
	Deleted      bool   `json:"deleted,omitempty"`      // history: a tombstone
	Modified     string `json:"modified,omitempty"`     // RFC 3339, wall clock, a label
	Expires      string `json:"expires,omitempty"`      // RFC 3339, wall clock, a label
	RemainingMS  int64  `json:"remaining_ms,omitempty"` // until it expires, when it does
	AgeMS        int64  `json:"age_ms,omitempty"`       // stale reads: how long the answering agent had not heard from a leader
}

// Entries is a page of keys in byte order, or of revisions of one key, newest first.
type Entries struct {
	Entries []Entry `json:"entries"`
	Next    string  `json:"next,omitempty"` // cursor: ask again with ?after= (keys) or ?before= (history)
	AgeMS   int64   `json:"age_ms,omitempty"`
}

// Written answers a change of one key.
type Written struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Modified string `json:"modified,omitempty"`
	Expires  string `json:"expires,omitempty"`
}

// Sequence is one sequence.
type Sequence struct {
	Name      string `json:"name"`
	Current   int64  `json:"current"`        // last value issued, or initial
	Held      bool   `json:"held,omitempty"` // it was restored, see kahu seq release
	Initial   int64  `json:"initial"`
	Increment int64  `json:"increment"`
	Maximum   *int64 `json:"maximum,omitempty"`
	Revision  int64  `json:"revision"`
	// BlockSize is kept for Kahuna's clients and means nothing: no number is skipped.
	BlockSize   *int32 `json:"block_size,omitempty"`
	Incarnation int64  `json:"incarnation,omitempty"` // rises with each update
	Created     string `json:"created,omitempty"`
	Updated     string `json:"updated,omitempty"`
}

// Sequences is a page of sequences in order of name.
type Sequences struct {
	Sequences []Sequence `json:"sequences"`
	Next      string     `json:"next,omitempty"`
}

// Allocation is a run of values that nobody else gets: start, start+increment, … end.
type Allocation struct {
	Name     string `json:"name"`
	Start    int64  `json:"start"`
	End      int64  `json:"end"`
	Count    int64  `json:"count"`
	Replayed bool   `json:"replayed,omitempty"` // the idempotency key was known: the first answer again
}

// SequenceCreate is the body of a create. Increment defaults to 1.
type SequenceCreate struct {
	Initial   int64  `json:"initial,omitempty"`
	Increment *int64 `json:"increment,omitempty"`
	Maximum   *int64 `json:"maximum,omitempty"`
	BlockSize *int32 `json:"block_size,omitempty"` // see Sequence
}

// SequenceUpdate is the body of an update: what is absent stays.
type SequenceUpdate struct {
	Current       *int64 `json:"current,omitempty"` // below the present one needs AllowLower
	AllowLower    bool   `json:"allow_lower,omitempty"`
	OnlyHeld      bool   `json:"only_held,omitempty"` // refused unless the sequence stands still since a restore
	Increment     *int64 `json:"increment,omitempty"`
	Maximum       *int64 `json:"maximum,omitempty"`
	RemoveMaximum bool   `json:"remove_maximum,omitempty"`
	// Initial is shown, and moves nothing.
	Initial         *int64 `json:"initial,omitempty"`
	BlockSize       *int32 `json:"block_size,omitempty"` // see Sequence
	RemoveBlockSize bool   `json:"remove_block_size,omitempty"`
}

// SequenceReserve is the body of a reserve.
type SequenceReserve struct {
	Count int64 `json:"count"`
}

// Health answers the health routes.
type Health struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // one line, when not
}
