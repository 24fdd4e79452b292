package holds

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
)

// The lease table is a file with what an agent must know after it was killed:
// which session each hold hangs from, and who proves that its holder lives. What
// is held, by which token and until when, is the quorum's to say.
//
//	file     header | record | record | …
//
//	          0          8         12
//	header   +----------+---------+
//	         | KAHUHOLD | version |
//	         | 8        | 4       |
//	         +----------+---------+
//
//	          0        4              12
//	record   +--------+--------------+------------------+
//	         | length | xxh3 of JSON | length bytes     |
//	         | 4      | 8            | of JSON: a change|
//	         +--------+--------------+------------------+
//
// Numbers are little-endian. A change says what a hold is from here on, or that
// it is gone; the last one of a hold counts. Unknown fields of a change are
// skipped, so that an older agent can follow a newer one; the version rises only
// when that would be wrong.
//
// Nothing here is synced to the disk. The table is of use as long as the
// processes live that it names, and the crash that takes what the kernel has not
// written yet takes them as well. A record that is cut off at the end of the file
// was being written when the agent was killed: nobody was told anything yet that
// hangs on it. One whose length is wrong looks the same, but has all of its JSON.
const (
	tableMagic       = "KAHUHOLD"
	tableVersion     = 1
	tableHeaderBytes = 12
	changeHeadBytes  = 12
	// maxChangeBytes is far above the largest change: a lock's name, a command
	// and a reason, each bounded by package localapi.
	maxChangeBytes = 1 << 20
	// rewriteBytes of changes that do not count any more make it worth writing
	// the file anew, when they are also more than the others.
	rewriteBytes = 256 << 10
)

// A NewerTableError says that the table was written by an agent that this one
// does not understand. To go on without it could double a holder.
type NewerTableError struct {
	Path    string
	Version uint32
}

// Error implements error.
func (e *NewerTableError) Error() string {
	return fmt.Sprintf("the lease table %s has version %d, and this kahu knows versions up to %d: "+
		"start the newer kahu again, or end all guarded commands on this host and remove the file", e.Path, e.Version, tableVersion)
}

// change is one record.
type change struct {
	Hold *record `json:"hold,omitempty"`
	Gone string  `json:"gone,omitempty"` // id
}

