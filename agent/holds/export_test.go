package holds

import (
	"io/fs"
	"log/slog"
	"os"
)

// Crash ends everything here as kill -9 does: the quorum hears nothing, and the
// lease table stays as it is.
func (h *Holds) Crash() {
	if h.table != nil {
		h.table.mu.Lock()
		_ = h.table.file.Close()
		h.table.file = nil
		h.table.mu.Unlock()
	}
	h.mu.Lock()
	h.closing = true
	h.cancel()
	for _, o := range h.byID {
		if o.witness == "connection" {
			o.handle.closed = true
		}
	}
	r := h.reaper
	h.mu.Unlock()
	if r != nil {
		r.close()
	}
	h.wg.Wait()
	if h.table != nil {
		close(h.table.closing)
		<-h.table.done
	}
	h.metrics.unregister()
}

// ReadTable decodes a lease table as openTable does.
func ReadTable(text []byte) (holds int, damaged bool, err error) {
	changes, damaged, err := readTable("table", text)
	return len(changes), damaged, err
}

// ReopenWithStart is process.reopen for a process that was started later by so
// many ticks than the one of this pid was.
func ReopenWithStart(pid int, later int64) (found bool, err error) {
	start, err := startOf(pid)
	if err != nil {
		return false, err
	}
	return Reopen(pid, start+later)
}

// Reopen is process.reopen.
func Reopen(pid int, start int64) (found bool, err error) {
	f, err := process{PID: pid, Start: start}.reopen()
	if f != nil {
		_ = f.Close()
	}
	return f != nil, err
}

// TableOf writes a table with these changes, each a hold's id, or "-" and one
// that is gone.
func TableOf(path string, ids ...string) error {
	t := &table{path: path, live: map[string][]byte{}}
	if err := t.rewrite(); err != nil {
		return err
	}
	for _, id := range ids {
		c := change{Hold: &record{ID: id, Lock: "l", Session: make([]byte, 16), TTLMS: 1000}}
		if id[0] == '-' {
			c = change{Gone: id[1:]}
		}
		b, err := encodeChange(c)
		if err != nil {
			return err
		}
		if err := t.append(b); err != nil {
			return err
		}
	}
	if t.file == nil {
		return fs.ErrClosed
	}
	return t.file.Close()
}

// BreakTable has every write to the table fail from now on.
func (h *Holds) BreakTable() {
	h.table.mu.Lock()
	defer h.table.mu.Unlock()
	_ = h.table.file.Close()
	f, err := os.Open(h.table.path) // for reading only
	if err != nil {
		panic(err)
	}
	h.table.file = f
}

// TableForBench is an empty table, and a function that puts one hold into it and
// takes it out again.
func TableForBench(path string, log *slog.Logger) (put func(id string) error, done func(), err error) {
	t, _, _, err := openTable(path, log)
	if err != nil {
		return nil, nil, err
	}
	r := record{Session: make([]byte, 16), TTLMS: 30000, Lock: "jobs/nightly-report", Witness: "process", TreeEnds: true, NeedAck: true,
		BootID: "6f1c1c1e-0000-4000-8000-000000000000", Namespaces: "pid:[4026531836] time:[4026531834]",
		Processes: []process{{PID: 12345, Start: 6789000}}, Host: "host", Node: "node", PID: 12344, Command: "/usr/local/bin/report"}
	return func(id string) error {
		r.ID = id
		defer t.forget(id)
		return t.put(r)
	}, t.close, nil
}
