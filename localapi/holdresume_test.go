package localapi_test

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// heldBy has a Client hold a lock, with its connection as the witness.
func heldBy(t *testing.T, a *agent, deadline time.Duration) (*client.Hold, *hold) {
	t.Helper()
	c, err := a.client(t).OpenHold(t.Context(), client.HoldOptions{Lock: "l"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	h := within(t, "the hold", a.holder.came)
	if !h.req.Resume {
		t.Error("the agent is not told that the hold is taken up again")
	}
	h.say(localapi.HoldHeld, 1, deadline)
	within(t, "held", c.Held())
	return c, h
}

// A restart of the agent is not a lost lock: the client takes its hold up again
// by its id, and goes on under the same token.
func TestClientTakesItsHoldUpAgain(t *testing.T) {
	a := startAgent(t)
	c, h := heldBy(t, a, boottime()+time.Hour)
	for range 3 {
		a.stop()
		within(t, "the disconnect", h.gone)
		if s := c.State(); s != wire.HoldHeld {
			t.Fatalf("without an agent the hold is %s", s)
		}
		a.serve(t)
		if again := within(t, "the hold again", a.holder.came); again != h {
			t.Fatal("another hold")
		}
		h.say(localapi.HoldHeld, 1, boottime()+2*time.Hour)
	}
	if err := c.Release(t.Context()); err != nil {
		t.Errorf("release: %v", err)
	}
	select {
	case <-c.Lost():
		t.Error("it is lost")
	default:
	}
}

// Without an agent the deadline counts that was told last.
func TestDeadlineWithoutAnAgent(t *testing.T) {
	a := startAgent(t)
	c, h := heldBy(t, a, boottime()+500*time.Millisecond)
	a.stop()
	within(t, "the disconnect", h.gone)
	within(t, "lost", c.Lost())
	within(t, "the end", c.Done())
	if deadline, _ := c.Deadline(); boottime() < deadline {
		t.Error("lost before its deadline")
	}
}

// An agent that does not know the hold any more ends it at once; so does one that
// has granted the lock anew.
func TestHoldThatCannotBeTakenUp(t *testing.T) {
	a := startAgent(t)
	c, h := heldBy(t, a, boottime()+time.Hour)
	a.stop()
	within(t, "the disconnect", h.gone)
	a.holder.forget()
	a.serve(t)
	within(t, "lost", c.Lost())

	c, h = heldBy(t, a, boottime()+time.Hour)
	a.stop()
	within(t, "the disconnect", h.gone)
	a.serve(t)
	within(t, "the hold again", a.holder.came)
	h.say(localapi.HoldHeld, 2, boottime()+time.Hour)
	within(t, "lost", c.Lost())
}

// Close ends a hold that waits for its agent.
func TestCloseWithoutAnAgent(t *testing.T) {
	a := startAgent(t)
	c, h := heldBy(t, a, boottime()+time.Hour)
	a.stop()
	within(t, "the disconnect", h.gone)
	closed := make(chan struct{})
	go func() { defer close(closed); c.Close() }()
	within(t, "the close", closed)
	within(t, "the end", c.Done())
}

// A program that keeps a hold over HTTP takes it up again after a restart of the
// agent, with nothing but the id that its events name.
func TestHoldOverHTTPIsTakenUpAgain(t *testing.T) {
	a := startAgent(t)
	h, lines, _ := curl(t, a, `{"lock":"l","resume":true}`)
	if !h.req.Resume || h.req.Witness != localapi.WitnessConnection {
		t.Fatalf("the holder was asked for %+v", h.req)
	}
	h.say(localapi.HoldHeld, 5, boottime()+time.Hour)
	id := line(t, lines).Hold
	within(t, "the ack", h.acked)
	a.stop()
	within(t, "the disconnect", h.gone)
	for lines.Scan() {
		t.Errorf("after the end of the agent there came %s", lines.Bytes())
	}
	a.serve(t)
	again, lines, hangUp := curl(t, a, `{"attach":"`+id+`"}`)
	if again != h {
		t.Fatal("another hold")
	}
	h.say(localapi.HoldHeld, 5, boottime()+2*time.Hour)
	if e := line(t, lines); e.Type != "held" || e.Hold != id || *e.Token != 5 {
		t.Errorf("%+v", e)
	}
	within(t, "the ack", h.acked)
	hangUp()
	within(t, "the disconnect after the caller hung up", h.gone)
}

// What cannot be taken up over HTTP is refused before the head is out.
func TestHoldOverHTTPThatCannotBeTakenUp(t *testing.T) {
	a := startAgent(t)
	h, _, _ := curl(t, a, `{"lock":"l","resume":true}`)
	a.holder.mu.Lock()
	h.req.Witness = localapi.WitnessProcess // as the guard's are
	a.holder.mu.Unlock()
	for body, want := range map[string]int{
		`{"attach":"` + strings.Repeat("0", 31) + `"}`:  400,
		`{"attach":"` + strings.Repeat("ab", 16) + `"}`: 404,
		`{"attach":"` + h.id + `","lock":"l"}`:          400,
		`{"attach":"` + h.id + `","resume":true}`:       400,
		`{"attach":"` + h.id + `"}`:                     400, // a process is its witness
		`{"lock":"l","resume":true,"need_ack":true}`:    400,
	} {
		res, err := a.http(t).Post("http://kahu/kahu/v1/holds", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", body, res.StatusCode, b, want)
		}
	}
}

// A guard hands its witnesses over again with the hold.
func TestAttachCarriesPidfds(t *testing.T) {
	a := startAgent(t)
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	fd, err := unix.PidfdOpen(child.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	o := client.Options{Socket: a.socket}
	c, err := client.DialHold(t.Context(), o, client.HoldOptions{Lock: "l", Process: true, Pidfds: []*os.File{pidfd}})
	if err != nil {
		t.Fatal(err)
	}
	h := within(t, "the hold", a.holder.came)
	c.Close()
	again, err := client.DialAttach(t.Context(), o, h.id, pidfd)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := within(t, "the pidfds", a.holder.handed); got != 1 {
		t.Errorf("%d pidfds were handed over again", got)
	}
	other, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = client.DialAttach(t.Context(), o, h.id, other)
	wantError(t, err, client.ErrInvalid)
}
