package client

import (
	"context"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
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
}

// Condition of a change. At most one field is set.
type Condition struct {
	Exists    bool   // only if the key exists
	NotExists bool   // only if it does not
	Revision  *int64 // only if this is the current revision; -1: never written
	Value     []byte // not nil: only if this is the current value
}

// WriteOptions of KVSet and KVDelete.
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
	return wire.Entry{}, ErrNoAgent
}

// KVExists reads a key without its value. ErrNotFound.
func (c *Client) KVExists(ctx context.Context, key string, o ReadOptions) (wire.Entry, error) {
	return wire.Entry{}, ErrNoAgent
}

// KVSet writes a key. ErrConditionFailed.
func (c *Client) KVSet(ctx context.Context, key string, value []byte, o WriteOptions) (wire.Written, error) {
	return wire.Written{}, ErrNoAgent
}

// KVDelete deletes a key. ErrNotFound, ErrConditionFailed.
func (c *Client) KVDelete(ctx context.Context, key string, o WriteOptions) (wire.Written, error) {
	return wire.Written{}, ErrNoAgent
}

// KVExtend makes a key expire ttl from now, 0 never. ErrNotFound.
func (c *Client) KVExtend(ctx context.Context, key string, ttl time.Duration, o WriteOptions) (wire.Written, error) {
	return wire.Written{}, ErrNoAgent
}

// KVList returns a page of keys with a prefix in byte order.
func (c *Client) KVList(ctx context.Context, prefix string, p Page, o ReadOptions) (wire.Entries, error) {
	return wire.Entries{}, ErrNoAgent
}

// KVHistory returns revisions of a key, newest first, below before (nil: all).
func (c *Client) KVHistory(ctx context.Context, key string, before *int64, limit int, o ReadOptions) (wire.Entries, error) {
	return wire.Entries{}, ErrNoAgent
}
