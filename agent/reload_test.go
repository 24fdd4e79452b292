package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// TestCalledAsNobody is run as another user by asNobody.
func TestCalledAsNobody(t *testing.T) {
	socket := os.Getenv("KAHU_TEST_NOBODY")
	if socket == "" {
		t.Skip("it is run by TestReloadOfThePolicy")
	}
	c := client.New(client.Options{Socket: socket})
	defer c.Close()
	if _, err := c.KVSet(t.Context(), "nobody", []byte("was here"), client.WriteOptions{}); err != nil {
		t.Log(err)
		fmt.Println("REFUSED")
		return
	}
	fmt.Println("ALLOWED")
}

// reloaded is an agent in memory whose configuration is a file.
type reloaded struct {
	t      *testing.T
	file   string
	client *client.Client
	cfg    config.Config
	hangup chan os.Signal
	level  *slog.LevelVar
	m      *manager
}

func startReloaded(t *testing.T, text string) *reloaded {
	t.Helper()
	// Another user has to reach the socket: not below a directory of this one alone.
	dir, err := os.MkdirTemp("/tmp", "kahu-reload-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &reloaded{t: t, file: filepath.Join(dir, "kahu.yaml"), hangup: make(chan os.Signal, 1), level: new(slog.LevelVar), m: &manager{alive: make(chan struct{})}}
	r.write("dev: true\nbind: 127.0.0.1:0\nsocket: " + filepath.Join(dir, "k.sock") + "\n" + text)
	fs := pflag.NewFlagSet("kahu", pflag.ContinueOnError)
	config.AddFlags(fs)
	if err := fs.Parse([]string{"--config", r.file}); err != nil {
		t.Fatal(err)
	}
	host := config.ThisHost()
	host.Environ = nil
	read := func() (config.Config, error) { return config.Load(host, fs) }
	if r.cfg, err = read(); err != nil {
		t.Fatal(err)
	}
	r.level.Set(r.cfg.LogLevel)
	ready, ended := make(chan struct{}), make(chan error, 1)
	o := options(func() { close(ready) })
	o.ServiceManager = r.m
	o.Reload = agent.Reload{Asked: r.hangup, Load: read, SetLevel: r.level.Set}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- agent.Run(ctx, r.cfg, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	r.client = client.New(client.Options{Socket: r.cfg.Socket})
	t.Cleanup(func() { r.client.Close() })
	return r
}

func (r *reloaded) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// change edits the file, asks for a reload, and waits until the status shows it.
func (r *reloaded) change(old, new string, shows func(wire.Status) bool) wire.Status {
	r.t.Helper()
	text, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		r.t.Fatalf("the file has no %q:\n%s", old, text)
	}
	r.write(strings.Replace(string(text), old, new, 1))
	before := r.m.reloads.Load()
	r.hangup <- syscall.SIGHUP
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := r.client.Status(r.t.Context())
		if err == nil && r.m.reloads.Load() > before && r.m.ready.Load() && shows(s) {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("after the reload the status is %+v, %v", s, err)
		}
		time.Sleep(5 * time.Millisecond) // between two looks at another goroutine
	}
}

func settled(s wire.Status) bool { return s.ConfigProblem == "" && len(s.NeedsRestart) == 0 }

