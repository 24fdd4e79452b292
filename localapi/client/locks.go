package client

import (
	"context"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
)

// Page asks for a part of a list. The zero value asks for the first page.
type Page struct {
	After string // continue behind this name: Next of the page before
	Limit int    // 0: the largest page
}

// LockOptions say which lock, and in whose name.
type LockOptions struct {
	Ephemeral bool   // in the ephemeral table
	Reason    string // shown to others; LockBreak: told to the holder
	Command   string // shown to others
}

// LockTry takes a lock with a lease of its own, or returns ErrBusy. Nobody
// renews it: see Hold for a lock that is kept alive. Who knows owner (1 to 256
// bytes) may extend and unlock.
func (c *Client) LockTry(ctx context.Context, name string, owner []byte, ttl time.Duration, o LockOptions) (wire.Grant, error) {
	return wire.Grant{}, ErrNoAgent
}

// LockExtend makes the lease end ttl from now, unless it ends later already.
// ErrNotFound when it is free or lapsed, ErrNotOwner.
func (c *Client) LockExtend(ctx context.Context, name string, owner []byte, ttl time.Duration, o LockOptions) (wire.Grant, error) {
	return wire.Grant{}, ErrNoAgent
}

// LockUnlock frees the lock; the next in line gets it. ErrNotFound, ErrNotOwner.
func (c *Client) LockUnlock(ctx context.Context, name string, owner []byte, o LockOptions) error {
	return ErrNoAgent
}

// LockInfo inspects a lock and its queue. ErrNotFound when it is free.
func (c *Client) LockInfo(ctx context.Context, name string, o LockOptions) (wire.Lock, error) {
	return wire.Lock{}, ErrNoAgent
}

// LockList returns a page of held locks in order of name.
func (c *Client) LockList(ctx context.Context, prefix string, p Page, o LockOptions) (wire.Locks, error) {
	return wire.Locks{}, ErrNoAgent
}

// LockBreak frees a lock whoever holds it. For administrators.
func (c *Client) LockBreak(ctx context.Context, name string, o LockOptions) error {
	return ErrNoAgent
}
