package localapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// raw sends bytes and returns what comes back until the connection ends.
func raw(t *testing.T, a *agent, send string) string {
	t.Helper()
	conn, err := net.Dial("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, send); err != nil && send != "" { // the agent may have answered and gone
		t.Fatal(err)
	}
	conn.(*net.UnixConn).CloseWrite()
	b, _ := io.ReadAll(conn)
	return string(b)
}

// Strangers' bytes cost their connection and nothing else.
func TestHostileBytes(t *testing.T) {
	a := startAgent(t)
	const up = "GET /kahu/v1/stream HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: kahu-stream/1\r\n\r\n"
	for name, tc := range map[string]struct{ send, want string }{
		"nothing":                   {"", ""},
		"not HTTP":                  {"\x00\x01\x02\x03\r\n\r\n", "HTTP/1.1 400"},
		"endless head":              {"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 300<<10) + "\r\n\r\n", "HTTP/1.1 431"},
		"no host":                   {"GET /kahu/v1/health/live HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
		"absolute target":           {"GET http://x/kahu/v1/health/live HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"},
		"asterisk":                  {"OPTIONS * HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n", "HTTP/1.1 "},
		"body shorter than said":    {"PUT /kahu/v1/kv/a HTTP/1.1\r\nHost: k\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 400"},
		"body larger than said max": {"PUT /kahu/v1/kv/a HTTP/1.1\r\nHost: k\r\nContent-Length: 99999999999\r\n\r\n", "HTTP/1.1 413"},
		"chunked without an end":    {"PUT /kahu/v1/kv/a HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "HTTP/1.1 400"},
		"two lengths":               {"PUT /kahu/v1/kv/a HTTP/1.1\r\nHost: k\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.1 400"},
		"upgrade, then silence":     {up, "HTTP/1.1 101"},
		"upgrade, then nonsense":    {up + strings.Repeat("nonsense", 100), "HTTP/1.1 101"},
		"upgrade, then a huge frame": {up + "\x00kahust\x01\x00\x10\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x10\x00\x00" + "\xff\xff\xff\xff",
			"HTTP/1.1 101"},
		"upgrade to something else": {strings.ReplaceAll(up, "kahu-stream/1", "websocket"), "HTTP/1.1 426"},
	} {
		if got := raw(t, a, tc.send); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: answer %.80q, want %q", name, got, tc.want)
		}
	}
	if _, err := a.client(t).KVGet(t.Context(), "a", client.ReadOptions{}); err == nil {
		t.Error("a body that was cut short was written")
	} else {
		wantError(t, err, client.ErrNotFound)
	}
}

// What is sent before our 101 is not lost.
func TestUpgradeWithEarlyBytes(t *testing.T) {
	a := startAgent(t)
	conn, err := net.Dial("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	early := &earlyConn{Conn: conn, head: []byte("GET /kahu/v1/stream HTTP/1.1\r\nHost: k\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Kahu-Stream/1\r\n\r\n")}
	s := stream.New(early, stream.Options{})
	defer s.Close()
	b, err := s.Call(t.Context(), wire.MethodStatus, nil)
	if err != nil || !bytes.Contains(b, []byte(`"node":"n1"`)) {
		t.Errorf("%q, %v", b, err)
	}
	for name, call := range map[string]func() error{
		"unknown method": func() error { _, err := s.Call(t.Context(), 200, nil); return err },
		"broken request": func() error {
			_, err := s.Call(t.Context(), wire.MethodDo, stream.Bytes("\x00\x00\x00\x00\xff"))
			return err
		},
		"short request":  func() error { _, err := s.Call(t.Context(), wire.MethodDo, stream.Bytes("x")); return err },
		"hold as a call": func() error { _, err := s.Call(t.Context(), wire.MethodHold, stream.Bytes("{}")); return err },
		"hold with broken JSON": func() error {
			st, err := s.Open(t.Context(), wire.MethodHold, stream.Bytes("{"))
			if err == nil {
				_, err = st.Recv(t.Context())
			}
			return err
		},
		"call as a stream": func() error {
			st, err := s.Open(t.Context(), wire.MethodStatus, nil)
			if err == nil {
				_, err = st.Recv(t.Context())
			}
			return err
		},
	} {
		err := call()
		var remote *stream.RemoteError
		if !asRemote(err, &remote) || wire.KindOfNumber(remote.Code) != wire.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func asRemote(err error, to **stream.RemoteError) bool {
	r, ok := err.(*stream.RemoteError)
	*to = r
	return ok
}

// earlyConn writes the upgrade together with the stream's first bytes, and cuts
// the 101 off.
type earlyConn struct {
	net.Conn
	head []byte
	once sync.Once
	in   *bufio.Reader
}

func (c *earlyConn) Write(p []byte) (int, error) {
	n := len(c.head)
	m, err := c.Conn.Write(append(c.head, p...))
	c.head = nil
	return max(m-n, 0), err
}

func (c *earlyConn) Read(p []byte) (int, error) {
	c.once.Do(func() {
		c.in = bufio.NewReader(c.Conn)
		_, _ = http.ReadResponse(c.in, nil)
	})
	return c.in.Read(p)
}

// Requests in flight when the server closes still get their answer; new ones are
// refused as certainly not carried out.
func TestCloseLetsCallsEnd(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	entered, finish := make(chan struct{}, 2), make(chan struct{})
	a.quorum.setBroken(func(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
		entered <- struct{}{}
		select {
		case <-finish:
			return &replication.Answer{Code: replication.Code_CODE_NOT_FOUND}, nil
		case <-ctx.Done():
			return nil, replication.ErrUnknownOutcome
		}
	})
	answers := make(chan error, 2)
	go func() { answers <- c.LockUnlock(t.Context(), "l", []byte("o"), client.LockOptions{}) }()
	h := a.http(t)
	go func() {
		res, _ := ask(t, h, "DELETE", "/kahu/v1/kv/k", "")
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("over HTTP: %d", res.StatusCode)
		}
		answers <- client.ErrNotFound
	}()
	within(t, "the first request", entered)
	within(t, "the second request", entered)
	stopped := make(chan struct{})
	go func() { a.stop(); close(stopped) }()
	// Until Close is under way a further call is served; then it is refused.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := c.LockUnlock(ctx, "l", []byte("o"), client.LockOptions{})
		cancel()
		if strings.Contains(err.Error(), "sent again") {
			wantError(t, err, client.ErrUnavailable)
			break
		}
		select {
		case <-entered:
		default:
		}
	}
	close(finish)
	for range 2 {
		wantError(t, within(t, "the answer", answers), client.ErrNotFound)
	}
	within(t, "the end", stopped)
}

func TestTooManyConnections(t *testing.T) {
	a := startAgent(t)
	a.server.CountConns(4711, localapi.MaxConns)
	_, err := client.New(client.Options{Socket: a.socket}).Status(t.Context())
	wantError(t, err, client.ErrUnavailable)
	if got := raw(t, a, ""); !strings.HasPrefix(got, "HTTP/1.1 503") || !strings.Contains(got, `"code":"overloaded"`) {
		t.Errorf("%q", got)
	}
	a.server.CountConns(4711, -localapi.MaxConns)
	if _, err := a.client(t).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzHandler throws requests at the handlers behind the HTTP parser.
func FuzzHandler(f *testing.F) {
	f.Add("PUT", "/kahu/v1/kv/a%2Fb?ttl=1s", `"1"`, "text/plain", []byte("v"))
	f.Add("POST", "/kahu/v1/locks/a/try", "", "application/json", []byte(`{"owner":"o","ttl":"1s"}`))
	f.Add("POST", "/kahu/v1/holds", "", "application/json", []byte(`{"lock":"l","wait":"forever"}`))
	f.Add("PATCH", "/kahu/v1/sequences/s", "*", "", []byte(`{"current":-1}`))
	f.Add("GET", "/kahu/v1/kv?prefix=%00&limit=1", "", "", []byte(nil))
	a := startAgent(f)
	a.holder.refuse(wire.Refuse(wire.Busy, ""))
	f.Fuzz(func(t *testing.T, method, target, condition, media string, body []byte) {
		req, err := http.NewRequest(method, "http://k/", bytes.NewReader(body))
		if err != nil {
			return
		}
		if req.URL, err = req.URL.Parse(target); err != nil {
			return
		}
		req.Header.Set("If-Match", condition)
		req.Header.Set("Content-Type", media)
		w := httptest.NewRecorder()
		a.server.Handler().ServeHTTP(w, req.WithContext(a.server.AsMe(t.Context())))
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
			t.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
		}
		if w.Code >= 400 {
			var p wire.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code {
				t.Fatalf("%s %s: %d %q", method, target, w.Code, w.Body)
			}
		}
	})
}
