package voter

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/kahu-sh/kahu/storage"
)

// A snapshot travels as all rows of the engine in ascending order of key, in
// chunks. Numbers are little-endian, varints as in encoding/binary.
//
//	stream   header | chunk | chunk | … | end
//
//	         0          8         12        16        24       32       40
//	header  +----------+---------+---------+---------+--------+--------+
//	        | KAHUSNAP | version | level   | index   | term   | sum    |
//	        | 8        | 4       | 4       | 8       | 8      | 8      |
//	        +----------+---------+---------+---------+--------+--------+
//
//	         0         4        8                 8+length   16+length
//	chunk   +---------+--------+------------------+---------+
//	        | length  | rows   | length bytes     | sum     |
//	        | 4       | 4      | of rows          | 8       |
//	        +---------+--------+------------------+---------+
//	row     len(key) varint | key | len(value) varint | value
//
//	end     a chunk whose length and rows are 0, with the number of all rows
//	        in 8 bytes where others have their rows
//
// sum is xxh3 of everything in the part before it, seeded with the sum of the
// part before, so that a chunk that is missing, doubled or moved is noticed.
// index and term are the position of the state machine in these rows, level is its
// feature level: a reader that does not know it says so before it takes gigabytes.
//
// A reader refuses a higher version as newer, and everything else that it does
// not expect as damaged: rows out of order, chunks over the limit, bytes after
// the end. The version rises with any change of this picture, and a change comes
// with a feature level (snapshotVersionAt): while voters of an earlier version take
// part, what is sent is what they read.
//
//	version 1  level is 0
//	version 2  from feature level 3 on: with the level
const (
	snapshotMagic   = "KAHUSNAP"
	snapshotVersion = 2 // newest that is written and read

	// snapshotLevelSince is the feature level from which on a header names its level.
	snapshotLevelSince = 3

	snapshotHeaderBytes = 40
	chunkHeaderBytes    = 8
	sumBytes            = 8

	// chunkTargetBytes closes a chunk: it then holds at least this, or the last rows.
	chunkTargetBytes = 256 << 10
	// maxChunkBytes is the largest chunk a reader accepts: the target, and one row
	// of the largest request.
	maxChunkBytes = 24 << 20
	// maxChunkRows is more than fit below the target: a row has at least 2 bytes.
	maxChunkRows = chunkTargetBytes
)

var (
	errSnapshotDamaged = errors.New("snapshot stream is damaged")
	errSnapshotNewer   = errors.New("snapshot stream was written by a newer kahu: upgrade this voter")
)

// snapshotHeader is the first part of a stream.
type snapshotHeader struct {
	index, term uint64
	level       uint32 // 0 in version 1
}

// snapshotVersionAt is the version in which voters send each other snapshots while
// the cluster has a feature level, and the newest that one reads who knows no
// higher level.
func snapshotVersionAt(level uint32) uint32 {
	if level < snapshotLevelSince {
		return 1
	}
	return snapshotVersion
}

// snapshotEncoder writes the parts of a stream, each into the buffer it is given.
type snapshotEncoder struct {
	sum  uint64 // of the part before
	rows uint64 // so far
}

// header appends the header to b, in the version of the state's feature level.
func (e *snapshotEncoder) header(b []byte, h snapshotHeader) []byte {
	version, level := snapshotVersionAt(h.level), h.level
	if version == 1 {
		level = 0
	}
	start := len(b)
	b = append(b, snapshotMagic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, level)
	b = binary.LittleEndian.AppendUint64(b, h.index)
	b = binary.LittleEndian.AppendUint64(b, h.term)
	return e.seal(b, start)
}

// begin appends the room for a chunk's header to b, which must be empty.
func (e *snapshotEncoder) begin(b []byte) []byte {
	return append(b, make([]byte, chunkHeaderBytes)...)
}

// row appends one row of the chunk to b.
func (e *snapshotEncoder) row(b, key, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// finish closes the chunk of so many rows that begin opened in b.
func (e *snapshotEncoder) finish(b []byte, rows uint32) []byte {
	binary.LittleEndian.PutUint32(b[0:], uint32(len(b)-chunkHeaderBytes))
	binary.LittleEndian.PutUint32(b[4:], rows)
	e.rows += uint64(rows)
	return e.seal(b, 0)
}

// end appends the last part to b.
func (e *snapshotEncoder) end(b []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, chunkHeaderBytes)...)
	b = binary.LittleEndian.AppendUint64(b, e.rows)
	return e.seal(b, start)
}

func (e *snapshotEncoder) seal(b []byte, start int) []byte {
	e.sum = xxh3.HashSeed(b[start:], e.sum)
	return binary.LittleEndian.AppendUint64(b, e.sum)
}

// snapshotDecoder takes a stream in pieces of any size, and hands on each chunk
// once it has been checked. It keeps at most one chunk in memory.
type snapshotDecoder struct {
	// rows gets the rows of one chunk. Their bytes are valid until it returns.
	rows func([]storage.Row) error
	// known is the highest feature level that the reader knows.
	known uint32

	header  snapshotHeader
	buf     []byte // of the part that is not complete
	sum     uint64
	count   uint64
	lastKey []byte
	batch   []storage.Row
	state   decoderState
	err     error // first one; every later Write returns it
}

type decoderState int

const (
	inHeader decoderState = iota
	inChunks
	atEnd
)

