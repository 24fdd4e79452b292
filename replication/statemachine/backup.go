package statemachine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kahu-sh/kahu/replication"
)

// What a backup has of the rows, and what becomes of them in a new cluster
// (DESIGN.md: tokens and restore; contract/decisions.md 7).
//
//	kept     persistent keys with history, and when they are due; sequences with
//	         their idempotency keys; key spaces
//	not      ephemeral keys, sessions, receipts, transactions, snapshot holds, and
//	         all locks: of those a restore needs no more than the highest token
//
// A restored cluster goes on with the lease clock of the backup, so that what
// expires has as much left as it had then.

const (
	// tokenMargin is at least how far a restore jumps above every token that is
	// known to the backup.
	tokenMargin = 1 << 20
	// tokensPerSecond, times the wall clock, is above what any cluster can have
	// given out since: no lock is granted a million times a second.
	tokensPerSecond = 1 << 20
	// MaxTokenFloor is 2^53 - 1: a token above it would not survive JavaScript.
	MaxTokenFloor = 1<<53 - 1
)

// ErrNotBackedUp wraps errors about rows that cannot be in a backup.
var ErrNotBackedUp = errors.New("this row is not part of a backup")

// BackupSummary is what a backup knows about its rows as a whole.
type BackupSummary struct {
	HighestToken int64  `json:"highest_token"` // of any lock of the cluster, -1: none
	Keys         uint64 `json:"keys"`          // live persistent ones
	Sequences    uint64 `json:"sequences"`
}

// BackupFilter chooses the rows of a backup. It is shown every row of one view in
// ascending order of key.
type BackupFilter struct {
	BackupSummary
}

// NewBackupFilter returns a filter that has seen nothing.
func NewBackupFilter() *BackupFilter {
	return &BackupFilter{BackupSummary: BackupSummary{HighestToken: -1}}
}

// Keep reports whether the row is in the backup. An error means that the row is
// damaged.
func (f *BackupFilter) Keep(key, value []byte) (keep bool, err error) {
	defer rescue(&err)
	if len(key) == 0 {
		return false, fmt.Errorf("%w: its key is empty", ErrNotBackedUp)
	}
	switch key[0] {
	case tableMeta:
		if bytes.Equal(key, floorKey) {
			f.token(key, value)
		}
		return false, nil
	case tableFloor:
		f.token(key, value)
		return false, nil
	case tableLock:
		l, ok := decodeLock(value)
		if !ok {
			panic(damaged(key, "a lock"))
		}
		f.HighestToken = max(f.HighestToken, l.token)
		return false, nil
	}
	if !backedUp(key) {
		return false, nil
	}
	f.count(key, value)
	return true, nil
}

// token takes a row that is one number.
func (f *BackupFilter) token(key, value []byte) {
	d := decode(value)
	token := d.varint()
	if !d.done() {
		panic(damaged(key, "a token floor"))
	}
	f.HighestToken = max(f.HighestToken, token)
}

// backedUp reports whether a row belongs to what survives a cluster.
func backedUp(key []byte) bool {
	switch key[0] {
	case tableKey, tableHistory:
		return len(key) > 1 && replication.Durability(key[1]) == replication.Durability_DURABILITY_PERSISTENT
	case tableSequence, tableAllocation, tableAllocAge, tableKeySpace:
		return true
	case tableDue:
		const kind = 1 + 8
		return len(key) > kind+1 && key[kind] == dueKey &&
			replication.Durability(key[kind+1]) == replication.Durability_DURABILITY_PERSISTENT
	}
	return false
}

// count adds a row to the summary.
func (s *BackupSummary) count(key, value []byte) {
	switch key[0] {
	case tableSequence:
		s.Sequences++
	case tableKey:
		if h, _ := mustDecodeHead(key, value); !h.tombstone {
			s.Keys++
		}
	}
}

// MachineRow is the key of the row that a backup's header carries, since what
// Restore makes of it stands before everything else.
func MachineRow() []byte { return bytes.Clone(metaKey) }

// BackupLabel says from MachineRow's value when the last command was labelled, and
// under which feature level.
func BackupLabel(machine []byte) (label *replication.Timestamp, level uint32, err error) {
	s, ok := decodeState(machine)
	if !ok {
		return nil, 0, fmt.Errorf("the position of the state machine in the backup is damaged")
	}
	return s.label.timestamp(), s.level, nil
}

