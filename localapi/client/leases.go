package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/stream"
)

// leasePoll is how often LimitAcquireWait asks at least: a lease may be released
// before it ends.
const leasePoll = time.Second

// LeaseOptions of LimitAcquire.
type LeaseOptions struct {
	// Owner names the lease: 1 to 256 bytes of UTF-8 without a slash. Acquiring with
	// the owner of a lease that is held replaces that lease.
	Owner   string
	Limit   int64         // permits that all owners together may hold
	Permits int64         // of this lease; 0: 1
	Lease   time.Duration // it ends by itself so long from now, unless renewed
	// Persistent keeps the lease in the persistent table.
	Persistent bool
}

// LimitAcquire takes a lease of the limit of this name on how many do something at
// the same time. A refusal is an answer and not an error: it says how many permits
// are held, and when the next lease ends.
func (c *Client) LimitAcquire(ctx context.Context, name string, o LeaseOptions) (wire.LimitLease, error) {
	in := &wire.LeaseAcquire{Owner: o.Owner, Limit: o.Limit, Lease: o.Lease.String(), Durability: leaseTable(o.Persistent)}
	if o.Permits != 0 {
		in.Permits = &o.Permits
	}
	var out wire.LimitLease
	err := c.lease(ctx, wire.LeaseRequest{Name: name, Acquire: in}, &out)
	return out, err
}

// LimitAcquireWait is LimitAcquire until it is granted, for about as long as wait;
// then it returns the last refusal. There is no line: who asks first after a release
// gets the permits. ctx bounds all of it.
func (c *Client) LimitAcquireWait(ctx context.Context, name string, o LeaseOptions, wait time.Duration) (wire.LimitLease, error) {
	end := time.Now().Add(wait)
	for {
		out, err := c.LimitAcquire(ctx, name, o)
		left := time.Until(end)
		if err != nil || out.Granted || left <= 0 {
			return out, err
		}
		next := min(left, leasePoll)
		if out.RetryAfterMS > 0 {
			next = min(next, time.Duration(out.RetryAfterMS)*time.Millisecond)
		}
		if !pause(ctx, max(next, 10*time.Millisecond)) {
			return out, nil
		}
	}
}

// LimitRenew lets a lease last so long from now, with the permits that it has.
// ErrNotFound: it was released, or ended, and its permits may be somebody else's.
func (c *Client) LimitRenew(ctx context.Context, name, owner string, lease time.Duration, persistent bool) (wire.LeaseRenewed, error) {
	var out wire.LeaseRenewed
	in := &wire.LeaseRenew{Owner: owner, Lease: lease.String(), Durability: leaseTable(persistent)}
	err := c.lease(ctx, wire.LeaseRequest{Name: name, Renew: in}, &out)
	return out, err
}

// LimitRelease gives a lease back. ErrNotFound: it was released, or ended.
func (c *Client) LimitRelease(ctx context.Context, name, owner string, persistent bool) error {
	var out wire.LeaseReleased
	return c.lease(ctx, wire.LeaseRequest{Name: name, Release: &wire.LeaseRelease{Owner: owner, Durability: leaseTable(persistent)}}, &out)
}

func leaseTable(persistent bool) wire.Durability {
	if persistent {
		return wire.Persistent
	}
	return wire.Ephemeral
}

func (c *Client) lease(ctx context.Context, req wire.LeaseRequest, out any) error {
	b, err := json.Marshal(req)
	if err != nil {
		return fail(fmt.Sprintf("the lease cannot be encoded: %v", err), ErrInvalid)
	}
	payload, err := c.call(ctx, wire.MethodLease, stream.Bytes(b), false)
	if err != nil {
		return about("limit", req.Name, err)
	}
	if err := json.Unmarshal(payload, out); err != nil {
		return fail(fmt.Sprintf("the agent's answer cannot be decoded: %v", err), ErrInternal, err)
	}
	return nil
}
