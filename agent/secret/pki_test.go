package secret_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/secret"
)

// authority is a CA of a test's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, under *authority) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = sign(t, under, &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	return a
}

// sign makes a certificate; it is its own CA without one.
func sign(t *testing.T, by *authority, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// both is what a certificate between agents is for.
var both = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// leaf is a certificate that is issued to names, DNS or URI.
func leaf(names ...string) *x509.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "agent"}, ExtKeyUsage: both, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, name := range names {
		if u, err := url.Parse(name); err == nil && u.Host != "" {
			c.URIs = append(c.URIs, u)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	return c
}

// files writes what an agent is given. between are added to its certificate.
func files(t *testing.T, trusted, by *authority, template *x509.Certificate, between ...*authority) secret.PKIOptions {
	t.Helper()
	dir := t.TempDir()
	cert, key := sign(t, by, template)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	for _, a := range between {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	}
	o := secret.PKIOptions{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), CAFile: filepath.Join(dir, "ca.pem"),
		VoterName: secret.DefaultVoterName, ProxyName: secret.DefaultProxyName, Now: time.Now}
	for path, text := range map[string][]byte{
		o.CertFile: chain,
		o.KeyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		o.CAFile:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.cert.Raw}),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func pki(t *testing.T, o secret.PKIOptions) *secret.PKI {
	t.Helper()
	p, err := secret.LoadPKI(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOwnPKITellsRoles(t *testing.T) {
	ca := newAuthority(t, nil)
	between := newAuthority(t, ca)
	voter := pki(t, files(t, ca, ca, leaf("KAHU-voter", "host1.example.org")))
	proxy := pki(t, files(t, ca, between, leaf("kahu-proxy"), between)) // by way of another CA
	m := must(t)
	for name, c := range map[string]struct {
		server, client *secret.PKI
		want           [2]bool // whether the server, and the client, is a voter
	}{
		"voter to voter": {voter, voter, [2]bool{true, true}},
		"proxy to voter": {voter, proxy, [2]bool{true, false}},
		"voter to proxy": {proxy, voter, [2]bool{false, true}},
	} {
		ss, cs, err := handshake(c.server.ServerTLS(), c.client.ClientTLS())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := c.client.Identify(cs); err != nil || got != c.want[0] {
			t.Errorf("%s: the server is a voter: %v, %v", name, got, err)
		}
		if got, err := c.server.Identify(ss); err != nil || got != c.want[1] {
			t.Errorf("%s: the client is a voter: %v, %v", name, got, err)
		}
		if ss.Version != tls.VersionTLS13 {
			t.Errorf("%s: version %x", name, ss.Version)
		}
	}
	if _, _, err := handshake(m(voter.VoterServerTLS()), m(voter.VoterClientTLS())); err != nil {
		t.Errorf("among voters: %v", err)
	}
	if _, err := proxy.VoterClientTLS(); err == nil || !strings.Contains(err.Error(), "needs one that is issued to") {
		t.Errorf("a proxy among voters: %v", err)
	}
	if !voter.IsVoter() || proxy.IsVoter() {
		t.Error("the own role is another one")
	}
	// By the names of a workload identity.
	o := files(t, ca, ca, leaf("spiffe://example.org/kahu/voter", "kahu-proxy"))
	o.VoterName, o.ProxyName = "spiffe://example.org/kahu/voter", "spiffe://example.org/kahu/proxy"
	if !pki(t, o).IsVoter() {
		t.Error("a URI makes no voter")
	}
}

func TestOwnPKIRefuses(t *testing.T) {
	ca, other := newAuthority(t, nil), newAuthority(t, nil)
	voter := pki(t, files(t, ca, ca, leaf("kahu-voter")))
	// forged has a working reading, and shows another certificate.
	forged := func(by *authority, template *x509.Certificate) *tls.Config {
		cert, key := sign(t, by, template)
		c := voter.ClientTLS()
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
		return c
	}
	expired, early, serverOnly := leaf("kahu-voter"), leaf("kahu-voter"), leaf("kahu-voter")
	expired.NotAfter = time.Now().Add(-time.Minute)
	early.NotBefore = time.Now().Add(time.Minute)
	serverOnly.ExtKeyUsage = both[:1]
	none := voter.ClientTLS()
	none.Certificates = nil
	old := voter.ClientTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, c := range map[string]struct {
		client *tls.Config
		says   string
	}{
		"another CA":             {forged(other, leaf("kahu-voter")), "unknown authority"},
		"its own CA":             {forged(nil, leaf("kahu-voter")), "unknown authority"},
		"issued to a web server": {forged(ca, leaf("www.example.org")), "neither"},
		"a wildcard":             {forged(ca, leaf("*", "*.example.org")), "neither"},
		"voter and proxy":        {forged(ca, leaf("kahu-voter", "kahu-proxy")), "nobody's"},
		"expired":                {forged(ca, expired), "expired"},
		"not valid yet":          {forged(ca, early), "not yet valid"},
		"for servers only":       {forged(ca, serverOnly), "usage"},
		"none":                   {none, "certificate"},
		"TLS 1.2":                {old, "version"},
		"derived from a secret":  {must(t)(keys(t, secret.Generate()).ClientTLS("n1")), "certificate"},
	} {
		_, _, err := handshake(voter.ServerTLS(), c.client)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	proxy := pki(t, files(t, ca, ca, leaf("kahu-proxy")))
	if _, _, err := handshake(must(t)(voter.VoterServerTLS()), proxy.ClientTLS()); err == nil || !strings.Contains(err.Error(), "only voters") {
		t.Errorf("a proxy where voters are: %v", err)
	}
	if _, _, err := handshake(proxy.ServerTLS(), must(t)(voter.VoterClientTLS())); err == nil || !strings.Contains(err.Error(), "only voters") {
		t.Errorf("a proxy that is dialled as a voter: %v", err)
	}
}

func TestOwnPKIThatCannotBeUsed(t *testing.T) {
	ca, other := newAuthority(t, nil), newAuthority(t, nil)
	clientOnly := leaf("kahu-voter")
	clientOnly.ExtKeyUsage = both[1:]
	for name, c := range map[string]struct {
		make func() secret.PKIOptions
		says string
	}{
		"another CA's":   {func() secret.PKIOptions { return files(t, other, ca, leaf("kahu-voter")) }, "has to come from the CA file"},
		"without a role": {func() secret.PKIOptions { return files(t, ca, ca, leaf("host1")) }, `neither "kahu-voter" nor "kahu-proxy"`},
		"for clients":    {func() secret.PKIOptions { return files(t, ca, ca, clientOnly) }, "for clients and for servers"},
		"no CA in it": {func() secret.PKIOptions {
			o := files(t, ca, ca, leaf("kahu-voter"))
			o.CAFile = o.CertFile
			return o
		}, "is no CA"},
		"another's key": {func() secret.PKIOptions {
			o := files(t, ca, ca, leaf("kahu-voter"))
			o.KeyFile = files(t, ca, ca, leaf("kahu-voter")).KeyFile
			return o
		}, "cannot be used"},
		"no file": {func() secret.PKIOptions {
			o := files(t, ca, ca, leaf("kahu-voter"))
			o.KeyFile += "x"
			return o
		}, "no such file"},
		"no PEM": {func() secret.PKIOptions {
			o := files(t, ca, ca, leaf("kahu-voter"))
			o.CAFile = o.KeyFile
			return o
		}, "no PEM certificate"},
	} {
		_, err := secret.LoadPKI(c.make())
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q in one line", name, err, c.says)
		}
	}
	// An expired one is for others to refuse.
	gone := leaf("kahu-voter")
	gone.NotBefore, gone.NotAfter = time.Now().Add(-50*time.Minute), time.Now().Add(-time.Minute)
	if p := pki(t, files(t, ca, ca, gone)); p.NotAfter().After(time.Now()) {
		t.Error("it has not expired")
	}
	same := pki(t, files(t, ca, ca, leaf("kahu-voter")))
	if same.Distrusts(same) || !pki(t, files(t, other, other, leaf("kahu-voter"))).Distrusts(same) {
		t.Error("a CA that is gone does not count")
	}
}
