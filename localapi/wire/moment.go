package wire

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// ParseMoment reads what a read as of then asks for: a wall-clock time (RFC 3339),
// Unix milliseconds, or the label of a command, MILLISECONDS.COUNTER, as MomentText
// shows it. Without a counter it is the end of that millisecond.
func ParseMoment(text string) (*replication.Timestamp, error) {
	if len(text) > 64 {
		return nil, fmt.Errorf("the time %.64q… is too long", text)
	}
	ms, counter, exact := strings.Cut(text, ".")
	if n, err := strconv.ParseInt(ms, 10, 64); err == nil {
		c := uint64(math.MaxUint32)
		if exact {
			if c, err = strconv.ParseUint(counter, 10, 32); err != nil {
				return nil, fmt.Errorf("the time %q has a counter that is no whole number", text)
			}
		}
		if n <= 0 {
			return nil, fmt.Errorf("the time %q must be above zero", text)
		}
		if n > lastMomentMS {
			return nil, fmt.Errorf("the time %q is behind the year 9999; is it in milliseconds?", text)
		}
		return &replication.Timestamp{PhysicalMs: n, Counter: uint32(c)}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UnixMilli() <= 0 {
		return nil, fmt.Errorf("the time %q is neither like 2026-01-02T15:04:05Z, nor Unix milliseconds, nor MILLISECONDS.COUNTER", text)
	}
	return &replication.Timestamp{PhysicalMs: t.UnixMilli(), Counter: math.MaxUint32}, nil
}

// lastMomentMS is the end of the year 9999, the last that RFC 3339 can write.
const lastMomentMS = 253402300799999

// MomentText shows a label so that ParseMoment reads it; empty for none.
func MomentText(t *replication.Timestamp) string {
	if t == nil {
		return ""
	}
	return strconv.FormatInt(t.GetPhysicalMs(), 10) + "." + strconv.FormatUint(uint64(t.GetCounter()), 10)
}

// SnapshotHold keeps the history that reads as of a time need.
type SnapshotHold struct {
	ID          string `json:"id"` // who knows it may renew and release
	Holder      string `json:"holder"`
	AsOf        string `json:"as_of"` // MILLISECONDS.COUNTER, see ParseMoment
	Time        string `json:"time"`  // the same in RFC 3339
	RemainingMS int64  `json:"remaining_ms"`
}

// SnapshotHolds are all of them, and the lowest time among them.
type SnapshotHolds struct {
	Floor string         `json:"floor,omitempty"` // MILLISECONDS.COUNTER; nothing is held: empty
	Holds []SnapshotHold `json:"holds"`
}

// SnapshotOpen is the body that asks for a hold, and SnapshotRenew the one that
// makes it last. Asking again with the same holder and time gives the same hold.
type SnapshotOpen struct {
	Holder string `json:"holder"`
	AsOf   string `json:"as_of"`
	Lease  string `json:"lease"` // "10m"; see ParseTTL
}

// SnapshotRenew is the body of a renewal: the lease ends so long from now.
type SnapshotRenew struct {
	Lease string `json:"lease"`
}

// KeySpaces is a page of the key spaces that are registered as ordered, by name.
type KeySpaces struct {
	KeySpaces []string `json:"key_spaces"`
	Next      string   `json:"next,omitempty"` // cursor: ask again with ?after=
}

// KeySpaceChange answers a registration and its removal.
type KeySpaceChange struct {
	KeySpace   string `json:"key_space"`
	Registered bool   `json:"registered"`
	Changed    bool   `json:"changed"` // it was not so before
}

// SnapshotHoldOf converts a SnapshotHold.
func SnapshotHoldOf(h *replication.SnapshotHold) SnapshotHold {
	return SnapshotHold{ID: h.GetId(), Holder: h.GetHolder(), AsOf: MomentText(h.GetTimestamp()), Time: stampText(h.GetTimestamp()),
		RemainingMS: h.GetRemainingMs()}
}

// SnapshotHoldsOf converts a SnapshotFloor.
func SnapshotHoldsOf(f *replication.SnapshotFloor) SnapshotHolds {
	out := SnapshotHolds{Floor: MomentText(f.GetFloor()), Holds: make([]SnapshotHold, 0, len(f.GetList()))}
	for _, h := range f.GetList() {
		out.Holds = append(out.Holds, SnapshotHoldOf(h))
	}
	return out
}

// KeySpacesOf converts a page of key spaces.
func KeySpacesOf(k *replication.KeySpaces) KeySpaces {
	out := KeySpaces{KeySpaces: append([]string{}, k.GetNames()...)}
	if n := len(out.KeySpaces); k.GetMore() && n > 0 {
		out.Next = out.KeySpaces[n-1]
	}
	return out
}
