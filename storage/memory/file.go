package memory

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/atomicfile"
	"github.com/zeebo/xxh3"
)

// The file, all numbers little-endian or uvarint:
//
//	offset  0   "kahu.mem"             magic, 8 bytes
//	        8   uint32                 format version
//	       12   uint64                 count of rows
//	       20   count times, in ascending order of keys:
//	              uvarint len, key
//	              uvarint len, value
//	      end   uint64                 xxh3-64 of everything before it
//
// It is written beside the old one and renamed over it, so a file is whole
// unless the disk damaged it. A later version keeps the first 12 bytes.
const (
	fileName   = "rows"
	tempPrefix = "rows.tmp-"

	magic         = "kahu.mem"
	formatVersion = 1
	headerBytes   = len(magic) + 4 + 8

	// maxPartBytes bounds one key or value, so that a damaged length does not
	// allocate the machine away.
	maxPartBytes = 1 << 30
)

// replaceFile writes t into dir so that a crash leaves the old or the new file.
func replaceFile(dir string, t *tree) (err error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := writeRows(f, t); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, fileName)); err != nil {
		return err
	}
	return atomicfile.Sync(dir)
}

func writeRows(f io.Writer, t *tree) error {
	sum := xxh3.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<16)
	b := append(make([]byte, 0, headerBytes), magic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Len()))
	_, err := w.Write(b)
	t.Scan(func(key string, value []byte) bool {
		b = binary.AppendUvarint(b[:0], uint64(len(key)))
		b = append(b, key...)
		b = binary.AppendUvarint(b, uint64(len(value)))
		if _, err = w.Write(b); err == nil {
			_, err = w.Write(value)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = f.Write(binary.LittleEndian.AppendUint64(nil, sum.Sum64()))
	return err
}

// readFile reads what writeRows wrote. Damage wraps storage.ErrCorrupt.
func readFile(f io.Reader) (*tree, int64, error) {
	in := &summed{r: bufio.NewReaderSize(f, 1<<16), sum: xxh3.New()}
	head := make([]byte, headerBytes)
	if err := in.full(head); err != nil {
		return nil, 0, err
	}
	if string(head[:len(magic)]) != magic {
		return nil, 0, fmt.Errorf("%w: not a file of kahu's memory engine", storage.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(head[len(magic):]); v > formatVersion {
		return nil, 0, fmt.Errorf("%w: version %d, this kahu reads up to %d", storage.ErrNewerFormat, v, formatVersion)
	} else if v == 0 {
		return nil, 0, fmt.Errorf("%w: format version 0", storage.ErrCorrupt)
	}
	count := binary.LittleEndian.Uint64(head[len(magic)+4:])
	t, bytes, last := new(tree), int64(0), ""
	for i := range count {
		k, err := in.part()
		if err != nil {
			return nil, 0, err
		}
		v, err := in.part()
		if err != nil {
			return nil, 0, err
		}
		key := string(k)
		if i > 0 && key <= last {
			return nil, 0, fmt.Errorf("%w: row %d is out of order", storage.ErrCorrupt, i)
		}
		last = key
		t.Load(key, v)
		bytes += int64(len(key) + len(v) + rowOverheadBytes)
	}
	want := in.sum.Sum64()
	var tail [8]byte
	if err := in.full(tail[:]); err != nil {
		return nil, 0, err
	}
	if got := binary.LittleEndian.Uint64(tail[:]); got != want {
		return nil, 0, fmt.Errorf("%w: checksum is %016x, contents have %016x", storage.ErrCorrupt, got, want)
	}
	if _, err := in.r.ReadByte(); err != io.EOF {
		return nil, 0, fmt.Errorf("%w: bytes after the end", storage.ErrCorrupt)
	}
	return t, bytes, nil
}

// summed reads and hashes.
type summed struct {
	r   *bufio.Reader
	sum *xxh3.Hasher
}

func (s *summed) full(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		return s.short(err)
	}
	s.sum.Write(b)
	return nil
}

// ReadByte implements io.ByteReader for uvarints.
func (s *summed) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{c})
	}
	return c, err
}

// part reads a length and that many bytes, growing with what is really there.
func (s *summed) part() ([]byte, error) {
	n, err := binary.ReadUvarint(s)
	if err != nil {
		return nil, s.short(err)
	}
	if n > maxPartBytes {
		return nil, fmt.Errorf("%w: a row of %d bytes", storage.ErrCorrupt, n)
	}
	b := make([]byte, 0, min(n, 1<<16))
	for uint64(len(b)) < n {
		have := len(b)
		b = append(b, make([]byte, min(n-uint64(have), 1<<16))...)
		if err := s.full(b[have:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (s *summed) short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the file ends too early", storage.ErrCorrupt)
	}
	if strings.Contains(err.Error(), "overflow") {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return err
}

// removeLeftovers removes what a Sync left that was killed.
func removeLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the memory engine's directory: %w", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), tempPrefix) {
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
				return fmt.Errorf("remove a half-written file: %w", err)
			}
		}
	}
	return nil
}
