package backup

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/kahu-sh/kahu/replication/statemachine"
)

// Writer writes one backup. It is for one goroutine.
type Writer struct {
	out     io.Writer
	sum     uint64 // of the part before
	trailer Trailer
	buf     []byte // the chunk at hand
	rows    uint32 // in it
	err     error  // first one; every later call returns it
}

// NewWriter writes the header. Errors are those of out.
func NewWriter(out io.Writer, h Header) (*Writer, error) {
	w := &Writer{out: out}
	b, err := appendHeader(nil, h, &w.sum)
	if err != nil {
		return nil, err
	}
	if err := w.write(b); err != nil {
		return nil, err
	}
	w.begin()
	return w, nil
}

// Row adds a row. Rows come in ascending order of key. It blocks while out does.
func (w *Writer) Row(key, value []byte) error {
	if w.err != nil {
		return w.err
	}
	w.buf = appendRow(w.buf, key, value)
	w.rows++
	w.trailer.Rows++
	if len(w.buf) < chunkTargetBytes {
		return nil
	}
	return w.flush()
}

// Close writes the rest and the end. Without it a reader takes the backup for
// damaged.
func (w *Writer) Close(s statemachine.BackupSummary) (Trailer, error) {
	if w.rows > 0 {
		if err := w.flush(); err != nil {
			return Trailer{}, err
		}
	}
	w.trailer.BackupSummary = s
	text, err := json.Marshal(w.trailer)
	if err != nil {
		return Trailer{}, fmt.Errorf("encoding a backup's end: %w", err)
	}
	w.buf = append(w.buf, text...)
	w.rows = endRows
	return w.trailer, w.flush()
}

func (w *Writer) begin() {
	w.buf = append(w.buf[:0], make([]byte, chunkHeadBytes)...)
	w.rows = 0
}

func (w *Writer) flush() error {
	binary.LittleEndian.PutUint32(w.buf, uint32(len(w.buf)-chunkHeadBytes))
	binary.LittleEndian.PutUint32(w.buf[4:], w.rows)
	if err := w.write(seal(w.buf, 0, &w.sum)); err != nil {
		return err
	}
	w.begin()
	return nil
}

func (w *Writer) write(b []byte) error {
	if w.err != nil {
		return w.err
	}
	if _, err := w.out.Write(b); err != nil {
		w.err = fmt.Errorf("writing the backup: %w", err)
		return w.err
	}
	w.trailer.Bytes += uint64(len(b))
	return nil
}
