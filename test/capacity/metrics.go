package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/kahu-sh/kahu/test/cluster"
)

// renewalsMetric counts what the holds of an agent cost the quorum.
const renewalsMetric = `kahu_session_renewals_total{outcome="acknowledged"}`

// renewals is how often the agent has renewed a session of holds.
func renewals(ctx context.Context, a *cluster.Agent) (uint64, error) {
	v, err := metric(ctx, a, renewalsMetric)
	return uint64(v), err
}

// metric reads one value of the agent's Prometheus page.
func metric(ctx context.Context, a *cluster.Agent, name string) (float64, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kahu/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, fmt.Errorf("asking %s for its metrics: %w", a.Name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("asking %s for its metrics: %s", a.Name, response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(rest, 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("reading the metrics of %s: %w", a.Name, err)
	}
	return 0, fmt.Errorf("%s has no metric %s", a.Name, name)
}
