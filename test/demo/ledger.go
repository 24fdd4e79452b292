package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An entry is one line of the ledger's file.
type entry struct {
	Line   string `json:"line"`   // of the input
	Number int64  `json:"number"` // the invoice number
	Token  int64  `json:"fencing_token"`
	Worker string `json:"worker"`
}

// A ledger is the resource that the lock protects: an append-only file behind
// a Unix socket. It refuses whoever comes with a fencing token below the
// highest it has seen, and nothing else: whether every line is there exactly
// once is for the lock to achieve and for the demo to check.
type ledger struct {
	lines []string // of the input, in order

	mu      sync.Mutex
	file    *os.File
	entries []entry
	done    map[string]bool
	highest int64
	refused int
	stall   chan begun    // when set, the next begin is reported here and gets no answer
	changed chan struct{} // closed and replaced at every begin and append
	begins  []begun

	server *http.Server
}

// begun is a worker that has started a job.
type begun struct {
	Token  int64  `json:"fencing_token"`
	Worker string `json:"worker"`
	pid    int32  // as seen from here, by the kernel
	at     time.Time
}

// newLedger listens on dir/ledger.sock and appends to dir/ledger.jsonl.
func newLedger(ctx context.Context, dir string, lines []string) (*ledger, error) {
	file, err := os.OpenFile(filepath.Join(dir, "ledger.jsonl"), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	l := &ledger{lines: lines, file: file, done: map[string]bool{}, highest: -1, changed: make(chan struct{})}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(dir, "ledger.sock"))
	if err != nil {
		return nil, fmt.Errorf("listening for the ledger's users: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /begin", l.begin)
	mux.HandleFunc("POST /append", l.append)
	l.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ConnContext: withPeer}
	go l.server.Serve(listener) //nolint:errcheck // ends with close
	return l, nil
}

func (l *ledger) close() {
	l.server.Close()
	l.file.Close()
}

// peerKey is where the caller's process id is kept.
type peerKey struct{}

// withPeer asks the kernel who is at the other end.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ctx
	}
	var pid int32
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	return context.WithValue(ctx, peerKey{}, pid)
}

// fence lets a token pass that is not below the highest seen. The caller holds l.mu.
func (l *ledger) fence(w http.ResponseWriter, token int64) bool {
	if token < l.highest {
		l.refused++
		http.Error(w, fmt.Sprintf("stale fencing token %d: %d was here", token, l.highest), http.StatusConflict)
		return false
	}
	l.highest = token
	return true
}

// signalChange wakes whoever waits for one. The caller holds l.mu.
func (l *ledger) signalChange() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// begin answers with the first line that is not in the ledger, or nothing when all are.
func (l *ledger) begin(w http.ResponseWriter, r *http.Request) {
	var b begun
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b.at = time.Now()
	b.pid, _ = r.Context().Value(peerKey{}).(int32)
	l.mu.Lock()
	if !l.fence(w, b.Token) {
		l.mu.Unlock()
		return
	}
	l.begins = append(l.begins, b)
	l.signalChange()
	stall := l.stall
	l.stall = nil
	next := ""
	for _, line := range l.lines {
		if !l.done[line] {
			next = line
			break
		}
	}
	l.mu.Unlock()
	if stall != nil {
		stall <- b
		<-r.Context().Done() // until it is killed
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"line": next}) // its client fails then
}

// append writes an entry and syncs it.
func (l *ledger) append(w http.ResponseWriter, r *http.Request) {
	var e entry
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.fence(w, e.Token) {
		return
	}
	text, err := json.Marshal(e)
	if err == nil {
		_, err = l.file.Write(append(text, '\n'))
	}
	if err = errors.Join(err, l.file.Sync()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	l.entries = append(l.entries, e)
	l.done[e.Line] = true
	l.signalChange()
}

// appended is how many lines are in the ledger.
func (l *ledger) appended() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done)
}

// token is the highest fencing token seen.
func (l *ledger) token() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.highest
}

// wait blocks until done says so; done runs under the lock.
func (l *ledger) wait(ctx context.Context, done func() bool) error {
	for {
		l.mu.Lock()
		ok, changed := done(), l.changed
		l.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stallNext lets the next job begin and then wait for ever; it returns who that is.
func (l *ledger) stallNext(ctx context.Context) (begun, error) {
	stalled := make(chan begun, 1)
	l.mu.Lock()
	l.stall = stalled
	l.mu.Unlock()
	select {
	case b := <-stalled:
		return b, nil
	case <-ctx.Done():
		return begun{}, context.Cause(ctx)
	}
}

// after waits for the first job that began with a higher token.
func (l *ledger) after(ctx context.Context, token int64) (begun, error) {
	var found begun
	err := l.wait(ctx, func() bool {
		for _, b := range l.begins {
			if b.Token > token {
				found = b
				return true
			}
		}
		return false
	})
	return found, err
}
