package client

import (
	"context"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Page asks for a part of a list. The zero value asks for the first page.
type Page struct {
	After string // continue behind this name: Next of the page before
	Limit int    // 0: the largest page
}

func (p Page) limit() uint32 { return uint32(min(max(p.Limit, 0), replication.MaxPageRows)) }

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
	a, err := c.ask(ctx, "lock", name, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
		Durability: table(o.Ephemeral), Name: name, Owner: owner, TtlMs: ttl.Milliseconds(),
		Info: &replication.HolderInfo{Command: o.Command, Reason: o.Reason}}}})
	if err != nil {
		return wire.Grant{}, err
	}
	return wire.GrantOf(name, a.GetLockGrant()), nil
}

// LockExtend makes the lease end ttl from now, unless it ends later already.
// ErrNotFound when it is free or lapsed, ErrNotOwner.
func (c *Client) LockExtend(ctx context.Context, name string, owner []byte, ttl time.Duration, o LockOptions) (wire.Grant, error) {
	a, err := c.ask(ctx, "lock", name, &replication.Request{Op: &replication.Request_LockExtend{LockExtend: &replication.LockExtend{
		Durability: table(o.Ephemeral), Name: name, Owner: owner, TtlMs: ttl.Milliseconds()}}})
	if err != nil {
		return wire.Grant{}, err
	}
	return wire.GrantOf(name, a.GetLockGrant()), nil
}

// LockUnlock frees the lock; the next in line gets it. ErrNotFound, ErrNotOwner.
func (c *Client) LockUnlock(ctx context.Context, name string, owner []byte, o LockOptions) error {
	_, err := c.ask(ctx, "lock", name, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
		Durability: table(o.Ephemeral), Name: name, Owner: owner}}})
	return err
}

// LockInfo inspects a lock and its queue. ErrNotFound when it is free.
func (c *Client) LockInfo(ctx context.Context, name string, o LockOptions) (wire.Lock, error) {
	a, err := c.ask(ctx, "lock", name, &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{
		Durability: table(o.Ephemeral), Name: name, QueueLimit: wire.MaxWaitersShown}}})
	if err != nil {
		return wire.Lock{}, err
	}
	return wire.LockOf(a.GetLock()), nil
}

// LockList returns a page of held locks in order of name.
func (c *Client) LockList(ctx context.Context, prefix string, p Page, o LockOptions) (wire.Locks, error) {
	a, err := c.ask(ctx, "locks with prefix", prefix, &replication.Request{Op: &replication.Request_LockList{LockList: &replication.LockList{
		Durability: table(o.Ephemeral), Prefix: prefix, After: p.After, Limit: p.limit()}}})
	if err != nil {
		return wire.Locks{}, err
	}
	return wire.LocksOf(a.GetLocks()), nil
}

// LockBreak frees a lock whoever holds it. For administrators.
func (c *Client) LockBreak(ctx context.Context, name string, o LockOptions) error {
	_, err := c.ask(ctx, "lock", name, &replication.Request{Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{
		Durability: table(o.Ephemeral), Name: name, Reason: o.Reason}}})
	return err
}
