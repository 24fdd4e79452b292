package backup

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/kahu-sh/kahu/storage"
)

// Reader reads one backup, chunk by chunk. It is for one goroutine. Errors wrap
// ErrDamaged or ErrNewer, or are those of the stream.
type Reader struct {
	in      io.Reader
	header  Header
	trailer Trailer
	sum     uint64
	bytes   uint64
	rows    uint64
	buf     []byte
	lastKey []byte
	batch   []storage.Row
	ended   bool
}

// NewReader reads the header.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{in: in}
	head := make([]byte, headBytes)
	if err := r.fill(head); err != nil {
		return nil, err
	}
	if string(head[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin with %s; is it a backup of kahu?", ErrDamaged, magic)
	}
	// Told before the checksum is looked at: a newer version may sum otherwise.
	if v := binary.LittleEndian.Uint32(head[8:]); v > version {
		return nil, fmt.Errorf("%w (format %d, known are 1 to %d): use that kahu, or a newer one", ErrNewer, v, version)
	} else if v == 0 {
		return nil, fmt.Errorf("%w: format 0", ErrDamaged)
	}
	n := binary.LittleEndian.Uint32(head[12:])
	if n > maxJSONBytes {
		return nil, fmt.Errorf("%w: a header of %d bytes", ErrDamaged, n)
	}
	if err := r.part(head, int(n)); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(r.buf[headBytes:], &r.header); err != nil {
		return nil, fmt.Errorf("%w: its header: %w", ErrDamaged, err)
	}
	return r, nil
}

// Header returns where the backup is from.
func (r *Reader) Header() Header { return r.header }

// Trailer returns what the backup says of itself at its end. It is empty before
// Next returned io.EOF.
func (r *Reader) Trailer() Trailer { return r.trailer }

// Bytes is how much was read.
func (r *Reader) Bytes() uint64 { return r.bytes }

// Next returns the rows of the next chunk, in ascending order of key, valid until
// the next call; io.EOF after the last, once the whole backup was checked.
func (r *Reader) Next() ([]storage.Row, error) {
	if r.ended {
		return nil, io.EOF
	}
	head := make([]byte, chunkHeadBytes)
	before := r.bytes
	if err := r.fill(head); err != nil {
		return nil, err
	}
	n, rows := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	if n > maxChunkBytes {
		return nil, fmt.Errorf("%w: a chunk of %d bytes, at most %d are allowed", ErrDamaged, n, maxChunkBytes)
	}
	if err := r.part(head, int(n)); err != nil {
		return nil, err
	}
	if rows == endRows {
		return nil, r.end(before)
	}
	return r.chunk(r.buf[chunkHeadBytes:], rows)
}

// part reads n bytes more and the sum behind head, and checks it. buf is then the
// part without its sum.
func (r *Reader) part(head []byte, n int) error {
	if need := len(head) + n + sumBytes; cap(r.buf) < need {
		r.buf = make([]byte, 0, need)
	}
	r.buf = append(r.buf[:0], head...)
	whole := r.buf[:len(head)+n+sumBytes]
	if err := r.fill(whole[len(head):]); err != nil {
		return err
	}
	r.buf = whole[:len(head)+n]
	stored := binary.LittleEndian.Uint64(whole[len(r.buf):])
	sum := xxh3.HashSeed(r.buf, r.sum)
	if sum != stored {
		return fmt.Errorf("%w: checksum %016x, stored %016x, after %d rows", ErrDamaged, sum, stored, r.rows)
	}
	r.sum = sum
	return nil
}

// fill reads exactly len(b) bytes.
func (r *Reader) fill(b []byte) error {
	n, err := io.ReadFull(r.in, b)
	r.bytes += uint64(n)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends after %d bytes and %d rows, in the middle", ErrDamaged, r.bytes, r.rows)
	case err != nil:
		return fmt.Errorf("reading the backup: %w", err)
	}
	return nil
}

// chunk takes so many rows from b.
func (r *Reader) chunk(b []byte, rows uint32) ([]storage.Row, error) {
	clear(r.batch)
	r.batch = r.batch[:0]
	for len(b) > 0 {
		var row storage.Row
		var ok bool
		if row.Key, b, ok = cutBytes(b); ok {
			row.Value, b, ok = cutBytes(b)
		}
		if !ok {
			return nil, fmt.Errorf("%w: row %d is cut off", ErrDamaged, r.rows)
		}
		last := r.lastKey
		if n := len(r.batch); n > 0 {
			last = r.batch[n-1].Key
		}
		if r.rows > 0 && bytes.Compare(row.Key, last) <= 0 {
			return nil, fmt.Errorf("%w: key %x comes after %x", ErrDamaged, row.Key, last)
		}
		r.batch = append(r.batch, row)
		r.rows++
	}
	if len(r.batch) != int(rows) || rows == 0 {
		return nil, fmt.Errorf("%w: a chunk of %d rows announces %d", ErrDamaged, len(r.batch), rows)
	}
	r.lastKey = append(r.lastKey[:0], r.batch[len(r.batch)-1].Key...)
	return r.batch, nil
}

// end takes the last part, which began at byte before, and makes sure that
// nothing follows.
func (r *Reader) end(before uint64) error {
	var t Trailer
	if err := json.Unmarshal(r.buf[chunkHeadBytes:], &t); err != nil {
		return fmt.Errorf("%w: its end: %w", ErrDamaged, err)
	}
	if t.Rows != r.rows || t.Bytes != before {
		return fmt.Errorf("%w: it ends with %d rows in %d bytes, %d in %d were announced", ErrDamaged, r.rows, before, t.Rows, t.Bytes)
	}
	var one [1]byte
	switch n, err := io.ReadFull(r.in, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: something follows its end", ErrDamaged)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the backup: %w", err)
	}
	r.trailer, r.ended = t, true
	return io.EOF
}

// Verify reads a backup to its end. It returns what it says of itself, or what is
// wrong with it. progress, if not nil, is told how many bytes were read.
func Verify(in io.Reader, progress func(bytes uint64)) (Header, Trailer, error) {
	r, err := NewReader(in)
	if err != nil {
		return Header{}, Trailer{}, err
	}
	for {
		_, err := r.Next()
		if progress != nil {
			progress(r.bytes)
		}
		switch {
		case errors.Is(err, io.EOF):
			return r.header, r.trailer, nil
		case err != nil:
			return r.header, Trailer{}, err
		}
	}
}
