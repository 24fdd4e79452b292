package script

import "github.com/kahu-sh/kahu/replication"

// A Store is what a running script reads from and writes to. It shows the
// script its own writes, and keeps them to itself until the caller takes them
// over when Result.Commit is set.
//
// An error of any method ends the run. An *AbortError becomes the script's
// answer; any other error is returned by Run as it is.
type Store interface {
	// Get reads one key as the script sees it. A key that does not exist, or has
	// expired or been deleted, gives a Row with Found unset and, at present, the
	// number of its tombstone or -1.
	Get(key Key, at At, withValue bool) (Row, error)
	// Range gives the live keys under a prefix to yield, in order of bytes. With
	// bucket they are exactly prefix + "/" + a rest without a slash, and prefix
	// comes without the slash. A false from yield ends the range without an error.
	// looked is how many rows were gone through for that, with an error, too, if more
	// than were given: those that have been deleted, or lie in the history of a key.
	Range(r Range, yield func(*Row) bool) (looked int, err error)
	// Write judges one write and stages it if its condition holds. The code is
	// one that the Write command gives to an item: OK, CONDITION_FAILED,
	// NOT_FOUND or INVALID. The item belongs to the store afterwards.
	Write(item *replication.WriteItem) (Written, error)
	// Clock is the label of the run, constant while it lasts (decisions.md 42):
	// milliseconds since 1970 and the counter within.
	Clock() Time
}

// Key names a key in one of the two tables.
type Key struct {
	Durability replication.Durability
	Name       string
}

// Time is a hybrid logical clock reading.
type Time struct {
	MS      int64
	Counter uint32
}

// At says which state of a key is read. The zero value is the present one.
type At struct {
	// AsOfMS reads the state at the end of that millisecond since 1970; 0 is now.
	AsOfMS int64
	// Revision is read instead of the newest when HasRevision is set.
	Revision    int64
	HasRevision bool
}

// Range says which keys are read.
type Range struct {
	Durability replication.Durability
	Prefix     string
	Bucket     bool
	AsOfMS     int64 // as in At
	// Most is how many rows may be gone through, or a few more; there, the range ends
	// in ErrFuelSpent. 0: as many as there are.
	Most int64
}

// Row is one revision of one key. Value is not changed by anybody.
type Row struct {
	Key         string
	Value       []byte
	Null        bool // there is no value, which is not the same as an empty one
	Found       bool
	Revision    int64 // -1: never written
	Modified    Time
	ExpiresAtMS int64 // wall label, 0: never
	// Looked is how many rows were gone through in a key's history, and for what
	// keeps it. They are paid for.
	Looked int
}

// Written is what became of one write: the new revision, or the current one when
// it was refused (-1: never written).
type Written struct {
	Code     replication.Code
	Revision int64
	Modified Time
	// ValueBytes is the size of a value of the store that the write had to look at,
	// to compare it or to keep it. It is paid for.
	ValueBytes int64
}

// Param is one parameter of a script. Name includes the @. The first of several
// with one name counts.
type Param struct {
	Name  string
	Value string
}

// Type is the kind of a script's answer, numbered as on Kahuna's wire
// (Kahuna.Shared/KeyValue/KeyValueResponseType.cs).
type Type int32

// The types that a script can answer.
const (
	TypeSet              Type = 0
	TypeNotSet           Type = 1
	TypeExtended         Type = 2
	TypeGet              Type = 3
	TypeDeleted          Type = 4
	TypeExists           Type = 10
	TypeErrored          Type = 99
	TypeInvalidInput     Type = 100
	TypeMustRetry        Type = 101
	TypeAborted          Type = 102
	TypeDoesNotExist     Type = 103
	TypeAdmissionRefused Type = 108
)

var typeNames = map[Type]string{
	TypeSet: "Set", TypeNotSet: "NotSet", TypeExtended: "Extended", TypeGet: "Get", TypeDeleted: "Deleted",
	TypeExists: "Exists", TypeErrored: "Errored", TypeInvalidInput: "InvalidInput", TypeMustRetry: "MustRetry",
	TypeAborted: "Aborted", TypeDoesNotExist: "DoesNotExist", TypeAdmissionRefused: "AdmissionRefused",
}

// String returns Kahuna's name of the type.
func (t Type) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return "Unknown"
}

// Result is the answer of a script.
type Result struct {
	Type   Type
	Reason string // one line, set when the type alone does not say enough
	Values []ResultValue
	// Commit says that the writes staged in the store take effect. Otherwise they
	// must be dropped.
	Commit bool
	// Fuel is what the run spent, in units of EntryFuel. Refills count as well.
	Fuel int64
}

// ResultValue is one value of an answer.
type ResultValue struct {
	Key         string // empty for computed values
	Value       []byte
	Null        bool
	Revision    int64
	ExpiresAtMS int64
	Modified    Time
}

// An AbortError ends a script with TypeAborted and nothing written. Stores
// return it for conflicts and for history that does not reach back far enough.
type AbortError struct {
	Reason string
	// MustRetry answers TypeMustRetry instead: what stood in the way is passing.
	MustRetry bool
}

// Error implements error.
func (e *AbortError) Error() string { return e.Reason }
