package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of leases.
const (
	// MaxLeases bounds the leases of one limit: all are read when one is taken, and
	// this many are well within the fuel of one log entry.
	MaxLeases = 1000
	// MaxLeaseIDBytes bounds the id of a lease.
	MaxLeaseIDBytes = 256
)

// Lease is a share of a limit on how many do something at the same time: it holds
// its permits until it is released or runs out.
type Lease struct {
	Bucket     string // all leases of one limit; no slash at the end
	ID         string // of this one, without a slash, at most MaxLeaseIDBytes
	Limit      int64  // permits that all leases together may hold
	Permits    int64  // of this one
	TTLMS      int64
	Persistent bool // the lease survives what ephemeral keys do not
}

func (l Lease) checkID() error {
	switch {
	case l.Bucket == "" || strings.HasSuffix(l.Bucket, "/"):
		return errors.New("the limit's name is empty or ends in a slash")
	case l.ID == "" || strings.Contains(l.ID, "/"):
		return errors.New("the owner is empty or has a slash in it")
	case len(l.ID) > MaxLeaseIDBytes:
		return fmt.Errorf("the owner has %d bytes, and the limit is %d", len(l.ID), MaxLeaseIDBytes)
	}
	return nil
}

func (l Lease) checkTTL() error {
	if l.TTLMS < 1 || l.TTLMS > MaxPeriod {
		return fmt.Errorf("a lease lasts 1 ms to 366 days, not %d ms", l.TTLMS)
	}
	return nil
}

func (l Lease) checkPermits() error {
	if l.Permits < 1 || l.Limit < 1 || l.Limit > MaxPermits || l.Permits > l.Limit {
		return fmt.Errorf("%d of %d permits cannot be held", l.Permits, l.Limit)
	}
	return nil
}

func (l Lease) key() Param { return Param{"@lease", l.Bucket + "/" + l.ID} }

// Acquire is the script that takes the lease: it answers Get, and ParseLease reads
// its value. It is refused when the others hold too much, or are MaxLeases. Taking
// a lease that is held replaces it, so that asking again is safe; when that is
// refused, the lease stays as it was.
func (l Lease) Acquire() (text string, params []Param, err error) {
	if err := cmp.Or(l.checkID(), l.checkPermits(), l.checkTTL()); err != nil {
		return "", nil, err
	}
	return durable(acquireScript, l.Persistent), []Param{{"@bucket", l.Bucket}, l.key(), number("@limit", l.Limit),
		number("@permits", l.Permits), number("@ttl", l.TTLMS), number("@most", MaxLeases)}, nil
}

// Renew is the script that lets the lease last another TTL from now, with the
// permits that it has. It answers Set, or NotSet when the lease has run out: its
// permits may be somebody else's. Limit and Permits are not looked at.
func (l Lease) Renew() (text string, params []Param, err error) {
	if err := cmp.Or(l.checkID(), l.checkTTL()); err != nil {
		return "", nil, err
	}
	return durable(renewScript, l.Persistent), []Param{l.key(), number("@ttl", l.TTLMS)}, nil
}

// Release is the script that gives the lease back. It answers Deleted, or
// DoesNotExist when the lease has run out. Only Bucket, ID and Persistent count.
func (l Lease) Release() (text string, params []Param, err error) {
	if err := l.checkID(); err != nil {
		return "", nil, err
	}
	return durable(releaseScript, l.Persistent), []Param{l.key()}, nil
}

// LeaseAnswer is what the script of Acquire answered.
type LeaseAnswer struct {
	Granted bool
	Left    int64 // permits left, when granted
	Held    int64 // permits that others hold, when refused
	RetryMS int64 // when refused: until the next lease ends, 0: cannot tell
}

// ParseLease reads the value that the script of Acquire returned: "1:LEFT" or
// "0:MS:HELD".
func ParseLease(value []byte) (LeaseAnswer, error) {
	rest, refused := strings.CutPrefix(string(value), "0:")
	if !refused {
		a, err := Parse(value)
		return LeaseAnswer{Granted: a.Granted, Left: a.Left}, err
	}
	wait, others, _ := strings.Cut(rest, ":")
	retry, err := strconv.ParseInt(wait, 10, 64)
	held, err2 := strconv.ParseInt(others, 10, 64)
	if err != nil || err2 != nil || retry < 0 || held < 0 {
		return LeaseAnswer{}, fmt.Errorf("the limit's script answered %.40q", value)
	}
	return LeaseAnswer{Held: held, RetryMS: retry}, nil
}
