package statemachine

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"github.com/kahu-sh/kahu/replication"
)

// The kinds of operations that have an id.
const (
	opLock   byte = 1
	opUnlock byte = 2
	opRead   byte = 3
	opWrite  byte = 4
)

// encoded is what every message of the contract can do.
type encoded interface{ MarshalVT() ([]byte, error) }

// replayed is the rule of receipts for the operation ids of a transaction: an
// operation that was carried out gets its first answer, another one under the
// same id is refused. It reports whether c is answered. A read is carried out
// again: the values are not kept (contract: T11).
func (m *Machine) replayed(c *command, t *transaction, ref *replication.TxRef, kind byte, op encoded) bool {
	if len(ref.Operation) == 0 {
		return false
	}
	key := operationKey(t, ref)
	b, ok := m.store.Get(key)
	if !ok {
		if t.operations >= MaxTxOperations {
			c.refuse(replication.Code_CODE_ABORTED, "the transaction has %d operations", t.operations)
			return true
		}
		return false
	}
	d := decode(b)
	kept, hash := d.byte(), d.take(8)
	switch {
	case d.bad:
		panic(damaged(key, "an operation of a transaction"))
	case kept != kind || kind != opRead && binary.BigEndian.Uint64(hash) != hashOf(op):
		// One read may be in many pages, each asked for under its id.
		c.refuse(replication.Code_CODE_KEY_REUSED, "the operation id was used for another operation")
		return true
	case kind == opRead:
		return false
	}
	c.answer.Reset()
	if err := c.answer.UnmarshalVT(d.b); err != nil {
		panic(damaged(key, "an operation of a transaction"))
	}
	return true
}

// keepOperation remembers an operation with its answer.
func (m *Machine) keepOperation(c *command, t *transaction, ref *replication.TxRef, kind byte, op encoded) {
	if len(ref.Operation) == 0 || c.answer.Code == replication.Code_CODE_LOCKED {
		return
	}
	key := operationKey(t, ref)
	if _, ok := m.store.Get(key); ok {
		return // a read that was carried out again
	}
	b := append(m.row[:0], rowFormat, kind)
	if kind == opRead {
		b = appendUint64(b, 0)
	} else {
		b = appendUint64(b, hashOf(op))
		answer, err := c.answer.MarshalVT()
		if err != nil {
			panic(damaged(key, "an answer that cannot be encoded"))
		}
		b = append(b, answer...)
	}
	m.row = b
	t.operations++
	m.putTx(t, key, b)
}

func operationKey(t *transaction, ref *replication.TxRef) []byte {
	return append(txRowKey(t.id, txRowOperation, len(ref.Operation)), ref.Operation...)
}

func hashOf(op encoded) uint64 {
	b, err := op.MarshalVT()
	if err != nil {
		panic(damaged(nil, "an operation that cannot be encoded"))
	}
	return xxh3.Hash(b)
}
