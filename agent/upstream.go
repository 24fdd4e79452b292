package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/upstream"
)

// roleUpstream is what an agent says of itself that stands in front of a Kahuna
// cluster.
const roleUpstream = "upstream"

// noCluster is why there is nothing about a cluster of kahu's own.
const noCluster = "this agent is in upstream mode, in front of a stock Kahuna cluster, and is part of none of kahu's own"

// joinUpstream makes the client of a Kahuna cluster the coordinator.
func (a *agent) joinUpstream() (stops []func(context.Context) error, err error) {
	cfg := a.cfg.Upstream
	settings, err := upstreamTLS(cfg)
	if err != nil {
		return nil, &UnusableError{err}
	}
	c := upstream.Config{Endpoints: cfg.URLs, TLS: settings, LeaseNow: boottime.Now, Logger: a.log}
	if cfg.TokenFile != "" {
		token := &tokenFile{path: cfg.TokenFile, now: time.Now}
		if _, err := token.read(); err != nil {
			return nil, &UnusableError{err}
		}
		c.Token = token.read
	}
	if a.upstream, err = upstream.New(c); err != nil {
		return nil, err
	}
	a.coordinator = a.upstream
	return []func(context.Context) error{func(context.Context) error { return a.upstream.Close() }}, nil
}

// upstreamTLS is how the servers are checked, and who this agent says it is.
func upstreamTLS(cfg config.Upstream) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading upstream-ca-file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("there is no certificate in upstream-ca-file %s; it must be PEM", cfg.CAFile)
		}
	}
	if cfg.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("reading upstream-cert-file and upstream-key-file: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		// Read with each handshake, so that a renewed one is used from then on.
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return out, nil
}

// tokenFile is a bearer token that is read again when its file changes.
type tokenFile struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	looked  time.Time
	changed time.Time // of the file that token is from
	token   string
}

// read returns the token. It looks at the file once a second at most, and goes on
// with the last token while that cannot be read.
func (f *tokenFile) read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if f.token != "" && now.Sub(f.looked) < time.Second {
		return f.token, nil
	}
	f.looked = now
	info, err := os.Stat(f.path)
	if err == nil && f.token != "" && info.ModTime().Equal(f.changed) {
		return f.token, nil
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(f.path)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case err == nil && token != "" && !strings.ContainsAny(token, " \t\r\n"):
		f.token, f.changed = token, info.ModTime()
	case f.token != "":
	case err != nil:
		return "", fmt.Errorf("reading upstream-token-file: %w", err)
	default:
		return "", fmt.Errorf("upstream-token-file %s does not have one token on one line", f.path)
	}
	return f.token, nil
}

// upstreamStatus is status in upstream mode.
func (a *agent) upstreamStatus(s wire.Status) wire.Status {
	s.Role = roleUpstream
	var failures []string
	for _, e := range a.upstream.Status() {
		s.Upstream = append(s.Upstream, wire.UpstreamServer{URL: e.URL, Healthy: e.Healthy, InUse: e.InUse, Failure: e.Failure, LatencyMS: e.Latency.Milliseconds()})
		if e.Failure != "" {
			failures = append(failures, e.URL+": "+e.Failure)
		}
	}
	if s.Ready = a.upstream.Ready(); !s.Ready {
		s.NotReady = "no server of the Kahuna cluster answers"
		if len(failures) > 0 {
			s.NotReady += ": " + strings.Join(failures, "; ")
		}
	}
	return s
}

// noBackup refuses backups in upstream mode.
func noBackup(context.Context, io.Writer) error {
	return wire.Refuse(wire.Denied, noCluster+": back that up with its own tools")
}

// The metrics of upstream mode, in one table.
var (
	upstreamHealthy = prometheus.NewDesc("kahu_upstream_server_healthy",
		"1 while the last word of a server of the Kahuna cluster was an answer.", []string{"server"}, nil)
	upstreamInUse = prometheus.NewDesc("kahu_upstream_server_in_use",
		"1 for the server of the Kahuna cluster that is asked first.", []string{"server"}, nil)
	upstreamFailovers = prometheus.NewDesc("kahu_upstream_failovers_total",
		"How often another server of the Kahuna cluster took the place of the one in use.", nil, nil)
)

// collectUpstream shows upstream mode to Prometheus.
func (c *collector) collectUpstream(ch chan<- prometheus.Metric) {
	for _, e := range c.a.upstream.Status() {
		ch <- prometheus.MustNewConstMetric(upstreamHealthy, prometheus.GaugeValue, truth(e.Healthy), e.URL)
		ch <- prometheus.MustNewConstMetric(upstreamInUse, prometheus.GaugeValue, truth(e.InUse), e.URL)
	}
	ch <- prometheus.MustNewConstMetric(upstreamFailovers, prometheus.CounterValue, float64(c.a.upstream.Failovers()))
}
