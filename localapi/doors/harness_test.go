package doors_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/doors"
	"github.com/kahu-sh/kahu/localapi/grpchttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is set by the test.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// ca signs certificates of the test.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(tb testing.TB) *ca {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &ca{cert, key}
}

func (c *ca) issue(tb testing.TB, name string) (certPEM, keyPEM []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name, "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key.Public(), c.key)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

func (c *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

func (c *ca) pair(tb testing.TB, name string) tls.Certificate {
	certPEM, keyPEM := c.issue(tb, name)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

func write(tb testing.TB, path string, content []byte) {
	tb.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

// server is a doors.Server that answers with who asked, in REST and gRPC. A path or
// message "block" waits for release.
type server struct {
	doors    *doors.Server
	speaks   doors.Scheme
	grpc     *grpchttp.Server
	addr     string
	dir      string
	clock    *clock
	log      *syncBuffer
	registry *prometheus.Registry
	released chan struct{}
	release  func()
	came     chan struct{}
	served   chan error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func describe(c *caller.Caller) string {
	if c == nil {
		return "nobody"
	}
	return c.Kind.String() + " " + strings.Join(c.Names, ",")
}

func (s *server) wait(ctx context.Context, what string) {
	if what != "block" {
		return
	}
	s.came <- struct{}{}
	select {
	case <-s.released:
	case <-ctx.Done():
	}
}

func (s *server) service() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "Who", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Am", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			s.wait(ctx, in.GetValue())
			return wrapperspb.String(describe(caller.From(ctx))), nil
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ClientStreams: true, ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			for {
				in := new(wrapperspb.StringValue)
				if err := st.RecvMsg(in); err != nil {
					if err == io.EOF {
						return nil
					}
					return err
				}
				s.wait(st.Context(), in.GetValue())
				if err := st.SendMsg(wrapperspb.String(describe(caller.From(st.Context())))); err != nil {
					return err
				}
			}
		}}}}
}

func start(tb testing.TB, change func(*server, *doors.Config)) *server {
	tb.Helper()
	s := &server{dir: tb.TempDir(), clock: newClock(), log: &syncBuffer{}, registry: prometheus.NewRegistry(),
		released: make(chan struct{}), came: make(chan struct{}, 20_000), served: make(chan error, 1)}
	s.release = sync.OnceFunc(func() { close(s.released) })
	logger := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.grpc = grpchttp.New(grpchttp.Config{Logger: logger, WriteTimeout: time.Minute})
	s.grpc.RegisterService(s.service(), nil)
	cfg := doors.Config{Public: func(r *http.Request) bool { return r.URL.Path == "/public" }, Registry: s.registry, Logger: logger, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if grpchttp.IsRequest(r) {
			s.grpc.ServeHTTP(w, r)
			return
		}
		s.wait(r.Context(), strings.Trim(r.URL.Path, "/"))
		fmt.Fprint(w, describe(caller.From(r.Context())))
	})}
	if change != nil {
		change(s, &cfg)
	}
	if cfg.Certificate == nil {
		c, err := doors.MakeCertificate(s.dir, []string{"localhost", "127.0.0.1"}, s.clock.now, logger)
		if err != nil {
			tb.Fatal(err)
		}
		cfg.Certificate = c
	}
	var err error
	if s.doors, err = doors.New(cfg); err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = ln.Addr().String()
	go func() { s.served <- s.doors.Serve(ln, s.speaks) }()
	tb.Cleanup(func() {
		s.release()
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whoever is still connected is cut off
		_ = s.doors.Close(ctx)
		if err := <-s.served; err != nil {
			tb.Errorf("Serve ended with %v", err)
		}
		if err := s.grpc.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func everybody(_ *server, c *doors.Config) { c.Insecure = true }

// client is how somebody connects.
type client struct {
	clear bool
	h2    bool
	cert  *tls.Certificate
	token string // Authorization as it is
}

func (c client) tls() *tls.Config {
	t := &tls.Config{InsecureSkipVerify: true} // what the server shows has a test of its own
	if c.cert != nil {
		t.Certificates = []tls.Certificate{*c.cert}
	}
	return t
}

// rest asks for a path and returns status and body, or the error of the transport.
func (s *server) rest(tb testing.TB, c client, path string) (int, string, error) {
	tb.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(!c.h2)
	protocols.SetHTTP2(c.h2 && !c.clear)
	protocols.SetUnencryptedHTTP2(c.h2 && c.clear)
	tr := &http.Transport{Protocols: &protocols, TLSClientConfig: c.tls()}
	defer tr.CloseIdleConnections()
	scheme := map[bool]string{true: "http", false: "https"}[c.clear]
	req, err := http.NewRequestWithContext(tb.Context(), "GET", scheme+"://"+s.addr+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", c.token)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if want := map[bool]int{true: 2, false: 1}[c.h2]; res.ProtoMajor != want {
		tb.Errorf("answered by HTTP/%d, want %d", res.ProtoMajor, want)
	}
	return res.StatusCode, string(body), err
}

func (s *server) dial(tb testing.TB, c client) *grpc.ClientConn {
	tb.Helper()
	creds := insecure.NewCredentials()
	if !c.clear {
		creds = credentials.NewTLS(c.tls())
	}
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// who asks over gRPC.
func (s *server) who(tb testing.TB, conn *grpc.ClientConn, c client, what string) (string, error) {
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.token)
	}
	out := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, "/Who/Am", wrapperspb.String(what), out)
	return out.GetValue(), err
}

func (s *server) open(ctx context.Context, tb testing.TB, conn *grpc.ClientConn) grpc.ClientStream {
	tb.Helper()
	st, err := conn.NewStream(ctx, &s.service().Streams[0], "/Who/Stream")
	if err != nil {
		tb.Fatal(err)
	}
	return st
}

// metric is the value of one series, "name" or `name{label="value"}`.
func (s *server) metric(tb testing.TB, name, label string) float64 {
	tb.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// until polls; the test's own time limit ends it.
func until(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-timeout:
			tb.Fatalf("it did not come about: %s", what)
		}
	}
}
