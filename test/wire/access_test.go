package wire_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issue writes a certificate and its key, self-signed or signed by issuer.
func issue(t *testing.T, dir, name string, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if issuer == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		issuer, issuerKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, path), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestEveryWayToShowWhoOneIs: a bearer token and a client certificate through kahu
// bench, which reads both from files, under TLS and on a listener for a proxy that
// ends it; and the words for who shows nothing, or shows it where it could be read.
func TestEveryWayToShowWhoOneIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca, caKey := issue(t, dir, "ca", nil, nil)
	issue(t, dir, "app", ca, caKey)
	text, err := exec.CommandContext(t.Context(), agents.binary, "token", "create", "ci", "--file", at("tokens"), "--allow", "read,write", "--prefix", "bench/").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("ci.token"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	o := startOwn(t, "policy: [{certificates: [app], prefixes: [bench/], allow: [read, write]}, {everyone: true, allow: [admin]}]\n",
		"--kahuna-listen", "127.0.0.1:0,http://127.0.0.1:0", "--kahuna-client-ca", at("ca.pem"), "--kahuna-token-file", at("tokens"))
	s, err := o.agent.Status(t.Context())
	if err != nil || len(s.Kahuna.Listen) != 2 {
		t.Fatalf("%+v, %v", s.Kahuna, err)
	}
	secure, clear := "https://"+s.Kahuna.Listen[0], s.Kahuna.Listen[1]
	for _, tc := range []struct {
		name, url string
		args      []string
		code      int
		says      string
	}{
		{"a token", secure, []string{"--kahuna-skip-verify", "--kahuna-token-file", at("ci.token")}, 0, "operations/s"},
		{"a certificate", secure, []string{"--kahuna-skip-verify", "--kahuna-cert", at("app.pem"), "--kahuna-key", at("app.key")}, 0, "operations/s"},
		{"a token behind a proxy", clear, []string{"--kahuna-token-file", at("ci.token")}, 0, "operations/s"},
		{"the socket", "socket", nil, 0, "operations/s"},
		{"nothing", secure, []string{"--kahuna-skip-verify"}, 1, "bearer token is needed"},
		{"nothing behind a proxy", clear, nil, 1, "bearer token is needed"},
		{"a token for other names", secure, []string{"--kahuna-skip-verify", "--kahuna-token-file", at("ci.token"), "--prefix", "other/"}, 1, "TYPE_ERRORED"},
		{"a certificate that is not trusted", secure, []string{"--kahuna-token-file", at("ci.token")}, 69, "certificate"},
		{"a token on the network", "http://192.0.2.1:2070", []string{"--kahuna-token-file", at("ci.token")}, 64, "in clear text"},
		{"a certificate without TLS", clear, []string{"--kahuna-cert", at("app.pem"), "--kahuna-key", at("app.key")}, 64, "is clear text"},
		{"half a certificate", secure, []string{"--kahuna-cert", at("app.pem")}, 64, "belong together"},
		{"a token for the socket", "socket", []string{"--kahuna-token-file", at("ci.token")}, 64, "known by its user"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := o.agent.Command(ctx, append([]string{"bench", "put", "--kahuna", tc.url, "--callers", "1", "--duration", "50ms", "--warmup", "0s"}, tc.args...)...)
		out, err := cmd.CombinedOutput()
		cancel()
		if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.Contains(string(out), tc.says) {
			t.Errorf("%s: exit code %d, %v, and it says\n%swant code %d and %q", tc.name, code, err, out, tc.code, tc.says)
		}
		if bytes.Contains(out, bytes.TrimSpace(text)) {
			t.Errorf("%s: the token is shown", tc.name)
		}
	}
	res, err := http.Get(clear + "/v1/cluster/health")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a probe is answered %v, %v", res, err)
	} else {
		_ = res.Body.Close()
	}
}
