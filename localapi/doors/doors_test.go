package doors_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kahu-sh/kahu/localapi/doors"
	"github.com/kahu-sh/kahu/localapi/token"
)

// Every door: TLS and clear text, HTTP/1.1 and HTTP/2, REST and gRPC, on one port.
func TestEveryWayIn(t *testing.T) {
	s := start(t, everybody)
	for _, clear := range []bool{true, false} {
		for _, h2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("clear=%v,h2=%v", clear, h2), func(t *testing.T) {
				// What stock clients of Kahuna send over REST is not looked at.
				c := client{clear: clear, h2: h2, token: "Bearer xxx"}
				if code, body, err := s.rest(t, c, "/x"); code != 200 || body != "anonymous " || err != nil {
					t.Errorf("REST: %d %q, %v", code, body, err)
				}
				if !h2 {
					return // gRPC is HTTP/2
				}
				conn := s.dial(t, c)
				if got, err := s.who(t, conn, c, ""); got != "anonymous " || err != nil {
					t.Errorf("gRPC: %q, %v", got, err)
				}
				st := s.open(t.Context(), t, conn)
				for range 3 {
					out := new(wrapperspb.StringValue)
					if err := st.SendMsg(wrapperspb.String("")); err != nil {
						t.Fatal(err)
					}
					if err := st.RecvMsg(out); err != nil || out.GetValue() != "anonymous " {
						t.Errorf("stream: %q, %v", out.GetValue(), err)
					}
				}
				if err := st.CloseSend(); err != nil {
					t.Error(err)
				}
				if err := st.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
					t.Errorf("the stream ended with %v", err)
				}
			})
		}
	}
}

