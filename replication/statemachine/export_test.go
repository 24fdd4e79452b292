package statemachine

import "bytes"

// RecodeRow decodes the value of a row of any table and encodes it again. ok is
// false when it cannot be decoded. For tests of the formats.
func RecodeRow(key, value []byte) (again []byte, ok bool) {
	if len(key) == 0 {
		return nil, false
	}
	switch key[0] {
	case tableMeta:
		if !bytes.Equal(key, metaKey) {
			return value, len(value) > 0
		}
		s, ok := decodeState(value)
		return s.append(nil), ok
	case tableSession:
		s, ok := decodeSession(value)
		return s.append(nil), ok
	case tableLock:
		l, ok := decodeLock(value)
		return l.append(nil), ok
	case tableQueue:
		w, ok := decodeWaiter(value)
		return w.append(nil), ok
	case tableRevision:
		number, ok := revisionOf(key)
		r, v, ok2 := decodeRevision(value, number)
		return r.appendRecord(nil, v), ok && ok2
	case tableSequence:
		s, ok := decodeSequence(value)
		return s.append(nil), ok
	case tableAllocation:
		a, ok := decodeAllocation(value)
		return a.append(nil), ok
	}
	return value, true
}

// RecodeName escapes a name and reads it again.
func RecodeName(name string) (escaped []byte, again string, ok bool) {
	escaped = appendName(nil, name)
	again, rest, ok := cutName(escaped)
	return escaped, again, ok && len(rest) == 0
}

// CutName reads any bytes as a name.
func CutName(b []byte) (string, []byte, bool) { return cutName(b) }

// FloorKey is where a restore puts its token floor.
func FloorKey() []byte { return floorKey }
