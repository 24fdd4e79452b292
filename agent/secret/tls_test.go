package secret_test

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/secret"
)

func keys(t *testing.T, secrets ...secret.Secret) *secret.Keys {
	t.Helper()
	k, err := secret.New(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must(t *testing.T) func(*tls.Config, error) *tls.Config {
	return func(c *tls.Config, err error) *tls.Config {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// connected are the two ends of a connection.
func connected() (a, b net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // no test works without loopback
	}
	defer l.Close()
	if b, err = net.Dial("tcp", l.Addr().String()); err != nil {
		panic(err)
	}
	if a, err = l.Accept(); err != nil {
		panic(err)
	}
	return a, b
}

// handshake connects both configurations and exchanges a byte each way, since
// a TLS 1.3 client learns only by reading that the server refused it.
func handshake(server, client *tls.Config) (ss, cs tls.ConnectionState, err error) {
	// Not a pipe: two ends that refuse each other write at the same time.
	a, b := connected()
	defer a.Close()
	defer b.Close()
	s, c := tls.Server(a, server), tls.Client(b, client)
	served := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		if err != nil {
			a.Close()
		}
		served <- err
	}()
	cerr := c.Handshake()
	if cerr == nil {
		_, cerr = c.Read(make([]byte, 1))
	}
	if cerr != nil {
		b.Close()
	}
	return s.ConnectionState(), c.ConnectionState(), errors.Join(<-served, cerr)
}

func TestMutualIdentity(t *testing.T) {
	v := secret.Generate()
	voter, proxy := keys(t, v), keys(t, v.Proxy())
	m := must(t)
	for name, c := range map[string]struct {
		server, client           *secret.Keys
		serverVoter, clientVoter bool
	}{
		"voter to voter": {voter, voter, true, true},
		"proxy to voter": {voter, proxy, true, false},
		"voter to proxy": {proxy, voter, false, true},
		"proxy to proxy": {proxy, proxy, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			ss, cs, err := handshake(m(c.server.ServerTLS("server-1")), m(c.client.ClientTLS("client-1")))
			if err != nil {
				t.Fatal(err)
			}
			if ss.Version != tls.VersionTLS13 {
				t.Fatalf("version %x", ss.Version)
			}
			if node, isVoter, err := c.server.Identify(ss); err != nil || node != "client-1" || isVoter != c.clientVoter {
				t.Fatalf("the server sees %s, voter %v, %v", node, isVoter, err)
			}
			if node, isVoter, err := c.client.Identify(cs); err != nil || node != "server-1" || isVoter != c.serverVoter {
				t.Fatalf("the client sees %s, voter %v, %v", node, isVoter, err)
			}
		})
	}
}

func TestRefusedHandshakes(t *testing.T) {
	v, other := secret.Generate(), secret.Generate()
	voter, proxy, stranger := keys(t, v), keys(t, v.Proxy()), keys(t, other)
	m := must(t)
	noCert := m(voter.ClientTLS("client"))
	noCert.Certificates = nil
	old := m(voter.ClientTLS("client"))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, c := range map[string]struct{ server, client *tls.Config }{
		"another secret":                      {m(voter.ServerTLS("s")), m(stranger.ClientTLS("c"))},
		"another proxy's secret":              {m(voter.ServerTLS("s")), m(keys(t, other.Proxy()).ClientTLS("c"))},
		"no certificate":                      {m(voter.ServerTLS("s")), noCert},
		"TLS 1.2":                             {m(voter.ServerTLS("s")), old},
		"a proxy where voters are":            {m(voter.VoterServerTLS("s")), m(proxy.ClientTLS("c"))},
		"a proxy that plays the voter":        {m(proxy.ServerTLS("s")), m(voter.VoterClientTLS("c"))},
		"a stranger that plays the voter":     {m(stranger.ServerTLS("s")), m(voter.ClientTLS("c"))},
		"a stranger that a proxy would trust": {m(stranger.ServerTLS("s")), m(proxy.ClientTLS("c"))},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := handshake(c.server, c.client); err == nil {
				t.Fatal("the handshake succeeded")
			}
		})
	}
}

