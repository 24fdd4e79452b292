package scripttest

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// Memory is a Runner over a plain store: one script after the other, each with a
// millisecond of its own, all history kept. It is the model that other stores are
// compared with.
type Memory struct {
	now    script.Time // wall clock
	last   script.Time // label
	label  script.Time // of what the script that runs writes
	ahead  int64       // the latest time ahead of last as of which it has read
	keys   map[script.Key][]revision
	staged map[script.Key][]revision
	cache  *script.Cache
	// Fuel is what each script may spend; 0 is script.EntryFuel. Spent fuel is
	// answered as Aborted with the error's text.
	Fuel int64
	// Level is the feature level whose prices count; 0 is the newest.
	Level uint32
}

type revision struct {
	number    int64
	value     []byte
	null      bool
	tombstone bool
	hidden    bool // not kept in history
	at        script.Time
	expiresMS int64 // by labels, to be shown
	endMS     int64 // by the clock
}

// StartMS is the wall clock at which Memory begins.
const StartMS = 1_700_000_000_000

// NewMemory makes an empty store.
func NewMemory() *Memory {
	return &Memory{now: script.Time{MS: StartMS}, keys: make(map[script.Key][]revision), staged: make(map[script.Key][]revision), cache: script.NewCache(1 << 20)}
}

// Advance implements Runner.
func (m *Memory) Advance(ms int64) { m.now.MS += ms }

// NowMS implements Runner.
func (m *Memory) NowMS() int64 { return m.now.MS }

// Run implements Runner. Sleeping lets time pass.
func (m *Memory) Run(text string, params []script.Param) script.Result {
	m.now.MS++
	p, err := m.cache.Parse([]byte(text))
	if err != nil {
		return script.ParseResult(err)
	}
	o, err := p.Options()
	if err != nil {
		return script.ParseResult(err)
	}
	fuel := m.Fuel
	if fuel == 0 {
		fuel = script.EntryFuel
	}
	if m.now.MS > m.last.MS {
		m.last = m.now
	} else {
		m.last.Counter++
	}
	m.label, m.ahead = m.last, 0
	var res script.Result
	slept := int64(0)
	for again := true; again; {
		m.staged, slept = make(map[script.Key][]revision), 0
		res, err = p.Run(m, script.Env{Params: params, Fuel: fuel, Level: m.Level, Sleep: func(ms int64) error {
			if slept += ms; slept > o.TimeoutMS {
				return &script.AbortError{Reason: script.ReasonTimeout}
			}
			return nil
		}})
		if err != nil {
			return script.Result{Type: script.TypeAborted, Reason: err.Error()}
		}
		// What was written must lie after all times as of which was read.
		if again = res.Commit && len(m.staged) > 0 && m.label.MS <= m.ahead; again {
			m.label = script.Time{MS: m.ahead + 1}
		}
	}
	if m.ahead > 0 {
		m.last = script.Time{MS: m.ahead + 1}
	}
	if res.Commit {
		for k, revs := range m.staged {
			m.keys[k] = append(m.keys[k], revs...)
		}
	}
	m.now.MS += slept
	return res
}

// all are the revisions of a key as the script sees it, oldest first.
func (m *Memory) all(k script.Key) []revision {
	return append(slices.Clip(m.keys[k]), m.staged[k]...)
}

func (m *Memory) alive(r *revision, atMS int64) bool {
	return !r.tombstone && (r.endMS == 0 || r.endMS > atMS)
}

// Get implements script.Store.
func (m *Memory) Get(k script.Key, at script.At, withValue bool) (script.Row, error) {
	row := script.Row{Key: k.Name, Revision: -1, Null: true}
	revs := m.all(k)
	if at.HasRevision {
		revs = m.keys[k]
		// The newest of the number: an EXTEND keeps it.
		i := len(revs) - 1
		for i >= 0 && revs[i].number != at.Revision {
			i--
		}
		// A value is lost when its key expires, before or after it became history.
		until := m.now.MS
		if i >= 0 && i < len(revs)-1 {
			until = revs[i+1].at.MS
		}
		switch {
		case i < 0 || !m.alive(&revs[i], until):
			return row, nil
		case revs[i].hidden:
			return row, &script.AbortError{Reason: fmt.Sprintf("snapshot too old: the history of key %q does not reach back that far", k.Name)}
		}
		return m.row(k, &revs[i], withValue), nil
	}
	nowMS := m.now.MS // what has expired since is gone from the past, too
	if at.AsOfMS != 0 {
		m.reads(at.AsOfMS)
		revs = m.keys[k]
		for len(revs) > 0 && revs[len(revs)-1].at.MS > at.AsOfMS {
			revs = revs[:len(revs)-1]
		}
	}
	if len(revs) == 0 {
		return row, nil
	}
	r := &revs[len(revs)-1]
	// An EXTEND changes its revision, and not only from then on.
	for later := range m.keys[k] {
		if at.AsOfMS != 0 && m.keys[k][later].number == r.number {
			r = &m.keys[k][later]
		}
	}
	if !m.alive(r, nowMS) {
		row.Revision = r.number
		return row, nil
	}
	return m.row(k, r, withValue), nil
}

