package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
	"github.com/zeebo/xxh3"
)

// ErrCorrupt wraps damage found in an entry that was read back.
var ErrCorrupt = errors.New("raft log entry is damaged")

// codecID names the format below in raft-wal's segment headers. A changed format
// gets the next number; a segment with another one is refused by raft-wal.
const codecID = 0x6b616875_00000001 // "kahu", version 1

// codec is the format of one entry. All numbers are little-endian.
//
//	 0        8       16     17           25          29          33
//	+--------+--------+------+------------+-----------+-----------+------+-----+----------+
//	| index  | term   | type | appended   | len(data) | len(ext)  | data | ext | checksum |
//	| 8      | 8      | 1    | 8 Unix ns  | 4         | 4         |      |     | 8        |
//	+--------+--------+------+------------+-----------+-----------+------+-----+----------+
//
// The checksum is xxh3 of the first 33 bytes, which seeds that of data, which
// seeds that of ext. An entry that was never stamped has appended 0.
type codec struct{}

const (
	codecHeaderBytes = 33
	codecSumBytes    = 8
)

// ID implements wal.Codec.
func (codec) ID() uint64 { return codecID }

// Encode implements wal.Codec.
func (codec) Encode(l *raft.Log, w io.Writer) error {
	var header [codecHeaderBytes]byte
	binary.LittleEndian.PutUint64(header[0:], l.Index)
	binary.LittleEndian.PutUint64(header[8:], l.Term)
	header[16] = byte(l.Type)
	if !l.AppendedAt.IsZero() {
		binary.LittleEndian.PutUint64(header[17:], uint64(l.AppendedAt.UnixNano()))
	}
	binary.LittleEndian.PutUint32(header[25:], uint32(len(l.Data)))
	binary.LittleEndian.PutUint32(header[29:], uint32(len(l.Extensions)))
	if g, ok := w.(interface{ Grow(int) }); ok {
		g.Grow(encodedBytes(l))
	}
	var sum [codecSumBytes]byte
	binary.LittleEndian.PutUint64(sum[:], checksum(header[:], l.Data, l.Extensions))
	for _, part := range [][]byte{header[:], l.Data, l.Extensions, sum[:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// Decode implements wal.Codec. Nothing in l aliases b. Errors wrap ErrCorrupt.
func (codec) Decode(b []byte, l *raft.Log) error {
	if len(b) < codecHeaderBytes+codecSumBytes {
		return fmt.Errorf("%w: %d bytes", ErrCorrupt, len(b))
	}
	header, rest := b[:codecHeaderBytes], b[codecHeaderBytes:]
	dataBytes := uint64(binary.LittleEndian.Uint32(header[25:]))
	extBytes := uint64(binary.LittleEndian.Uint32(header[29:]))
	if dataBytes+extBytes+codecSumBytes != uint64(len(rest)) {
		return fmt.Errorf("%w: lengths %d and %d in a record of %d bytes", ErrCorrupt, dataBytes, extBytes, len(b))
	}
	data, rest := rest[:dataBytes], rest[dataBytes:]
	ext, stored := rest[:extBytes], binary.LittleEndian.Uint64(rest[extBytes:])
	if sum := checksum(header, data, ext); sum != stored {
		return fmt.Errorf("%w: checksum %016x, stored %016x", ErrCorrupt, sum, stored)
	}
	*l = raft.Log{
		Index: binary.LittleEndian.Uint64(header[0:]),
		Term:  binary.LittleEndian.Uint64(header[8:]),
		Type:  raft.LogType(header[16]),
	}
	if ns := int64(binary.LittleEndian.Uint64(header[17:])); ns != 0 {
		l.AppendedAt = time.Unix(0, ns)
	}
	if len(data) > 0 {
		l.Data = append([]byte(nil), data...)
	}
	if len(ext) > 0 {
		l.Extensions = append([]byte(nil), ext...)
	}
	return nil
}

// encodedBytes is what l takes in the log.
func encodedBytes(l *raft.Log) int {
	return codecHeaderBytes + len(l.Data) + len(l.Extensions) + codecSumBytes
}

func checksum(header, data, ext []byte) uint64 {
	return xxh3.HashSeed(ext, xxh3.HashSeed(data, xxh3.Hash(header)))
}
