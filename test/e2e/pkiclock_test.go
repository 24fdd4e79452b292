package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/clocks"
	"github.com/kahu-sh/kahu/test/cluster"
)

// A voter with certificates of an own PKI boots with a clock by which they are not valid
// yet. It says so where an operator looks, the others go on, and once its clock is set
// it is one of them again, by itself.
func TestVoterWhoseCertificateIsNotValidByItsClock(t *testing.T) {
	if !clocks.Supported {
		t.Skipf("SKIPPED: no clock can be shifted on %s", runtime.GOARCH)
	}
	if testing.Short() {
		t.Skip("starts agents")
	}
	cert, key, ca := ownPKI(t)
	c := startCluster(t, cluster.Options{Voters: 3, Args: []string{"--tls-cert", cert, "--tls-key", key, "--tls-ca", ca}})
	ctx := bounded(t, 2*time.Minute)
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wrong, other := c.Agents[0], c.Agents[1]
	if wrong == leader {
		wrong, other = other, wrong
	}
	if err := wrong.Kill(); err != nil {
		t.Fatal(err)
	}
	startWrong(ctx, t, wrong, -48*time.Hour)
	if err := cluster.Wait(ctx, "its status names the clock and the certificate", func(context.Context) (bool, error) {
		s := kahu(t, wrong, "status")
		for line := range strings.Lines(s.out) {
			if strings.Contains(line, "by the wall clock of this host") && strings.Contains(line, "is not valid: the clock is wrong") {
				return true, nil
			}
		}
		return false, errors.New(s.out + s.err)
	}); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(wrong.Dir, "agent.log"))
	if err != nil || !strings.Contains(string(log), "the certificate of this agent is not valid yet") {
		t.Errorf("its log does not say that its own certificate is not valid yet (%v)", err)
	}
	must(t, other, "kv", "set", "k", "without it")
	if n, err := clocks.Shift(ctx, 0, wrong.Pid()); err != nil || n != 1 {
		t.Fatalf("putting its clock right: %d, %v", n, err)
	}
	if err := wrong.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	if got := must(t, wrong, "kv", "get", "k"); got != "without it" {
		t.Errorf("it reads %q", got)
	}
	if err := cluster.Wait(ctx, "it says nothing of its clock", func(ctx context.Context) (bool, error) {
		s, err := wrong.Status(ctx)
		return err == nil && s.ClockProblem == "", fmt.Errorf("%s, %w", s.ClockProblem, err)
	}); err != nil {
		t.Error(err)
	}
}

// ownPKI makes a CA and one certificate for all voters, valid since an hour ago, and
// returns their files.
func ownPKI(t *testing.T) (certFile, keyFile, caFile string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	since := time.Now().Add(-time.Hour)
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: since, NotAfter: since.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"kahu-voter"}, NotBefore: since, NotAfter: since.AddDate(0, 6, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, own.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER), write("ca.pem", "CERTIFICATE", caDER)
}
