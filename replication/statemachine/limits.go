package statemachine

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/replication"
)

// The machine's own limits; what all rooms share is in package replication. A
// change of one changes outcomes and needs a feature level.
const (
	// HistoryPersistent and HistoryEphemeral are how many revisions below the
	// newest one a key keeps (contract/decisions.md 14).
	HistoryPersistent = 1000
	HistoryEphemeral  = 16
	// TombstoneNS is how long a deleted or expired key keeps its revision count.
	TombstoneNS = dayNS
	// SessionMemoryNS is how long an ended session is remembered, so that a
	// delayed SessionOpen cannot bring it back.
	SessionMemoryNS = dayNS
	// LockIdleNS is how long the record of a free lock is kept before its token
	// goes into a hashed floor.
	LockIdleNS = 30 * dayNS
	// MaxQueue bounds the waiters of one lock.
	MaxQueue = 100_000
	// MaxSessionHolds bounds the holds and queue places of one session.
	MaxSessionHolds = 100_000
	// PositionsTold is how many places from the head of a queue are told when
	// they move. Telling all would make each grant cost the whole queue.
	PositionsTold = 16
	// MaxOwnerBytes bounds the owner of a lock.
	MaxOwnerBytes = 4 << 10
	// MaxInfoBytes bounds an encoded HolderInfo, and the texts of a session.
	MaxInfoBytes = 16 << 10
	// MaxSequenceNameUnits bounds a sequence's name in UTF-16 units.
	MaxSequenceNameUnits = 1024
	// MaxIdempotencyKeyBytes bounds a sequence's idempotency key.
	MaxIdempotencyKeyBytes = 1024
	// IdempotencyKeys and IdempotencyNS say which of them a sequence remembers.
	IdempotencyKeys = 256
	IdempotencyNS   = 600_000 * msNS
	// releasesPerEntry bounds the holds, places and receipts of ended sessions
	// that one entry clears away before its requests.
	releasesPerEntry = 1000
	// defaultSweep is Sweep's limit when it names none, and maxSweep its bound.
	defaultSweep, maxSweep = 1000, 10_000
	// deadWaitersPerGrant bounds how many waiters of ended sessions one grant
	// steps over.
	deadWaitersPerGrant = 1000
)

// Limits of transactions, snapshot holds and key spaces, from feature level 2 on.
const (
	// DefaultTxTimeoutMS, MaxTxTimeoutMS and TxGraceMS make the life of a
	// transaction: it is ended by the clock after its timeout and the grace.
	DefaultTxTimeoutMS int64 = 5_000
	MaxTxTimeoutMS     int64 = 300_000
	TxGraceMS          int64 = 15_000
	// TxIntentMS is the lease that a staged write takes on a key that its
	// transaction has not locked (contract/decisions.md 35).
	TxIntentMS int64 = 15_000
	// TxOutcomeNS and MaxTxOutcomes say how long, and how many, outcomes of
	// transactions are remembered (contract/decisions.md 37).
	TxOutcomeNS         = 300_000 * msNS
	TxOutcomeMS   int64 = 300_000
	MaxTxOutcomes       = 10_000
	// MaxTransactions bounds those that are open at once.
	MaxTransactions = 10_000
	// MaxTxOperations bounds the operation ids of one transaction; beyond it is
	// ABORTED, as in the reference.
	MaxTxOperations = 65_536
	// MaxTxLocks, MaxTxReads, MaxTxPredicates, MaxTxWrites and MaxTxStagedBytes
	// bound what one transaction holds. A commit applies at most MaxTxWrites.
	MaxTxLocks       = 4_096
	MaxTxReads       = 10_000
	MaxTxPredicates  = 256
	MaxTxWrites      = 2_048
	MaxTxStagedBytes = 16 << 20
	// MaxTxItems bounds the locks or writes of one command, and MaxTxKeys the keys
	// that one reads: each may be a row that is not in memory. MaxTxSpansAtOnce
	// bounds its prefix and range locks, each of which is held against all others.
	MaxTxItems       = 1_024
	MaxTxKeys        = 256
	MaxTxSpansAtOnce = 64
	// MaxTxSpans bounds range and prefix locks, and ranges read, of all
	// transactions together: each further lock of these kinds is held against all.
	MaxTxSpans = 4_096
	// MaxTxMemoryBytes bounds what all transactions together keep in memory, and
	// maxTxOwnBytes what one of them does. Staged values are not in memory.
	MaxTxMemoryBytes = 64 << 20
	maxTxOwnBytes    = 8 << 20
	// MaxCoordinatorBytes bounds a coordinator key, and what is told of a record
	// anchor key: both are kept with every outcome.
	MaxCoordinatorBytes = 1 << 10
	// txBrokenKept and txBrokenBytes are how many keys that changed under a
	// transaction it names; beyond, all keys count as changed.
	txBrokenKept  = 16
	txBrokenBytes = 4 << 10
	// txEndedPerEntry bounds the transactions that one entry ends by the clock
	// before its requests.
	txEndedPerEntry = 256
	// maxScriptRows bounds the rows that one script looks at in ranges at apply,
	// deleted ones included, and maxScriptRowsRead those on the read path. Beyond, it
	// runs as a session.
	maxScriptRows     = 5_000
	maxScriptRowsRead = 100_000
	// txClearedAtEnd bounds the rows that the end of a transaction clears away itself.
	txClearedAtEnd = 100
	// MaxSnapshotHolds bounds snapshot holds, MaxSnapshotLeaseMS their leases.
	MaxSnapshotHolds         = 1_024
	MaxSnapshotLeaseMS int64 = 1<<31 - 1
	// MaxKeySpaces bounds the key spaces on record.
	MaxKeySpaces = 10_000
)

