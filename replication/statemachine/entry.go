package statemachine

import (
	"errors"
	"fmt"

	"github.com/kahu-sh/kahu/replication"
)

// EntryFormat is the version of the encoding of a log entry's header. An entry
// with a higher one cannot be read by this binary.
const EntryFormat = 1

// CurrentLevel is the highest feature level whose rules this binary knows. Every
// change to the outcome of apply gets the next number (contract/decisions.md 8):
//
//	1  sessions, locks, keys, sequences
//	2  transactions, scripts, snapshot holds, key spaces; sequences that stand still
//	3  the token floor of a recovery (TokenFloor)
//	4  AS OF ahead of a script, starts of transactions that were refused, dearer fuel,
//	   lists of holds apart from renewals, updates of sequences that lower nothing,
//	   snapshot holds looked for once a command
const CurrentLevel uint32 = 4

// ErrBadEntry wraps everything that makes a log entry unreadable.
var ErrBadEntry = errors.New("log entry cannot be decoded")

// EncodeEntry returns the bytes that go into the Raft log. e.Format is set.
func EncodeEntry(e *replication.LogEntry) ([]byte, error) {
	e.Format = EntryFormat
	b, err := e.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encoding a log entry of %d requests: %w", len(e.Requests), err)
	}
	return b, nil
}

// DecodeEntry reads what EncodeEntry wrote. The bytes fields of the result alias
// b, strings too: they are valid as long as b is, and must not be changed. It
// never panics; errors wrap ErrBadEntry or ErrNewer.
func DecodeEntry(b []byte) (*replication.LogEntry, error) {
	e := new(replication.LogEntry)
	if err := e.UnmarshalVTUnsafe(b); err != nil {
		return nil, fmt.Errorf("%w: %d bytes: %w", ErrBadEntry, len(b), err)
	}
	switch {
	case e.Format == 0:
		return nil, fmt.Errorf("%w: %d bytes without a format", ErrBadEntry, len(b))
	case e.Format > EntryFormat:
		return nil, fmt.Errorf("%w: format %d of a log entry, this binary reads 1 to %d: upgrade it", ErrNewer, e.Format, EntryFormat)
	}
	return e, nil
}
