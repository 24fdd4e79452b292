package localapi_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/caller"
)

// kahunaAgent is an agent whose Kahuna wire says who asked for what. A request of
// /v1/block waits for release, and reads nothing.
func kahunaAgent(t *testing.T) (a *agent, came, release chan struct{}) {
	came, release = make(chan struct{}, 8), make(chan struct{})
	a = startAgent(t, func(c *localapi.Config) {
		c.Kahuna = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/block" {
				came <- struct{}{}
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}
			fmt.Fprintf(w, "kahuna %s by %d", r.URL.Path, caller.From(r.Context()).UID)
		})
	})
	return a, came, release
}

// overUnix is a client of the socket, in HTTP/1.1 or HTTP/2 by prior knowledge.
func overUnix(t *testing.T, a *agent, h2 bool) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// Kahuna's wire and kahu's own API are on one socket and one connection, each with
// its caller.
func TestKahunaBesideOwnAPI(t *testing.T) {
	a, _, _ := kahunaAgent(t)
	for _, h2 := range []bool{false, true} {
		c := overUnix(t, a, h2)
		for path, want := range map[string]string{
			"/v1/kv/try-get": "kahuna /v1/kv/try-get by ", "/V1/KV/try-get": "kahuna /V1/KV/try-get by ", "/": "kahuna / by ",
			"/kahu/v1/health/live": `{"ok":true}`, "/v2/kv": "nothing at", "/v1": "nothing at",
		} {
			if _, body := ask(t, c, "GET", path, ""); !strings.Contains(body, want) {
				t.Errorf("h2 %v: %s is answered %q, want %q", h2, path, body, want)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://kahu/KeyValuer/TryGetKeyValue", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc+proto")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !strings.HasPrefix(string(body), "kahuna /KeyValuer/TryGetKeyValue by ") {
			t.Errorf("gRPC is answered %q, %v", body, err)
		}
	}
}

// A stream that is not read stops its sender, and not the others on its connection.
func TestUnreadStreamStopsItself(t *testing.T) {
	a, came, release := kahunaAgent(t)
	c := overUnix(t, a, true)
	if _, body := ask(t, c, "GET", "/v1/x", ""); body == "" {
		t.Fatal("no connection")
	}
	ended := make(chan struct{})
	body, w := io.Pipe()
	go func() {
		defer close(ended)
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://kahu/v1/block", body)
		if err != nil {
			t.Error(err)
			return
		}
		if res, err := c.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	<-came
	var taken atomic.Int64
	go func() { // ends with the request
		for range 2048 {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
			taken.Add(32 << 10)
		}
	}()
	others := &http.Client{Transport: c.Transport, Timeout: 20 * time.Second} // on the same connection
	for posts := 0; posts < 400 || taken.Load() < 256<<10; posts++ {
		res, err := others.Post("http://kahu/v1/x", "text/plain", strings.NewReader(strings.Repeat("x", 16<<10)))
		if err != nil {
			t.Fatalf("another request on the connection: %v", err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if got := taken.Load(); got > 1<<20 { // the window, and what the client's side keeps
		t.Errorf("%d bytes were taken from a stream that nobody reads", got)
	}
	close(release)
	<-ended
	body.Close()
}
