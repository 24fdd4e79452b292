package kahuna

import (
	"github.com/kahu-sh/kahu/replication"
)

// stamp makes a timestamp of the three fields that Kahuna's messages have for
// one; nil when all are zero, which means none.
func stamp(node int32, physical int64, counter uint32) *replication.Timestamp {
	if node == 0 && physical == 0 && counter == 0 {
		return nil
	}
	return &replication.Timestamp{PhysicalMs: physical, Counter: counter, Node: node}
}

// label splits a timestamp into the three fields.
func label(t *replication.Timestamp) (node int32, physical int64, counter uint32) {
	return t.GetNode(), t.GetPhysicalMs(), t.GetCounter()
}

// durability translates Kahuna's numbers, which are ours; the state machine
// refuses others.
func durability[D ~int32](d D) replication.Durability { return replication.Durability(d) }
