package localapi

import (
	"net/http"
	"strconv"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// Headers of a key's representation, beside ETag and Age.
const (
	nullHeader      = "Kahu-Null"         // "true": the value is null, which is not the same as empty
	revisionHeader  = "Kahu-Revision"     // the number in ETag
	remainingHeader = "Kahu-Remaining-Ms" // until the key expires, when it does
	ageHeader       = "Kahu-Age-Ms"       // Age, exactly
)

// getKey answers with the raw bytes of a key, or its history.
func (s *Server) getKey(x *exchange) error {
	d, err := x.durability()
	if err != nil {
		return err
	}
	stale, err1 := x.flag("stale")
	history, err2 := x.flag("history")
	keysOnly, err3 := x.flag("keys_only")
	revision, err4 := x.number("revision", 0)
	asOf, err5 := x.moment("as_of")
	if err := first(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	if history {
		if asOf != nil {
			return invalidf("the parameter as_of is not for history")
		}
		return s.getHistory(x, d, stale, keysOnly)
	}
	for _, name := range []string{"before", "limit", "keys_only"} {
		if x.query.Has(name) {
			return invalidf("the parameter %s is for history and lists", name)
		}
	}
	a, err := s.ask(x, &replication.Request{Stale: stale, Op: &replication.Request_Get{Get: &replication.Get{
		Keys:     []*replication.GetKey{{Durability: d, Key: x.name, Revision: revision}},
		KeysOnly: x.r.Method == http.MethodHead, AsOf: asOf}}})
	if err != nil {
		return err
	}
	entries := a.GetEntries().GetEntries()
	if len(entries) != 1 {
		return wire.Refuse(wire.Internal, "a read of one key was answered with another number")
	}
	x.age(stale, a)
	if !entries[0].GetFound() {
		return wire.Refuse(wire.NotFound, wire.NoKey(revision))
	}
	return x.writeEntry(entries[0])
}

func (x *exchange) age(stale bool, a *replication.Answer) {
	if stale {
		x.w.Header().Set("Age", ageSeconds(a.GetAgeMs()))
		x.w.Header().Set(ageHeader, strconv.FormatInt(a.GetAgeMs(), 10))
	}
}

func (x *exchange) writeEntry(e *replication.Entry) error {
	h := x.w.Header()
	h.Set("ETag", etag(e.GetRevision()))
	h.Set(revisionHeader, strconv.FormatInt(e.GetRevision(), 10))
	if e.GetExpiresAtMs() != 0 {
		h.Set(remainingHeader, strconv.FormatInt(e.GetRemainingMs(), 10))
	}
	if x.r.Header.Get("If-None-Match") == etag(e.GetRevision()) {
		x.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/octet-stream")
	if x.r.Method == http.MethodHead {
		// The value was not read, so neither its length nor null is known.
		x.w.WriteHeader(http.StatusOK)
		return nil
	}
	if e.Value == nil {
		h.Set(nullHeader, "true")
	}
	h.Set("Content-Length", strconv.Itoa(len(e.GetValue())))
	x.writeWithin(WriteTimeout)
	_, _ = x.w.Write(e.GetValue()) // the caller may be gone
	return nil
}

func (s *Server) getHistory(x *exchange, d replication.Durability, stale, keysOnly bool) error {
	before, err1 := x.number("before", 0)
	limit, err2 := x.limit()
	if err := first(err1, err2); err != nil {
		return err
	}
	if x.query.Has("revision") {
		return invalidf("the parameter revision is not for history; use before")
	}
	a, err := s.ask(x, &replication.Request{Stale: stale, Op: &replication.Request_History{History: &replication.History{
		Durability: d, Key: x.name, Before: before, Limit: limit}}})
	if err != nil {
		return err
	}
	x.age(stale, a)
	out := wire.HistoryOf(a.GetEntries(), keysOnly, a.GetAgeMs())
	if keysOnly {
		for i := range out.Entries {
			out.Entries[i].Value = nil
		}
	}
	return x.writeJSON(http.StatusOK, out)
}

// getKeys lists keys with a prefix.
func (s *Server) getKeys(x *exchange) error {
	d, err1 := x.durability()
	stale, err2 := x.flag("stale")
	keysOnly, err3 := x.flag("keys_only")
	limit, err4 := x.limit()
	bucket, err5 := x.flag("bucket")
	asOf, err6 := x.moment("as_of")
	if err := first(err1, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	r := &replication.Range{Durability: d, Prefix: x.query.Get("prefix"), Bucket: bucket, KeysOnly: keysOnly, Limit: limit, AsOf: asOf}
	if after := x.query.Get("after"); after != "" {
		r.Start, r.StartExclusive = &after, true
	}
	a, err := s.ask(x, &replication.Request{Stale: stale, Op: &replication.Request_Range{Range: r}})
	if err != nil {
		return err
	}
	x.age(stale, a)
	return x.writeJSON(http.StatusOK, wire.EntriesOf(a.GetEntries(), keysOnly, a.GetAgeMs()))
}

// putKey writes the body's raw bytes.
func (s *Server) putKey(x *exchange) error {
	d, err1 := x.durability()
	null, err2 := x.flag("null")
	noHistory, err3 := x.flag("no_history")
	ms, err4 := x.expiry()
	if err := first(err1, err2, err3, err4); err != nil {
		return err
	}
	item := &replication.WriteItem{Durability: d, Key: x.name, ExpiresMs: ms, NoHistory: noHistory}
	if err := x.condition(item); err != nil {
		return err
	}
	value, err := x.body(s.cfg.MaxValueBytes)
	if err != nil {
		return err
	}
	if null && len(value) > 0 {
		return invalidf("null has no body")
	}
	if !null {
		item.Value = value
	}
	return s.writeOne(x, item)
}

// deleteKey deletes a key.
func (s *Server) deleteKey(x *exchange) error {
	d, err := x.durability()
	if err != nil {
		return err
	}
	item := &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_DELETE, Durability: d, Key: x.name}
	if err := x.condition(item); err != nil {
		return err
	}
	return s.writeOne(x, item)
}

// postKeyExtend moves a key's expiry.
func (s *Server) postKeyExtend(x *exchange) error {
	d, err := x.durability()
	if err != nil {
		return err
	}
	item := &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_EXTEND, Durability: d, Key: x.name}
	if x.query.Get("ttl") != wire.Forever {
		if item.ExpiresMs, err = x.expiry(); err != nil {
			return err
		}
		if item.ExpiresMs == 0 {
			return invalidf("name the TTL: ?ttl=30s, or ?ttl=%s", wire.Forever)
		}
	}
	if err := x.condition(item); err != nil {
		return err
	}
	return s.writeOne(x, item)
}

// writeOne carries out one change and answers with the new revision.
func (s *Server) writeOne(x *exchange, item *replication.WriteItem) error {
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{item}}}})
	items := a.GetWritten().GetItems()
	if err != nil {
		refused := wire.ErrorOf(err)
		if refused.Kind == wire.ConditionFailed && len(items) == 1 {
			revision := items[0].GetRevision()
			refused = &wire.Error{Kind: refused.Kind, Detail: refused.Detail, Revision: &revision}
		}
		if refused.Kind == wire.NotFound && refused.Detail == "" {
			refused = wire.Refuse(wire.NotFound, wire.NoKey(nil))
		}
		return refused
	}
	if len(items) != 1 {
		return wire.Refuse(wire.Internal, "a change of one key was answered with another number")
	}
	if code := items[0].GetCode(); code != replication.Code_CODE_OK {
		return wire.Refuse(wire.KindOfCode(code), "")
	}
	x.w.Header().Set("ETag", etag(items[0].GetRevision()))
	return x.writeJSON(http.StatusOK, wire.WrittenOf(item.Key, items[0]))
}
