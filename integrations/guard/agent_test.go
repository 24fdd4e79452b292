package guard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

// patience bounds every wait of these tests. Nothing waits that long.
const patience = 20 * time.Second

// A request is what the guard's side of the fake agent sends: a line of JSON.
type request struct {
	Do       string // open, attach, ack, release
	Hold     string
	TreeEnds bool
	LastEnds bool // LastEndsTree
}

// An answer is a line of JSON from the fake agent. Error ends the connection.
type answer struct {
	Event guard.Event
	Error string // "", "unknown", "refused", "denied"
}

// fakeAgent listens like an agent. The test plays it, line by line.
type fakeAgent struct {
	t        testing.TB
	listener *net.UnixListener
	path     string
}

func newAgent(t testing.TB) *fakeAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "guard") // TempDir is closed to the unprivileged
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	a := &fakeAgent{t: t, path: filepath.Join(dir, "s")}
	a.listen()
	return a
}

func (a *fakeAgent) listen() {
	a.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	if err != nil {
		a.t.Fatal(err)
	}
	must(a.t, os.Chmod(a.path, 0o777))
	a.t.Cleanup(func() { l.Close() })
	a.listener = l
}

// stop is what a killed agent looks like. listen brings it back.
func (a *fakeAgent) stop() { a.listener.Close() }

// peer is one connection of a guard.
type peer struct {
	t       testing.TB
	conn    *net.UnixConn
	lines   *json.Decoder
	request request
	pidfds  []int
}

// accept waits for a guard to ask.
func (a *fakeAgent) accept() *peer {
	a.t.Helper()
	must(a.t, a.listener.SetDeadline(time.Now().Add(patience)))
	conn, err := a.listener.AcceptUnix()
	if err != nil {
		a.t.Fatalf("no guard came: %v", err)
	}
	a.t.Cleanup(func() { conn.Close() })
	p := &peer{t: a.t, conn: conn}
	b, oob := make([]byte, 4096), make([]byte, 4096)
	must(a.t, conn.SetReadDeadline(time.Now().Add(patience)))
	n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		a.t.Fatalf("read a guard's request: %v", err)
	}
	must(a.t, json.Unmarshal(b[:n], &p.request))
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	must(a.t, err)
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		must(a.t, err)
		p.pidfds = append(p.pidfds, fds...)
	}
	a.t.Cleanup(func() {
		for _, fd := range p.pidfds {
			unix.Close(fd)
		}
	})
	p.lines = json.NewDecoder(conn)
	return p
}

func (p *peer) send(a answer) {
	p.t.Helper()
	if a.Event.Hold == "" {
		a.Event.Hold = "0123456789abcdef0123456789abcdef"
	}
	b, err := json.Marshal(a)
	must(p.t, err)
	if _, err := p.conn.Write(append(b, '\n')); err != nil {
		p.t.Fatalf("answer the guard: %v", err)
	}
}

func (p *peer) event(e guard.Event) { p.t.Helper(); p.send(answer{Event: e}) }

// until makes an event with a deadline so far away.
func until(s guard.State, left time.Duration) guard.Event {
	id, err := boottime.BootID()
	if err != nil {
		panic(err)
	}
	return guard.Event{State: s, Token: 7, Deadline: boottime.Boottime() + left, BootID: id}
}

// expect waits for a line of the guard.
func (p *peer) expect(do string) {
	p.t.Helper()
	must(p.t, p.conn.SetReadDeadline(time.Now().Add(patience)))
	var r request
	if err := p.lines.Decode(&r); err != nil {
		p.t.Fatalf("waiting for %q of the guard: %v", do, err)
	}
	if r.Do != do {
		p.t.Fatalf("the guard said %q, want %q", r.Do, do)
	}
}

// grant leads to a running command. It returns the deadline.
func (p *peer) grant(left time.Duration) time.Duration {
	p.t.Helper()
	if p.request.Do != "open" {
		p.t.Fatalf("the guard asked to %q, want open", p.request.Do)
	}
	e := until(guard.Held, left)
	p.event(e)
	p.expect("ack")
	e.State = guard.Renewed
	p.event(e)
	return e.Deadline
}

