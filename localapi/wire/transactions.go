package wire

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// TxBegin is the body of a start. All of it may be left out.
type TxBegin struct {
	// Timeout, such as "30s": 5 s when absent, 5 min at most. A transaction that
	// has not ended 15 s after it is rolled back.
	Timeout string `json:"timeout,omitempty"`
	// Locking is shown to others: optimistic (default) or pessimistic. Which locks
	// are taken is up to the caller.
	Locking  string `json:"locking,omitempty"`
	Priority string `json:"priority,omitempty"` // background, low, normal, high or critical
	// Durable: a commit that has written an ephemeral key is aborted.
	Durable bool   `json:"durable,omitempty"`
	Yield   bool   `json:"yield,omitempty"` // gives way to whoever wants a key that it has locked
	AsOf    string `json:"as_of,omitempty"` // reads see the state of then; see ParseMoment
	// Wait for a slot, such as "10s": 5 s when absent, 30 s at most.
	Wait string `json:"wait,omitempty"`
}

// TxBegun answers a start. Who knows the transaction's name may use it.
type TxBegun struct {
	Transaction string `json:"transaction"`
	RemainingMS int64  `json:"remaining_ms"` // until it is rolled back by the clock
}

// TxKey names a key.
type TxKey struct {
	Key        string     `json:"key"`
	Durability Durability `json:"durability,omitempty"`
}

// TxRead is the body of a read: of keys, or of those with a prefix.
type TxRead struct {
	Keys     []TxKey `json:"keys,omitempty"`
	KeysOnly bool    `json:"keys_only,omitempty"`

	Prefix     *string    `json:"prefix,omitempty"`
	Durability Durability `json:"durability,omitempty"` // of the prefix
	Bucket     bool       `json:"bucket,omitempty"`     // PREFIX/ and a rest without a slash
	After      string     `json:"after,omitempty"`
	Limit      int64      `json:"limit,omitempty"`
}

// TxEntry is one key as a transaction sees it.
type TxEntry struct {
	Entry
	Found bool `json:"found"`
}

// TxEntries answers a read: of keys one for each, in the order asked.
type TxEntries struct {
	Entries []TxEntry `json:"entries"`
	Next    string    `json:"next,omitempty"` // cursor: ask again with after
}

// TxWrite is the body of a write: each item stands for itself.
type TxWrite struct {
	Writes []TxChange `json:"writes"`
}

// TxChange is one change of one key.
type TxChange struct {
	Do         string     `json:"do,omitempty"` // set (default), delete or extend
	Key        string     `json:"key"`
	Durability Durability `json:"durability,omitempty"`
	// Value in base64, or Text as it is; neither sets null.
	Value       []byte  `json:"value,omitempty"`
	Text        *string `json:"text,omitempty"`
	TTL         string  `json:"ttl,omitempty"` // "30s", from the commit on; of an extend also "forever"
	IfExists    bool    `json:"if_exists,omitempty"`
	IfNotExists bool    `json:"if_not_exists,omitempty"`
	IfRevision  *int64  `json:"if_revision,omitempty"`
	NoHistory   bool    `json:"no_history,omitempty"`
}

// TxWritten answers a write, an item for each.
type TxWritten struct {
	Items []TxWrittenItem `json:"items"`
}

// TxWrittenItem is what became of one change: Code is ok, or the Kind of problem
// that it alone has. Revision is what the key has in this transaction.
type TxWrittenItem struct {
	Key      string `json:"key"`
	Code     string `json:"code"`
	Revision int64  `json:"revision"`
}

// TxLocks is the body of a lock and of an unlock. Locks are taken all or none.
type TxLocks struct {
	Locks []TxLock `json:"locks"`
}

// TxLock is a lock on a key, a bucket, or the keys of a prefix between bounds:
// exactly one of the three is named.
type TxLock struct {
	Key        string     `json:"key,omitempty"`
	Bucket     *string    `json:"bucket,omitempty"`
	Prefix     *string    `json:"prefix,omitempty"`
	Start      *string    `json:"start,omitempty"` // of a prefix, inclusive
	End        *string    `json:"end,omitempty"`   // of a prefix, exclusive
	Shared     bool       `json:"shared,omitempty"`
	Durability Durability `json:"durability,omitempty"`
	TTL        string     `json:"ttl,omitempty"` // as long as the transaction when absent
}

// TxEnded answers a commit and a rollback.
type TxEnded struct {
	Transaction string `json:"transaction"`
	Outcome     string `json:"outcome"` // committed or rolled-back
	Writes      uint32 `json:"writes"`
}

