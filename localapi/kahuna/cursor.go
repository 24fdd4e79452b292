package kahuna

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/kahu-sh/kahu/replication"
)

// cursor says where the next page of a range read begins. Encoded it is
// base64url without padding over, in Kahuna's order (KeyValueRangeCursor.cs):
//
//	1 byte   version 1
//	4 + n    last key: length (int32), UTF-8
//	4 + n    prefix: length (int32), UTF-8
//	1 byte   durability
//	4 8 4    snapshot: node (int32), physical ms (int64), counter (uint32)
//
// all little-endian.
type cursor struct {
	lastKey    string
	prefix     string
	durability replication.Durability
	// at is the time that all pages are read as of; nil inside a transaction, which
	// has its own view.
	at *replication.Timestamp
}

const cursorVersion = 1

// encode returns the text of c.
func (c cursor) encode() string {
	b := make([]byte, 0, 2+8+len(c.lastKey)+len(c.prefix)+16)
	b = append(b, cursorVersion)
	for _, s := range []string{c.lastKey, c.prefix} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = append(b, byte(c.durability))
	b = binary.LittleEndian.AppendUint32(b, uint32(c.at.GetNode()))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.at.GetPhysicalMs()))
	b = binary.LittleEndian.AppendUint32(b, c.at.GetCounter())
	return base64.RawURLEncoding.EncodeToString(b)
}
