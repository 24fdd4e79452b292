package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/reflection"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/doors"
	"github.com/kahu-sh/kahu/localapi/grpchttp"
	"github.com/kahu-sh/kahu/localapi/kahuna"
	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/token"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// kahunaWire is Kahuna's gRPC and REST: one handler for the Unix socket and for
// the TCP listeners, if there are any.
type kahunaWire struct {
	service *kahuna.Service
	grpc    *grpchttp.Server
	rest    *rest.Handler
	metrics *kahunaMetrics
	policy  *policy.Policy

	doors       *doors.Server // nil: only the socket speaks it, and so the next five
	listeners   []net.Listener
	speaks      []doors.Scheme // each of them
	certificate *doors.Certificate
	tokens      *token.Store // nil without a token file
	url         string       // that hints carry; empty: none
}

// openKahuna makes the wire and listens where the configuration says so. rules are
// the policy of the socket; it returns the one that counts for both.
func openKahuna(a *agent, rules *policy.Policy) (w *kahunaWire, err error) {
	w = &kahunaWire{}
	cfg := a.cfg.Kahuna
	defer func() {
		if err != nil {
			w.closeListeners()
		}
	}()
	if cfg.TokenFile != "" {
		if w.tokens, err = token.Open(cfg.TokenFile, time.Now, a.log); err != nil {
			return nil, &UnusableError{err}
		}
	}
	if rules, err = remotePolicy(cfg.Insecure, a.cfg, rules); err != nil {
		return nil, err
	}
	w.policy = rules.WithTokens(nil) // of its own: see reload
	if w.tokens != nil {
		w.policy = rules.WithTokens(w.tokens)
	}
	if w.metrics, err = newKahunaMetrics(a.registry); err != nil {
		return nil, err
	}
	w.service, err = kahuna.New(kahuna.Config{
		Coordinator: a.forward, Policy: w.policy, Cluster: kahunaCluster{a}, Logger: a.log, Backups: a.backups.forKahuna(),
		Host: a.cfg.NodeName, Node: a.identity.node, Observer: w.metrics,
		LeaderWait: a.cfg.Timeouts.Request, MaxValueBytes: a.cfg.Limits.ValueSizeBytes,
		MaxMessageBytes: int(cfg.Limits.MessageSizeBytes), AnswerBytes: cfg.Limits.UnreadSizeBytes,
		MaxStreams: cfg.Limits.BatchStreams, MaxInFlight: cfg.Limits.InFlightPerStream, WriteTimeout: cfg.Limits.Unread,
	})
	if err != nil {
		return nil, err
	}
	w.rest = rest.New(rest.Config{Service: w.service, Logger: a.log, MaxBodyBytes: maxBody(cfg.Limits.MessageSizeBytes)})
	w.grpc = grpchttp.New(grpchttp.Config{Logger: a.log, Observer: w.metrics, MaxCalls: cfg.Limits.Requests,
		MaxMessageBytes: w.service.MaxMessageBytes(), WriteTimeout: cfg.Limits.Unread})
	w.service.Register(w.grpc)
	reflection.Register(w.grpc)
	return w, w.listen(a)
}

// maxBody is the largest body of REST, where a message may have so many bytes: they
// are in base64 there. 0: the default.
func maxBody(messageBytes int64) int64 { return (messageBytes + 2) / 3 * 4 }

// ServeHTTP implements http.Handler: clients use one URL for both.
func (w *kahunaWire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if grpchttp.IsRequest(r) {
		w.grpc.ServeHTTP(rw, r)
		return
	}
	w.metrics.observeREST(w.rest, rw, r)
}

// listen binds the TCP listeners; serve makes them heard.
func (w *kahunaWire) listen(a *agent) error {
	cfg := a.cfg.Kahuna
	if len(cfg.Listen) == 0 {
		return nil
	}
	for _, l := range cfg.Listen {
		ln, err := net.Listen("tcp", l.Address)
		if err != nil {
			return fmt.Errorf("listening for Kahuna's clients: %w; choose another --kahuna-listen address or free it", err)
		}
		w.listeners, w.speaks = append(w.listeners, ln), append(w.speaks, doors.Scheme(l.Scheme))
	}
	w.url = cfg.Advertise
	if base, ok := strings.CutSuffix(w.url, ":0"); ok { // the kernel has chosen
		w.url = base + ":" + strconv.Itoa(w.listeners[0].Addr().(*net.TCPAddr).Port)
	}
	var err error
	if cfg.Cert != "" {
		w.certificate, err = doors.LoadCertificate(cfg.Cert, cfg.Key, time.Now, a.log)
	} else {
		w.certificate, err = doors.MakeCertificate(a.identity.dir, certificateNames(a.cfg), time.Now, a.log)
	}
	if err != nil {
		return &UnusableError{err}
	}
	var ca *doors.ClientCA
	if cfg.ClientCA != "" {
		if ca, err = doors.LoadClientCA(cfg.ClientCA, time.Now, a.log); err != nil {
			return &UnusableError{err}
		}
	}
	w.doors, err = doors.New(doors.Config{
		Handler: w, Public: w.public, Certificate: w.certificate, Insecure: cfg.Insecure, ClientCA: ca, Tokens: w.tokens,
		Limits: doors.Limits{Connections: cfg.Limits.Connections, ConnectionsPerAddress: cfg.Limits.ConnectionsPerAddress,
			Requests: cfg.Limits.Requests, StreamsPerConnection: cfg.Limits.StreamsPerConnection,
			HeaderTimeout: cfg.Limits.Header, IdleTimeout: cfg.Limits.Idle, SilenceTimeout: cfg.Limits.Silence, WriteTimeout: cfg.Limits.Unread},
		Registry: a.registry, Logger: a.log,
	})
	if err != nil {
		return err
	}
	if cfg.Insecure {
		a.log.Warn("whoever reaches the Kahuna wire's listeners is trusted, in clear text and without a name (--kahuna-insecure)", "listen", w.addresses())
	}
	return nil
}

