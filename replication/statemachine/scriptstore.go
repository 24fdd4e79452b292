package statemachine

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// scriptStore is what a script in one command, or on the read path, sees: the
// committed state at one label, with its own writes on top. The writes are kept
// in memory until the script has come to its end (contract/decisions.md 41).
type scriptStore struct {
	v      *view
	m      *Machine // nil on the read path
	now    hlc      // what the script sees as the present time
	label  hlc      // of what it writes: now, or later because of ahead
	yields bool

	// aheadMost is the latest time ahead of now as of which it may read, in
	// milliseconds since 1970; 0: none is kept track of. ahead is the latest as of
	// which it did read.
	aheadMost, ahead int64

	own    view                     // what v points to at apply
	few    [4]stagedKey             // keys written, the first of them
	fewLen int                      // how many of few are in use
	many   map[keyRef]*scriptKey    // the others
	writes []*replication.WriteItem // in order
	room   [4]*replication.WriteItem

	scanned int // rows of ranges that were looked at

	locked script.Lock  // the key that ended the run with errScriptLocked
	holder *transaction // and whose lock that is
}

// scriptKey is a key as the script has left it.
type scriptKey struct {
	revision
	value []byte
}

type stagedKey struct {
	ref keyRef
	scriptKey
}

// staged finds a key that the script has written, nil for none.
func (s *scriptStore) staged(ref keyRef) *scriptKey {
	for i := range s.few[:s.fewLen] {
		if s.few[i].ref == ref {
			return &s.few[i].scriptKey
		}
	}
	return s.many[ref]
}

// stage remembers a key as the script has left it.
func (s *scriptStore) stage(ref keyRef, k scriptKey) {
	switch old := s.staged(ref); {
	case old != nil:
		*old = k
	case s.fewLen < len(s.few):
		s.few[s.fewLen] = stagedKey{ref, k}
		s.fewLen++
	default:
		if s.many == nil {
			s.many = make(map[keyRef]*scriptKey)
		}
		own := k
		s.many[ref] = &own
	}
}

// errScriptLocked ends a script that writes a key which a transaction has locked,
// errScriptWrites one that writes on the read path.
type scriptStoreError string

func (e scriptStoreError) Error() string { return string(e) }

const (
	errScriptLocked scriptStoreError = "a key that the script writes is locked by a transaction"
	errScriptWrites scriptStoreError = "a script on the read path does not write"
)

var _ script.Store = (*scriptStore)(nil)

func (m *Machine) newScriptStore(c *command, yields bool) *scriptStore {
	s := &m.scriptStore // one script runs at a time
	*s = scriptStore{m: m, now: c.label, label: c.label, yields: yields, own: *m.view()}
	if m.level >= aheadLevel {
		s.aheadMost = m.wallMS + AsOfAheadMS
	}
	s.v, s.writes = &s.own, s.room[:0]
	return s
}

// Reads of scripts as of a time that is ahead of them. At its end a script that
// read so leaves all labels to come above that time, its own writes included: what
// it read stays true for ever (contract/decisions.md 5).
const (
	// aheadLevel is the feature level since which they are kept track of. Before,
	// they read the present one, and a write to come could lie before their time.
	aheadLevel = 4
	// AsOfAheadMS is how far ahead of the wall clock a time may lie as of which a read
	// stays true (contract/decisions.md 5). What is further ahead reads the present one.
	AsOfAheadMS = 1000
)

// relabelled reports whether the script has to run again, so that its writes get a
// label above all times ahead as of which it has read; it is prepared for that. Its
// clock stays: a time ahead of it by as much would only move on with it.
func (s *scriptStore) relabelled() bool {
	if len(s.writes) == 0 || s.label.ms > s.ahead {
		return false
	}
	s.label = hlc{s.ahead + 1, 0}
	clear(s.few[:s.fewLen])
	clear(s.room[:])
	s.fewLen, s.many, s.writes, s.scanned = 0, nil, s.room[:0], 0
	return true
}

// Clock implements script.Store.
func (s *scriptStore) Clock() script.Time { return s.time(s.now) }

