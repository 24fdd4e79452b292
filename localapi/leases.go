package localapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/limiter"
	"github.com/kahu-sh/kahu/replication/stream"
)

// leaseKeys is where the permits of limits on how many do something at the same
// time are kept, in the table that the caller chose.
const leaseKeys = limitKeys + "lease/"

// postLimitAcquire takes a lease: 200 when granted, 429 when not.
func (s *Server) postLimitAcquire(x *exchange) error {
	var in wire.LeaseAcquire
	if err := x.decode(&in); err != nil {
		return err
	}
	out, err := s.acquireLease(x.r.Context(), x.name, in)
	if err != nil {
		return err
	}
	return x.writeGrant(out.Granted, out.RetryAfterMS, out)
}

func (s *Server) postLimitRenew(x *exchange) error {
	var in wire.LeaseRenew
	if err := x.decode(&in); err != nil {
		return err
	}
	out, err := s.renewLease(x.r.Context(), x.name, in)
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, out)
}

func (s *Server) postLimitRelease(x *exchange) error {
	var in wire.LeaseRelease
	if err := x.decode(&in); err != nil {
		return err
	}
	out, err := s.releaseLease(x.r.Context(), x.name, in)
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, out)
}

// leaseOf checks what the three have in common.
func leaseOf(name, owner string, d wire.Durability) (limiter.Lease, error) {
	if err := wire.CheckOwner([]byte(owner)); err != nil {
		return limiter.Lease{}, invalid(err)
	}
	return limiter.Lease{Bucket: leaseKeys + name, ID: owner, Persistent: d == wire.Persistent},
		invalid(wire.CheckScriptText("the owner", owner))
}

// leaseMS reads how long a lease is to last.
func leaseMS(text string) (int64, error) {
	d, err := wire.ParseTTL(text)
	if err != nil {
		return 0, invalidf("the lease is a length of time such as 30s: %v", err)
	}
	return max(d.Milliseconds(), 1), nil
}

// acquireLease carries out an acquire that the caller is allowed.
func (s *Server) acquireLease(ctx context.Context, name string, in wire.LeaseAcquire) (wire.LimitLease, error) {
	out := wire.LimitLease{Limit: name, Owner: in.Owner}
	lease, err := leaseOf(name, in.Owner, in.Durability)
	if err != nil {
		return out, err
	}
	if lease.TTLMS, err = leaseMS(in.Lease); err != nil {
		return out, err
	}
	lease.Limit, lease.Permits = in.Limit, 1
	if in.Permits != nil {
		lease.Permits = *in.Permits
	}
	text, params, err := lease.Acquire()
	if err != nil {
		return out, invalid(err)
	}
	value, err := s.askLimit(ctx, text, params)
	if err != nil {
		return out, err
	}
	a, err := limiter.ParseLease(value)
	if err != nil {
		return out, wire.Refuse(wire.Internal, err.Error())
	}
	out.Granted, out.Left, out.Held, out.RetryAfterMS = a.Granted, a.Left, a.Held, a.RetryMS
	if a.Granted {
		out.Held, out.LeaseMS = in.Limit-a.Left, lease.TTLMS
	}
	return out, nil
}

// errLeaseEnded refuses what needs a lease that is held.
func errLeaseEnded(name, owner string) error {
	return wire.Refuse(wire.NotFound, fmt.Sprintf("the owner %q holds no permit of %q: it was released, or its lease ended", wire.Text(owner), wire.Text(name)))
}

// renewLease carries out a renewal that the caller is allowed.
func (s *Server) renewLease(ctx context.Context, name string, in wire.LeaseRenew) (wire.LeaseRenewed, error) {
	out := wire.LeaseRenewed{Limit: name, Owner: in.Owner}
	lease, err := leaseOf(name, in.Owner, in.Durability)
	if err != nil {
		return out, err
	}
	if lease.TTLMS, err = leaseMS(in.Lease); err != nil {
		return out, err
	}
	text, params, err := lease.Renew()
	if err != nil {
		return out, invalid(err)
	}
	result, err := s.runLimit(ctx, text, params)
	if err == nil && result.Type != wire.ScriptSet {
		err = errLeaseEnded(name, in.Owner)
	}
	out.LeaseMS = lease.TTLMS
	return out, err
}

// releaseLease carries out a release that the caller is allowed.
func (s *Server) releaseLease(ctx context.Context, name string, in wire.LeaseRelease) (wire.LeaseReleased, error) {
	out := wire.LeaseReleased{Limit: name, Owner: in.Owner}
	lease, err := leaseOf(name, in.Owner, in.Durability)
	if err != nil {
		return out, err
	}
	text, params, err := lease.Release()
	if err != nil {
		return out, invalid(err)
	}
	result, err := s.runLimit(ctx, text, params)
	if err == nil && result.Type != wire.ScriptDeleted {
		err = errLeaseEnded(name, in.Owner)
	}
	return out, err
}

// lease is the three on the stream.
func (u *upgraded) lease(ctx context.Context, in *stream.Incoming) (op, code string, err error) {
	op = "limits_acquire"
	var req wire.LeaseRequest
	if err := wire.Decode(bytes.Clone(in.Payload), &req); err != nil {
		return op, "", invalid(err)
	}
	if err := (admission{u.server, u.who}).named(policy.Write, "name", req.Name); err != nil {
		return op, "", err
	}
	var out any
	switch {
	case req.Acquire != nil && req.Renew == nil && req.Release == nil:
		out, err = u.server.acquireLease(ctx, req.Name, *req.Acquire)
	case req.Renew != nil && req.Acquire == nil && req.Release == nil:
		op = "limits_renew"
		out, err = u.server.renewLease(ctx, req.Name, *req.Renew)
	case req.Release != nil && req.Acquire == nil && req.Renew == nil:
		op = "limits_release"
		out, err = u.server.releaseLease(ctx, req.Name, *req.Release)
	default:
		err = invalidf("one of acquire, renew and release is asked for at a time")
	}
	if err != nil {
		return op, "", err
	}
	return op, "ok", replyJSON(in, out)
}
