package agent_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/integrations/systemd"
	"github.com/kahu-sh/kahu/localapi/client"
)

// Both sockets that systemd listens on are served, and closed in the end.
func TestBothSocketsOfSystemd(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	cfg := load(t, func(f *config.File) { f.Dev, f.DataDir, f.AllowVolatile = true, "", false })
	ready := make(chan struct{})
	o := options(func() { close(ready) })
	o.Sockets = systemd.Sockets{App: listen("app"), Admin: listen("admin")}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx, cfg, o) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	for _, name := range []string{"app", "admin"} {
		c := client.New(client.Options{Socket: filepath.Join(dir, name)})
		limit, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := c.KVSet(limit, "k", []byte("v"), client.WriteOptions{}); err != nil {
			t.Errorf("over the %s socket: %v", name, err)
		}
		cancel()
		_ = c.Close()
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, l := range []*net.UnixListener{o.Sockets.App, o.Sockets.Admin} {
		if _, err := l.Accept(); err == nil {
			t.Errorf("%s is still open", l.Addr())
		}
	}
}
