package backup

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/kahu-sh/kahu/replication/statemachine"
)

// A backup is one file, or one stream. Numbers are little-endian, varints as in
// encoding/binary.
//
//	file     header | chunk | … | end
//
//	          0          8         12       16             16+length
//	header   +----------+---------+--------+--------------+-----+
//	         | KAHUBKUP | version | length | length bytes | sum |
//	         | 8        | 4       | 4      | JSON, Header | 8   |
//	         +----------+---------+--------+--------------+-----+
//
//	          0        4      8              8+length
//	chunk    +--------+------+--------------+-----+
//	         | length | rows | length bytes | sum |
//	         | 4      | 4    | of rows      | 8   |
//	         +--------+------+--------------+-----+
//	row      len(key) varint | key | len(value) varint | value
//
//	end      a chunk with 0xFFFFFFFF for the number of rows, whose bytes are JSON,
//	         Trailer
//
// Rows are those of the state machine in ascending order of key. sum is xxh3 of
// everything in the part before it, seeded with the sum of the part before, so
// that a chunk that is missing, doubled or moved is noticed.
//
// A reader refuses a higher version as newer, and everything else that it does
// not expect as damaged. Unknown fields of the JSON are skipped. The version
// rises with any change that an older reader would get wrong.
const (
	magic   = "KAHUBKUP"
	version = 1

	headBytes      = 16 // of the header, before its JSON
	chunkHeadBytes = 8
	sumBytes       = 8
	endRows        = 0xFFFFFFFF

	// chunkTargetBytes closes a chunk: it then holds at least this, or the last rows.
	chunkTargetBytes = 256 << 10
	// maxChunkBytes is the largest chunk that a reader accepts: the target, and
	// one row of the largest request.
	maxChunkBytes = 24 << 20
	// maxJSONBytes bounds header and trailer.
	maxJSONBytes = 1 << 20
)

var (
	// ErrDamaged wraps errors about a file that is not what was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNewer wraps errors about a file that a newer kahu wrote.
	ErrNewer = errors.New("the backup was written by a newer kahu")
)

// Header says where a backup is from. It stands before the rows.
type Header struct {
	ID      string    `json:"id"`      // random UUID
	Cluster string    `json:"cluster"` // cluster id
	Node    string    `json:"node"`    // of the voter whose state this is
	Host    string    `json:"host,omitempty"`
	Version string    `json:"version,omitempty"` // of the kahu that wrote it
	Created time.Time `json:"created"`           // wall clock, for people
	Index   uint64    `json:"index"`             // of the log, up to which it has everything
	Term    uint64    `json:"term"`
	// Machine is the state machine's own row (statemachine.MachineRow).
	Machine []byte `json:"machine"`
}

// Trailer is what is known once all rows are written.
type Trailer struct {
	statemachine.BackupSummary
	Rows  uint64 `json:"rows"`
	Bytes uint64 `json:"bytes"` // of all parts before the end
}

func seal(b []byte, start int, sum *uint64) []byte {
	*sum = xxh3.HashSeed(b[start:], *sum)
	return binary.LittleEndian.AppendUint64(b, *sum)
}

func appendHeader(b []byte, h Header, sum *uint64) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding a backup's header: %w", err)
	}
	start := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	return seal(b, start, sum), nil
}

func appendRow(b, key, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// cutBytes takes a length and so many bytes from b.
func cutBytes(b []byte) (part, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, false
	}
	return b[k : k+int(n) : k+int(n)], b[k+int(n):], true
}