// Write implements io.Writer. Errors are errSnapshotDamaged, errSnapshotNewer,
// or what rows returned.
func (d *snapshotDecoder) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	written := len(p)
	for len(p) > 0 {
		if d.state == atEnd {
			d.err = fmt.Errorf("%w: %d bytes after its end", errSnapshotDamaged, len(p))
			return 0, d.err
		}
		need, err := d.need()
		if err == nil {
			take := min(need-len(d.buf), len(p))
			d.buf = append(d.buf, p[:take]...)
			p = p[take:]
			if len(d.buf) < need {
				continue
			}
			// The length of a chunk is known only from its first bytes.
			if need, err = d.need(); err == nil && len(d.buf) == need {
				err = d.part()
				d.buf = d.buf[:0]
			}
		}
		if err != nil {
			d.err = err
			return 0, err
		}
	}
	return written, nil
}

// close returns an error unless the stream was complete.
func (d *snapshotDecoder) close() error {
	if d.err == nil && d.state != atEnd {
		d.err = fmt.Errorf("%w: it ends after %d rows, in the middle", errSnapshotDamaged, d.count)
	}
	return d.err
}

// need returns how many bytes the part at hand takes, as far as it is known.
func (d *snapshotDecoder) need() (int, error) {
	if d.state == inHeader {
		return snapshotHeaderBytes, nil
	}
	if len(d.buf) < chunkHeaderBytes {
		return chunkHeaderBytes, nil
	}
	length := binary.LittleEndian.Uint32(d.buf)
	if length > maxChunkBytes {
		return 0, fmt.Errorf("%w: a chunk of %d bytes, at most %d are allowed", errSnapshotDamaged, length, maxChunkBytes)
	}
	if length == 0 {
		return chunkHeaderBytes + 8 + sumBytes, nil
	}
	return chunkHeaderBytes + int(length) + sumBytes, nil
}

// part takes a complete part from buf.
func (d *snapshotDecoder) part() error {
	body, stored := d.buf[:len(d.buf)-sumBytes], binary.LittleEndian.Uint64(d.buf[len(d.buf)-sumBytes:])
	if d.state == inHeader {
		// Told before the checksum is looked at: a newer version may sum otherwise.
		if string(body[:8]) != snapshotMagic {
			return fmt.Errorf("%w: it does not begin with %s", errSnapshotDamaged, snapshotMagic)
		}
		if v, most := binary.LittleEndian.Uint32(body[8:]), snapshotVersionAt(d.known); v > most {
			return fmt.Errorf("%w (version %d, known are 1 to %d)", errSnapshotNewer, v, most)
		}
	}
	sum := xxh3.HashSeed(body, d.sum)
	if sum != stored {
		return fmt.Errorf("%w: checksum %016x, stored %016x, after %d rows", errSnapshotDamaged, sum, stored, d.count)
	}
	d.sum = sum
	if d.state == inHeader {
		return d.begin(body)
	}
	rows := binary.LittleEndian.Uint32(body[4:])
	if binary.LittleEndian.Uint32(body) == 0 {
		all := binary.LittleEndian.Uint64(body[chunkHeaderBytes:])
		if rows != 0 || all != d.count {
			return fmt.Errorf("%w: it ends with %d rows, %d were announced", errSnapshotDamaged, d.count, all)
		}
		d.state = atEnd
		return nil
	}
	return d.chunk(body[chunkHeaderBytes:], rows)
}

// begin takes the header.
func (d *snapshotDecoder) begin(body []byte) error {
	version, level := binary.LittleEndian.Uint32(body[8:]), binary.LittleEndian.Uint32(body[12:])
	if version == 0 || (version == 1) != (level == 0) {
		return fmt.Errorf("%w: version %d with level %d", errSnapshotDamaged, version, level)
	}
	if level > d.known {
		return fmt.Errorf("%w (feature level %d, this one knows up to %d)", errSnapshotNewer, level, d.known)
	}
	d.header = snapshotHeader{index: binary.LittleEndian.Uint64(body[16:]), term: binary.LittleEndian.Uint64(body[24:]), level: level}
	d.state = inChunks
	return nil
}

// chunk takes so many rows from b.
func (d *snapshotDecoder) chunk(b []byte, rows uint32) error {
	clear(d.batch)
	d.batch = d.batch[:0]
	last := d.lastKey
	for len(b) > 0 {
		if len(d.batch) >= min(int(rows), maxChunkRows) {
			return fmt.Errorf("%w: a chunk has more than its %d rows", errSnapshotDamaged, rows)
		}
		var key, value []byte
		var ok bool
		if key, b, ok = cutBytes(b); ok {
			value, b, ok = cutBytes(b)
		}
		if !ok {
			return fmt.Errorf("%w: row %d is cut off", errSnapshotDamaged, d.count)
		}
		if (d.count > 0 || len(d.batch) > 0) && string(key) <= string(last) {
			return fmt.Errorf("%w: key %x comes after %x", errSnapshotDamaged, key, last)
		}
		last = key
		d.batch = append(d.batch, storage.Row{Key: key, Value: value})
	}
	if uint64(len(d.batch)) != uint64(rows) {
		return fmt.Errorf("%w: a chunk of %d rows announces %d", errSnapshotDamaged, len(d.batch), rows)
	}
	d.lastKey = append(d.lastKey[:0:0], last...)
	if err := d.rows(d.batch); err != nil {
		return err
	}
	d.count += uint64(rows)
	return nil
}

// cutBytes takes a length and so many bytes from b.
func cutBytes(b []byte) (part, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, false
	}
	return b[k : k+int(n) : k+int(n)], b[k+int(n):], true
}
