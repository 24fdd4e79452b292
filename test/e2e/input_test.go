package e2e_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// longestLine is what a terminal shows in a few lines; a name of any length must
// not be repeated whole.
const longestLine = 500

// Bad input at kahu's own surface is refused with one line that says what is
// wrong, through the command line and through HTTP, and changes nothing.
func TestBadInputChangesNothing(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	must(t, a, "kv", "set", "k", "before")
	must(t, a, "seq", "create", "s")
	began, before := time.Now(), applied(t, a)

	t.Run("command line", func(t *testing.T) {
		long := strings.Repeat("n", 1025)
		for _, tc := range []struct {
			name string
			args []string
		}{
			{"empty key", []string{"kv", "set", "", "v"}},
			{"empty key read", []string{"kv", "get", ""}},
			{"key over 1 KiB", []string{"kv", "set", long, "v"}},
			{"key with a control character", []string{"kv", "set", "a\nb", "v"}},
			{"key with an escape", []string{"kv", "set", "a\x1b[2Jb", "v"}},
			{"key that is no UTF-8", []string{"kv", "set", "a\xffb", "v"}},
			{"value over the limit", []string{"kv", "set", "k"}}, // from standard input, below
			{"TTL over a day", []string{"kv", "set", "k", "v", "--ttl", "24h1ms"}},
			{"extend over a day", []string{"kv", "extend", "k", "25h"}},
			{"empty lock", []string{"lock", "try", ""}},
			{"lock over 1 KiB", []string{"lock", "try", long}},
			{"lock with a control character", []string{"lock", "try", "a\tb"}},
			{"lock TTL zero", []string{"lock", "try", "l", "--ttl", "0s"}},
			{"lock TTL negative", []string{"lock", "try", "l", "--ttl", "-1s"}},
			{"lock TTL over a day", []string{"lock", "try", "l", "--ttl", "24h1s"}},
			{"lock owner over 256 bytes", []string{"lock", "try", "l", "--owner", long}},
			{"empty sequence", []string{"seq", "create", ""}},
			{"sequence with a control character", []string{"seq", "create", "a\x07"}},
			{"increment zero", []string{"seq", "create", "x", "--increment", "0"}},
			{"maximum below the start", []string{"seq", "create", "x", "--initial", "10", "--maximum", "5"}},
			{"exec on an empty lock", []string{"exec", "--lock", "", "--", "true"}},
			{"exec on a lock over 1 KiB", []string{"exec", "--lock", long, "--", "true"}},
			{"exec TTL zero", []string{"exec", "--lock", "l", "--ttl", "0s", "--", "true"}},
			{"exec TTL over a day", []string{"exec", "--lock", "l", "--ttl", "25h", "--", "true"}},
			{"socket path over 107 bytes", []string{"status", "--socket", "/tmp/" + strings.Repeat("s", 110)}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				cmd := a.Command(bounded(t, time.Minute), tc.args...)
				cmd.Stdin = strings.NewReader(strings.Repeat("v", 1<<20+1))
				s := finish(t, cmd)
				if s.code != 64 {
					t.Errorf("exit code %d, want 64; it says %q%q", s.code, s.out, s.err)
				}
				if s.out != "" || strings.Count(s.err, "\n") != 1 || len(s.err) > longestLine {
					t.Errorf("it says %q and, in %d bytes, %q; want one line on standard error", s.out, len(s.err), s.err)
				}
				for _, r := range strings.TrimSuffix(s.err, "\n") {
					if r < ' ' || r == 0x7f {
						t.Errorf("a control character reaches the terminal: %q", s.err)
						break
					}
				}
			})
		}
	})

	t.Run("HTTP", func(t *testing.T) {
		for _, tc := range []struct {
			name, method, path, body string
			status                   int
		}{
			{"no such route", "GET", "/kahu/v1/nothing", "", 404},
			{"another method", "POST", "/kahu/v1/status", "", 405},
			{"empty key", "PUT", "/kahu/v1/kv/", "v", 0},
			{"key over 1 KiB", "PUT", "/kahu/v1/kv/" + strings.Repeat("n", 1025), "v", 400},
			{"key with a control character", "PUT", "/kahu/v1/kv/a%0Ab", "v", 400},
			{"key that is no UTF-8", "PUT", "/kahu/v1/kv/a%FFb", "v", 400},
			{"value over the limit", "PUT", "/kahu/v1/kv/k", strings.Repeat("v", 1<<20+1), 413},
			{"TTL zero", "PUT", "/kahu/v1/kv/k?ttl=0s", "v", 400},
			{"TTL negative", "PUT", "/kahu/v1/kv/k?ttl=-1s", "v", 400},
			{"TTL over a day", "PUT", "/kahu/v1/kv/k?ttl=24h1s", "v", 400},
			{"unknown parameter", "PUT", "/kahu/v1/kv/k?tll=5s", "v", 400},
			{"broken JSON", "POST", "/kahu/v1/locks/l/try", `{"owner":`, 400},
			{"two documents", "POST", "/kahu/v1/locks/l/try", `{"owner":"o","ttl":"5s"}{}`, 400},
			{"unknown field", "POST", "/kahu/v1/locks/l/try", `{"owner":"o","ttl":"5s","tll":"5s"}`, 400},
			{"wrong type", "POST", "/kahu/v1/locks/l/try", `{"owner":7,"ttl":"5s"}`, 400},
			{"no owner", "POST", "/kahu/v1/locks/l/try", `{"ttl":"5s"}`, 400},
			{"TTL zero in JSON", "POST", "/kahu/v1/locks/l/try", `{"owner":"o","ttl":"0s"}`, 400},
			{"TTL over a day in JSON", "POST", "/kahu/v1/locks/l/try", `{"owner":"o","ttl":"25h"}`, 400},
			{"count zero", "POST", "/kahu/v1/sequences/s/reserve", `{"count":0}`, 400},
			{"hold without a lock", "POST", "/kahu/v1/holds", `{"ttl":"30s"}`, 400},
			{"hold with a TTL below its margin", "POST", "/kahu/v1/holds", `{"lock":"l","ttl":"1s","grace":"5s"}`, 400},
		} {
			t.Run(tc.name, func(t *testing.T) {
				status, body := send(t, a, tc.method, tc.path, tc.body)
				if status < 400 || status > 499 || tc.status != 0 && status != tc.status {
					t.Errorf("status %d, want %d: %s", status, tc.status, body)
				}
				var p wire.Problem
				if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != status || p.Title == "" || p.Code == "" {
					t.Errorf("the answer is no problem document: %q (%v)", body, err)
				}
			})
		}
	})

	// The leader writes a digest once a second; nothing else may be there.
	if entries, digests := applied(t, a)-before, uint64(time.Since(began)/time.Second)+2; entries > digests {
		t.Errorf("the refused requests made log entries: %d, where at most %d are digests", entries, digests)
	}
	if got := must(t, a, "kv", "get", "k"); got != "before" {
		t.Errorf("the key reads %q", got)
	}
	if got := must(t, a, "seq", "get", "s", "--output", "json"); !strings.Contains(got, `"current":0`) {
		t.Errorf("the sequence has moved: %s", got)
	}
	if got := must(t, a, "kv", "ls", "--output", "json", "--keys-only"); strings.Count(got, `"key"`) != 1 {
		t.Errorf("there are other keys: %s", got)
	}
}

