package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// A program that keeps its hold with plain HTTP, as curl does, goes on under the
// same token when its agent is killed or ended and started again: it asks for the
// hold by the id of its events. Nobody else gets the lock meanwhile.
func TestHTTPHoldOutlivesItsAgent(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	ctx := bounded(t, time.Minute)
	a := c.Agents[0]
	first, end := httpHold(ctx, t, a, `{"lock":"l","ttl":"60s","resume":true}`)
	defer func() { end() }()
	held := within(ctx, t, first, wire.HoldHeld)
	for _, stop := range []func() error{a.Kill, a.Terminate} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for e := range first { // what was told before the end
			if e.Type.Last() {
				t.Fatalf("the end of the agent is told as %s: %s", e.Type, e.Reason)
			}
		}
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		if err := a.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
		if s := kahu(t, a, "lock", "try", "l"); s.code == 0 {
			t.Fatal("another one got the lock")
		}
		end()
		first, end = httpHold(ctx, t, a, fmt.Sprintf(`{"attach":%q}`, held.Hold))
		again := within(ctx, t, first, wire.HoldHeld)
		if again.Hold != held.Hold || *again.Token != *held.Token {
			t.Fatalf("it goes on as %+v, it was %+v", again, held)
		}
	}
	end() // with its agent there, the end of the connection is the end of the hold
	if err := cluster.Wait(ctx, "the lock is free", func(context.Context) (bool, error) {
		s := kahu(t, a, "lock", "try", "l")
		return s.code == 0, errors.New(s.err)
	}); err != nil {
		t.Error(err)
	}
}

// httpHold asks for a hold over HTTP on an agent's socket, and delivers its events
// until the connection ends.
func httpHold(ctx context.Context, t *testing.T, a *cluster.Agent, body string) (events <-chan wire.HoldEvent, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.Socket)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kahu/kahu/v1/holds", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s is answered with %s", body, answer.Status)
	}
	out, done := make(chan wire.HoldEvent, 1000), make(chan struct{})
	go func() { // ends with the connection
		defer close(done)
		defer close(out)
		defer answer.Body.Close()
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			var e wire.HoldEvent
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("%q: %v", lines.Bytes(), err)
				return
			}
			out <- e
		}
	}()
	return out, func() { cancel(); <-done }
}

// within returns the next event of a type.
func within(ctx context.Context, t *testing.T, events <-chan wire.HoldEvent, want wire.HoldEventType) wire.HoldEvent {
	t.Helper()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the connection ended before it was told %s", want)
			}
			if e.Type == want {
				return e
			}
		case <-ctx.Done():
			t.Fatalf("it was never told %s", want)
		}
	}
}