func (s *scriptStore) time(t hlc) script.Time { return script.Time{MS: t.ms, Counter: t.counter} }

// asOf is the label of the end of a millisecond, nil for the present one: of what
// is committed now, for a time that has not come yet.
func (s *scriptStore) asOf(ms int64) (*hlc, error) {
	if ms == 0 {
		return nil, nil
	}
	at := hlc{ms, math.MaxUint32}
	switch {
	case !at.after(s.now):
		return &at, nil
	case s.m == nil:
		// Nothing is decided on the read path. In a session each such read makes sure
		// of its time.
		return nil, script.ErrFuelSpent
	case s.aheadMost == 0, ms > s.aheadMost && ms > s.now.ms:
		return nil, nil
	case ms > s.aheadMost:
		// Scripts that ask for the state as of now have come so thick that the labels
		// are a second ahead. They wait for the clock.
		return nil, &script.AbortError{MustRetry: true, Reason: fmt.Sprintf("the labels are %d ms ahead of the clock: AS OF %d must wait for it", ms-s.aheadMost+AsOfAheadMS, ms)}
	}
	s.ahead = max(s.ahead, ms)
	return nil, nil
}

// Get implements script.Store.
func (s *scriptStore) Get(key script.Key, at script.At, withValue bool) (script.Row, error) {
	ref := keyRef{key.Durability, key.Name}
	if p := first(problemOfDurability(ref.d), problemOfName("the key", ref.name)); p != "" {
		return script.Row{}, &script.AbortError{Reason: p}
	}
	asOf, err := s.asOf(at.AsOfMS)
	if err != nil && !at.HasRevision {
		return script.Row{}, err
	}
	var f found
	rows := metered{Reader: s.v.Reader} // a single key ends by itself
	switch {
	case at.HasRevision:
		f = (&view{&rows, s.v.state, s.v.holds}).lookupRevision(ref.d, ref.name, at.Revision)
		f.ok = f.ok && !f.tombstone
	case at.AsOfMS != 0:
		// Committed values only, also of a time that has not come yet
		// (scripts-second-reading.md 28).
		f = (&view{&rows, s.v.state, s.v.holds}).lookup(ref.d, ref.name, asOf)
	default:
		f = s.present(ref, withValue)
	}
	if f.tooOld {
		return script.Row{}, tooOldForScript(ref.name)
	}
	row := s.row(ref.name, &f)
	row.Looked = -rows.left
	return row, nil
}

func tooOldForScript(key string) error {
	return &script.AbortError{Reason: fmt.Sprintf("snapshot too old: the history of key %.100q does not reach back that far", key)}
}

// present is a key as the script sees it now.
func (s *scriptStore) present(ref keyRef, withValue bool) found {
	if k := s.staged(ref); k != nil {
		return found{revision: k.revision, value: k.value, ok: k.alive(&s.v.state)}
	}
	if s.m == nil {
		f := s.v.lookup(ref.d, ref.name, nil)
		if !f.ok && f.written == (hlc{}) {
			f.number = neverWritten.number
		}
		return f
	}
	h := s.m.head(ref.d, ref.name)
	f := found{revision: h.revision, ok: h.alive(&s.v.state)}
	if f.ok && withValue {
		f.value = bytes.Clone(s.m.value(ref.d, h))
	}
	return f
}

func (s *scriptStore) row(key string, f *found) script.Row {
	r := script.Row{Key: key, Found: f.ok, Revision: f.number}
	if !f.ok {
		return r
	}
	r.Value, r.Null = f.value, !f.hasValue
	r.Modified = s.time(f.modified)
	if f.end != 0 && !f.tombstone {
		r.ExpiresAtMS = f.expiresMS
	}
	return r
}