// public is what probes ask, who have no credentials.
func (w *kahunaWire) public(r *http.Request) bool {
	return !grpchttp.IsRequest(r) && w.rest.RouteName(r) == "/v1/cluster/health"
}

// certificateNames are those by which clients may call this agent.
func certificateNames(cfg config.Config) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	add := func(host string) {
		ip := net.ParseIP(host)
		if ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) || ip == nil && !isDNSName(host) {
			return
		}
		for _, known := range names {
			if strings.EqualFold(known, host) {
				return
			}
		}
		names = append(names, host)
	}
	add(cfg.NodeName)
	_, rest, _ := strings.Cut(cfg.Kahuna.Advertise, "://")
	addresses := []string{rest, cfg.Advertise}
	for _, l := range cfg.Kahuna.Listen {
		addresses = append(addresses, l.Address)
	}
	for _, address := range addresses {
		if host, _, err := net.SplitHostPort(address); err == nil {
			add(host)
		}
	}
	return names
}

// isDNSName: a certificate can have it, and be checked by it.
func isDNSName(s string) bool {
	return s != "" && len(s) <= 253 && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-.") == "" &&
		!strings.HasPrefix(s, ".") && !strings.HasPrefix(s, "-") && !strings.Contains(s, "..")
}

// addresses are where it listens, written as in the configuration.
func (w *kahunaWire) addresses() []string {
	out := make([]string, len(w.listeners))
	for i, ln := range w.listeners {
		out[i] = config.KahunaListen{Scheme: string(w.speaks[i]), Address: ln.Addr().String()}.String()
	}
	return out
}

// serve returns what serves each TCP listener until close.
func (w *kahunaWire) serve() []func() error {
	var out []func() error
	for i, ln := range w.listeners {
		out = append(out, func() error { return w.doors.Serve(ln, w.speaks[i]) })
	}
	return out
}

// close takes no more connections, ends batch streams when their requests are
// answered, and waits for what is under way until ctx ends. The Unix socket's
// server closes at the same time.
func (w *kahunaWire) close(ctx context.Context) error {
	var ending sync.WaitGroup
	var errs [3]error
	for i, end := range []func(context.Context) error{w.closeDoors, w.service.Close, w.grpc.Close} {
		ending.Go(func() { errs[i] = end(ctx) })
	}
	ending.Wait()
	return errors.Join(errs[:]...)
}

func (w *kahunaWire) closeDoors(ctx context.Context) error {
	if w.doors == nil {
		return nil
	}
	err := w.doors.Close(ctx)
	w.closeListeners() // those that nobody served
	return err
}

func (w *kahunaWire) closeListeners() {
	for _, ln := range w.listeners {
		_ = ln.Close() // most are closed already
	}
}

// status is what kahu status shows of it, nil when only the socket speaks it.
func (w *kahunaWire) status(cfg config.Kahuna) *wire.KahunaStatus {
	if w.doors == nil {
		return nil
	}
	s := &wire.KahunaStatus{Listen: w.addresses(), Advertise: w.url, Insecure: cfg.Insecure, ClientCA: cfg.ClientCA,
		CertificateSHA256: w.certificate.Fingerprint(), CertificateExpires: w.certificate.Leaf().NotAfter}
	if w.tokens != nil {
		s.TokenFile, s.Tokens = cfg.TokenFile, w.tokens.Len()
	}
	if cfg.Insecure {
		s.Warnings = append(s.Warnings, "whoever reaches these listeners is trusted, in clear text and without a name")
	}
	switch left := time.Until(s.CertificateExpires); {
	case left < 0:
		s.Warnings = append(s.Warnings, "the certificate has expired")
	case left < 14*24*time.Hour:
		s.Warnings = append(s.Warnings, fmt.Sprintf("the certificate expires in %d days", left/(24*time.Hour)))
	}
	return s
}
