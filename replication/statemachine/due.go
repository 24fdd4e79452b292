package statemachine

import (
	"bytes"
	"encoding/binary"

	"github.com/kahu-sh/kahu/replication"
)

// arm makes sure that a sweep looks at a thing once L reaches want. armed is
// where its due row is now, 0 for none; the new place is returned. An earlier
// row stays where it is: ends mostly move later, and the sweep that finds it too
// early moves it.
func (m *Machine) arm(kind byte, ref []byte, armed, want int64) int64 {
	if want == never || armed != 0 && armed <= want {
		return armed
	}
	if armed != 0 {
		m.del(dueRowKey(armed, kind, ref))
	}
	// 0 means none, so a thing due since ever is due at 1.
	want = max(want, 1)
	m.put(dueRowKey(want, kind, ref), []byte{rowFormat})
	m.dueFloor = min(m.dueFloor, want)
	return want
}

// nextDue is the end of the earliest due row that is not before from.
func (m *Machine) nextDue(from int64) int64 {
	for key := range m.store.Scan(dueRowKey(from, 0, nil), []byte{tableDue + 1}) {
		return dueEnd(key)
	}
	return never
}

func dueEnd(key []byte) int64 {
	if len(key) < 1+8+1 {
		panic(damaged(key, "a due row"))
	}
	return int64(binary.BigEndian.Uint64(key[1:]))
}

// Due returns when, on the lease clock in nanoseconds, a Sweep is next worth
// proposing. It may be somewhat early. ok is false when nothing will end.
func (m *Machine) Due() (leaseClockNS int64, ok bool) {
	if len(m.sessions.ending) > 0 {
		return m.leaseClock, true
	}
	if len(m.tx.clearing) > 0 {
		return m.leaseClock, true
	}
	at := min(m.sessions.floor, m.dueFloor, m.tx.due(), m.pins.floorEnd)
	return at, at != never
}

// sweep looks at up to limit of what is due, in order of end, kind and name,
// and returns how many rows it dealt with. Revisions dropped count as well, so
// that one entry stays short.
func (m *Machine) sweep(asked uint32) uint32 {
	limit := min(int(asked), maxSweep)
	if limit == 0 {
		limit = defaultSweep
	}
	done := m.release(limit)
	done += m.sweepTransactions(limit - done)
	for done < limit && !m.live(m.dueFloor) {
		keys := m.dueNow(limit - done)
		if len(keys) == 0 {
			m.dueFloor = m.nextDue(m.leaseClock)
			break
		}
		for _, key := range keys {
			m.dueFloor = dueEnd(key) // those before it are done
			if done >= limit {
				break
			}
			m.del(key)
			done += m.fire(key[9], key[10:], dueEnd(key))
		}
	}
	return uint32(done)
}

// dueNow lists the first due rows with an end that is not live.
func (m *Machine) dueNow(limit int) [][]byte {
	var keys [][]byte
	to := never
	if m.leaseClock < never {
		to = m.leaseClock + 1
	}
	for key := range m.store.Scan([]byte{tableDue}, dueRowKey(to, 0, nil)) {
		if len(key) < 1+8+1+1 {
			panic(damaged(key, "a due row"))
		}
		if keys = append(keys, bytes.Clone(key)); len(keys) == limit {
			break
		}
	}
	return keys
}

// fire deals with one thing that was due at end; its row is gone. It returns
// the work done, at least 1.
func (m *Machine) fire(kind byte, ref []byte, end int64) int {
	if kind == dueSession {
		m.del(append([]byte{tableSession}, ref...))
		return 1
	}
	name, rest, ok := cutName(ref[1:])
	if !ok || len(rest) != 0 {
		panic(damaged(ref, "a due row"))
	}
	d := replication.Durability(ref[0])
	switch kind {
	case dueLock:
		return m.fireLock(d, name, end)
	case dueKey:
		return m.fireKey(d, name, end)
	}
	panic(damaged(ref, "a due row"))
}
