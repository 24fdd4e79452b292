package agent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
)

// selfSigned writes a certificate for 127.0.0.1 and its key, and returns the files.
func selfSigned(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return cert, key
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// An agent in front of a Kahuna cluster shows the certificate that its files have
// now, and takes no server that its CA file does not vouch for.
func TestUpstreamCertificates(t *testing.T) {
	serverCert, serverKey := selfSigned(t, "server")
	clientCert, clientKey := selfSigned(t, "first")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	shown := make(chan string)
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				close(shown)
				return
			}
			name := ""
			if server := c.(*tls.Conn); server.HandshakeContext(t.Context()) == nil {
				name = server.ConnectionState().PeerCertificates[0].Subject.CommonName
			}
			_ = c.Close()
			shown <- name
		}
	}()
	meet := func(settings *tls.Config) (string, error) {
		t.Helper()
		settings.ServerName = "127.0.0.1"
		c, err := tls.Dial("tcp", l.Addr().String(), settings)
		name := <-shown
		if err == nil {
			_ = c.Close()
		}
		return name, err
	}
	settings, err := agent.UpstreamTLS(config.Upstream{CAFile: serverCert, CertFile: clientCert, KeyFile: clientKey})
	if err != nil {
		t.Fatal(err)
	}
	if name, err := meet(settings); err != nil || name != "first" {
		t.Errorf("the server saw %q, %v", name, err)
	}
	renewedCert, renewedKey := selfSigned(t, "second")
	for from, to := range map[string]string{renewedCert: clientCert, renewedKey: clientKey} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if name, err := meet(settings); err != nil || name != "second" {
		t.Errorf("after a renewal the server saw %q, %v", name, err)
	}
	if settings, err = agent.UpstreamTLS(config.Upstream{CAFile: clientCert, CertFile: clientCert, KeyFile: clientKey}); err != nil {
		t.Fatal(err)
	}
	if _, err := meet(settings); err == nil {
		t.Error("a server that the CA file does not vouch for was taken")
	}
	writeFile(t, clientCert, "nothing")
	if _, err := agent.UpstreamTLS(config.Upstream{CAFile: clientCert}); err == nil || !strings.Contains(err.Error(), "must be PEM") {
		t.Errorf("a CA file without a certificate: %v", err)
	}
}

// The token is read again when its file changes, and the last one used while the
// file cannot be read.
func TestUpstreamToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if _, err := agent.UpstreamToken(path, nil)(); err == nil {
		t.Error("there was no file, and a token")
	}
	now := time.Now()
	clock := func() time.Time { return now }
	for _, bad := range []string{"", "two words", "two\nlines"} {
		writeFile(t, path, bad)
		if token, err := agent.UpstreamToken(path, clock)(); err == nil {
			t.Errorf("%q was taken for the token %q", bad, token)
		}
	}
	writeFile(t, path, "first\n")
	read := agent.UpstreamToken(path, clock)
	want := func(token string) {
		t.Helper()
		if got, err := read(); err != nil || got != token {
			t.Errorf("the token is %q, %v; want %q", got, err, token)
		}
	}
	want("first")
	writeFile(t, path, "second\n")
	if err := os.Chtimes(path, now, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	want("first") // not looked at so often
	now = now.Add(2 * time.Second)
	want("second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	want("second")
}
