package localapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// curl opens a hold over HTTP and returns its lines and how to hang up.
func curl(t *testing.T, a *agent, body string) (*hold, *bufio.Scanner, func()) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	t.Cleanup(hangUp)
	req, err := http.NewRequestWithContext(ctx, "POST", "http://kahu/kahu/v1/holds", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := a.http(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-ndjson" {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("%d %s", res.StatusCode, b)
	}
	return within(t, "the hold", a.holder.came), bufio.NewScanner(res.Body), hangUp
}

func line(t *testing.T, s *bufio.Scanner) wire.HoldEvent {
	t.Helper()
	if !s.Scan() {
		t.Fatalf("no line: %v", s.Err())
	}
	var e wire.HoldEvent
	if err := json.Unmarshal(s.Bytes(), &e); err != nil {
		t.Fatalf("%q: %v", s.Bytes(), err)
	}
	return e
}

func TestHoldOverHTTP(t *testing.T) {
	a := startAgent(t)
	h, lines, hangUp := curl(t, a, `{"lock":"jobs/a","ttl":"20s","wait":"forever","grace":"2s","command":"backup\tnow","reason":"r"}`)
	if r := h.req; r.Lock != "jobs/a" || r.TTL != 20*time.Second || r.Wait >= 0 || r.Grace != 2*time.Second || r.Witness != localapi.WitnessConnection ||
		!r.NeedAck || r.Info.Command != "backup now" || r.Info.Pid != int64(os.Getpid()) || r.Info.Host != "host1" || r.Durability != 1 {
		t.Errorf("the holder was asked for %+v, info %+v", r, r.Info)
	}
	h.say(localapi.HoldQueued, 0, 0)
	if e := line(t, lines); e.Type != "queued" || e.Position != 2 {
		t.Errorf("%+v", e)
	}
	h.say(localapi.HoldHeld, 7, 12345)
	if e := line(t, lines); e.Type != "held" || *e.Token != 7 || e.DeadlineBoottimeNS != 12345 || e.BootID != thisBoot() {
		t.Errorf("%+v", e)
	}
	within(t, "the ack of a held event that was written", h.acked)
	hangUp()
	within(t, "the disconnect after the caller hung up", h.gone)
}

func TestHoldOverHTTPEndsByItself(t *testing.T) {
	a := startAgent(t)
	h, lines, _ := curl(t, a, `{"lock":"l"}`)
	h.say(localapi.HoldHeld, 0, boottime()+time.Hour)
	line(t, lines)
	h.events <- localapi.HoldEvent{Type: localapi.HoldLost, Hold: h.id, Lock: "l", Reason: "expired"}
	if e := line(t, lines); e.Type != "lost" || e.Reason != "expired" {
		t.Errorf("%+v", e)
	}
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the last event: %q, %v", lines.Text(), lines.Err())
	}
}

