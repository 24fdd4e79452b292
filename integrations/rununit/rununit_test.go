package rununit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
	"github.com/kahu-sh/kahu/integrations/rununit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const unit = "app.service"

// host is systemd and the agent of one host: what they were asked, in order, and a
// unit that does as it is told.
type host struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	story    []string
	unit     rununit.Unit
	stubborn bool // a stop leaves its process running
	tough    bool // and so does the first SIGKILL
	startErr error
	events   chan guard.Event
	changed  chan struct{}
}

func newHost(t *testing.T) *host {
	return &host{t: t, dir: t.TempDir(), events: make(chan guard.Event, 16), changed: make(chan struct{}, 1),
		unit: rununit.Unit{Loaded: true, Active: "inactive", Result: "success", BindsTo: []string{"kahu-unit@app.service"}}}
}

func (h *host) tell(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.story = append(h.story, what)
}

func (h *host) told() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.story, ", ")
}

// change is something that happens to the unit.
func (h *host) change(f func(u *rununit.Unit)) {
	h.mu.Lock()
	f(&h.unit)
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *host) Unit(context.Context, string) (rununit.Unit, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.unit
	u.Processes = slices.Clone(u.Processes)
	return u, nil
}

func (h *host) Start(context.Context, string) error {
	defer h.tell("start") // once it has happened
	if err := rununit.Held(h.dir, unit, boottime.Boottime()); err != nil {
		h.t.Errorf("the unit is started and may not be: %v", err)
	}
	if h.startErr != nil {
		return h.startErr
	}
	h.change(func(u *rununit.Unit) { u.Active, u.Sub, u.Processes = "active", "running", []int{1 << 30} })
	return nil
}

func (h *host) Stop(context.Context, string) error {
	h.tell("stop")
	h.mu.Lock()
	stubborn := h.stubborn
	h.mu.Unlock()
	h.change(func(u *rununit.Unit) {
		u.Active, u.Sub, u.Job = "deactivating", "stop-sigterm", "stop"
		if !stubborn {
			u.Active, u.Sub, u.Job, u.Processes = "inactive", "dead", "", nil
		}
	})
	return nil
}

func (h *host) Kill(pids []int) {
	if len(pids) == 0 {
		return
	}
	h.tell("kill")
	h.mu.Lock()
	tough := h.tough
	h.tough = false
	h.mu.Unlock()
	if tough {
		h.change(func(*rununit.Unit) {})
		return
	}
	h.change(func(u *rununit.Unit) { u.Active, u.Sub, u.Job, u.Processes = "failed", "failed", "", nil })
}

func (h *host) Changed() <-chan struct{} { return h.changed }

func (h *host) Open(context.Context, guard.Witnesses) (guard.Lock, error) {
	h.tell("wait")
	return hostLock{h}, nil
}

func (h *host) Attach(context.Context, string, guard.Witnesses) (guard.Lock, error) {
	return hostLock{h}, nil
}

// GiveBack is how a lock is released that no connection stands for.
func (h *host) GiveBack(ctx context.Context, _ string) error { return hostLock{h}.Release(ctx) }

// hostLock is the hold.
type hostLock struct{ h *host }

func (l hostLock) Next(ctx context.Context) (guard.Event, error) {
	select {
	case e := <-l.h.events:
		return e, nil
	case <-ctx.Done():
		return guard.Event{}, io.EOF
	}
}

func (l hostLock) Ack() error {
	l.h.tell("ack")
	l.h.renew(time.Hour)
	return nil
}

func (l hostLock) Release(context.Context) error {
	l.h.tell("release")
	if u, _ := l.h.Unit(context.Background(), unit); len(u.Processes) > 0 {
		l.h.t.Errorf("the lock is given back while the unit lives: %+v", u)
	}
	return nil
}

func (l hostLock) Close() error { return nil }

func (h *host) renew(left time.Duration) {
	bootID, err := boottime.BootID()
	if err != nil {
		h.t.Error(err)
	}
	h.events <- guard.Event{State: guard.Renewed, Hold: "id", Deadline: boottime.Boottime() + left, BootID: bootID}
}

func (h *host) Ready() error             { return nil }
func (h *host) Status(line string) error { return nil }

