package upstream

import (
	"math"
	"strconv"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

const (
	kvSet         = pb.GrpcKeyValueResponseType_TYPE_SET
	kvNotSet      = pb.GrpcKeyValueResponseType_TYPE_NOTSET
	kvExtended    = pb.GrpcKeyValueResponseType_TYPE_EXTENDED
	kvGot         = pb.GrpcKeyValueResponseType_TYPE_GOT
	kvDeleted     = pb.GrpcKeyValueResponseType_TYPE_DELETED
	kvLocked      = pb.GrpcKeyValueResponseType_TYPE_LOCKED
	kvUnlocked    = pb.GrpcKeyValueResponseType_TYPE_UNLOCKED
	kvCommitted   = pb.GrpcKeyValueResponseType_TYPE_COMMITTED
	kvRolledBack  = pb.GrpcKeyValueResponseType_TYPE_ROLLEDBACK
	kvExists      = pb.GrpcKeyValueResponseType_TYPE_EXISTS
	kvErrored     = pb.GrpcKeyValueResponseType_TYPE_ERRORED
	kvInvalid     = pb.GrpcKeyValueResponseType_TYPE_INVALID_INPUT
	kvRetry       = pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY
	kvAborted     = pb.GrpcKeyValueResponseType_TYPE_ABORTED
	kvMissing     = pb.GrpcKeyValueResponseType_TYPE_DOES_NOT_EXIST
	kvHeld        = pb.GrpcKeyValueResponseType_TYPE_ALREADY_LOCKED
	kvNotAdmitted = pb.GrpcKeyValueResponseType_TYPE_ADMISSION_REFUSED

	// newest asks for the newest revision: 0 is the first one.
	newest = -1
)

// kvUndecided: MustRetry, Errored, and what no client is ever sent.
func kvUndecided(t pb.GrpcKeyValueResponseType) bool { return kvCode(t) == undecidedCode }

// undecidedCode stands for answers that say nothing of the outcome.
const undecidedCode = replication.Code_CODE_UNKNOWN_OUTCOME

// kvCode is the code of an answer about a key.
func kvCode(t pb.GrpcKeyValueResponseType) replication.Code {
	switch t {
	case kvSet, kvExtended, kvGot, kvDeleted, kvLocked, kvUnlocked, kvCommitted, kvRolledBack, kvExists:
		return replication.Code_CODE_OK
	case kvNotSet:
		return replication.Code_CODE_CONDITION_FAILED
	case kvMissing:
		return replication.Code_CODE_NOT_FOUND
	case kvInvalid, pb.GrpcKeyValueResponseType_TYPE_PREFIX_LOCK_UNSUPPORTED_ON_RANGED_SPACE:
		return replication.Code_CODE_INVALID
	case kvAborted:
		return replication.Code_CODE_ABORTED
	case kvHeld:
		return replication.Code_CODE_LOCKED
	case kvNotAdmitted:
		return replication.Code_CODE_ADMISSION_REFUSED
	}
	return undecidedCode
}

// kvRefusal is the refusal that an answer is, nil for OK.
func kvRefusal(t pb.GrpcKeyValueResponseType) error {
	switch code := kvCode(t); code {
	case replication.Code_CODE_OK:
		return nil
	case replication.Code_CODE_INVALID:
		return refuse(code, "the Kahuna cluster behind this agent does not take the request: %s", t)
	default:
		return refuse(code, "")
	}
}

// stamp makes a timestamp of the three fields that Kahuna's messages have for one;
// nil when all are zero, which means none.
func stamp(node int32, physical int64, counter uint32) *replication.Timestamp {
	if node == 0 && physical == 0 && counter == 0 {
		return nil
	}
	return &replication.Timestamp{PhysicalMs: physical, Counter: counter, Node: node}
}

// label splits a timestamp into the three fields.
func label(t *replication.Timestamp) (node int32, physical int64, counter uint32) {
	return t.GetNode(), t.GetPhysicalMs(), t.GetCounter()
}

func table(d replication.Durability) pb.GrpcKeyValueDurability {
	return pb.GrpcKeyValueDurability(d)
}

// expiry is a time to live as Kahuna's wire has it; 0 is for ever.
func expiry(ms int64) (int32, error) {
	if ms < 0 || ms > math.MaxInt32 {
		return 0, refuse(replication.Code_CODE_INVALID, "a time to live of %d ms is not between 0 and %d ms, which is all that a Kahuna cluster takes (upstream mode)", ms, math.MaxInt32)
	}
	return int32(ms), nil
}

// row is one key as Kahuna's answers have it; three messages do.
type row interface {
	GetValue() []byte
	GetRevision() int64
	GetExpiresPhysical() int64
	GetLastModifiedNode() int32
	GetLastModifiedPhysical() int64
	GetLastModifiedCounter() uint32
}

// entryOf translates a row that was found.
func entryOf(key string, d replication.Durability, r row, keysOnly bool) *replication.Entry {
	e := &replication.Entry{Key: key, Durability: d, Found: true, Revision: r.GetRevision(), ExpiresAtMs: r.GetExpiresPhysical(),
		Modified: stamp(r.GetLastModifiedNode(), r.GetLastModifiedPhysical(), r.GetLastModifiedCounter())}
	if !keysOnly {
		e.Value = r.GetValue()
	}
	if e.ExpiresAtMs != 0 {
		e.RemainingMs = remaining(e.ExpiresAtMs)
	}
	return e
}

// existing is a row of an answer that has no value.
type existing struct {
	*pb.GrpcTryExistsKeyValueResponse
}

// GetValue implements row.
func (existing) GetValue() []byte { return nil }

// sinceMS is how long ago a lease time was.
func sinceMS(now, then time.Duration) int64 { return (now - then).Milliseconds() }

func quoted(text string) string { return strconv.Quote(text[:min(len(text), 100)]) }