// Close does not wait for holds: it disconnects them.
func TestCloseDisconnectsHolds(t *testing.T) {
	a := startAgent(t)
	h, _, _ := curl(t, a, `{"lock":"l"}`)
	s, err := a.client(t).OpenHold(t.Context(), client.HoldOptions{Lock: "m", TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := within(t, "the hold", a.holder.came)
	a.stop()
	within(t, "the disconnect", h.gone)
	within(t, "the disconnect", m.gone)
	// It waits for the agent's return, for as long as its place could last.
	within(t, "the end of the client's hold", s.Done())
}

func TestHolderErrors(t *testing.T) {
	a := startAgent(t)
	a.holder.refuse(errors.New("the TTL 2s is too short: it takes 3s"))
	_, err := a.client(t).OpenHold(t.Context(), client.HoldOptions{Lock: "l", TTL: 2 * time.Second})
	wantError(t, err, client.ErrInvalid)
	if err == nil || !strings.Contains(err.Error(), "it takes 3s") {
		t.Errorf("the reason is not shown: %v", err)
	}
	if res, body := ask(t, a.http(t), "POST", "/kahu/v1/holds", `{"lock":"l"}`); res.StatusCode != 400 || !strings.Contains(body, "it takes 3s") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestClientHold(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	type result struct {
		h   *client.Hold
		err error
	}
	got := make(chan result, 1)
	go func() {
		h, err := c.Hold(t.Context(), client.HoldOptions{Lock: "l", Wait: -1, Command: "x"})
		got <- result{h, err}
	}()
	h := within(t, "the hold", a.holder.came)
	if r := h.req; r.TTL != 30*time.Second || r.Wait >= 0 || !r.NeedAck || r.Info.Command != "x" {
		t.Errorf("%+v", r)
	}
	h.say(localapi.HoldQueued, 0, 0)
	first := boottime() + time.Hour
	h.say(localapi.HoldHeld, 41, first)
	within(t, "the ack", h.acked)
	select {
	case r := <-got:
		t.Fatalf("held before the ack was confirmed: %+v", r)
	default:
	}
	h.say(localapi.HoldRenewed, 41, first+time.Second)
	r := within(t, "the grant", got)
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.h.Close()
	if d, ok := r.h.Deadline(); r.h.Token() != 41 || !ok || d != first+time.Second || r.h.State() != wire.HoldHeld || r.h.ID() != h.id {
		t.Errorf("token %d, deadline %v, state %s, id %s", r.h.Token(), d, r.h.State(), r.h.ID())
	}
	for _, want := range []wire.HoldEventType{wire.HoldQueued, wire.HoldHeld, wire.HoldRenewed} {
		if e := within(t, "an event", r.h.Events()); e.Type != want {
			t.Errorf("event %s, want %s", e.Type, want)
		}
	}
	h.say(localapi.HoldAtRisk, 41, first+time.Second)
	if e := within(t, "an event", r.h.Events()); e.Type != wire.HoldAtRisk || !r.h.AtRisk() {
		t.Errorf("%+v", e)
	}
	if err := r.h.Release(t.Context()); err != nil {
		t.Error(err)
	}
	within(t, "the end", r.h.Done())
	within(t, "the release", h.released)
	select {
	case <-r.h.Lost():
		t.Error("released is not lost")
	default:
	}
	if r.h.Err() != nil || r.h.State() != wire.HoldReleased {
		t.Errorf("%v, %s", r.h.Err(), r.h.State())
	}
}

func TestClientHoldNotGot(t *testing.T) {
	a := startAgent(t)
	go func() {
		h := <-a.holder.came
		h.events <- localapi.HoldEvent{Type: localapi.HoldReleased, Hold: h.id, Reason: "timeout"}
	}()
	_, err := a.client(t).Hold(t.Context(), client.HoldOptions{Lock: "l"})
	wantError(t, err, client.ErrBusy)

	ctx, giveUp := context.WithCancel(t.Context())
	given := make(chan *hold, 1)
	go func() { h := <-a.holder.came; given <- h; giveUp() }()
	_, err = a.client(t).Hold(ctx, client.HoldOptions{Lock: "l", Wait: -1})
	wantError(t, err, context.Canceled)
	within(t, "the disconnect of who gave up", within(t, "the hold", given).gone)
}

// openHeld opens a hold that is held with a deadline.
func openHeld(t *testing.T, a *agent, o client.HoldOptions, deadline time.Duration) (*client.Hold, *hold) {
	t.Helper()
	o.Lock = "l"
	c, err := client.DialHold(t.Context(), client.Options{Socket: a.socket}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	h := within(t, "the hold", a.holder.came)
	h.say(localapi.HoldHeld, 1, deadline)
	return c, h
}

// The deadline counts although the agent is silent, and is not taken back.
func TestHoldIsLostAtTheDeadline(t *testing.T) {
	a := startAgent(t)
	c, h := openHeld(t, a, client.HoldOptions{}, boottime()+300*time.Millisecond)
	within(t, "held", c.Held())
	before := boottime()
	within(t, "lost", c.Lost())
	deadline, _ := c.Deadline()
	if now := boottime(); now < deadline || before > deadline {
		t.Errorf("lost at %v, deadline %v, held at %v", now, deadline, before)
	}
	h.say(localapi.HoldRenewed, 1, boottime()+time.Hour)
	within(t, "held event", c.Events())
	within(t, "renewed event", c.Events())
	if c.State() != wire.HoldLost {
		t.Errorf("a renewal that came too late made it %s", c.State())
	}
	if err := c.Release(t.Context()); err != nil {
		t.Errorf("a hold that was lost here can still be given back: %v", err)
	}
}

// An event read late does not move its deadline: a grant whose time has passed
// is never held.
func TestHoldReadTooLate(t *testing.T) {
	a := startAgent(t)
	c, _ := openHeld(t, a, client.HoldOptions{}, boottime()-time.Second)
	within(t, "lost", c.Lost())
	select {
	case <-c.Held():
		t.Error("held after its deadline")
	default:
	}
}

func TestHoldOfAnotherBoot(t *testing.T) {
	a := startAgent(t, func(c *localapi.Config) {
		c.BootID = "00000000-0000-0000-0000-000000000000"
		c.Boottime = func() time.Duration { return boottime() + time.Hour }
	})
	_, err := a.client(t).OpenHold(t.Context(), client.HoldOptions{Lock: "l"})
	wantError(t, err, client.ErrAnotherHost)
	within(t, "the disconnect", within(t, "the hold", a.holder.came).gone)
}

// systemd-nspawn gives its container a boot id of its own, and a service in it
// with ProtectKernelTunables= sees the host's: two names for one clock.
func TestHoldUnderTwoNamesOfOneBoot(t *testing.T) {
	const other = "00000000-0000-0000-0000-000000000000"
	a := startAgent(t, func(c *localapi.Config) { c.BootID = other })
	a.holder.boot = other
	c, _ := openHeld(t, a, client.HoldOptions{}, boottime()+time.Hour)
	within(t, "held", c.Held())
	for e := range c.Events() {
		if e.Type == localapi.HoldHeld {
			if e.BootID != thisBoot() {
				t.Errorf("the deadline is said to be of boot %s, this is %s", e.BootID, thisBoot())
			}
			break
		}
	}
}

// An agent in another time namespace reads another clock.
func TestHoldInAnotherTimeNamespace(t *testing.T) {
	for _, shift := range []time.Duration{100_000 * time.Second, -100_000 * time.Second} {
		a := startAgent(t, func(c *localapi.Config) { c.Boottime = func() time.Duration { return boottime() + shift } })
		opened := boottime()
		c, _ := openHeld(t, a, client.HoldOptions{}, boottime()+shift+time.Hour)
		within(t, "held", c.Held())
		d, ok := c.Deadline()
		if now := boottime(); !ok || d > now+time.Hour || d < opened+time.Hour-10*time.Second {
			t.Errorf("shift %v: the deadline is in %v, want an hour or a little less", shift, d-now)
		}
	}
}

// The witness is the connection: without it the hold is lost at once.
func TestHoldLosesItsConnection(t *testing.T) {
	a := startAgent(t)
	c, h := openHeld(t, a, client.HoldOptions{}, boottime()+time.Hour)
	within(t, "held", c.Held())
	a.stop()
	within(t, "lost", c.Lost())
	within(t, "done", c.Done())
	within(t, "the disconnect", h.gone)
	if c.Err() == nil {
		t.Error("no reason")
	}
}

// A guard: pidfds travel with the upgrade, the connection's end proves nothing,
// and the hold is taken up again by its id.
func TestProcessHold(t *testing.T) {
	a := startAgent(t)
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	fd, err := unix.PidfdOpen(child.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	c, h := openHeld(t, a, client.HoldOptions{Process: true, TreeEnds: true, Pidfds: []*os.File{pidfd}, NeedAck: true}, boottime()+time.Hour)
	if len(h.req.Pidfds) != 1 || !h.req.TreeEnds || h.req.Witness != localapi.WitnessProcess {
		t.Fatalf("the holder was asked for %+v", h.req)
	}
	within(t, "held event", c.Events())
	if err := c.Ack(); err != nil {
		t.Fatal(err)
	}
	within(t, "the ack", h.acked)
	h.say(localapi.HoldRenewed, 1, boottime()+time.Hour)
	within(t, "held", c.Held())
	// It is that process.
	if err := unix.PidfdSendSignal(int(h.req.Pidfds[0].Fd()), unix.SIGKILL, nil, 0); err != nil {
		t.Error(err)
	}
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the child: %v", err)
	}
	c.Close()
	within(t, "the disconnect", h.gone)
	select {
	case <-c.Lost():
		t.Error("a process hold was lost with its connection")
	default:
	}

	again, err := client.DialAttach(t.Context(), client.Options{Socket: a.socket}, h.id)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if within(t, "the attached hold", a.holder.came) != h || again.ID() != h.id {
		t.Error("another hold")
	}
	if err := again.Release(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = client.DialAttach(t.Context(), client.Options{Socket: a.socket}, strings.Repeat("0", 32))
	wantError(t, err, client.ErrNotFound)
	_, err = client.DialAttach(t.Context(), client.Options{Socket: a.socket}, "x")
	wantError(t, err, client.ErrInvalid)
}

func TestProcessHoldNeedsPidfds(t *testing.T) {
	a := startAgent(t)
	o := client.Options{Socket: a.socket}
	_, err := client.DialHold(t.Context(), o, client.HoldOptions{Lock: "l", Process: true})
	wantError(t, err, client.ErrInvalid)
	other, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = client.DialHold(t.Context(), o, client.HoldOptions{Lock: "l", Process: true, Pidfds: []*os.File{other}})
	wantError(t, err, client.ErrInvalid)
	_, err = a.client(t).OpenHold(t.Context(), client.HoldOptions{Lock: "l", Process: true})
	wantError(t, err, client.ErrInvalid)
}

// The id of a hold is shown to its user and to administrators; another user
// cannot take it up.
func TestHoldsAreListedForTheirUser(t *testing.T) {
	a := startAgent(t, allowing(own(policy.Read, policy.Lock)))
	c, h := openHeld(t, a, client.HoldOptions{}, boottime()+time.Hour)
	list, err := a.client(t).Holds(t.Context())
	if err != nil || len(list.Holds) != 1 || list.Holds[0].Hold != c.ID() {
		t.Errorf("own hold: %+v, %v", list, err)
	}
	a.holder.mu.Lock()
	h.req.Info.Uid++
	a.holder.mu.Unlock()
	if list, err = a.client(t).Holds(t.Context()); err != nil || len(list.Holds) != 1 || list.Holds[0].Hold != "" {
		t.Errorf("another user's hold: %+v, %v", list, err)
	}
	_, err = client.DialAttach(t.Context(), client.Options{Socket: a.socket}, h.id)
	wantError(t, err, client.ErrNotFound)
}