// run starts a Runner; wait returns how it ended.
func (h *host) run(grace time.Duration) (cancel context.CancelFunc, wait func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	r := &rununit.Runner{Unit: unit, Lock: "app", Grace: grace, Agent: h, Manager: h, Dir: h.dir, Logger: slog.New(slog.DiscardHandler), Notify: h}
	go func() { ended <- r.Run(ctx) }()
	h.t.Cleanup(cancel)
	return cancel, func() error {
		h.t.Helper()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			h.t.Fatalf("Run does not return; so far: %s", h.told())
			return nil
		}
	}
}

func (h *host) until(what string) {
	h.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(h.told(), what) {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain for %q; so far: %s", what, h.told())
		}
		time.Sleep(time.Millisecond) // between two looks at another goroutine
	}
}

func (h *host) grant() {
	h.until("wait")
	h.events <- guard.Event{State: guard.Queued, Hold: "id", Position: 1}
	h.events <- guard.Event{State: guard.Held, Hold: "id", Token: 7}
	h.until("start")
}

func (h *host) free() bool { return rununit.Held(h.dir, unit, boottime.Boottime()) != nil }

func TestStories(t *testing.T) {
	for name, c := range map[string]struct {
		play func(h *host, cancel context.CancelFunc)
		want string
		err  string // part of it; empty: none
	}{
		"stopped by somebody": {func(h *host, _ context.CancelFunc) {
			h.grant()
			// systemctl stop: the unit's processes are gone, and its last command waits.
			h.change(func(u *rununit.Unit) {
				u.Active, u.Sub, u.Job, u.Processes, u.Awaiting = "deactivating", "stop-post", "stop", nil, true
			})
			if err := rununit.AwaitRelease(h.t.Context(), h, h.dir, unit); err != nil {
				h.t.Error(err)
			}
			if got := h.told(); !strings.HasSuffix(got, "release") {
				h.t.Errorf("the stop returns after %q", got)
			}
		}, "wait, ack, start, release", ""},
		"what is left behind": {func(h *host, _ context.CancelFunc) {
			h.grant()
			h.mu.Lock()
			h.tough = true
			h.mu.Unlock()
			h.change(func(u *rununit.Unit) {
				u.Active, u.Sub, u.Job, u.Processes, u.Awaiting = "deactivating", "stop-post", "stop", []int{1 << 30}, true
			})
		}, "wait, ack, start, kill, kill, release", ""},
		"its own restart": {func(h *host, cancel context.CancelFunc) {
			h.grant()
			h.change(func(u *rununit.Unit) { u.Active, u.Sub, u.Processes = "deactivating", "stop-post", nil })
			h.change(func(u *rununit.Unit) { u.Active, u.Sub = "activating", "auto-restart" })
			h.change(func(u *rununit.Unit) { u.Active, u.Sub, u.Job = "inactive", "dead", "start" }) // of systemctl restart
			h.change(func(u *rununit.Unit) { u.Active, u.Sub, u.Job, u.Processes = "active", "running", "", []int{1 << 30} })
			cancel()
		}, "wait, ack, start, stop, release", ""},
		"ended by itself": {func(h *host, _ context.CancelFunc) {
			h.grant()
			h.change(func(u *rununit.Unit) { u.Active, u.Processes = "inactive", nil })
		}, "wait, ack, start, release", ""},
		"failed": {func(h *host, _ context.CancelFunc) {
			h.grant()
			h.change(func(u *rununit.Unit) { u.Active, u.Result, u.Processes = "failed", "exit-code", nil })
		}, "wait, ack, start, release", "ended: exit-code"},
		"not started": {func(h *host, _ context.CancelFunc) {
			h.startErr = errors.New("no such file")
			h.grant()
		}, "wait, ack, start, stop, release", "no such file"},
		"asked to end":         {func(h *host, cancel context.CancelFunc) { h.grant(); cancel() }, "wait, ack, start, stop, release", ""},
		"asked to end in line": {func(h *host, cancel context.CancelFunc) { h.until("wait"); cancel() }, "wait, release", ""},
		"lost": {func(h *host, _ context.CancelFunc) {
			h.grant()
			h.events <- guard.Event{State: guard.Lost, Hold: "id", Reason: "broken"}
		}, "wait, ack, start, stop, release", "broken"},
		"lost, and the unit does not stop": {func(h *host, _ context.CancelFunc) {
			h.mu.Lock()
			h.stubborn = true
			h.mu.Unlock()
			h.grant()
			h.events <- guard.Event{State: guard.Lost, Hold: "id", Reason: "broken"}
		}, "wait, ack, start, stop, kill, release", "broken"},
		"not renewed": {func(h *host, _ context.CancelFunc) {
			h.grant()
			h.renew(rununit.Grace(50*time.Millisecond) + 300*time.Millisecond)
		}, "wait, ack, start, stop, release", "could not be renewed"},
		"it runs already": {func(h *host, cancel context.CancelFunc) {
			h.until("wait")
			cancel()
		}, "stop, wait, release", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			if name == "it runs already" {
				h.unit.Active, h.unit.Processes = "active", []int{1 << 30}
			}
			cancel, wait := h.run(50 * time.Millisecond)
			c.play(h, cancel)
			err := wait()
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("it ended with %v, want %q", err, c.err)
			}
			if strings.Contains(name, "lost") != errors.Is(err, rununit.ErrLeaseLost) && name != "not renewed" {
				t.Errorf("is a lost lease: %v", err)
			}
			if got := h.told(); got != c.want {
				t.Errorf("the story is %q, want %q", got, c.want)
			}
			if !h.free() {
				t.Error("the record says that the lock is owned")
			}
			// What a Runner leaves in order, End has nothing to do with.
			if err := rununit.End(t.Context(), h, h.dir, unit, func(context.Context, rununit.Record) error { t.Error("given back again"); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnusableUnits(t *testing.T) {
	for name, change := range map[string]func(u *rununit.Unit){
		"does not exist":      func(u *rununit.Unit) { u.Loaded = false },
		"without a drop-in":   func(u *rununit.Unit) { u.BindsTo = nil },
		"of another's keeper": func(u *rununit.Unit) { u.BindsTo = []string{"kahu-unit@other.service"} },
	} {
		h := newHost(t)
		change(&h.unit)
		_, wait := h.run(time.Second)
		if err := wait(); !errors.Is(err, rununit.ErrUnusable) || h.told() != "" {
			t.Errorf("%s: %v after %q", name, err, h.told())
		}
	}
}

// A Runner that was killed has left its record, unlocked: End takes the unit down,
// and then gives the lock back.
func TestEnd(t *testing.T) {
	h := newHost(t)
	bootID, err := boottime.BootID()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"hold":"id","lock":"app","deadline_boottime_ns":%d,"boot_id":%q,"grace_ns":%d}`, boottime.Boottime()+time.Hour, bootID, 50*time.Millisecond)
	if err := os.WriteFile(filepath.Join(h.dir, unit+".held"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rununit.Held(h.dir, unit, boottime.Boottime()); err == nil {
		t.Error("a record that nobody locks says that the lock is owned")
	}
	h.unit.Active, h.unit.Processes, h.stubborn = "active", []int{1 << 30}, true
	err = rununit.End(t.Context(), h, h.dir, unit, func(_ context.Context, rec rununit.Record) error {
		h.tell("give back " + rec.Hold + " of " + rec.Lock)
		return nil
	})
	if want := "stop, kill, give back id of app"; err != nil || h.told() != want {
		t.Errorf("%v after %q, want %q", err, h.told(), want)
	}
}

// A restart waits for nothing: the lock stays.
func TestOnlyAStopWaits(t *testing.T) {
	h := newHost(t)
	cancel, wait := h.run(50 * time.Millisecond)
	h.grant()
	for _, job := range []string{"", "restart", "start"} {
		h.change(func(u *rununit.Unit) { u.Job = job })
		if err := rununit.AwaitRelease(t.Context(), h, h.dir, unit); err != nil {
			t.Errorf("job %q: %v", job, err)
		}
	}
	h.change(func(u *rununit.Unit) { u.Job = "stop" })
	ctx, end := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer end()
	if err := rununit.AwaitRelease(ctx, h, h.dir, unit); err == nil {
		t.Error("a stop does not wait while the lock is owned")
	}
	h.change(func(u *rununit.Unit) { u.Job = "" })
	cancel()
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestDropIn(t *testing.T) {
	text := rununit.DropIn("/usr/bin/kahu")
	for _, line := range []string{"BindsTo=kahu-unit@%N.service", "ExecCondition=+/usr/bin/kahu run-unit --held %n", "ExecStopPost=-+/usr/bin/kahu run-unit --released %n"} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the drop-in has no line %q:\n%s", line, text)
		}
	}
	if got := rununit.Holder("app.service"); got != "kahu-unit@app.service" {
		t.Errorf("the keeper of app.service is %s", got)
	}
}
