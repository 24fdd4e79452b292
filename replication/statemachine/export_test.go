package statemachine

import (
	"bytes"
	"encoding/binary"
)

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
	case tableKey:
		r, t, v, ok := decodeHead(value)
		return (&head{revision: r, trail: t}).append(nil, v), ok
	case tableHistory:
		return recodeChunk(key, value)
	case tableSequence:
		s, ok := decodeSequence(value)
		return s.append(nil), ok
	case tableAllocation:
		a, ok := decodeAllocation(value)
		return a.append(nil), ok
	case tableTx, tableTxRow, tableSnapshot:
		return recodeTx(key, value)
	}
	return value, true
}

func recodeTx(key, value []byte) (again []byte, ok bool) {
	kind := byte(0)
	if len(key) >= txRowHead {
		kind = key[txRowHead-1]
	}
	switch {
	case key[0] == tableTx:
		r, ok := decodeTx(value)
		return r.append(nil), ok
	case key[0] == tableSnapshot:
		h, ok := decodeSnapshotHold(value)
		return h.append(nil), ok
	case kind == txRowStaged:
		r, item, ok := decodeStaged(value)
		if !ok {
			return nil, false
		}
		again, err := appendStaged(nil, &r, item)
		return again, err == nil
	case kind == txRowRead:
		o, ok := decodeObservation(value)
		return o.append(nil), ok
	case kind == txRowPredicate, kind == txRowSpanLock:
		s, ok := decodeSpan(value)
		return s.append(nil), ok
	case kind == txRowLock:
		l, ok := decodeTxLock(value)
		return l.append(nil), ok
	}
	return value, true
}

func recodeChunk(key, value []byte) (again []byte, ok bool) {
	c, ok := openChunk(value)
	if !ok || len(key) != 10 {
		return nil, false
	}
	at := place(binary.BigEndian.Uint64(key[2:])) << slotBits
	again = appendHLC([]byte{rowFormat}, c.label)
	for {
		slot, b, more := c.next()
		if !more {
			return again, !c.d.bad
		}
		if slot >= 1<<slotBits {
			return nil, false
		}
		r, ok := decodeRecord(b, at|place(slot), true)
		if !ok {
			return nil, false
		}
		again = appendBytes(binary.AppendUvarint(again, uint64(slot)), appendRecord(nil, at|place(slot), &r))
	}
}

// RecordsInChunk counts the records of a row of table 31.
func RecordsInChunk(key, value []byte) (n int, ok bool) {
	names, ok := NamesInChunk(key, value)
	for _, of := range names {
		n += of
	}
	return n, ok
}

// NamesInChunk counts them by key.
func NamesInChunk(key, value []byte) (names map[string]int, ok bool) {
	c, ok := openChunk(value)
	names = make(map[string]int)
	for ok {
		_, b, more := c.next()
		if !more {
			return names, !c.d.bad
		}
		var r record
		r, ok = decodeRecord(b, 1<<62, true)
		names[r.name]++
	}
	return nil, false
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