// Restorer turns the rows of a backup into those of a new cluster.
type Restorer struct {
	BackupSummary // of the rows seen
	state         state
}

// NewRestorer begins with the value of MachineRow as of the backup. It refuses a
// backup of a newer kahu with ErrNewer.
func NewRestorer(machine []byte) (*Restorer, error) {
	s, ok := decodeState(machine)
	if !ok {
		return nil, errors.New("the position of the state machine in the backup is damaged")
	}
	if s.level > CurrentLevel {
		return nil, fmt.Errorf("%w: the backup has feature level %d, this binary knows up to %d: restore it with the kahu that made it, or a newer one",
			ErrNewer, s.level, CurrentLevel)
	}
	return &Restorer{state: s}, nil
}

// Row returns the value with which a row of the backup is written. The error
// wraps ErrNotBackedUp, or says what is damaged.
func (r *Restorer) Row(key, value []byte) (restored []byte, err error) {
	defer rescue(&err)
	if len(key) == 0 || !backedUp(key) {
		return nil, fmt.Errorf("%w (key %x)", ErrNotBackedUp, key[:min(len(key), 32)])
	}
	r.count(key, value)
	if key[0] != tableSequence {
		return value, nil
	}
	s, ok := decodeSequence(value)
	if !ok {
		panic(damaged(key, "a sequence"))
	}
	s.held = true
	return s.append(nil), nil
}

// TokenFloor is the floor of a cluster that is restored at wallMS from a backup
// with this highest token. wanted is an operator's own, 0: none; it must not be
// below what the backup demands.
func TokenFloor(highest, wallMS, wanted int64) (int64, error) {
	if highest > MaxTokenFloor-tokenMargin { // also far beyond, where sums overflow
		return 0, fmt.Errorf("the backup knows of token %d, and none above %d can be given out: nothing can be restored from it without doubling a token", highest, int64(MaxTokenFloor))
	}
	least := highest + tokenMargin
	floor := max(least, wallMS/1000*tokensPerSecond)
	if wanted != 0 {
		floor = wanted
	}
	switch {
	case floor < least:
		return 0, fmt.Errorf("a token floor of %d is too low: the backup knows of token %d; name at least %d", floor, highest, least)
	case floor > MaxTokenFloor:
		return 0, fmt.Errorf("a token floor of %d is above %d, which clients cannot read exactly: is the clock of this host right? name one with --token-floor", floor, int64(MaxTokenFloor))
	}
	return floor, nil
}

// A RestoredRow is written in the batch that makes the restored state count.
type RestoredRow struct{ Key, Value []byte }

// Finish returns the rows of the machine itself, for a cluster whose first voter
// has them at index 1 of term 1. wallMS is the wall clock of the restore: what the
// old cluster has labelled since the backup was taken is not known, so labels go on
// from there, and of its transactions nothing is claimed. configuration is Raft's,
// as ApplyOther takes it.
func (r *Restorer) Finish(floor, wallMS int64, configuration []byte) []RestoredRow {
	s := r.state
	s.index, s.term, s.openedTerm = 1, 1, 0
	// Voters that do not know what a restored sequence is must not join.
	s.level = max(s.level, heldLevel)
	s.tick(wallMS)
	s.sessions, s.locksHeld, s.waiters = 0, 0, 0
	// Its chunks were not restored; their numbers are not given again.
	gone := &s.history[replication.Durability_DURABILITY_EPHEMERAL]
	*gone = chunkCounts{chunks: gone.chunks}
	s.keys, s.sequences = r.Keys, r.Sequences
	config := appendBytes(binary.AppendUvarint([]byte{rowFormat}, s.index), configuration)
	return []RestoredRow{
		{bytes.Clone(metaKey), s.append(nil)},
		{bytes.Clone(configKey), config},
		{bytes.Clone(floorKey), binary.AppendVarint([]byte{rowFormat}, floor)},
		{bytes.Clone(forgottenKey), appendHLC([]byte{rowFormat}, s.label)},
	}
}

// heldLevel is the feature level since which a sequence can stand still.
const heldLevel = 2