// Whoever has P can let the proxies' authority sign what it likes, such as that
// it is a voter: the authority decides.
func TestForgedVoter(t *testing.T) {
	v := secret.Generate()
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(v.Proxy().Line(), "kahu-proxy-secret-v1:"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := hkdf.Key(sha256.New, raw[:32], nil, "kahu v1 proxy ca ed25519 seed", 32)
	if err != nil {
		t.Fatal(err)
	}
	ca := ed25519.NewKeyFromSeed(seed)
	public, private, _ := ed25519.GenerateKey(nil)
	voter := keys(t, v)
	for uri, says := range map[string]string{
		"kahu://voter/n1":  "comes from the authority of a proxy",
		"kahu://proxy/":    "not a node of kahu",
		"kahu://proxy/a/b": "not a node of kahu",
		"http://proxy/n1":  "not a node of kahu",
	} {
		u, _ := url.Parse(uri)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(7), DNSNames: []string{"kahu"}, URIs: []*url.URL{u},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<34, 0),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, &x509.Certificate{Subject: pkix.Name{CommonName: "kahu proxies " + v.ID()}}, public, ca)
		if err != nil {
			t.Fatal(err)
		}
		client := must(t)(keys(t, v.Proxy()).ClientTLS("n1"))
		client.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}
		if _, _, err := handshake(must(t)(voter.VoterServerTLS("s")), client); err == nil {
			t.Errorf("%s: accepted where voters are", uri)
		}
		ss, _, err := handshake(must(t)(voter.ServerTLS("s")), client)
		if err != nil {
			t.Fatalf("%s: the forged certificate is not even a proxy's, so the test shows nothing: %v", uri, err)
		}
		if node, isVoter, err := voter.Identify(ss); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: identified as %s, voter %v, %v", uri, node, isVoter, err)
		}
	}
}

// A wrong wall clock must not cost a lock (HAZARDS.md 11). The configuration
// brings its own time, so the clock of the host is not asked at all; that the
// certificates hold at any time is checked by asking with others.
func TestWrongClock(t *testing.T) {
	v := secret.Generate()
	k := keys(t, v)
	m := must(t)
	server, client := m(k.ServerTLS("s")), m(k.ClientTLS("c"))
	if a, b := server.Time(), client.Time(); !a.Equal(b) || a.IsZero() {
		t.Fatalf("checked at %v and %v", a, b)
	}
	first := server.Time()
	for range 3 {
		if now := server.Time(); !now.Equal(first) {
			t.Fatalf("the time of the check moves: %v, %v", first, now)
		}
	}
	for _, year := range []int{2001, 2026, 2100, 9999} {
		at := func() time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }
		s, c := server.Clone(), client.Clone()
		s.Time, c.Time = at, at
		if _, _, err := handshake(s, c); err != nil {
			t.Errorf("in %d: %v", year, err)
		}
	}
}

func TestRotation(t *testing.T) {
	old, next := secret.Generate(), secret.Generate()
	m := must(t)
	steps := [][]secret.Secret{{old}, {old, next}, {next, old}, {next}}
	for i, a := range steps {
		for j, b := range steps {
			_, cs, err := handshake(m(keys(t, a...).ServerTLS("s")), m(keys(t, b...).ClientTLS("c")))
			neighbours := i-j <= 1 && j-i <= 1
			if neighbours && err != nil {
				t.Errorf("step %d to step %d: %v", j, i, err)
			}
			if (i == 0 && j == 3 || i == 3 && j == 0) && err == nil {
				t.Errorf("step %d to step %d: the dropped secret is accepted", j, i)
			}
			if err == nil {
				if _, isVoter, err := keys(t, b...).Identify(cs); err != nil || !isVoter {
					t.Errorf("step %d to step %d: %v", j, i, err)
				}
			}
		}
	}
	k := keys(t, next, old)
	if ids := k.IDs(); ids[0] != next.ID() || ids[1] != old.ID() || len(k.GossipKeys()) != 2 {
		t.Fatal(ids)
	}
}

func TestNodeIDs(t *testing.T) {
	k := keys(t, secret.Generate())
	for _, bad := range []string{"", "a/b", "a b", "ä", "-a", "../x", strings.Repeat("x", 129)} {
		if _, err := k.ServerTLS(bad); err == nil {
			t.Errorf("%q was accepted as a node id", bad)
		}
	}
	if _, _, err := k.Identify(tls.ConnectionState{}); err == nil {
		t.Error("a connection without certificates was identified")
	}
}
