package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// authority is a CA of a test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
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

// issue puts a certificate of role that is valid until then, its key and the CAs
// that are trusted where cfg looks for them. Files are replaced whole.
func (a *authority) issue(t *testing.T, cfg config.Config, role string, until time.Time, trusted ...*authority) {
	t.Helper()
	cert, key := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: cfg.NodeName}, DNSNames: []string{role},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until})
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var cas []byte
	for _, ca := range append(trusted, a) {
		cas = append(cas, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})...)
	}
	for _, f := range []struct {
		path string
		text []byte
	}{
		{cfg.PKI.CA, cas},
		{cfg.PKI.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})},
		{cfg.PKI.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})},
	} {
		if err := os.WriteFile(f.path+".new", f.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(f.path+".new", f.path); err != nil {
			t.Fatal(err)
		}
	}
}

// notes is a log that a test reads.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

// count is how many lines have all of these words.
func (n *notes) count(words ...string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := 0
lines:
	for line := range strings.Lines(n.text.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		found++
	}
	return found
}

// newPKIFleet is a fleet with certificates of ca: of a proxy on the last host, of
// voters on the others. Their secret is a proxy's on all of them.
func newPKIFleet(t *testing.T, n int, ca *authority) (*fleet, map[*host]*notes) {
	t.Helper()
	f := newFleet(t, n, n)
	logs := map[*host]*notes{}
	for _, h := range f.hosts {
		dir := filepath.Dir(h.cfg.SecretFile)
		h.cfg.PKI = config.PKI{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt"),
			VoterName: "kahu-voter", ProxyName: "kahu-proxy"}
		logs[h] = &notes{}
		h.options.Logger = slog.New(slog.NewTextHandler(logs[h], nil))
		ca.issue(t, h.cfg, pkiRole(f, h), time.Now().Add(time.Hour))
	}
	return f, logs
}

// pkiRole is what the certificate of h is issued to.
func pkiRole(f *fleet, h *host) string {
	if h == f.hosts[len(f.hosts)-1] {
		return "kahu-proxy"
	}
	return "kahu-voter"
}

// An own PKI instead of certificates from the secret: it tells voters from proxies,
// is renewed and replaced under a held lock, and when nobody renews it what is
// connected goes on.
func TestOwnPKI(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	f, logs := newPKIFleet(t, 4, ca)
	f.startAll()
	for _, h := range f.hosts {
		f.await(h.name+" knows all", func() bool { return f.roles(h) == "h1=voter h2=voter h3=voter h4=proxy" })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for _, h := range f.hosts {
		if _, err := h.client.KVSet(ctx, "k", []byte(h.name), client.WriteOptions{}); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
	}
	holds := []*client.Hold{acquire(t, f.hosts[0].client, "of a voter"), acquire(t, f.hosts[3].client, "of a proxy")}
	if _, err := f.hosts[0].client.ClusterChange(ctx, wire.ClusterPromote, "h4"); err == nil || !strings.Contains(err.Error(), "proxy's secret or certificate") {
		t.Errorf("a host with a proxy's certificate is given a vote: %v", err)
	}
	everywhere := func(what string, words ...string) {
		t.Helper()
		for _, h := range f.hosts {
			f.await(h.name+" "+what, func() bool { return logs[h].count(words...) == 1 })
		}
		for _, hold := range holds {
			stillHeld(t, hold)
		}
	}

	// Renewed by the same CA: nothing is dropped.
	soon := time.Now().Add(2 * time.Hour)
	for _, h := range f.hosts {
		ca.issue(t, h.cfg, pkiRole(f, h), soon)
	}
	everywhere("has read its certificate again", "were read again", "connections_dropped=false", fmt.Sprint("not_after=", soon.UTC().Format("2006-01-02T15:04:05")))

	// Another CA is trusted as well, then issues, and then alone.
	next := newAuthority(t)
	for _, h := range f.hosts {
		ca.issue(t, h.cfg, pkiRole(f, h), soon.Add(time.Hour), next)
	}
	everywhere("trusts both", "were read again", fmt.Sprint("not_after=", soon.Add(time.Hour).UTC().Format("2006-01-02T15:04:05")))
	for _, h := range f.hosts {
		next.issue(t, h.cfg, pkiRole(f, h), soon.Add(2*time.Hour), ca)
	}
	everywhere("shows one of the next CA", "were read again", fmt.Sprint("not_after=", soon.Add(2*time.Hour).UTC().Format("2006-01-02T15:04:05")))
	for _, h := range f.hosts {
		next.issue(t, h.cfg, pkiRole(f, h), soon.Add(3*time.Hour))
	}
	everywhere("trusts the next alone", "were read again", "connections_dropped=true")
	for _, h := range f.hosts {
		if _, err := h.client.KVSet(ctx, "k", []byte(h.name), client.WriteOptions{}); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
	}

	// Files that cannot be used change nothing, and are told once.
	if err := os.WriteFile(f.hosts[0].cfg.PKI.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.await("h1 says so", func() bool { return logs[f.hosts[0]].count("cannot be used: those in use stay") == 1 })

	// Nobody renews: what is connected goes on, and each says so once.
	for _, h := range f.hosts {
		next.issue(t, h.cfg, pkiRole(f, h), time.Now().Add(-time.Minute))
	}
	everywhere("says that it has expired", "level=ERROR", "certificate of this agent has expired")
	for range 20 { // renewals among them
		for _, h := range f.hosts {
			if _, err := h.client.KVSet(ctx, "k", []byte(h.name), client.WriteOptions{}); err != nil {
				t.Fatalf("%s, with expired certificates: %v", h.name, err)
			}
		}
	}
	everywhere("says it once", "level=ERROR", "certificate of this agent has expired")
	// Who is connected anew is refused, until there are certificates again.
	f.hosts[3].stop()
	f.start(f.hosts[3])
	if _, err := f.hosts[3].client.KVGet(short(t), "k", client.ReadOptions{}); err == nil {
		t.Error("an expired certificate is taken from who connects anew")
	}
	for _, h := range f.hosts {
		next.issue(t, h.cfg, pkiRole(f, h), time.Now().Add(time.Hour))
	}
	f.await("h4 is taken in again", func() bool {
		e, err := f.hosts[3].client.KVGet(short(t), "k", client.ReadOptions{})
		return err == nil && len(e.Value) > 0
	})
	stillHeld(t, holds[0])
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

// What an own PKI and a role do not fit is refused at the start, in one line.
func TestOwnPKIThatDoesNotFit(t *testing.T) {
	ca := newAuthority(t)
	for role, says := range map[config.Role]string{config.Voter: "or start this agent with --role proxy", config.Auto: "name at least one of them with --join"} {
		cfg := load(t, func(c *config.File) { c.Role, c.Bind = string(role), freeAddress(t) })
		dir := t.TempDir()
		cfg.PKI = config.PKI{Cert: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k"), CA: filepath.Join(dir, "a"), VoterName: "kahu-voter", ProxyName: "kahu-proxy"}
		ca.issue(t, cfg, "kahu-proxy", time.Now().Add(time.Hour))
		if err := agent.Run(t.Context(), cfg, options(func() {})); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("a proxy's certificate with role %s: %v, want %q", role, err, says)
		}
	}
}
