package agent_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
)

// manager is a service manager with a watchdog.
type manager struct {
	ready, stopping atomic.Bool
	reloads         atomic.Int64
	alive           chan struct{}
}

func (m *manager) Ready() error                    { m.ready.Store(true); return nil }
func (m *manager) Reloading() error                { m.ready.Store(false); m.reloads.Add(1); return nil }
func (m *manager) Stopping() error                 { m.stopping.Store(true); return nil }
func (m *manager) Status(string) error             { return nil }
func (m *manager) WatchdogInterval() time.Duration { return 150 * time.Millisecond }

func (m *manager) Alive() error {
	select {
	case m.alive <- struct{}{}:
	default:
	}
	return nil
}

func TestTheServiceManagerIsTold(t *testing.T) {
	cfg := load(t, func(f *config.File) { f.Dev, f.DataDir, f.AllowVolatile = true, "", false })
	m := &manager{alive: make(chan struct{})}
	o := options(func() {})
	o.ServiceManager = m
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx, cfg, o) }()
	for range 3 {
		select {
		case <-m.alive:
			if !m.ready.Load() || m.stopping.Load() {
				t.Errorf("alive, and told of ready %v, of stopping %v", m.ready.Load(), m.stopping.Load())
			}
		case err := <-ended:
			t.Fatalf("the agent ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("the watchdog was not told that the agent lives")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !m.stopping.Load() {
		t.Error("not told that the agent stops")
	}
}

// What the watchdog takes for an agent that has to be restarted. One whose places
// are all taken answers, and a restart would break every connection for nothing.
func TestWhatTheWatchdogEnds(t *testing.T) {
	for status, alive := range map[int]bool{200: true, 503: true, 500: false, 404: false, 0: false} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if status == 0 {
				<-r.Context().Done() // it hangs
				return
			}
			w.WriteHeader(status)
		})}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = server.Serve(l) }()
		limit := 10 * time.Second
		if status == 0 {
			limit = 50 * time.Millisecond
		}
		if err := agent.Answers(t.Context(), socket, limit); (err == nil) != alive {
			t.Errorf("status %d: %v", status, err)
		}
		_ = server.Close()
		<-ended
	}
}
