package secret

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Names that certificates of an own PKI have, unless others are configured.
const (
	DefaultVoterName = "kahu-voter"
	DefaultProxyName = "kahu-proxy"
)

// pkiServerName is the server name that callers with a certificate of an own PKI ask
// for: one that accepts both kinds tells by it which the caller means.
const pkiServerName = "kahu-pki"

// maxPEMBytes bounds the files of an own PKI.
const maxPEMBytes = 1 << 20

// PKIOptions are where the certificates of an own PKI are, and what tells roles
// apart. All fields without "optional" are required.
type PKIOptions struct {
	CertFile string // this agent's certificate, PEM, with those that lead to the CA
	KeyFile  string // its key, PEM
	CAFile   string // certificates that others' must come from, PEM
	CRLFile  string // certificates that count no more, of the CAs, PEM or DER; optional
	// VoterName and ProxyName are what a voter's and a proxy's certificate is issued
	// to: a DNS name, or a URI when it has "://".
	VoterName, ProxyName string
	// Now is the wall clock: unlike derived certificates these have real dates.
	Now func() time.Time
}

// PKI is one reading of the certificates of an own PKI, the alternative to
// certificates that are derived from the secret. It does not change; a later
// reading is another one. All methods may be called concurrently.
//
// Who has a certificate of the CA that is issued to VoterName may vote, restore and
// administer; to ProxyName, only ask. To both, or to neither, it is refused. Which
// node its bearer is the certificate does not say: ids are made with the data
// directory, which no PKI has heard of. So agents tell it to each other inside the
// connection, and whoever may vote could tell any: as with the secret, of which
// every voter could make a certificate for any node.
type PKI struct {
	o     PKIOptions
	own   tls.Certificate
	cas   []*x509.Certificate
	roots *x509.CertPool
	crls  revocations
	voter bool
}

// LoadPKI reads and checks the three files. Errors are one line and name the file
// and what to do. An expired certificate is no error (see NotAfter): others will
// refuse it, and the clock may be wrong.
func LoadPKI(o PKIOptions) (*PKI, error) {
	p := &PKI{o: o, roots: x509.NewCertPool()}
	certPEM, err := readPEM("certificate", o.CertFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM("key", o.KeyFile)
	if err != nil {
		return nil, err
	}
	caPEM, err := readPEM("CA", o.CAFile)
	if err != nil {
		return nil, err
	}
	if p.own, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("the certificate %s and the key %s cannot be used: %w", o.CertFile, o.KeyFile, err)
	}
	if p.cas, err = parseCertificates(caPEM); err != nil {
		return nil, fmt.Errorf("the CA file %s: %w", o.CAFile, err)
	}
	for _, ca := range p.cas {
		if !ca.IsCA {
			return nil, fmt.Errorf("the CA file %s has the certificate of %q, which is no CA", o.CAFile, ca.Subject)
		}
		p.roots.AddCert(ca)
	}
	if o.CRLFile != "" {
		text, err := readPEM("revocation list", o.CRLFile)
		if err != nil {
			return nil, err
		}
		if p.crls, err = parseRevocations(text, p.cas); err != nil {
			return nil, fmt.Errorf("the revocation list %s: %w", o.CRLFile, err)
		}
	}
	// At a time when it was valid: what the date of today makes of it is told otherwise.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := p.verify(p.own.Leaf, p.rest(), use, p.own.Leaf.NotBefore.Add(time.Second)); err != nil {
			return nil, fmt.Errorf("the certificate %s is not one that other agents take: %w; it has to come from the CA file %s, for clients and for servers", o.CertFile, err, o.CAFile)
		}
	}
	if p.voter, err = p.roleOf(p.own.Leaf); err != nil {
		return nil, fmt.Errorf("the certificate %s: %w", o.CertFile, err)
	}
	return p, nil
}

func readPEM(what, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the %s file: %w", what, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the %s file %s: %w", what, path, err)
	}
	if len(text) > maxPEMBytes {
		return nil, fmt.Errorf("the %s file %s has more than %d bytes: it is something else", what, path, maxPEMBytes)
	}
	return text, nil
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return all, nil
}

// rest are the certificates that lead from the own one to the CA.
func (p *PKI) rest() []*x509.Certificate {
	var rest []*x509.Certificate
	for _, der := range p.own.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil { // X509KeyPair took it
			rest = append(rest, c)
		}
	}
	return rest
}

