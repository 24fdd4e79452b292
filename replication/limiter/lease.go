package limiter

import (
	"errors"
	"fmt"
	"strings"
)

// Lease is a share of a limit on how many do something at the same time: it holds
// its permits until it is released or runs out.
type Lease struct {
	Bucket     string // all leases of one limit; no slash at the end
	ID         string // of this one, without a slash
	Limit      int64  // permits that all leases together may hold
	Permits    int64
	TTLMS      int64
	Persistent bool
}

func (l Lease) check() error {
	switch {
	case l.Bucket == "" || strings.HasSuffix(l.Bucket, "/"):
		return errors.New("the limit's name is empty or ends in a slash")
	case l.ID == "" || strings.Contains(l.ID, "/"):
		return errors.New("the lease's id is empty or has a slash in it")
	case l.Permits < 1 || l.Limit < 1 || l.Limit > MaxPermits || l.Permits > l.Limit:
		return fmt.Errorf("%d of %d permits cannot be held", l.Permits, l.Limit)
	case l.TTLMS < 1 || l.TTLMS > MaxPeriod:
		return fmt.Errorf("a lease lasts 1 ms to 366 days, not %d ms", l.TTLMS)
	}
	return nil
}

func (l Lease) params() []Param {
	return []Param{{"@bucket", l.Bucket}, {"@lease", l.Bucket + "/" + l.ID},
		number("@limit", l.Limit), number("@permits", l.Permits), number("@ttl", l.TTLMS)}
}

// Acquire is the script that takes the lease. Parse reads its answer. Taking a
// lease that is held counts its permits twice: ids are not to be used again.
func (l Lease) Acquire() (text string, params []Param, err error) {
	if err := l.check(); err != nil {
		return "", nil, err
	}
	return durable(acquireScript, l.Persistent), l.params(), nil
}

// Renew is the script that lets the lease last another TTL from now. It answers
// Set, or NotSet when the lease has run out: its permits may be somebody else's.
func (l Lease) Renew() (text string, params []Param, err error) {
	if err := l.check(); err != nil {
		return "", nil, err
	}
	return durable(renewScript, l.Persistent), l.params(), nil
}

// Release is the script that gives the lease back.
func (l Lease) Release() (text string, params []Param) {
	return durable(releaseScript, l.Persistent), l.params()
}