// An agent that cannot work says why in one line and ends at once.
func TestAgentRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a-file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	data := func(name string) string { return filepath.Join(dir, name) }
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--bogus"}, "bogus"},
		{"unknown role", []string{"--role", "king", "--data-dir", data("1")}, "role"},
		{"unknown engine", []string{"--storage", "punchcards", "--data-dir", data("2")}, "storage"},
		{"socket path over 107 bytes", []string{"--data-dir", data("3"), "--socket", "/tmp/" + strings.Repeat("s", 110)}, "107"},
		{"address without a port", []string{"--data-dir", data("4"), "--bind", "localhost"}, "bind"},
		{"data directory is a file", []string{"--data-dir", file, "--socket", data("s5"), "--bind", "127.0.0.1:1"}, file},
		{"data directory of another agent", []string{"--data-dir", filepath.Join(a.Dir, "data"), "--socket", data("s6"), "--bind", "127.0.0.1:1"}, "data"},
		{"configuration file with an unknown key", []string{"--config", "/dev/stdin"}, "colour"},
		{"missing configuration file", []string{"--config", data("no-such-file")}, "no-such-file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := a.Command(bounded(t, 30*time.Second), append([]string{"agent"}, tc.args...)...)
			cmd.Stdin = strings.NewReader("colour: blue\n")
			s := finish(t, cmd)
			if s.code != 64 && s.code != 78 {
				t.Errorf("exit code %d, want 64 or 78", s.code)
			}
			if !strings.Contains(s.err, tc.want) {
				t.Errorf("it says %q, and nothing about %q", s.err, tc.want)
			}
		})
	}
	t.Run("data directory without rights", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("becomes another user, which needs root")
		}
		locked := data("locked")
		if err := os.Mkdir(locked, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the other user must get this far
			t.Fatal(err)
		}
		cmd := a.Command(bounded(t, 30*time.Second), "agent", "--data-dir", locked, "--socket", "/tmp/kahu-e2e-nobody.sock", "--bind", "127.0.0.1:7399")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Env = append(cmd.Env, "HOME=/nonexistent")
		cmd.Path = readable(t)
		cmd.Args[0] = cmd.Path
		s := finish(t, cmd)
		if s.code != 78 || !strings.Contains(s.err, locked) || !strings.Contains(s.err, "permission denied") {
			t.Errorf("exit code %d, want 78; it says %q", s.code, s.err)
		}
	})
	if got := must(t, a, "status", "--ready"); got == "" {
		t.Error("the agent whose data directory was asked for says nothing")
	}
}

// readable is the binary where another user may run it.
func readable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kahu-e2e-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as said
		t.Fatal(err)
	}
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kahu")
	if err := os.WriteFile(path, text, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return path
}

// applied is the agent's applied index.
func applied(t *testing.T, a *cluster.Agent) uint64 {
	t.Helper()
	s, err := a.Status(bounded(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return s.Voter.AppliedIndex
}

// send sends one HTTP request on the agent's socket, as curl would.
func send(t *testing.T, a *cluster.Agent, method, path, body string) (int, string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(bounded(t, 30*time.Second), method, "http://kahu"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(body, "{") {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", method, path, err)
	}
	return response.StatusCode, string(text)
}
