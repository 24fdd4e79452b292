package wire

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/replication"
)

// What follows turns the contract's messages into this surface's types. Both
// ends use it: the server for HTTP, the client for what came on the stream.

func timeText(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func stampText(t *replication.Timestamp) string { return timeText(t.GetPhysicalMs()) }

// OwnerText shows owner bytes: as they are when they are printable UTF-8, else
// "hex:" and their digits. The owner "hex:…" itself is shown in digits.
func OwnerText(owner []byte) string {
	plain := utf8.Valid(owner) && !(len(owner) >= 4 && string(owner[:4]) == "hex:")
	for _, r := range string(owner) {
		plain = plain && unicode.IsPrint(r)
	}
	if plain {
		return string(owner)
	}
	return "hex:" + hex.EncodeToString(owner)
}

// OwnerBytes is the inverse of OwnerText.
func OwnerBytes(text string) ([]byte, error) {
	if len(text) < 4 || text[:4] != "hex:" {
		return []byte(text), CheckOwner([]byte(text))
	}
	owner, err := hex.DecodeString(text[4:])
	if err != nil {
		return nil, Refuse(Invalid, "the owner begins with hex: and is not in hexadecimal digits")
	}
	return owner, CheckOwner(owner)
}

// HolderOf converts a HolderInfo, which may be nil.
func HolderOf(i *replication.HolderInfo) Holder {
	return Holder{Host: i.GetHost(), PID: i.GetPid(), UID: i.GetUid(), Command: i.GetCommand(),
		Reason: i.GetReason(), Contain: i.GetContain(), Node: i.GetNode(), Since: timeText(i.GetSinceMs())}
}

// LockOf converts a Lock. An owner that was left out stays out.
func LockOf(l *replication.Lock) Lock {
	out := Lock{Name: l.GetName(), Durability: DurabilityOf(l.GetDurability()), Token: l.GetToken(),
		Kept: len(l.GetSession()) > 0, RemainingMS: l.GetRemainingMs(), Holder: HolderOf(l.GetInfo()),
		QueueLength: l.GetQueueLength()}
	if len(l.GetOwner()) > 0 {
		out.Owner = OwnerText(l.GetOwner())
	}
	for i, w := range l.GetQueue() {
		out.Queue = append(out.Queue, Waiter{Position: uint32(i + 1), Holder: HolderOf(w.GetInfo())})
	}
	return out
}

// LocksOf converts a page of locks.
func LocksOf(l *replication.Locks) Locks {
	out := Locks{Locks: make([]Lock, 0, len(l.GetLocks()))}
	for _, lock := range l.GetLocks() {
		out.Locks = append(out.Locks, LockOf(lock))
	}
	if n := len(out.Locks); l.GetMore() && n > 0 {
		out.Next = out.Locks[n-1].Name
	}
	return out
}

// GrantOf converts a LockGrant.
func GrantOf(name string, g *replication.LockGrant) Grant {
	return Grant{Lock: name, Granted: g.GetGranted(), Token: g.GetToken(), RemainingMS: g.GetRemainingMs()}
}

// EntryOf converts an Entry. keysOnly says that its value was not asked for.
func EntryOf(e *replication.Entry, keysOnly bool, ageMS int64) Entry {
	return Entry{Key: e.GetKey(), Durability: DurabilityOf(e.GetDurability()), Revision: e.GetRevision(),
		Value: e.GetValue(), ValueLeftOut: keysOnly, Deleted: e.GetDeleted(), Modified: stampText(e.GetModified()),
		Expires: timeText(e.GetExpiresAtMs()), RemainingMS: e.GetRemainingMs(), AgeMS: ageMS}
}

// EntriesOf converts a page of keys: Next is the last key of a page that has
// another behind it.
func EntriesOf(e *replication.Entries, keysOnly bool, ageMS int64) Entries {
	out := Entries{Entries: make([]Entry, 0, len(e.GetEntries())), AgeMS: ageMS}
	for _, entry := range e.GetEntries() {
		out.Entries = append(out.Entries, EntryOf(entry, keysOnly, 0))
	}
	if n := len(out.Entries); e.GetMore() && n > 0 {
		out.Next = out.Entries[n-1].Key
	}
	return out
}

// HistoryOf converts revisions of one key: Next is the lowest revision of a page
// that has another behind it.
func HistoryOf(e *replication.Entries, keysOnly bool, ageMS int64) Entries {
	out := EntriesOf(e, keysOnly, ageMS)
	if out.Next != "" {
		out.Next = strconv.FormatInt(out.Entries[len(out.Entries)-1].Revision, 10)
	}
	return out
}

// WrittenOf converts one item of a Written.
func WrittenOf(key string, w *replication.WrittenItem) Written {
	return Written{Key: key, Revision: w.GetRevision(), Modified: stampText(w.GetModified()), Expires: timeText(w.GetExpiresAtMs())}
}

// SequenceOf converts a Sequence.
func SequenceOf(s *replication.Sequence) Sequence {
	return Sequence{Name: s.GetName(), Current: s.GetCurrent(), Held: s.GetHeld(), Initial: s.GetInitial(), Increment: s.GetIncrement(),
		Maximum: s.Maximum, Revision: s.GetRevision(), BlockSize: s.BlockSize, Incarnation: s.GetIncarnation(), Created: stampText(s.GetCreated()), Updated: stampText(s.GetUpdated())}
}

// SequencesOf converts a page of sequences.
func SequencesOf(s *replication.Sequences) Sequences {
	out := Sequences{Sequences: make([]Sequence, 0, len(s.GetSequences()))}
	for _, one := range s.GetSequences() {
		out.Sequences = append(out.Sequences, SequenceOf(one))
	}
	if n := len(out.Sequences); s.GetMore() && n > 0 {
		out.Next = out.Sequences[n-1].Name
	}
	return out
}

// AllocationOf converts an Allocation.
func AllocationOf(a *replication.Allocation) Allocation {
	return Allocation{Name: a.GetName(), Start: a.GetStart(), End: a.GetEnd(), Count: a.GetCount(), Replayed: a.GetReplayed()}
}

// Request is the contract's request for c.
func (c SequenceCreate) Request(name string) *replication.Request {
	increment := int64(1)
	if c.Increment != nil {
		increment = *c.Increment
	}
	return &replication.Request{Op: &replication.Request_SequenceCreate{SequenceCreate: &replication.SequenceCreate{
		Name: name, Initial: c.Initial, Increment: increment, Maximum: c.Maximum, BlockSize: c.BlockSize}}}
}

// Request is the contract's request for u.
func (u SequenceUpdate) Request(name string) *replication.Request {
	return &replication.Request{Op: &replication.Request_SequenceUpdate{SequenceUpdate: &replication.SequenceUpdate{
		Name: name, OnlyHeld: u.OnlyHeld, Current: u.Current, Increment: u.Increment, Maximum: u.Maximum, RemoveMaximum: u.RemoveMaximum,
		Initial: u.Initial, BlockSize: u.BlockSize, RemoveBlockSize: u.RemoveBlockSize,
		NotLower: u.Current != nil && !u.AllowLower}}}
}

// CheckNotLower refuses an update that would issue values again without saying
// so (contract/decisions.md 27). The quorum decides the same again together with
// the change, from feature level 4 on; below, and in upstream mode, this protects
// from a slip and not from values that are taken meanwhile.
func (u SequenceUpdate) CheckNotLower(now *replication.Sequence) error {
	if u.Current != nil && !u.AllowLower && *u.Current < now.GetCurrent() {
		return fmt.Errorf(replication.TextLower, now.GetCurrent(), *u.Current)
	}
	return nil
}