// verify checks that leaf comes from the CA, and may be used so at a time.
func (p *PKI) verify(leaf *x509.Certificate, rest []*x509.Certificate, use x509.ExtKeyUsage, at time.Time) (chains [][]*x509.Certificate, err error) {
	between := x509.NewCertPool()
	for _, c := range rest {
		between.AddCert(c)
	}
	return leaf.Verify(x509.VerifyOptions{Roots: p.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
}

// IsVoter reports whether the own certificate lets this agent act as a voter.
func (p *PKI) IsVoter() bool { return p.voter }

// NotAfter is when the own certificate expires.
func (p *PKI) NotAfter() time.Time { return p.own.Leaf.NotAfter }

// NotBefore is from when on the own certificate is valid.
func (p *PKI) NotBefore() time.Time { return p.own.Leaf.NotBefore }

// Serial names the own certificate for people.
func (p *PKI) Serial() string { return p.own.Leaf.SerialNumber.Text(16) }

// Revoked says that a list has the own certificate, so that others refuse it; nil
// when none has.
func (p *PKI) Revoked() error {
	chains, err := p.verify(p.own.Leaf, p.rest(), x509.ExtKeyUsageClientAuth, p.own.Leaf.NotBefore.Add(time.Second))
	if err != nil {
		return nil // LoadPKI has looked
	}
	return p.crls.check(chains)
}

// ListsDue is when the next issue of a revocation list is due; zero without one.
func (p *PKI) ListsDue() time.Time { return p.crls.due() }

// Distrusts reports whether connections that q has accepted may not be accepted by
// p: a CA is gone, a certificate was revoked, or a role is named otherwise.
func (p *PKI) Distrusts(q *PKI) bool {
	gone := slices.ContainsFunc(q.cas, func(ca *x509.Certificate) bool { return !slices.ContainsFunc(p.cas, ca.Equal) })
	return gone || p.crls.adds(q.crls) || p.o.VoterName != q.o.VoterName || p.o.ProxyName != q.o.ProxyName
}

// roleOf tells a voter's certificate from a proxy's.
func (p *PKI) roleOf(leaf *x509.Certificate) (voter bool, err error) {
	isVoter, isProxy := issuedTo(leaf, p.o.VoterName), issuedTo(leaf, p.o.ProxyName)
	switch {
	case isVoter && isProxy:
		return false, fmt.Errorf("it is issued to %q and to %q, so it is nobody's: leave one of the two names out", p.o.VoterName, p.o.ProxyName)
	case !isVoter && !isProxy:
		return false, fmt.Errorf("it is issued to neither %q nor %q, one of which has to be among its names (SAN)", p.o.VoterName, p.o.ProxyName)
	}
	return isVoter, nil
}

// issuedTo reports whether name is among the names of leaf. A wildcard is none.
func issuedTo(leaf *x509.Certificate, name string) bool {
	if strings.Contains(name, "://") {
		for _, u := range leaf.URIs {
			if u.String() == name {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, name) })
}

// ServerTLS returns the configuration with which voters and proxies are accepted.
func (p *PKI) ServerTLS() *tls.Config { return p.config(x509.ExtKeyUsageClientAuth, false) }

// ClientTLS returns the configuration with which voters and proxies are called.
func (p *PKI) ClientTLS() *tls.Config { return p.config(x509.ExtKeyUsageServerAuth, false) }

// VoterServerTLS is ServerTLS that accepts voters only. It needs a voter's
// certificate.
func (p *PKI) VoterServerTLS() (*tls.Config, error) { return p.voterConfig(x509.ExtKeyUsageClientAuth) }

// VoterClientTLS is ClientTLS that accepts voters only. It needs a voter's
// certificate.
func (p *PKI) VoterClientTLS() (*tls.Config, error) { return p.voterConfig(x509.ExtKeyUsageServerAuth) }

func (p *PKI) voterConfig(use x509.ExtKeyUsage) (*tls.Config, error) {
	if !p.voter {
		return nil, fmt.Errorf("the certificate %s is a proxy's (issued to %q), and a voter needs one that is issued to %q", p.o.CertFile, p.o.ProxyName, p.o.VoterName)
	}
	return p.config(use, true), nil
}

// config verifies by itself: who is at the other end is decided by the CA and by
// the name of a role, not by the host that was dialled.
func (p *PKI) config(use x509.ExtKeyUsage, votersOnly bool) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{p.own},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // of the host's name; VerifyConnection does the rest
		ServerName:             pkiServerName,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			voter, err := p.identify(cs, use)
			if err == nil && votersOnly && !voter {
				err = errors.New("only voters are accepted here, and the other side has a proxy's certificate")
			}
			return err
		},
	}
}

func (p *PKI) identify(cs tls.ConnectionState, use x509.ExtKeyUsage) (voter bool, err error) {
	if len(cs.PeerCertificates) == 0 {
		return false, errors.New("the other side has shown no certificate")
	}
	leaf := cs.PeerCertificates[0]
	chains, err := p.verify(leaf, cs.PeerCertificates[1:], use, p.o.Now())
	if err == nil {
		err = p.crls.check(chains)
	}
	if err != nil {
		return false, fmt.Errorf("the certificate of %q: %w", leaf.Subject, err)
	}
	if voter, err = p.roleOf(leaf); err != nil {
		return false, fmt.Errorf("the certificate of %q: %w", leaf.Subject, err)
	}
	return voter, nil
}

// Identify tells whether the other end of a verified connection may act as a voter.
// Which node it is it has to tell itself.
func (p *PKI) Identify(cs tls.ConnectionState) (voter bool, err error) {
	if len(cs.PeerCertificates) == 0 {
		return false, errors.New("the other side has shown no certificate")
	}
	return p.roleOf(cs.PeerCertificates[0]) // verified in the handshake
}
