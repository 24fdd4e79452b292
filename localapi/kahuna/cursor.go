package kahuna

import (
	"encoding/base64"
	"encoding/binary"
	"unicode/utf8"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
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

// Continue makes req ask for the page that a NextCursor begins: its start and
// its time are replaced. gRPC has no field for a cursor, so that this is for REST.
// Like Kahuna it takes prefix and durability from the request, whatever the cursor
// says. False: it is no cursor, and req is as it was.
func Continue(req *pb.GrpcGetByRangeRequest, cursor string) bool {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) == 0 || b[0] != cursorVersion {
		return false
	}
	last, b, ok := cursorText(b[1:])
	if ok {
		_, b, ok = cursorText(b)
	}
	if !ok || len(b) != 1+4+8+4 {
		return false
	}
	req.StartKey, req.StartInclusive = &last, false
	req.ReadTimestampNode = int32(binary.LittleEndian.Uint32(b[1:]))
	req.ReadTimestampPhysical = int64(binary.LittleEndian.Uint64(b[5:]))
	req.ReadTimestampCounter = binary.LittleEndian.Uint32(b[13:])
	return true
}

// cursorText takes a length and so much text off b.
func cursorText(b []byte) (string, []byte, bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) || !utf8.Valid(b[4:4+n]) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}
