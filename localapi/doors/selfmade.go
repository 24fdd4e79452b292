package doors

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

const (
	madeCertFile = "kahuna-cert.pem"
	madeKeyFile  = "kahuna-key.pem"
	// madeFor is how long a certificate made here lasts, and renewBefore when it is
	// made anew: at a start of the agent, since clients may have pinned it.
	madeFor     = 10 * 365 * 24 * time.Hour
	renewBefore = 90 * 24 * time.Hour
)

// MakeCertificate keeps a self-signed certificate in dir, and makes it when it is
// missing, about to expire, or does not name all of names: host names and IP
// addresses by which clients call this agent. now is the wall clock.
func MakeCertificate(dir string, names []string, now func() time.Time, logger *slog.Logger) (*Certificate, error) {
	certFile, keyFile := filepath.Join(dir, madeCertFile), filepath.Join(dir, madeKeyFile)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil || !stillGood(pair.Leaf, names, now()) {
		if err := makeFiles(certFile, keyFile, names, now()); err != nil {
			return nil, fmt.Errorf("making a certificate for the Kahuna wire: %w", err)
		}
		logger.Info("made a certificate for the Kahuna wire", "path", certFile, "names", names)
	}
	return LoadCertificate(certFile, keyFile, now, logger)
}

func stillGood(leaf *x509.Certificate, names []string, now time.Time) bool {
	if now.Before(leaf.NotBefore) || now.Add(renewBefore).After(leaf.NotAfter) {
		return false
	}
	return !slices.ContainsFunc(names, func(name string) bool { return leaf.VerifyHostname(name) != nil })
}

func makeFiles(certFile, keyFile string, names []string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "kahu"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(madeFor), // a client's clock may be behind
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// The key first: a crash in between leaves two that do not fit, made anew then.
	return errors.Join(
		writePEM(keyFile, 0o600, "PRIVATE KEY", private),
		writePEM(certFile, 0o644, "CERTIFICATE", cert))
}

func writePEM(path string, mode os.FileMode, kind string, content []byte) error {
	return atomicfile.Write(path, atomicfile.Options{Mode: mode}, func(w io.Writer) error {
		return pem.Encode(w, &pem.Block{Type: kind, Bytes: content})
	})
}
