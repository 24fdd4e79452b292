package secret_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/secret"
)

// listing is a CA that may issue lists.
func listing(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = sign(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	return a
}

// list makes a list of a CA, in DER.
func (a *authority) list(due time.Time, extensions []pkix.Extension, serials ...*big.Int) []byte {
	a.t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: due, ExtraExtensions: extensions}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func withList(t *testing.T, o secret.PKIOptions, text []byte) secret.PKIOptions {
	t.Helper()
	o.CRLFile = filepath.Join(t.TempDir(), "crl")
	if err := os.WriteFile(o.CRLFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

func asPEM(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }

func TestARevokedCertificateIsRefused(t *testing.T) {
	ca, later := listing(t, "test CA"), time.Now().Add(time.Hour)
	options := files(t, ca, ca, leaf("kahu-voter"))
	first, other := pki(t, options), pki(t, files(t, ca, ca, leaf("kahu-voter")))
	serial, ok := new(big.Int).SetString(other.Serial(), 16)
	if !ok {
		t.Fatalf("the serial %q", other.Serial())
	}
	for name, text := range map[string][]byte{
		"PEM":     asPEM(ca.list(later, nil, big.NewInt(1), serial)),
		"DER":     ca.list(later, nil, serial),
		"an old":  asPEM(ca.list(time.Now().Add(-time.Minute), nil, serial)),
		"several": append(asPEM(ca.list(later, nil, big.NewInt(1))), asPEM(ca.list(later, nil, serial))...),
	} {
		p := pki(t, withList(t, options, text))
		if _, _, err := handshake(p.ServerTLS(), other.ClientTLS()); err == nil || !strings.Contains(err.Error(), "has been revoked") || !strings.Contains(err.Error(), other.Serial()) {
			t.Errorf("%s: who comes with a revoked certificate: %v", name, err)
		}
		if _, _, err := handshake(other.ServerTLS(), p.ClientTLS()); err == nil || !strings.Contains(err.Error(), "has been revoked") {
			t.Errorf("%s: who is called and shows a revoked certificate: %v", name, err)
		}
		if _, _, err := handshake(p.ServerTLS(), first.ClientTLS()); err != nil {
			t.Errorf("%s: a certificate that is not in the list: %v", name, err)
		}
		if !p.Distrusts(first) || p.Distrusts(p) || first.Distrusts(p) {
			t.Errorf("%s: connections are to be made anew when something was revoked: %v, %v, %v", name, p.Distrusts(first), p.Distrusts(p), first.Distrusts(p))
		}
		if p.Revoked() != nil {
			t.Errorf("%s: the own certificate: %v", name, p.Revoked())
		}
	}
	// One's own is no error: the list counts, and others refuse it.
	mine, _ := new(big.Int).SetString(first.Serial(), 16)
	p := pki(t, withList(t, options, ca.list(later, nil, mine)))
	if err := p.Revoked(); err == nil || !p.ListsDue().Equal(later.UTC().Truncate(time.Second)) {
		t.Errorf("the own certificate is in the list: %v; its next issue is due at %v, want %v", err, p.ListsDue(), later)
	}
	// Another CA's certificate of the same serial is another one.
	second := listing(t, "second CA")
	both := files(t, ca, ca, leaf("kahu-voter"))
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: second.cert.Raw})...)
	if err := os.WriteFile(both.CAFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(pki(t, withList(t, both, second.list(later, nil, serial))).ServerTLS(), other.ClientTLS()); err != nil {
		t.Errorf("the serial is in another CA's list: %v", err)
	}
}

func TestListsThatCannotBeUsed(t *testing.T) {
	ca, stranger, namesake, later := listing(t, "test CA"), listing(t, "another CA"), listing(t, "test CA"), time.Now().Add(time.Hour)
	options := files(t, ca, ca, leaf("kahu-voter"))
	good := ca.list(later, nil)
	spoiled := append([]byte(nil), good...)
	spoiled[len(spoiled)-1] ^= 1
	partial := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}} // what a delta list has
	pki(t, withList(t, options, good))
	for name, c := range map[string]struct {
		text []byte
		says string
	}{
		"empty":              {nil, "no certificate revocation list in it"},
		"a certificate":      {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), "no certificate revocation list in it"},
		"not DER":            {[]byte{0x30, 0x03, 1, 2, 3}, "list 1 in it"},
		"a stranger's":       {append(asPEM(good), asPEM(stranger.list(later, nil))...), `list 2 in it is of "CN=another CA"`},
		"forged":             {namesake.list(later, nil), "not signed by a CA of that name"},
		"spoiled":            {spoiled, "not signed by a CA of that name"},
		"only what is newer": {ca.list(later, []pkix.Extension{partial}), "not a complete one"},
	} {
		_, err := secret.LoadPKI(withList(t, options, c.text))
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q in one line", name, err, c.says)
		}
	}
}
