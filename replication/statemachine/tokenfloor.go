package statemachine

import (
	"encoding/binary"

	"github.com/kahu-sh/kahu/replication"
)

// raiseTokenFloor puts every fencing token from now on above floor and, by
// tokenMargin, above every token that this machine knows of (DESIGN.md: tokens and
// restore). What only the voters had granted that a recovery gives up is not known
// here: floor has to be above that, as the wall clock's is (TokenFloor).
//
// It reads all locks, which may take seconds where there are millions: a cluster
// does it once, in its recovery, before it serves anybody.
func (m *Machine) raiseTokenFloor(c *command, floor int64) {
	highest := m.HighestToken()
	if highest > MaxTokenFloor-tokenMargin || floor > MaxTokenFloor {
		c.refuse(replication.Code_CODE_LIMIT, "a token floor of %d above token %d leaves no token up to %d", floor, highest, int64(MaxTokenFloor))
		return
	}
	m.tokenFloor = max(floor, highest+tokenMargin)
	m.put(floorKey, binary.AppendVarint([]byte{rowFormat}, m.tokenFloor))
}

// HighestToken is the highest fencing token known of, also of locks that were
// dropped and of an earlier floor; -1: none. It reads all locks.
func (m *Machine) HighestToken() int64 {
	f := NewBackupFilter()
	f.HighestToken = m.tokenFloor
	for _, table := range []byte{tableLock, tableFloor} {
		for key, value := range m.store.Scan([]byte{table}, []byte{table + 1}) {
			if _, err := f.Keep(key, value); err != nil {
				panic(damage{err}) // this voter stops
			}
		}
	}
	return f.HighestToken
}
