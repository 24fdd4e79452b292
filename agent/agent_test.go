package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/storage/datadir"
	"github.com/kahu-sh/kahu/storage/rocksdb"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Memberlist does not wait for a probe under way, which ends with its timeout,
		// nor for one that it makes for somebody else.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).handleIndirectPing.func2"),
		// Raft's transport leaves it for as long as a peer's connection lives.
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*NetworkTransport).handleConn"))
}

// load is the configuration of an agent alone, in directories of its own.
func load(t *testing.T, set func(f *config.File)) config.Config {
	t.Helper()
	dir := t.TempDir()
	f := config.Defaults()
	f.DataDir, f.Socket, f.Bind = filepath.Join(dir, "data"), filepath.Join(dir, "k.sock"), "127.0.0.1:0"
	f.AllowVolatile = true // where tests keep their files is not ours to choose
	set(&f)
	host := config.ThisHost()
	host.Environ = nil
	cfg, problems := config.Check(f, host)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return cfg
}

// start runs an agent until the test ends, and returns when it serves.
func start(t *testing.T, cfg config.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- agent.Run(ctx, cfg, options(func() { close(ready) })) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the agent did not start: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the agent did not stop in order: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func options(ready func()) agent.Options {
	return agent.Options{Version: "test", Logger: slog.New(slog.DiscardHandler), Exit: func(int) {}, Ready: ready}
}

func TestTwoAgentsInOneProcessDoNotMeet(t *testing.T) {
	var clients []*client.Client
	for range 2 {
		cfg := load(t, func(f *config.File) { f.Dev, f.DataDir, f.AllowVolatile = true, "", false })
		start(t, cfg)
		c := client.New(client.Options{Socket: cfg.Socket})
		t.Cleanup(func() { _ = c.Close() })
		clients = append(clients, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := clients[0].KVSet(ctx, "k", []byte("v"), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e, err := clients[0].KVGet(ctx, "k", client.ReadOptions{}); err != nil || string(e.Value) != "v" {
		t.Fatalf("%q, %v", e.Value, err)
	}
	if _, err := clients[1].KVGet(ctx, "k", client.ReadOptions{}); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("the other agent answers %v, want not found", err)
	}
}

func TestStateSurvivesARestart(t *testing.T) {
	cfg := load(t, func(f *config.File) { f.Bind = freeAddress(t) })
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for round := range 3 {
		stop := start(t, cfg)
		c := client.New(client.Options{Socket: cfg.Socket})
		w, err := c.KVSet(ctx, "k", []byte("v"), client.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if w.Revision != int64(round) {
			t.Fatalf("revision %d in round %d: the one before is lost", w.Revision, round)
		}
		_ = c.Close()
		stop()
	}
}

func TestUnusable(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  func(t *testing.T) config.Config
		want error
		says string
	}{
		"directory in use": {func(t *testing.T) config.Config {
			cfg := load(t, func(f *config.File) { f.Bind = freeAddress(t) })
			start(t, cfg)
			return cfg
		}, datadir.ErrInUse, ""},
		"another cluster's role": {func(t *testing.T) config.Config {
			return load(t, func(f *config.File) {
				f.Bind = freeAddress(t)
				f.SecretFile = filepath.Join(t.TempDir(), "secret")
				if err := secret.Write(f.SecretFile, secret.Generate().Proxy()); err != nil {
					t.Fatal(err)
				}
			})
		}, nil, "proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			err := agent.Run(t.Context(), tc.cfg(t), options(func() {}))
			var unusable *agent.UnusableError
			if !errors.As(err, &unusable) || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("%v, want an UnusableError with %v that says %q", err, tc.want, tc.says)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestMissingEngineLeavesNothingBehind(t *testing.T) {
	if rocksdb.Built() == nil {
		t.Skip("this binary has all engines")
	}
	cfg := load(t, func(f *config.File) { f.Bind, f.Storage = freeAddress(t), "rocksdb" })
	if err := agent.Run(t.Context(), cfg, options(func() {})); !errors.Is(err, rocksdb.ErrNotBuilt) {
		t.Fatalf("%v, want ErrNotBuilt", err)
	}
	if _, err := os.Stat(cfg.DataDir); !os.IsNotExist(err) {
		t.Fatalf("the data directory was made: %v", err)
	}
}
