package statemachine

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// coversByName is what the index must find, said without it.
func (s *txSpan) coversByName(k keyRef) bool {
	return s.d == k.d && strings.HasPrefix(k.name, s.prefix) && s.covers(k.name, spanRow(k))
}

// openOnes are the open transactions, and nil for whoever is in none.
func (m *Machine) openOnes() []*transaction {
	ts := []*transaction{nil}
	for _, t := range m.tx.open {
		ts = append(ts, t)
	}
	slices.SortFunc(ts[1:], func(a, b *transaction) int { return a.id.compare(b.id) })
	return ts
}

// CheckBlocker holds the rule of conflicts for one key against a walk through all
// locks of all transactions, for each that is open and for none. It counts those
// that somebody is in the way of.
func CheckBlocker(m *Machine, d replication.Durability, key string) (blocked int, err error) {
	k := keyRef{d, key}
	for _, t := range m.openOnes() {
		for _, yields := range []bool{false, true} {
			var want *transaction
			for _, o := range m.openOnes()[1:] {
				l := o.locks[k]
				inTheWay := l != nil && m.tx.locks[k] == l && m.blocks(o, l.end, t) && (yields || !o.yield)
				for _, s := range o.spans {
					inTheWay = inTheWay || s.coversByName(k) && m.blocks(o, s.end, t)
				}
				if inTheWay && want == nil {
					want = o
				}
			}
			got := m.blocker(t, k, yields)
			if got != want {
				return 0, fmt.Errorf("key %q, yields %v: in the way of %s is %s, by walking %s", key, yields, name(t), name(got), name(want))
			}
			if got != nil {
				blocked++
			}
		}
	}
	return blocked, nil
}

func name(t *transaction) string {
	if t == nil {
		return "nobody"
	}
	return fmt.Sprintf("transaction %d.%d", t.id.ms, t.id.counter)
}

// CheckNotice has a key change, and holds who was told against a walk through all
// that was observed. It counts those that were.
func CheckNotice(m *Machine, kind replication.WriteKind, d replication.Durability, key string, end int64) (told int, err error) {
	k := keyRef{d, key}
	seenAs := end
	if kind != replication.WriteKind_WRITE_KIND_EXTEND {
		seenAs = math.MinInt64
	} else if end == 0 {
		seenAs = never
	}
	knows := func(t *transaction) bool { return t.brokenMore || slices.Contains(t.broken, k) }
	want := make(map[*transaction]bool)
	for _, t := range m.openOnes()[1:] {
		o := t.reads[k]
		want[t] = knows(t) || o != nil && endsBefore(seenAs, o.end)
		for _, s := range t.predicates {
			want[t] = want[t] || s.coversByName(k) && endsBefore(seenAs, s.end)
		}
	}
	m.noticeChange(kind, k, &revision{end: end})
	m.saveTransactions() // no entry is under way that would
	for t, want := range want {
		if got := knows(t); got != want {
			return 0, fmt.Errorf("key %q, kind %v, end %d: %s was told: %v, by walking %v", key, kind, end, name(t), got, want)
		}
		if want {
			told++
		}
	}
	return told, nil
}

// CheckHeld holds what is said of the locks that have covered a key without a gap
// against a walk, for each open transaction, since each of its commands that took a
// lock on a span. It counts those that were held.
func CheckHeld(m *Machine, d replication.Durability, key string) (count int, err error) {
	k := keyRef{d, key}
	for _, t := range m.openOnes()[1:] {
		held := m.heldSince(t)
		for _, since := range t.spans {
			own := t.locks[k]
			want := own != nil && m.live(own.end) && !own.since.after(since.at)
			for _, s := range t.spans {
				want = want || s.coversByName(k) && m.live(s.end) && !s.at.after(since.at)
			}
			if got := held(k, since.at); got != want {
				return 0, fmt.Errorf("key %q: %s has held it since %v: %v, by walking %v", key, name(t), since.at, got, want)
			}
			if want {
				count++
			}
		}
	}
	return count, nil
}

// ListsMet is how many lists of spans are looked at for a key, of locks and of ranges
// read, and how many spans there are of them. Of ranges those count that were added
// after a change of the key was noticed.
func ListsMet(m *Machine, d replication.Durability, key string) (locks, reads, spans int) {
	k := keyRef{d, key}
	count := func(n *int) func(list []*txSpan) []*txSpan {
		return func(list []*txSpan) []*txSpan { *n++; return list }
	}
	since := uint64(0)
	if n := m.tx.spansTold.of(k); n != nil {
		since = n.added + 1
	}
	m.tx.lockSpans.covering(k, 0, count(&locks))
	m.tx.readSpans.covering(k, since, count(&reads))
	return locks, reads, m.tx.lockSpans.count + m.tx.readSpans.count
}

// SpansKept is how many spans the indexes have in them, those that are gone included,
// and how many bounds of trees: what they take of memory.
func SpansKept(m *Machine) (n int) {
	for _, x := range []*spanIndex{&m.tx.lockSpans, &m.tx.readSpans} {
		count := func(s *spanSet) {
			n += len(s.tail)
			for _, t := range s.trees {
				n += len(t.spans)
			}
		}
		for d := range x.ranges {
			count(&x.ranges[d])
			for _, s := range x.buckets[d] {
				count(s)
			}
		}
	}
	return n
}
