package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Get reads a key as the transaction has left it. ErrNotFound. Of o only
// Ephemeral and Revision are looked at.
func (t *Tx) Get(key string, o ReadOptions) (wire.Entry, error) {
	entries, err := t.read(key, []*replication.GetKey{{Durability: table(o.Ephemeral), Key: key, Revision: o.Revision}})
	if err != nil {
		return wire.Entry{}, err
	}
	if !entries[0].GetFound() {
		return wire.Entry{}, about("key", key, fail(wire.NoKey(nil), ErrNotFound))
	}
	return wire.EntryOf(entries[0], false, 0), nil
}

// GetMany reads keys of the persistent table at one moment, at most 256. A key
// that does not exist is not in the map.
func (t *Tx) GetMany(keys ...string) (map[string]wire.Entry, error) {
	ask := make([]*replication.GetKey, len(keys))
	for i, key := range keys {
		ask[i] = &replication.GetKey{Durability: table(false), Key: key}
	}
	if len(keys) == 0 {
		return map[string]wire.Entry{}, nil
	}
	entries, err := t.read(keys[0], ask)
	if err != nil {
		return nil, err
	}
	out := make(map[string]wire.Entry, len(keys))
	for i, e := range entries {
		if e.GetFound() {
			out[keys[i]] = wire.EntryOf(e, false, 0)
		}
	}
	return out, nil
}

// read reads keys; name is for errors.
func (t *Tx) read(name string, keys []*replication.GetKey) ([]*replication.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(false); err != nil {
		return nil, err
	}
	if t.options.Pessimistic {
		locks := make([]*replication.TxLockItem, len(keys))
		for i, k := range keys {
			locks[i] = &replication.TxLockItem{Durability: k.Durability, Key: k.Key}
		}
		if err := t.lock(name, locks); err != nil {
			return nil, err
		}
	}
	req := &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: t.reference(nil), Keys: keys}}}
	if t.options.ReadOnly {
		req = &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: keys, AsOf: t.asOf}}}
	}
	a, err := t.sendRead("key", name, req)
	if err != nil {
		return nil, err
	}
	entries := a.GetEntries().GetEntries()
	if len(entries) != len(keys) {
		t.broken = about("key", name, fail("the agent answered with another number of keys", ErrInternal))
		return nil, t.broken
	}
	return entries, nil
}

// sendRead is send for what the answer's moment matters to. History that is gone
// while nobody named the moment is no error: a later one will do.
func (t *Tx) sendRead(what, name string, req *replication.Request) (*replication.Answer, error) {
	if t.options.ReadOnly && t.ends.IsZero() {
		t.ends = time.Now().Add(t.options.timeout())
	}
	a, err := t.send(what, name, req)
	switch {
	case err == nil && t.options.ReadOnly && t.asOf == nil:
		t.asOf = a.GetTime()
	case errors.Is(err, ErrTooOld) && t.options.ReadOnly && t.options.AsOf == nil:
		t.again = true
	}
	return a, err
}

// List reads a page of keys with a prefix in byte order, as the transaction has
// left them. That a key appears among them, or goes, before the commit is a
// conflict. Of o only Ephemeral, KeysOnly and Bucket are looked at. A page may be
// empty and have another behind it: go on until Next is empty.
func (t *Tx) List(prefix string, p Page, o ReadOptions) (wire.Entries, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(false); err != nil {
		return wire.Entries{}, err
	}
	r := &replication.Range{Durability: table(o.Ephemeral), Prefix: prefix, Bucket: o.Bucket, KeysOnly: o.KeysOnly, Limit: int64(p.limit())}
	if p.After != "" {
		r.Start, r.StartExclusive = &p.After, true
	}
	if t.options.Pessimistic {
		lock := &replication.TxLockItem{Kind: replication.TxLockKind_TX_LOCK_KIND_RANGE, Durability: r.Durability, Key: prefix}
		if err := t.lock(prefix, []*replication.TxLockItem{lock}); err != nil {
			return wire.Entries{}, err
		}
	}
	req := &replication.Request{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: t.reference(nil), Range: r, KeysOnly: o.KeysOnly}}}
	if t.options.ReadOnly {
		r.AsOf = t.asOf
		req = &replication.Request{Op: &replication.Request_Range{Range: r}}
	}
	a, err := t.sendRead("keys with prefix", prefix, req)
	if err != nil {
		return wire.Entries{}, err
	}
	out := wire.EntriesOf(a.GetEntries(), o.KeysOnly, 0)
	out.Next = wire.TxNext(a.GetEntries())
	return out, nil
}

// Set writes a key; others see it with the commit. ErrConditionFailed, by what
// the transaction sees. A TTL counts from the commit on.
func (t *Tx) Set(key string, value []byte, o WriteOptions) (wire.Written, error) {
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
	return t.write(item, o)
}

// Delete deletes a key. ErrNotFound, ErrConditionFailed.
func (t *Tx) Delete(key string, o WriteOptions) (wire.Written, error) {
	return t.write(&replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_DELETE, Key: key}, o)
}

func (t *Tx) write(item *replication.WriteItem, o WriteOptions) (wire.Written, error) {
	o.apply(item)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(true); err != nil {
		return wire.Written{}, err
	}
	a, err := t.send("key", item.Key, &replication.Request{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{
		Tx: t.reference(newOperation()), Items: []*replication.WriteItem{item}}}})
	items := a.GetWritten().GetItems()
	if errors.Is(err, ErrConditionFailed) && len(items) == 1 {
		return wire.Written{}, &ConditionError{Key: item.Key, Revision: items[0].GetRevision()}
	}
	if err != nil {
		return wire.Written{}, err
	}
	if len(items) != 1 {
		t.broken = about("key", item.Key, fail("the agent answered with another number of keys", ErrInternal))
		return wire.Written{}, t.broken
	}
	return wire.WrittenOf(item.Key, items[0]), nil
}

// Lock locks keys of the persistent table until the end, all or none, so that
// nobody else writes them: reads of them that follow cannot conflict. When one is
// locked by another transaction this run is over, and the function runs again.
func (t *Tx) Lock(keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(true); err != nil {
		return err
	}
	items := make([]*replication.TxLockItem, len(keys))
	for i, key := range keys {
		items[i] = &replication.TxLockItem{Durability: table(false), Key: key}
	}
	return t.lock(keys[0], items)
}

func (t *Tx) lock(name string, items []*replication.TxLockItem) error {
	a, err := t.send("key", name, &replication.Request{Op: &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: t.reference(newOperation()), Locks: items}}})
	if in := a.GetTxLocked(); err != nil && in != nil && int(in.GetBlocked()) < len(items) {
		t.broken = fmt.Errorf("locking %.100q: %w", items[in.GetBlocked()].GetKey(), err)
		return t.broken
	}
	return err
}
