package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// ServiceManager is told how the agent is: systemd, by its notify protocol.
// Its methods do not block for long.
type ServiceManager interface {
	Ready() error     // also when a reload is done
	Reloading() error // Ready follows
	Stopping() error
	Alive() error
	Status(line string) error
	// WatchdogInterval is how often Alive is wanted at least, 0: not at all.
	WatchdogInterval() time.Duration
}

// statusInterval is how often the line that `systemctl status` shows is looked at.
const statusInterval = 5 * time.Second

// supervised keeps the service manager informed until ctx ends.
//
// The watchdog is answered only after the agent has answered itself, by the way
// that applications take: a connection to the local socket, through the kernel's
// queue, identification, routing and the status of all parts. What hangs there
// is mended by a restart, which costs no lock. A missing quorum is not: it does
// not keep the watchdog from being answered.
func (a *agent) supervised(ctx context.Context) {
	m := a.o.ServiceManager
	interval := statusInterval
	if w := m.WatchdogInterval(); w > 0 {
		interval = min(interval, w/3)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	said := ""
	for {
		if line := a.statusLine(); line != said {
			a.report(m.Status(line))
			said = line
		}
		if m.WatchdogInterval() > 0 {
			if err := a.answers(ctx, interval); err == nil {
				a.report(m.Alive())
			} else if ctx.Err() == nil {
				a.log.Error("this agent does not answer on its own socket, and the watchdog will end it", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *agent) report(err error) {
	if err != nil {
		a.log.Warn("the service manager was not told", "error", err)
	}
}

// statusLine says in one line what matters: ready or why not, the role, the
// leader, the holds.
func (a *agent) statusLine() string {
	s := a.status()
	state := "ready"
	if !s.Ready {
		state = "NOT READY: " + s.NotReady
	}
	role := s.Role
	if s.Voter != nil {
		role += " (" + s.Voter.Raft + ")"
	}
	line := fmt.Sprintf("%s; %s; %d held, %d waiting, %d at risk", state, role, s.Holds.Held, s.Holds.Queued, s.Holds.AtRisk)
	switch {
	case s.ConfigProblem != "":
		return line + "; NOT RELOADED: " + s.ConfigProblem
	case len(s.NeedsRestart) > 0:
		return line + "; a restart is needed for " + strings.Join(s.NeedsRestart, ", ")
	}
	return line
}

// answers asks this agent for its health over its own socket.
func (a *agent) answers(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A connection of its own each time: accepting is part of what is tried.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", a.cfg.Socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kahu/kahu/v1/status", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusServiceUnavailable:
		// Applications have taken every connection or every place. A restart would
		// break all of theirs, and they would be back.
	default:
		return fmt.Errorf("the status route answers %s", resp.Status)
	}
	return nil
}