// reads remembers that something was read as of a time that is not over yet, if it
// is at most a second ahead. The time of a label is not over before the next one.
func (m *Memory) reads(asOfMS int64) {
	if asOfMS >= m.last.MS && asOfMS <= m.now.MS+1000 {
		m.ahead = max(m.ahead, asOfMS)
	}
}

func (m *Memory) row(k script.Key, r *revision, withValue bool) script.Row {
	row := script.Row{Key: k.Name, Found: true, Null: r.null, Revision: r.number, Modified: r.at, ExpiresAtMS: r.expiresMS}
	if withValue {
		row.Value = r.value
	}
	return row
}

// Range implements script.Store.
func (m *Memory) Range(r script.Range, yield func(*script.Row) bool) (looked int, err error) {
	if r.AsOfMS != 0 {
		m.reads(r.AsOfMS)
	}
	var names []string
	for _, table := range []map[script.Key][]revision{m.keys, m.staged} {
		for k := range table {
			inside := strings.HasPrefix(k.Name, r.Prefix)
			if r.Bucket {
				rest, ok := strings.CutPrefix(k.Name, r.Prefix+"/")
				inside = ok && !strings.Contains(rest, "/")
			}
			if k.Durability == r.Durability && inside {
				names = append(names, k.Name)
			}
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		row, err := m.Get(script.Key{Durability: r.Durability, Name: name}, script.At{AsOfMS: r.AsOfMS}, true)
		if err != nil {
			return 0, err
		}
		if row.Found && !yield(&row) {
			return 0, nil
		}
	}
	return 0, nil
}

// Write implements script.Store.
func (m *Memory) Write(item *replication.WriteItem) (script.Written, error) {
	k := script.Key{Durability: item.Durability, Name: item.Key}
	if item.Key == "" || len(item.Key) > replication.MaxNameBytes || strings.HasPrefix(item.Key, "__kahuna:") || item.ExpiresMs < 0 {
		return script.Written{Code: replication.Code_CODE_INVALID, Revision: -1}, nil
	}
	revs := m.all(k)
	last := revision{number: -1, tombstone: true}
	if len(revs) > 0 {
		last = revs[len(revs)-1]
	}
	alive := m.alive(&last, m.now.MS)
	current := last.value
	if !alive {
		current = nil
	}
	refused := script.Written{Code: replication.Code_CODE_CONDITION_FAILED, Revision: last.number, Modified: last.at}
	switch {
	case item.IfExists && !alive, item.IfNotExists && alive,
		item.IfRevision && item.CompareRevision != last.number,
		item.IfValue && !bytes.Equal(current, item.CompareValue):
		return refused, nil
	case !alive && item.Kind != replication.WriteKind_WRITE_KIND_SET:
		refused.Code = replication.Code_CODE_NOT_FOUND
		return refused, nil
	}
	next := revision{number: last.number + 1, value: item.Value, null: item.Value == nil, at: m.label}
	switch item.Kind {
	case replication.WriteKind_WRITE_KIND_DELETE:
		next.tombstone = true
	case replication.WriteKind_WRITE_KIND_EXTEND:
		next.number, next.value, next.null = last.number, last.value, last.null
	}
	if item.ExpiresMs > 0 {
		next.expiresMS, next.endMS = math.MaxInt64, math.MaxInt64
		if item.ExpiresMs < math.MaxInt64-m.label.MS {
			next.expiresMS, next.endMS = m.label.MS+item.ExpiresMs, m.now.MS+item.ExpiresMs
		}
	}
	if item.NoHistory && len(m.staged[k]) > 0 {
		m.staged[k][len(m.staged[k])-1].hidden = true
	} else if item.NoHistory && len(m.keys[k]) > 0 {
		m.keys[k][len(m.keys[k])-1].hidden = true
	}
	m.staged[k] = append(m.staged[k], next)
	return script.Written{Revision: next.number, Modified: next.at}, nil
}

// Clock implements script.Store.
func (m *Memory) Clock() script.Time { return m.last }

var _ interface {
	Runner
	script.Store
} = (*Memory)(nil)