const (
	reservedKeys      = "__kahuna:"
	reservedSequences = "__kahuna:sequences:"
)

// problemOfName says what is wrong with the name of a key or lock, "" when
// nothing (contract/decisions.md 10).
func problemOfName(what, name string) string {
	switch {
	case name == "":
		return what + " is empty"
	case len(name) > replication.MaxNameBytes:
		return what + " is longer than 64 KiB"
	case !utf8.ValidString(name):
		return what + " is not valid UTF-8"
	}
	return ""
}

func problemOfDurability(d replication.Durability) string {
	if d != replication.Durability_DURABILITY_EPHEMERAL && d != replication.Durability_DURABILITY_PERSISTENT {
		return "the durability is neither ephemeral (0) nor persistent (1)"
	}
	return ""
}

func problemOfKey(d replication.Durability, key string) string {
	if p := problemOfDurability(d); p != "" {
		return p
	}
	if strings.HasPrefix(key, reservedKeys) {
		return "keys that begin with " + reservedKeys + " are reserved"
	}
	return problemOfName("the key", key)
}

func problemOfLock(d replication.Durability, name string) string {
	if p := problemOfDurability(d); p != "" {
		return p
	}
	return problemOfName("the lock's name", name)
}

func problemOfOwner(owner []byte) string {
	switch {
	case len(owner) == 0:
		return "the owner is empty"
	case len(owner) > MaxOwnerBytes:
		return "the owner is longer than 4 KiB"
	}
	return ""
}

// problemOfHold says what is wrong with a hold id: kahu's own have one form, so
// that they cannot meet an owner of another kind by accident.
func problemOfHold(owner []byte) string {
	if len(owner) != 32 {
		return "the hold id is not 32 lower-case hex characters"
	}
	for _, c := range owner {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "the hold id is not 32 lower-case hex characters"
		}
	}
	return ""
}

func problemOfTTL(ms int64) string {
	if ms <= 0 {
		return "the TTL is not above zero"
	}
	return ""
}

func problemOfInfo(i *replication.HolderInfo) string {
	if i == nil {
		return ""
	}
	if i.SizeVT() > MaxInfoBytes {
		return "the holder's description is longer than 16 KiB"
	}
	for _, s := range [...]string{i.Host, i.Command, i.Reason, i.Node} {
		if !utf8.ValidString(s) {
			return "the holder's description is not valid UTF-8"
		}
	}
	return ""
}

func problemOfText(what, s string) string {
	switch {
	case len(s) > MaxInfoBytes:
		return what + " is longer than 16 KiB"
	case !utf8.ValidString(s):
		return what + " is not valid UTF-8"
	}
	return ""
}

// problemOfSequence: names come trimmed from whoever trims (contract: S2).
func problemOfSequence(name string) string {
	if strings.HasPrefix(name, reservedSequences) {
		return "sequences that begin with " + reservedSequences + " are reserved"
	}
	if p := problemOfName("the sequence's name", name); p != "" {
		return p
	}
	units := 0
	for _, r := range name {
		units += utf16.RuneLen(r)
	}
	if units > MaxSequenceNameUnits {
		return "the sequence's name is longer than 1024 UTF-16 units"
	}
	return ""
}

// first returns the first problem there is.
func first(problems ...string) string {
	for _, p := range problems {
		if p != "" {
			return p
		}
	}
	return ""
}