func TestReload(t *testing.T) {
	r := startReloaded(t, "log-level: info\n")
	r.change("log-level: info", "log-level: debug", settled)
	if r.level.Level() != slog.LevelDebug {
		t.Errorf("the log's level is %s", r.level.Level())
	}
	// What is wrong changes nothing, and is told until it is mended.
	s := r.change("log-level: debug", "log-level: shout\nvoters: 4", func(s wire.Status) bool { return s.ConfigProblem != "" })
	if !strings.Contains(s.ConfigProblem, "log-level") || !strings.Contains(s.ConfigProblem, "voters") || strings.Contains(s.ConfigProblem, "\n") {
		t.Errorf("the problem is %q", s.ConfigProblem)
	}
	if r.level.Level() != slog.LevelDebug {
		t.Errorf("a wrong file has set the log's level to %s", r.level.Level())
	}
	// What needs a restart is told, each time, until it is as it was.
	s = r.change("log-level: shout\nvoters: 4", "log-level: warn\nvoters: 5\nhttp: 127.0.0.1:0", func(s wire.Status) bool { return len(s.NeedsRestart) > 0 })
	if want := []string{"voters", "http"}; !slices.Equal(s.NeedsRestart, want) {
		t.Errorf("a restart is needed for %q, want %q", s.NeedsRestart, want)
	}
	s = r.change("log-level: warn", "log-level: error", func(s wire.Status) bool { return s.ConfigProblem == "" })
	if len(s.NeedsRestart) != 2 || r.level.Level() != slog.LevelError {
		t.Errorf("after another reload a restart is needed for %q, the level is %s", s.NeedsRestart, r.level.Level())
	}
	r.change("voters: 5\nhttp: 127.0.0.1:0", "", settled)
	// A limit counts at once.
	r.change("log-level: error", "limits: {holds: 1}", settled)
	h, err := r.client.Hold(t.Context(), client.HoldOptions{Lock: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h, err := r.client.Hold(t.Context(), client.HoldOptions{Lock: "b"}); err == nil {
		h.Close()
		t.Error("a second hold was given")
	}
}

// asNobody tries to write a key as another user, by the socket.
func (r *reloaded) asNobody() string {
	r.t.Helper()
	self := filepath.Join(filepath.Dir(r.file), "caller")
	if _, err := os.Stat(self); err != nil {
		// This binary may lie where nobody may look.
		if out, err := exec.Command("cp", "/proc/"+fmt.Sprint(os.Getpid())+"/exe", self).CombinedOutput(); err != nil {
			r.t.Fatalf("%v: %s", err, out)
		}
		if err := os.Chmod(self, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	cmd := exec.Command(self, "-test.run", "^TestCalledAsNobody$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "KAHU_TEST_NOBODY="+r.cfg.Socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// A policy counts at once, for processes on the socket and for those on the wire of
// Kahuna, also on connections that are open.
func TestReloadOfThePolicy(t *testing.T) {
	r := startReloaded(t, "kahuna-listen: [\"127.0.0.1:0\"]\nkahuna-insecure: true\npolicy:\n  - everyone: true\n    anonymous: true\n    allow: [read]\n")
	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, s.Kahuna.Listen[0], insecure.NewCredentials())
	allowed := func(want bool) {
		t.Helper()
		_, err := setKey(t.Context(), conn, "k", "v")
		if got := status.Code(err) == codes.OK; got != want {
			t.Errorf("on Kahuna's wire a write ends with %v; it should be allowed: %v", err, want)
		}
		if os.Geteuid() != 0 {
			return // nobody else can be tried
		}
		if got := r.asNobody(); strings.Contains(got, "ALLOWED") != want || strings.Contains(got, "REFUSED") == want {
			t.Errorf("on the socket a write as nobody ends with %q; it should be allowed: %v", got, want)
		}
	}
	allowed(false)
	r.change("allow: [read]", "allow: [read, write]", settled)
	allowed(true)
	r.change("allow: [read, write]", "allow: [lock]", settled)
	allowed(false)
	// Without rules this user may still do everything: the socket's file says who
	// may open it, and a restart makes it anew.
	left := r.change("kahuna-insecure: true\npolicy:\n  - everyone: true\n    anonymous: true\n    allow: [lock]\n", "kahuna-insecure: true\n", func(s wire.Status) bool { return len(s.NeedsRestart) > 0 })
	if want := "policy (it decides the mode of the socket)"; !slices.Equal(left.NeedsRestart, []string{want}) {
		t.Errorf("a restart is needed for %q", left.NeedsRestart)
	}
	if _, err := setKey(t.Context(), conn, "k", "v"); err != nil {
		t.Errorf("kahuna-insecure without a policy refuses a write: %v", err)
	}
}