// Transactions is a page of open transactions in order of their start.
type Transactions struct {
	Transactions []Transaction `json:"transactions"`
	Next         string        `json:"next,omitempty"`
}

// Transaction is what everybody may know of one.
type Transaction struct {
	ID          string `json:"id"` // without what makes it usable
	Locking     string `json:"locking"`
	RemainingMS int64  `json:"remaining_ms"`
	Reads       uint32 `json:"reads"`
	Writes      uint32 `json:"writes"`
	Locks       uint32 `json:"locks"`
	Trouble     string `json:"trouble,omitempty"` // why it cannot commit any more
}

// NewTxSecret returns what keeps others from using a transaction: its id can be
// guessed. It travels as the coordinator key.
func NewTxSecret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// TxName writes a transaction as MS-COUNTER-SECRET, without the last when it is empty.
func TxName(id *replication.Timestamp, secret string) string {
	name := fmt.Sprintf("%d-%d", id.GetPhysicalMs(), id.GetCounter())
	if id.GetNode() != 0 { // of a Kahuna cluster behind this agent
		name += fmt.Sprintf(".%d", id.GetNode())
	}
	if secret != "" {
		name += "-" + secret
	}
	return name
}

// ParseTxName is the inverse of TxName.
func ParseTxName(name string) (id *replication.Timestamp, secret string, err error) {
	ms, rest, ok := strings.Cut(name, "-")
	counter, secret, _ := strings.Cut(rest, "-")
	counter, number, ofNode := strings.Cut(counter, ".")
	physical, err1 := strconv.ParseInt(ms, 10, 64)
	count, err2 := strconv.ParseUint(counter, 10, 32)
	var node uint64
	var err3 error
	if ofNode {
		node, err3 = strconv.ParseUint(number, 10, 31)
	}
	if !ok || err1 != nil || err2 != nil || err3 != nil || physical <= 0 || len(secret) > 64 || strings.HasSuffix(name, "-") {
		return nil, "", Refuse(Invalid, fmt.Sprintf("%.80q is no name of a transaction", name))
	}
	return &replication.Timestamp{PhysicalMs: physical, Counter: uint32(count), Node: int32(node)}, secret, nil
}

func optionalMS(what, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	d, err := parseLength(what, text)
	return d.Milliseconds(), err
}

// Request is the contract's request for b.
func (b TxBegin) Request(secret string) (*replication.TxStart, error) {
	out := &replication.TxStart{CoordinatorKey: secret, Durable: b.Durable, Yield: b.Yield}
	switch b.Locking {
	case "", "optimistic":
		out.Locking = replication.TxLocking_TX_LOCKING_OPTIMISTIC
	case "pessimistic":
		out.Locking = replication.TxLocking_TX_LOCKING_PESSIMISTIC
	default:
		return nil, Refuse(Invalid, "the locking is optimistic or pessimistic")
	}
	var ok bool
	if out.Priority, ok = priorities[b.Priority]; !ok {
		return nil, Refuse(Invalid, "the priority is background, low, normal, high or critical")
	}
	var err error
	if out.TimeoutMs, err = optionalMS("timeout", b.Timeout); err != nil {
		return nil, err
	}
	if out.AdmissionWaitMs, err = optionalMS("wait", b.Wait); err != nil {
		return nil, err
	}
	if b.AsOf != "" {
		out.ReadTimestamp, err = ParseMoment(b.AsOf)
	}
	return out, err
}

// Request is the contract's request for r, without the transaction.
func (r TxRead) Request() (*replication.TxRead, error) {
	out := &replication.TxRead{KeysOnly: r.KeysOnly}
	if r.Prefix == nil {
		if r.Bucket || r.After != "" || r.Limit != 0 {
			return nil, Refuse(Invalid, "bucket, after and limit go with a prefix")
		}
		for _, k := range r.Keys {
			d, err := ParseDurability(string(k.Durability))
			if err != nil {
				return nil, err
			}
			out.Keys = append(out.Keys, &replication.GetKey{Key: k.Key, Durability: d.Replicated()})
		}
		return out, nil
	}
	d, err := ParseDurability(string(r.Durability))
	if err != nil {
		return nil, err
	}
	if len(r.Keys) > 0 || r.Limit < 0 {
		return nil, Refuse(Invalid, "a read names keys or a prefix, and a limit of 1 or more")
	}
	out.Range = &replication.Range{Durability: d.Replicated(), Prefix: *r.Prefix, Bucket: r.Bucket,
		KeysOnly: r.KeysOnly, Limit: min(r.Limit, replication.MaxPageRows)}
	if r.After != "" {
		out.Range.Start, out.Range.StartExclusive = &r.After, true
	}
	return out, nil
}