// Who is who, and who is nobody.
func TestWhoMay(t *testing.T) {
	trusted, other := newCA(t), newCA(t)
	right, wrong := trusted.pair(t, "billing.example.org"), other.pair(t, "billing.example.org")
	var valid string
	withTokens := func(s *server, c *doors.Config) {
		path := filepath.Join(s.dir, "tokens")
		var err error
		if valid, _, err = token.Create(path, token.Entry{Name: "ci", Allow: []string{"read"}}, s.clock.now()); err != nil {
			t.Fatal(err)
		}
		if c.Tokens, err = token.Open(path, s.clock.now, c.Logger); err != nil {
			t.Fatal(err)
		}
	}
	withCA := func(s *server, c *doors.Config) {
		path := filepath.Join(s.dir, "ca.pem")
		write(t, path, trusted.pem())
		var err error
		if c.ClientCA, err = doors.LoadClientCA(path, s.clock.now, c.Logger); err != nil {
			t.Fatal(err)
		}
	}
	const cert, nobody, broken = "certificate billing.example.org,billing.example.org,localhost", "401", "no connection"
	for _, tc := range []struct {
		name   string
		config func(*server, *doors.Config)
		client func() client
		want   string
	}{
		{"tokens: none", withTokens, func() client { return client{} }, nobody},
		{"tokens: stock client", withTokens, func() client { return client{token: "Bearer xxx"} }, nobody},
		{"tokens: valid", withTokens, func() client { return client{token: "Bearer " + valid} }, "token ci"},
		{"tokens: scheme in another case", withTokens, func() client { return client{token: "bearer  " + valid} }, "token ci"},
		{"tokens: other scheme", withTokens, func() client { return client{token: "Basic " + valid} }, nobody},
		{"tokens: two", withTokens, func() client { return client{token: "Bearer " + valid + ", " + valid} }, nobody},
		{"tokens: certificate of nobody", withTokens, func() client { return client{cert: &wrong} }, nobody},
		{"tokens: clear text", withTokens, func() client { return client{clear: true, token: "Bearer " + valid} }, broken},
		{"CA: none", withCA, func() client { return client{} }, nobody},
		{"CA: token", withCA, func() client { return client{token: "Bearer xxx"} }, nobody},
		{"CA: wrong certificate", withCA, func() client { return client{cert: &wrong} }, broken},
		{"CA: right certificate", withCA, func() client { return client{cert: &right} }, cert},
		{"both: none", func(s *server, c *doors.Config) { withCA(s, c); withTokens(s, c) }, func() client { return client{} }, nobody},
		{"both: wrong certificate", func(s *server, c *doors.Config) { withCA(s, c); withTokens(s, c) }, func() client { return client{cert: &wrong} }, broken},
		{"both: certificate before token", func(s *server, c *doors.Config) { withCA(s, c); withTokens(s, c) },
			func() client { return client{cert: &right, token: "Bearer xxx"} }, cert},
		{"both: token", func(s *server, c *doors.Config) { withCA(s, c); withTokens(s, c) }, func() client { return client{token: "Bearer " + valid} }, "token ci"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t, tc.config)
			c := tc.client()
			for _, h2 := range []bool{false, true} {
				c.h2 = h2
				code, body, err := s.rest(t, c, "/x")
				got := body
				switch {
				case err != nil || code == 400 && c.clear: // net/http says in clear text that it wants TLS
					got = broken
				case code == 401 && strings.Contains(body, `"detail"`):
					got = nobody
				}
				if got != tc.want {
					t.Errorf("REST (h2 %v): %d %q, %v, want %q", h2, code, body, err, tc.want)
				}
			}
			got, err := s.who(t, s.dial(t, c), c, "")
			switch status.Code(err) {
			case codes.Unauthenticated:
				got = nobody
			case codes.Unavailable:
				got = broken
			}
			if got != tc.want {
				t.Errorf("gRPC: %q, %v, want %q", got, err, tc.want)
			}
			if c.clear || got == broken {
				return
			}
			if code, body, err := s.rest(t, client{}, "/public"); code != 200 || body != "nobody" || err != nil {
				t.Errorf("what is for everybody: %d %q, %v", code, body, err)
			}
			if strings.Contains(s.log.String(), "kahu_") {
				t.Error("a token is in the log")
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	s := start(t, everybody)
	ca := newCA(t)
	path := filepath.Join(s.dir, "ca.pem")
	write(t, path, ca.pem())
	clientCA, err := doors.LoadClientCA(path, s.clock.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := doors.MakeCertificate(s.dir, nil, s.clock.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	good := doors.Config{Handler: http.NotFoundHandler(), Certificate: cert, Registry: s.registry, Logger: slog.New(slog.DiscardHandler)}
	both, nobody := good, good
	both.Insecure, both.ClientCA = true, clientCA
	for name, cfg := range map[string]doors.Config{"both": both, "nobody": nobody, "empty": {Insecure: true}} {
		if _, err := doors.New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// leaf is the common name of what the server shows a new connection.
func (s *server) leaf(t *testing.T) string {
	t.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestCertificateIsReadAgain(t *testing.T) {
	ca := newCA(t)
	var certFile, keyFile string
	s := start(t, func(s *server, c *doors.Config) {
		c.Insecure = true
		certFile, keyFile = filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem")
		certPEM, keyPEM := ca.issue(t, "first")
		write(t, certFile, certPEM)
		write(t, keyFile, keyPEM)
		var err error
		if c.Certificate, err = doors.LoadCertificate(certFile, keyFile, s.clock.now, c.Logger); err != nil {
			t.Fatal(err)
		}
	})
	if got := s.leaf(t); got != "first" {
		t.Fatalf("shows %q", got)
	}
	certPEM, keyPEM := ca.issue(t, "second")
	write(t, certFile, certPEM) // the key still is the first's
	if got := s.leaf(t); got != "first" {
		t.Errorf("shows %q although its second is not over", got)
	}
	s.clock.add(2 * time.Second)
	if got := s.leaf(t); got != "first" || !strings.Contains(s.log.String(), "is not used") {
		t.Errorf("with a key that does not fit it shows %q", got)
	}
	write(t, keyFile, keyPEM)
	s.clock.add(2 * time.Second)
	if got := s.leaf(t); got != "second" {
		t.Errorf("shows %q, want the second", got)
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	s.clock.add(2 * time.Second)
	if got := s.leaf(t); got != "second" {
		t.Errorf("with its file gone it shows %q", got)
	}
}

func TestClientCAIsReadAgain(t *testing.T) {
	first, second := newCA(t), newCA(t)
	var path string
	s := start(t, func(s *server, c *doors.Config) {
		path = filepath.Join(s.dir, "ca.pem")
		write(t, path, first.pem())
		var err error
		if c.ClientCA, err = doors.LoadClientCA(path, s.clock.now, c.Logger); err != nil {
			t.Fatal(err)
		}
	})
	a, b := first.pair(t, "a"), second.pair(t, "b")
	may := func(c tls.Certificate) bool {
		_, _, err := s.rest(t, client{cert: &c}, "/x")
		return err == nil
	}
	if !may(a) || may(b) {
		t.Fatal("the first CA's clients may not, or others may")
	}
	write(t, path, second.pem())
	s.clock.add(2 * time.Second)
	if may(a) || !may(b) {
		t.Error("a changed client CA does not count")
	}
	write(t, path, []byte("nothing"))
	s.clock.add(2 * time.Second)
	if may(a) || !may(b) {
		t.Error("a useless client CA counts")
	}
}

// The certificate that the agent makes lasts over starts, and is made anew when it
// must be.
func TestMadeCertificate(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	make := func(names ...string) (*doors.Certificate, bool) {
		t.Helper()
		before := ""
		if old, err := doors.LoadCertificate(filepath.Join(dir, "kahuna-cert.pem"), filepath.Join(dir, "kahuna-key.pem"), c.now, slog.New(slog.DiscardHandler)); err == nil {
			before = old.Fingerprint()
		}
		made, err := doors.MakeCertificate(dir, names, c.now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := made.Leaf().VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
		return made, made.Fingerprint() != before
	}
	if _, fresh := make("localhost", "127.0.0.1"); !fresh {
		t.Error("nothing was made")
	}
	if info, err := os.Stat(filepath.Join(dir, "kahuna-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	if _, fresh := make("localhost"); fresh {
		t.Error("made anew for no reason: clients may have pinned it")
	}
	if _, fresh := make("localhost", "10.0.0.1"); !fresh {
		t.Error("it does not name all addresses")
	}
	c.add(10*365*24*time.Hour - 24*time.Hour)
	if _, fresh := make("localhost"); !fresh {
		t.Error("it is about to expire")
	}
	if err := os.WriteFile(filepath.Join(dir, "kahuna-key.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, fresh := make("localhost"); !fresh {
		t.Error("the key does not fit")
	}
}

// Close lets what is under way end, on every door, and takes nothing new.
func TestCloseWaits(t *testing.T) {
	s := start(t, everybody)
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 4)
	for _, c := range []client{{clear: true}, {clear: true, h2: true}, {}, {h2: true}} {
		go func() {
			_, body, err := s.rest(t, c, "/block")
			answers <- answer{body, err}
		}()
	}
	for range 4 {
		<-s.came
	}
	silent, err := net.Dial("tcp", s.addr) // it never says anything
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := make(chan error, 1)
	go func() { closed <- s.doors.Close(t.Context()) }()
	until(t, "no connection is taken", func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case err := <-closed:
		t.Fatalf("closed over requests under way: %v", err)
	default:
	}
	s.release()
	for range 4 {
		if a := <-answers; a.err != nil || a.text != "anonymous " {
			t.Errorf("a request under way was answered %q, %v", a.text, a.err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestCloseCutsOff(t *testing.T) {
	s := start(t, everybody)
	ended := make(chan error, 1)
	go func() {
		_, _, err := s.rest(t, client{clear: true, h2: true}, "/block")
		ended <- err
	}()
	<-s.came
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.doors.Close(ctx); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Close says %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("a request that was cut off succeeded")
	}
}
