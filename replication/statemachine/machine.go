package statemachine

import (
	"errors"
	"iter"

	"github.com/kahu-sh/kahu/replication"
)

// Reader reads rows in order of unsigned bytes. The slices given out are valid
// until the next change of the store and are never modified.
type Reader interface {
	Get(key []byte) (value []byte, ok bool)
	// Scan yields rows with from <= key < to, ascending; a nil to means to the end.
	// Rows are not changed while a scan runs.
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
	// ScanReverse yields the same rows in descending order.
	ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte]
}

// Store is what the machine keeps its rows in. It sees its own changes. Keys and
// values handed over belong to the store.
type Store interface {
	Reader
	Put(key, value []byte)
	// PutFresh is Put of a key that is certainly not in the store.
	PutFresh(key, value []byte)
	Delete(key []byte)
}

// Result is what came of one log entry.
type Result struct {
	// Answers has one answer for each request of the entry, in order.
	Answers []*replication.Answer
	// Events are for the watchers of sessions, in the order they happened.
	Events []SessionEvent
	// Diverged is set when this voter must stop: it cannot read the entry, does
	// not know its rules, or its state differs from the leader's. Nothing of the
	// entry was applied when it is an error about reading.
	Diverged error
}

// SessionEvent is an event for the watcher of one session.
type SessionEvent struct {
	Session [replication.SessionIDBytes]byte
	Event   *replication.Event
}

// Position says which state a Machine is in.
type Position struct {
	Index        uint64 // last log entry applied, of whatever kind
	Term         uint64 // its term
	LeaseClockNS int64  // L
	Level        uint32 // feature level
	Hash         [16]byte
	OpenedTerm   uint64 // term of the last opening entry applied
	// Configuration is the last Raft configuration seen, as encoded by the
	// caller, and the index of its entry.
	Configuration      []byte
	ConfigurationIndex uint64
}

// ErrDiverged wraps Result.Diverged when this voter's state is not the leader's.
var ErrDiverged = errors.New("the state of this voter differs from the leader's")

// ErrNewer wraps Result.Diverged and New's error when entry or store were
// written under rules that this binary does not know.
var ErrNewer = errors.New("written by a newer kahu")