// Request is the contract's item for c.
func (c TxChange) Request() (*replication.WriteItem, error) {
	d, err := ParseDurability(string(c.Durability))
	if err != nil {
		return nil, err
	}
	out := &replication.WriteItem{Key: c.Key, Durability: d.Replicated(), IfExists: c.IfExists, IfNotExists: c.IfNotExists, NoHistory: c.NoHistory}
	switch c.Do {
	case "", "set":
	case "delete":
		out.Kind = replication.WriteKind_WRITE_KIND_DELETE
	case "extend":
		out.Kind = replication.WriteKind_WRITE_KIND_EXTEND
	default:
		return nil, Refuse(Invalid, "a change is set, delete or extend")
	}
	set, extend := out.Kind == replication.WriteKind_WRITE_KIND_SET, out.Kind == replication.WriteKind_WRITE_KIND_EXTEND
	switch {
	case c.Value != nil && c.Text != nil:
		return nil, Refuse(Invalid, "a change has a value or a text and not both")
	case !set && (c.Value != nil || c.Text != nil || c.NoHistory):
		return nil, Refuse(Invalid, "value, text and no_history are for a set")
	case c.TTL != "" && !set && !extend, extend && c.TTL == "":
		return nil, Refuse(Invalid, "a TTL is for a set and an extend, which needs one: 30s, or "+Forever)
	}
	if c.TTL != "" && (set || c.TTL != Forever) {
		if out.ExpiresMs, err = optionalMS("TTL", c.TTL); err != nil {
			return nil, err
		}
	}
	if c.IfRevision != nil {
		out.IfRevision, out.CompareRevision = true, *c.IfRevision
	}
	out.Value = c.Value
	if c.Text != nil {
		out.Value = []byte(*c.Text)
	}
	return out, nil
}

// Request is the contract's lock for l.
func (l TxLock) Request() (*replication.TxLockItem, error) {
	d, err := ParseDurability(string(l.Durability))
	if err != nil {
		return nil, err
	}
	out := &replication.TxLockItem{Durability: d.Replicated(), Key: l.Key}
	named := 0
	if l.Key != "" {
		named++
	}
	if l.Bucket != nil {
		named++
		out.Kind, out.Key = replication.TxLockKind_TX_LOCK_KIND_PREFIX, *l.Bucket
	}
	if l.Prefix != nil {
		named++
		out.Kind, out.Key = replication.TxLockKind_TX_LOCK_KIND_RANGE, *l.Prefix
		out.Start, out.End, out.Shared = l.Start, l.End, l.Shared
	}
	if named != 1 || l.Prefix == nil && (l.Start != nil || l.End != nil || l.Shared) {
		return nil, Refuse(Invalid, "a lock names one of key, bucket and prefix; start, end and shared go with a prefix")
	}
	out.TtlMs, err = optionalMS("TTL", l.TTL)
	return out, err
}

// TxEntriesOf converts what a transaction read.
func TxEntriesOf(e *replication.Entries, keysOnly bool) TxEntries {
	out := TxEntries{Entries: make([]TxEntry, 0, len(e.GetEntries()))}
	for _, one := range e.GetEntries() {
		out.Entries = append(out.Entries, TxEntry{EntryOf(one, keysOnly, 0), one.GetFound()})
	}
	out.Next = TxNext(e)
	return out
}

// TxNext is the cursor of a page that has another behind it, else empty.
func TxNext(e *replication.Entries) string {
	switch n := len(e.GetEntries()); {
	case !e.GetMore():
		return ""
	case e.Resume != nil:
		return *e.Resume
	case n > 0:
		return e.GetEntries()[n-1].GetKey()
	}
	return ""
}

// TransactionOf converts an open transaction.
func TransactionOf(t *replication.Transaction) Transaction {
	locking := "pessimistic"
	if t.GetLocking() == replication.TxLocking_TX_LOCKING_OPTIMISTIC {
		locking = "optimistic"
	}
	return Transaction{ID: TxName(t.GetId(), ""), Locking: locking, RemainingMS: t.GetRemainingMs(), Reads: t.GetReads(),
		Writes: t.GetWrites(), Locks: t.GetLocks(), Trouble: t.GetTrouble()}
}

// TxWait is how long the answer to a start may take beyond the usual: the leader
// holds it back until there is room.
func TxWait(s *replication.TxStart) time.Duration {
	return time.Duration(min(max(s.GetAdmissionWaitMs(), 0), math.MaxInt32)) * time.Millisecond
}