// record is what the table has of one hold.
type record struct {
	ID        string `json:"id"`
	Session   []byte `json:"session"`
	TTLMS     int64  `json:"ttl_ms"` // of the session
	Lock      string `json:"lock"`
	Ephemeral bool   `json:"ephemeral,omitempty"`
	Witness   string `json:"witness"`
	GraceMS   int64  `json:"grace_ms,omitempty"`
	TreeEnds  bool   `json:"tree_ends,omitempty"`
	LastEnds  bool   `json:"last_ends_tree,omitempty"`
	NeedAck   bool   `json:"need_ack,omitempty"`
	NoQueue   bool   `json:"no_queue,omitempty"`
	Resume    bool   `json:"resume,omitempty"` // its client takes it up again
	Acked     bool   `json:"acked,omitempty"`  // the holder may be running
	// WaitUntilNS is the boot time at which the place in line is given up; 0: never.
	WaitUntilNS int64 `json:"wait_until_boottime_ns,omitempty"`

	BootID     string    `json:"boot_id"`
	Place      string    `json:"place,omitempty"` // placeOf the table's directory
	Namespaces string    `json:"namespaces"`      // in which the processes have these ids
	Processes  []process `json:"processes,omitempty"`
	Group      groupID   `json:"group,omitzero"` // the control group that they are in

	Host    string `json:"host,omitempty"`
	Node    string `json:"node,omitempty"`
	PID     int64  `json:"pid,omitempty"`
	UID     int64  `json:"uid"`
	Command string `json:"command,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Contain string `json:"contain,omitempty"`
}

// table is the open file. Its methods may be called concurrently. put blocks for
// a write that the kernel takes into memory; forget does not block.
type table struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards the file; never taken with Holds.mu held
	file   *os.File
	size   int64             // of what is whole
	stale  int64             // bytes of changes that do not count any more
	live   map[string][]byte // encoded change by hold
	broken error             // the file does not end where it should

	queue   sync.Mutex // guards gone; held for an append only
	gone    []string   // holds to be forgotten
	kick    chan struct{}
	closing chan struct{}
	done    chan struct{}
}

// openTable reads the table at path, and begins one where there is none.
// damaged says that something in the middle of it could not be read, so that
// holds may be missing. The error is a *NewerTableError, or of the file system.
func openTable(path string, log *slog.Logger) (t *table, records []record, damaged bool, err error) {
	t = &table{path: path, log: log, live: map[string][]byte{},
		kick: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, false, fmt.Errorf("reading the lease table: %w", err)
	}
	changes, damaged, err := readTable(path, text)
	if err != nil {
		return nil, nil, false, err
	}
	if damaged {
		log.Warn("the lease table is damaged: what it does not name is released after one lease", "path", path)
	}
	known := map[string]record{}
	for _, c := range changes {
		if c.Hold != nil {
			known[c.Hold.ID] = *c.Hold
		} else {
			delete(known, c.Gone)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		r := known[id]
		records = append(records, r)
		if t.live[id], err = encodeChange(change{Hold: &r}); err != nil {
			return nil, nil, false, err
		}
	}
	if err := t.rewrite(); err != nil {
		return nil, nil, false, fmt.Errorf("writing the lease table: %w", err)
	}
	go t.forgetting()
	return t, records, damaged, nil
}

// readTable takes the changes out of a file's text.
func readTable(path string, text []byte) (changes []change, damaged bool, err error) {
	if len(text) < tableHeaderBytes {
		return nil, len(text) > 0, nil
	}
	if string(text[:len(tableMagic)]) != tableMagic {
		return nil, true, nil
	}
	if v := binary.LittleEndian.Uint32(text[len(tableMagic):]); v != tableVersion {
		return nil, false, &NewerTableError{path, v}
	}
	for rest := text[tableHeaderBytes:]; len(rest) > 0; {
		var n int
		if len(rest) >= changeHeadBytes {
			n = int(min(binary.LittleEndian.Uint32(rest), maxChangeBytes+1))
		}
		if len(rest) < changeHeadBytes || n <= maxChangeBytes && len(rest)-changeHeadBytes < n {
			return changes, damaged || isWhole(rest), nil // cut off: it was being written
		}
		if n > maxChangeBytes {
			return changes, true, nil
		}
		payload := rest[changeHeadBytes : changeHeadBytes+n]
		sum := binary.LittleEndian.Uint64(rest[4:])
		rest = rest[changeHeadBytes+n:]
		var c change
		if xxh3.Hash(payload) != sum || json.Unmarshal(payload, &c) != nil || !c.valid() {
			damaged = true // the next one may be whole
			continue
		}
		changes = append(changes, c)
	}
	return changes, damaged, nil
}

// isWhole reports whether rest, which ends before its length says, has all of a change
// nevertheless: then the length is wrong, and what follows cannot be found.
func isWhole(rest []byte) bool {
	var c json.RawMessage
	return len(rest) > changeHeadBytes && json.NewDecoder(bytes.NewReader(rest[changeHeadBytes:])).Decode(&c) == nil
}

// valid reports whether a change that was read can be used.
func (c change) valid() bool {
	if c.Hold == nil {
		return c.Gone != ""
	}
	return c.Gone == "" && c.Hold.ID != "" && c.Hold.Lock != "" && c.Hold.TTLMS > 0 && c.Hold.TTLMS <= maxTTL.Milliseconds() && len(c.Hold.Processes) <= maxWitnesses
}

func encodeChange(c change) ([]byte, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding a lease table's change: %w", err)
	}
	if len(payload) > maxChangeBytes {
		return nil, fmt.Errorf("a lease table's change has %d bytes, at most %d are allowed", len(payload), maxChangeBytes)
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, changeHeadBytes+len(payload)), uint32(len(payload)))
	b = binary.LittleEndian.AppendUint64(b, xxh3.Hash(payload))
	return append(b, payload...), nil
}

// put makes r known to the agent's successor. Nobody may be told of what hangs
// on it before.
func (t *table) put(r record) error {
	b, err := encodeChange(change{Hold: &r})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stale += int64(len(t.live[r.ID]))
	if err := t.append(b); err != nil {
		return fmt.Errorf("writing the lease table %s: %w", t.path, err)
	}
	t.live[r.ID] = b
	return nil
}

// forget takes holds out of the table, soon. When that fails the successor finds
// by the quorum's list that they are gone.
func (t *table) forget(id string) {
	t.queue.Lock()
	t.gone = append(t.gone, id)
	t.queue.Unlock()
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// forgetting writes what forget was told. It ends with close.
func (t *table) forgetting() {
	defer close(t.done)
	for {
		select {
		case <-t.kick:
			t.writeGone()
		case <-t.closing:
			t.writeGone()
			return
		}
	}
}

func (t *table) writeGone() {
	t.queue.Lock()
	ids := t.gone
	t.gone = nil
	t.queue.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	var b bytes.Buffer
	for _, id := range ids {
		if t.live[id] == nil {
			continue
		}
		c, err := encodeChange(change{Gone: id})
		if err != nil {
			t.log.Debug("lease table", "error", err)
			continue
		}
		b.Write(c)
		t.stale += int64(len(t.live[id]) + len(c))
		delete(t.live, id)
	}
	if b.Len() > 0 {
		if err := t.append(b.Bytes()); err != nil {
			t.log.Debug("lease table", "error", err)
		}
	}
}

// append writes whole changes to the end, or nothing. mu is held.
func (t *table) append(b []byte) error {
	if t.file == nil {
		return fs.ErrClosed
	}
	if t.broken != nil || t.stale > rewriteBytes && t.stale > t.size/2 {
		if err := t.rewrite(); err != nil {
			if t.broken != nil {
				return err
			}
			t.log.Debug("the lease table was not written anew", "error", err)
		}
	}
	n, err := t.file.WriteAt(b, t.size)
	if err != nil {
		if n > 0 {
			// A part of it would look like damage to the next reader.
			t.broken = t.file.Truncate(t.size)
		}
		return err
	}
	t.size += int64(len(b))
	return nil
}

// rewrite replaces the file by one with the live changes alone. mu is held, or
// nobody else knows t yet.
func (t *table) rewrite() (err error) {
	temp := t.path + ".tmp"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(temp)
		}
	}()
	b := binary.LittleEndian.AppendUint32([]byte(tableMagic), tableVersion)
	for _, id := range slices.Sorted(maps.Keys(t.live)) {
		b = append(b, t.live[id]...)
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := os.Rename(temp, t.path); err != nil {
		return err
	}
	if t.file != nil {
		_ = t.file.Close() // it has no name any more
	}
	t.file, t.size, t.stale, t.broken = f, int64(len(b)), 0, nil
	return nil
}

// close writes what is left to be forgotten, and ends the goroutine.
func (t *table) close() {
	close(t.closing)
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.file.Close() // nothing was synced, and nothing has to be
	t.file = nil
}