// release waits for the guard to give the lock back, and confirms.
func (p *peer) release() {
	p.t.Helper()
	p.expect("release")
	p.event(guard.Event{State: guard.Released})
}

// serve grants and waits for the release.
func (p *peer) serve() { p.t.Helper(); p.grant(time.Minute); p.release() }

// gone reports whether a witness has ended, without waiting.
func (p *peer) gone(i int) bool { return len(pollDead(p.t, 0, p.pidfds[i])) == 0 }

// pollDead waits for processes to end. It returns those that still live.
func pollDead(t testing.TB, wait time.Duration, fds ...int) (alive []int) {
	t.Helper()
	end := time.Now().Add(wait)
	for _, fd := range fds {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(p, int(max(0, time.Until(end)).Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			must(t, err)
			if n == 0 {
				alive = append(alive, fd)
			}
			break
		}
	}
	return alive
}

// grantAll is an agent that never says no.
func grantAll(conn *net.UnixConn) {
	defer conn.Close()
	lines, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var r request
		if lines.Decode(&r) != nil {
			return
		}
		e := until(map[string]guard.State{"open": guard.Held, "ack": guard.Renewed, "release": guard.Released}[r.Do], 50*time.Second)
		if out.Encode(answer{Event: e}) != nil {
			return
		}
	}
}

// agentClient is the guard's side of fakeAgent, in the keeper's process.
type agentClient struct{ path string }

func (c agentClient) Open(ctx context.Context, w guard.Witnesses) (guard.Lock, error) {
	return c.dial(ctx, request{Do: "open", TreeEnds: w.TreeEnds, LastEnds: w.LastEndsTree}, w)
}

func (c agentClient) Attach(ctx context.Context, hold string, w guard.Witnesses) (guard.Lock, error) {
	return c.dial(ctx, request{Do: "attach", Hold: hold, TreeEnds: w.TreeEnds}, w)
}

func (c agentClient) dial(ctx context.Context, r request, w guard.Witnesses) (guard.Lock, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", guard.ErrUnavailable, err)
	}
	var fds []int
	for _, f := range w.Pidfds {
		fds = append(fds, int(f.Fd()))
	}
	b, err := json.Marshal(r)
	if err == nil {
		_, _, err = conn.WriteMsgUnix(append(b, '\n'), unix.UnixRights(fds...), nil)
	}
	if err != nil {
		return nil, err
	}
	l := &agentLock{conn: conn, lines: json.NewDecoder(conn), over: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var first answer
	if err := l.lines.Decode(&first); err != nil {
		return nil, fmt.Errorf("%w: %w", guard.ErrUnavailable, err)
	}
	switch first.Error {
	case "unknown":
		return nil, guard.ErrUnknownHold
	case "refused":
		return nil, errors.New("a ttl of 1s is too short")
	case "denied":
		return nil, denied{}
	}
	l.first = &first.Event
	return l, nil
}

type denied struct{}

func (denied) Error() string { return "not you" }
func (denied) ExitCode() int { return 77 }

type agentLock struct {
	conn  *net.UnixConn
	lines *json.Decoder
	first *guard.Event
	once  sync.Once
	over  chan struct{}
}

func (l *agentLock) Next(ctx context.Context) (guard.Event, error) {
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	var a answer
	if l.first != nil {
		a.Event, l.first = *l.first, nil
	} else if err := l.lines.Decode(&a); err != nil {
		l.once.Do(func() { close(l.over) })
		return guard.Event{}, err
	}
	if a.Event.State == guard.Released {
		l.once.Do(func() { close(l.over) })
	}
	return a.Event, nil
}

func (l *agentLock) say(do string) error {
	b, err := json.Marshal(request{Do: do})
	if err != nil {
		return err
	}
	_, err = l.conn.Write(append(b, '\n'))
	return err
}

func (l *agentLock) Ack() error { return l.say("ack") }

func (l *agentLock) Release(ctx context.Context) error {
	if err := l.say("release"); err != nil {
		return err
	}
	select {
	case <-l.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *agentLock) Close() error { return l.conn.Close() }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func (c agentClient) GiveBack(ctx context.Context, hold string) error {
	l, err := c.dial(ctx, request{Do: "give back", Hold: hold}, guard.Witnesses{})
	if err != nil {
		return err
	}
	return l.Close()
}
