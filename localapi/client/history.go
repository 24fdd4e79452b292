package client

import (
	"context"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// SnapshotHold keeps, for the length of a lease, the history that reads as of at
// need. Asked again with the same holder and time it returns the same hold, whose
// lease begins anew.
func (c *Client) SnapshotHold(ctx context.Context, holder string, at *replication.Timestamp, lease time.Duration) (wire.SnapshotHold, error) {
	return c.snapshot(ctx, "snapshot hold of", holder, &replication.Request{Op: &replication.Request_SnapshotHoldAcquire{
		SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{Holder: holder, Timestamp: at, LeaseMs: lease.Milliseconds()}}})
}

// SnapshotRenew begins the lease of a hold again. ErrNotFound when it has lapsed.
func (c *Client) SnapshotRenew(ctx context.Context, id string, lease time.Duration) (wire.SnapshotHold, error) {
	return c.snapshot(ctx, "snapshot hold", id, &replication.Request{Op: &replication.Request_SnapshotHoldRenew{
		SnapshotHoldRenew: &replication.SnapshotHoldRenew{Id: id, LeaseMs: lease.Milliseconds()}}})
}

// SnapshotRelease lets the history go. ErrNotFound when the hold has lapsed.
func (c *Client) SnapshotRelease(ctx context.Context, id string) error {
	_, err := c.ask(ctx, "snapshot hold", id, &replication.Request{Op: &replication.Request_SnapshotHoldRelease{
		SnapshotHoldRelease: &replication.SnapshotHoldRelease{Id: id}}})
	return err
}

// SnapshotList returns all holds, and the lowest time among them.
func (c *Client) SnapshotList(ctx context.Context) (wire.SnapshotHolds, error) {
	a, err := c.ask(ctx, "snapshot holds", "", &replication.Request{Op: &replication.Request_SnapshotFloorGet{
		SnapshotFloorGet: &replication.SnapshotFloorGet{List: true}}})
	if err != nil {
		return wire.SnapshotHolds{}, err
	}
	return wire.SnapshotHoldsOf(a.GetSnapshotFloor()), nil
}

func (c *Client) snapshot(ctx context.Context, what, name string, req *replication.Request) (wire.SnapshotHold, error) {
	a, err := c.ask(ctx, what, name, req)
	if err != nil {
		return wire.SnapshotHold{}, err
	}
	return wire.SnapshotHoldOf(a.GetSnapshotHold()), nil
}

// KeySpaceSet registers a key space (the part of a key before its last slash) as
// ordered, or takes the record away. Nothing depends on it: it is kept for Kahuna's
// clients, and every range can be read in order anyway.
func (c *Client) KeySpaceSet(ctx context.Context, name string, registered bool) (wire.KeySpaceChange, error) {
	a, err := c.ask(ctx, "key space", name, &replication.Request{Op: &replication.Request_KeySpaceSet{
		KeySpaceSet: &replication.KeySpaceSet{Name: name, Ranged: registered}}})
	if err != nil {
		return wire.KeySpaceChange{}, err
	}
	return wire.KeySpaceChange{KeySpace: name, Registered: registered, Changed: a.GetKeySpaces().GetChanged()}, nil
}

// KeySpaceList returns a page of the registered key spaces in order of name.
func (c *Client) KeySpaceList(ctx context.Context, p Page) (wire.KeySpaces, error) {
	a, err := c.ask(ctx, "key spaces", "", &replication.Request{Op: &replication.Request_KeySpaceList{
		KeySpaceList: &replication.KeySpaceList{After: p.After, Limit: p.limit()}}})
	if err != nil {
		return wire.KeySpaces{}, err
	}
	return wire.KeySpacesOf(a.GetKeySpaces()), nil
}
