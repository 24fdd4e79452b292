package client

import (
	"context"
	"errors"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// ReadOptions of KVGet, KVExists, KVList and KVHistory.
type ReadOptions struct {
	Ephemeral bool
	// Stale reads what this agent's voter has, without asking the quorum; AgeMS
	// of the result says how old it may be.
	Stale bool
	// KeysOnly leaves values out of lists and history.
	KeysOnly bool
	// Revision asks KVGet for this one instead of the newest; nil: the newest.
	Revision *int64
	// AsOf asks KVGet, KVExists and KVList for the state of then
	// (wire.ParseMoment); nil: now. ErrTooOld when history does not go back so far.
	AsOf *replication.Timestamp
	// Bucket asks KVList for the keys in the bucket PREFIX alone: PREFIX/ and a
	// rest without a slash.
	Bucket bool
}

// Condition of a change. All that is set must hold.
type Condition struct {
	Exists    bool   // only if the key exists
	NotExists bool   // only if it does not
	Revision  *int64 // only if this is the current revision; -1: never written
	Value     []byte // not nil: only if this is the current value
}

// WriteOptions of KVSet, KVDelete, and of Set and Delete in a transaction.
type WriteOptions struct {
	Ephemeral bool
	TTL       time.Duration // KVSet: 0 for ever
	If        Condition
	// Null sets null, which is not the same as an empty value.
	Null bool
	// NoHistory: the value being overwritten is not kept.
	NoHistory bool
}

// KVGet reads a key. ErrNotFound.
func (c *Client) KVGet(ctx context.Context, key string, o ReadOptions) (wire.Entry, error) {
	return c.get(ctx, key, o)
}

// KVExists reads a key without its value. ErrNotFound.
func (c *Client) KVExists(ctx context.Context, key string, o ReadOptions) (wire.Entry, error) {
	o.KeysOnly = true
	return c.get(ctx, key, o)
}

// KVSet writes a key. ErrConditionFailed.
func (c *Client) KVSet(ctx context.Context, key string, value []byte, o WriteOptions) (wire.Written, error) {
	item := &replication.WriteItem{Key: key, ExpiresMs: o.TTL.Milliseconds(), NoHistory: o.NoHistory}
	if o.TTL != 0 {
		if err := wire.CheckTTL(o.TTL); err != nil {
			return wire.Written{}, about("key", key, fail(err.Error(), ErrInvalid))
		}
	}
	if !o.Null {
		item.Value = value
		if value == nil {
			item.Value = []byte{}
		}
	}
	return c.write(ctx, item, o)
}

// KVDelete deletes a key. ErrNotFound, ErrConditionFailed.
func (c *Client) KVDelete(ctx context.Context, key string, o WriteOptions) (wire.Written, error) {
	return c.write(ctx, &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_DELETE, Key: key}, o)
}

// KVExtend makes a key expire ttl from now, 0 never. ErrNotFound.
func (c *Client) KVExtend(ctx context.Context, key string, ttl time.Duration, o WriteOptions) (wire.Written, error) {
	if ttl != 0 {
		if err := wire.CheckTTL(ttl); err != nil {
			return wire.Written{}, about("key", key, fail(err.Error(), ErrInvalid))
		}
	}
	return c.write(ctx, &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_EXTEND, Key: key, ExpiresMs: ttl.Milliseconds()}, o)
}

// KVList returns a page of keys with a prefix in byte order.
func (c *Client) KVList(ctx context.Context, prefix string, p Page, o ReadOptions) (wire.Entries, error) {
	r := &replication.Range{Durability: table(o.Ephemeral), Prefix: prefix, Bucket: o.Bucket, KeysOnly: o.KeysOnly,
		Limit: int64(p.limit()), AsOf: o.AsOf}
	if p.After != "" {
		r.Start, r.StartExclusive = &p.After, true
	}
	a, err := c.ask(ctx, "keys with prefix", prefix, &replication.Request{Stale: o.Stale, Op: &replication.Request_Range{Range: r}})
	if err != nil {
		return wire.Entries{}, err
	}
	return wire.EntriesOf(a.GetEntries(), o.KeysOnly, a.GetAgeMs()), nil
}

// KVHistory returns revisions of a key, newest first, below before (nil: all).
func (c *Client) KVHistory(ctx context.Context, key string, before *int64, limit int, o ReadOptions) (wire.Entries, error) {
	a, err := c.ask(ctx, "key", key, &replication.Request{Stale: o.Stale, Op: &replication.Request_History{History: &replication.History{
		Durability: table(o.Ephemeral), Key: key, Before: before, Limit: int64(max(limit, 0))}}})
	if err != nil {
		return wire.Entries{}, err
	}
	out := wire.HistoryOf(a.GetEntries(), o.KeysOnly, a.GetAgeMs())
	if o.KeysOnly {
		for i := range out.Entries {
			out.Entries[i].Value = nil
		}
	}
	return out, nil
}

func (c *Client) get(ctx context.Context, key string, o ReadOptions) (wire.Entry, error) {
	a, err := c.ask(ctx, "key", key, &replication.Request{Stale: o.Stale, Op: &replication.Request_Get{Get: &replication.Get{
		Keys: []*replication.GetKey{{Durability: table(o.Ephemeral), Key: key, Revision: o.Revision}}, KeysOnly: o.KeysOnly, AsOf: o.AsOf}}})
	if err != nil {
		return wire.Entry{}, err
	}
	entries := a.GetEntries().GetEntries()
	if len(entries) != 1 {
		return wire.Entry{}, about("key", key, fail("the agent answered with another number of keys", ErrInternal))
	}
	if !entries[0].GetFound() {
		return wire.Entry{}, about("key", key, fail(wire.NoKey(o.Revision), ErrNotFound))
	}
	return wire.EntryOf(entries[0], o.KeysOnly, a.GetAgeMs()), nil
}

// write carries out one change, with the conditions of o.
func (c *Client) write(ctx context.Context, item *replication.WriteItem, o WriteOptions) (wire.Written, error) {
	o.apply(item)
	a, err := c.ask(ctx, "key", item.Key, &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{item}}}})
	items := a.GetWritten().GetItems()
	if errors.Is(err, ErrConditionFailed) && len(items) == 1 {
		return wire.Written{}, &ConditionError{Key: item.Key, Revision: items[0].GetRevision()}
	}
	if errors.Is(err, ErrNotFound) {
		return wire.Written{}, about("key", item.Key, fail(wire.NoKey(nil), ErrNotFound))
	}
	if err != nil {
		return wire.Written{}, err
	}
	if len(items) != 1 {
		return wire.Written{}, about("key", item.Key, fail("the agent answered with another number of keys", ErrInternal))
	}
	return wire.WrittenOf(item.Key, items[0]), nil
}

// apply puts the table and the conditions of o into item.
func (o WriteOptions) apply(item *replication.WriteItem) {
	item.Durability = table(o.Ephemeral)
	item.IfExists, item.IfNotExists = o.If.Exists, o.If.NotExists
	if o.If.Revision != nil {
		item.IfRevision, item.CompareRevision = true, *o.If.Revision
	}
	if o.If.Value != nil {
		item.IfValue, item.CompareValue = true, o.If.Value
	}
}
