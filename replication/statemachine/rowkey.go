package statemachine

import (
	"encoding/binary"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// The tables. See doc.go for the picture. Numbers are never reused.
const (
	tableMeta       byte = 0x01
	tableSession    byte = 0x10
	tableReceipt    byte = 0x11
	tableDue        byte = 0x12
	tableLock       byte = 0x20
	tableQueue      byte = 0x21
	tablePlace      byte = 0x22
	tableHold       byte = 0x23
	tableFloor      byte = 0x24
	tableKey        byte = 0x30
	tableHistory    byte = 0x31
	tableSequence   byte = 0x40
	tableAllocation byte = 0x41
	tableAllocAge   byte = 0x42
	tableTx         byte = 0x50
	tableTxRow      byte = 0x51
	tableSnapshot   byte = 0x60
	tableKeySpace   byte = 0x61
)

// A name is closed by closing, and everything below it in a table lies before
// the name with past instead.
const (
	escape  byte = 0x00
	escaped byte = 0xFF
	closing byte = 0x01
	past    byte = 0x02
)

// sessionID is the id of an agent's session as a map key.
type sessionID [replication.SessionIDBytes]byte

var (
	metaKey   = []byte{tableMeta, 'm'}
	configKey = []byte{tableMeta, 'c'}
	floorKey  = []byte{tableMeta, 'f'}
)

// appendEscaped appends name so that the order of bytes is that of names, open
// at the end.
func appendEscaped(b []byte, name string) []byte {
	for {
		i := strings.IndexByte(name, escape)
		if i < 0 {
			return append(b, name...)
		}
		b = append(b, name[:i]...)
		b = append(b, escape, escaped)
		name = name[i+1:]
	}
}

// appendName appends name and closes it.
func appendName(b []byte, name string) []byte {
	return append(appendEscaped(b, name), escape, closing)
}

// cutName reads a closed name and returns what follows it.
func cutName(b []byte) (name string, rest []byte, ok bool) {
	var plain []byte
	from := 0
	for i := 0; i+1 < len(b); i++ {
		if b[i] != escape {
			continue
		}
		switch b[i+1] {
		case closing:
			if plain == nil {
				return string(b[from:i]), b[i+2:], true
			}
			return string(append(plain, b[from:i]...)), b[i+2:], true
		case escaped:
			plain = append(plain, b[from:i+1]...)
			from, i = i+2, i+1
		default:
			return "", nil, false
		}
	}
	return "", nil, false
}

// nameKey is TABLE D NAME, with room for more behind it.
func nameKey(table byte, d replication.Durability, name string, room int) []byte {
	b := make([]byte, 0, 2+len(name)+2+room)
	return appendName(append(b, table, byte(d)), name)
}

func appendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func sessionKey(id sessionID) []byte {
	return append(append(make([]byte, 0, 1+len(id)), tableSession), id[:]...)
}

func receiptsKey(serial, index uint64) []byte {
	return appendUint64(appendUint64(append(make([]byte, 0, 1+8+8), tableReceipt), serial), index)
}

// What a due row is about.
const (
	dueLock    byte = 1
	dueKey     byte = 2
	dueSession byte = 3
)

func dueRowKey(end int64, kind byte, ref []byte) []byte {
	b := make([]byte, 0, 1+8+1+len(ref))
	b = appendUint64(append(b, tableDue), uint64(end))
	return append(append(b, kind), ref...)
}

// nameRef is D NAME, as due rows have it.
func nameRef(d replication.Durability, name string) []byte {
	return appendName(append(make([]byte, 0, 1+len(name)+2), byte(d)), name)
}

func lockKey(d replication.Durability, name string) []byte {
	return nameKey(tableLock, d, name, 0)
}

func queueKey(d replication.Durability, name string, place uint64) []byte {
	return appendUint64(nameKey(tableQueue, d, name, 8), place)
}

func placeKey(d replication.Durability, name string, owner []byte) []byte {
	return append(nameKey(tablePlace, d, name, len(owner)), owner...)
}

func holdPrefix(id sessionID, room int) []byte {
	b := make([]byte, 0, 1+len(id)+room)
	return append(append(b, tableHold), id[:]...)
}

func holdKey(id sessionID, d replication.Durability, name string, owner []byte) []byte {
	b := holdPrefix(id, 1+len(name)+2+len(owner))
	return append(appendName(append(b, byte(d)), name), owner...)
}

// cutHoldKey takes a row key of tableHold apart.
func cutHoldKey(key []byte) (d replication.Durability, name string, owner []byte, ok bool) {
	const head = 1 + replication.SessionIDBytes
	if len(key) < head+1 {
		return 0, "", nil, false
	}
	name, owner, ok = cutName(key[head+1:])
	return replication.Durability(key[head]), name, owner, ok
}

func hashedFloorKey(hash uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{tableFloor}, hash)
}

func headKey(d replication.Durability, name string) []byte {
	return nameKey(tableKey, d, name, 0)
}

// cutHeadKey takes a row key of tableKey apart.
func cutHeadKey(key []byte) (name string, ok bool) {
	if len(key) < 2 {
		return "", false
	}
	name, rest, ok := cutName(key[2:])
	return name, ok && len(rest) == 0
}

func sequenceKey(name string) []byte {
	return appendName([]byte{tableSequence}, name)
}

func allocationKey(name, key string) []byte {
	return append(appendName([]byte{tableAllocation}, name), key...)
}

func allocAgeKey(name string, order uint64) []byte {
	return appendUint64(appendName([]byte{tableAllocAge}, name), order)
}

// successor is the first key behind all keys that begin with prefix; nil when
// there is none. It changes prefix.
func successor(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xFF {
			prefix[i]++
			return prefix[:i+1]
		}
	}
	return nil
}

// passed turns a key that ends with a closed name into the bound behind every
// row of that name. It changes key.
func passed(key []byte) []byte {
	key[len(key)-1] = past
	return key
}
