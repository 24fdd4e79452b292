package localapi

import (
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// flag reads a boolean parameter; naming it alone is true.
func (x *exchange) flag(name string) (bool, error) {
	if !x.query.Has(name) {
		return false, nil
	}
	switch x.query.Get(name) {
	case "", "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, invalidf("the parameter %s must be true or false", name)
}

// number reads a parameter of at least low; absent is nil.
func (x *exchange) number(name string, low int64) (*int64, error) {
	if !x.query.Has(name) {
		return nil, nil
	}
	n, err := strconv.ParseInt(x.query.Get(name), 10, 64)
	if err != nil || n < low {
		return nil, invalidf("the parameter %s must be a number of %d or more", name, low)
	}
	return &n, nil
}

// moment reads a time to read as of; absent is nil.
func (x *exchange) moment(name string) (*replication.Timestamp, error) {
	if !x.query.Has(name) {
		return nil, nil
	}
	at, err := wire.ParseMoment(x.query.Get(name))
	return at, invalid(err)
}

func (x *exchange) durability() (replication.Durability, error) {
	d, err := wire.ParseDurability(x.query.Get("durability"))
	return d.Replicated(), invalid(err)
}

// limit reads how many rows a page may have, 0 for the largest.
func (x *exchange) limit() (int64, error) {
	n, err := x.number("limit", 1)
	if n == nil || err != nil {
		return 0, err
	}
	return min(*n, replication.MaxPageRows), nil
}

// expiry reads a TTL from the parameter or the header Kahu-TTL, in
// milliseconds; 0 when there is none.
func (x *exchange) expiry() (int64, error) {
	text, has := x.query.Get("ttl"), x.query.Has("ttl")
	if h := x.r.Header.Values("Kahu-TTL"); len(h) > 0 {
		if has || len(h) > 1 {
			return 0, invalidf("the TTL is given twice")
		}
		text, has = h[0], true
	}
	if !has {
		return 0, nil
	}
	ttl, err := wire.ParseTTL(text)
	return ttl.Milliseconds(), invalid(err)
}

// etag is the entity tag of a revision.
func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// oneHeader returns a header that may be there once.
func (x *exchange) oneHeader(name string) (string, error) {
	values := x.r.Header.Values(name)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return strings.TrimSpace(values[0]), nil
	}
	return "", invalidf("the header %s is there twice", name)
}

// condition reads If-Match and If-None-Match as compare-and-set.
func (x *exchange) condition(item *replication.WriteItem) error {
	match, err := x.oneHeader("If-Match")
	if err != nil {
		return err
	}
	switch {
	case match == "":
	case match == "*":
		item.IfExists = true
	default:
		revision, ok := parseETag(match)
		if !ok {
			return invalidf("If-Match must be * or one revision in quotes, such as \"7\", and not %.60q", match)
		}
		item.IfRevision, item.CompareRevision = true, revision
		item.IfExists = true // a tombstone has a revision, and shows none
	}
	none, err := x.oneHeader("If-None-Match")
	if err != nil {
		return err
	}
	if none != "" && none != "*" {
		return invalidf("If-None-Match must be *, and not %.60q, when a key is changed", none)
	}
	item.IfNotExists = none == "*"
	if item.IfNotExists && match != "" {
		return invalidf("If-Match and If-None-Match cannot both hold")
	}
	return nil
}

func parseETag(tag string) (int64, bool) {
	digits, ok := strings.CutPrefix(tag, `"`)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, `"`); !ok || digits == "" || digits[0] < '0' || digits[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil
}

// ageSeconds is the Age header: whole seconds, never younger than it is.
func ageSeconds(ageMS int64) string {
	return strconv.FormatInt(int64((time.Duration(ageMS)*time.Millisecond+time.Second-1)/time.Second), 10)
}
