package dashboards_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ownPKI are flags of an agent with certificates of a PKI of this test's own, which
// it has metrics about.
func ownPKI(t *testing.T) (args []string) {
	t.Helper()
	dir := t.TempDir()
	must := func(der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	write := func(flag, kind string, der []byte) {
		t.Helper()
		path := filepath.Join(dir, flag)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+flag, path)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from, until := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	write("tls-ca", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)))
	write("tls-cert", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: until,
		DNSNames: []string{"kahu-voter"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, ca, key.Public(), key)))
	write("tls-key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	write("tls-crl", "X509 CRL", must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: until}, ca, key)))
	return args
}
