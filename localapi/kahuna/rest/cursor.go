package rest

import (
	"encoding/base64"
	"encoding/binary"
	"unicode/utf8"
)

// readCursor takes apart what a page's nextCursor says (KeyValueRangeCursor): the
// last key of the page, and the time of the state that all pages read.
//
//	base64url, no padding, of, in little endian:
//	1 byte   version, 1
//	4 bytes  length, and the last key
//	4 bytes  length, and the prefix
//	1 byte   durability
//	4, 8, 4  node, physical, counter
//
// Like Kahuna it takes prefix and durability from the request and not from here.
func readCursor(cursor string) (last string, at hlc, valid bool) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) == 0 || b[0] != 1 {
		return "", hlc{}, false
	}
	last, b, valid = lengthAndText(b[1:])
	if valid {
		_, b, valid = lengthAndText(b)
	}
	if !valid || len(b) != 1+4+8+4 {
		return "", hlc{}, false
	}
	return last, stamp(int32(binary.LittleEndian.Uint32(b[1:])), int64(binary.LittleEndian.Uint64(b[5:])), binary.LittleEndian.Uint32(b[13:])), true
}

func lengthAndText(b []byte) (string, []byte, bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) || !utf8.Valid(b[4:4+n]) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}