// Range implements script.Store.
func (s *scriptStore) Range(r script.Range, yield func(*script.Row) bool) (looked int, err error) {
	op := &replication.Range{Durability: r.Durability, Prefix: r.Prefix, Bucket: r.Bucket}
	if p := first(problemOfDurability(op.Durability), problemOfBounds(op)); p != "" {
		return 0, &script.AbortError{Reason: p}
	}
	asOf, err := s.asOf(r.AsOfMS)
	if err != nil {
		return 0, err
	}
	if asOf != nil && s.v.droppedAt.after(*asOf) {
		return 0, &script.AbortError{Reason: "snapshot too old: keys that were deleted since then are forgotten"}
	}
	span := spanOf(rangeOp{op})
	var own []keyRef
	if r.AsOfMS == 0 {
		own = s.ownIn(span)
	}
	var failed error
	show := func(key string, f found) bool {
		if !f.ok {
			return true
		}
		row := s.row(key, &f)
		return yield(&row)
	}
	ownNext := func() bool {
		ref := own[0]
		own = own[1:]
		return show(ref.name, s.present(ref, true))
	}
	stopped := false
	// Fuel is paid for rows that the script gets; those that are not there cost as
	// much to step over; a script that meets too many runs as a session.
	most := maxScriptRowsRead
	if s.m != nil {
		most = maxScriptRows
	}
	most -= s.scanned
	if r.Most > 0 {
		most = int(min(int64(most), r.Most))
	}
	rows := &metered{Reader: s.v.Reader, left: most, seek: s.v.seekRows()}
	v := &view{rows, s.v.state, s.v.holds}
	v.forward(rangeOp{op}, span.from, span.to, asOf, func(key string, f found) bool {
		for len(own) > 0 && own[0].name < key {
			if stopped = !ownNext(); stopped {
				return false
			}
		}
		switch {
		case f.tooOld:
			failed = tooOldForScript(key)
			return false
		case len(own) > 0 && own[0].name == key:
			stopped = !ownNext()
		default:
			stopped = !show(key, f)
		}
		return !stopped
	})
	looked = most - rows.left
	s.scanned += looked
	if rows.spent && !stopped && failed == nil {
		return looked, script.ErrFuelSpent
	}
	for len(own) > 0 && !stopped && failed == nil {
		stopped = !ownNext()
	}
	return looked, failed
}

// ownIn lists the keys in a span that the script has written, in order.
func (s *scriptStore) ownIn(span *txSpan) (out []keyRef) {
	add := func(k keyRef) {
		if k.d == span.d && strings.HasPrefix(k.name, span.prefix) && span.covers(k.name, spanRow(k)) {
			out = append(out, k)
		}
	}
	for i := range s.few[:s.fewLen] {
		add(s.few[i].ref)
	}
	for k := range s.many { // sorted below
		add(k)
	}
	slices.SortFunc(out, compareRefs)
	return out
}

// Write implements script.Store.
func (s *scriptStore) Write(item *replication.WriteItem) (script.Written, error) {
	if s.m == nil {
		return script.Written{}, errScriptWrites
	}
	if problemOfItem(item) != "" {
		return script.Written{Code: replication.Code_CODE_INVALID, Revision: neverWritten.number}, nil
	}
	ref := keyRef{item.Durability, item.Key}
	if holder := s.m.blocker(nil, ref, s.yields); holder != nil {
		s.locked, s.holder = script.Lock{Key: script.Key{Durability: ref.d, Name: ref.name}}, holder
		return script.Written{}, errScriptLocked
	}
	needed := item.IfValue || item.Kind == replication.WriteKind_WRITE_KIND_EXTEND
	f := s.present(ref, needed)
	looked := int64(0)
	if needed {
		looked = int64(len(f.value))
	}
	code := s.m.judge(item, &f.revision, func() []byte { return f.value })
	if code == replication.Code_CODE_OK {
		value := f.value
		if item.Kind != replication.WriteKind_WRITE_KIND_EXTEND {
			value = item.Value
		}
		f.revision = s.m.outcome(item, f.revision, s.label)
		s.stage(ref, scriptKey{f.revision, value})
		s.writes = append(s.writes, item)
	}
	return script.Written{Code: code, Revision: f.number, Modified: s.time(f.modified), ValueBytes: looked}, nil
}

// apply makes the script's writes effective.
func (s *scriptStore) apply() {
	for _, item := range s.writes {
		s.m.intrude(nil, keyRef{item.Durability, item.Key}, s.yields)
		s.m.change(item, s.m.head(item.Durability, item.Key), s.label)
	}
}
