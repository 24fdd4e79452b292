package secret

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"regexp"
	"time"
)

// Derived certificates are valid at all times, and checked at one: a host whose
// clock is wrong by decades still reaches its peers (HAZARDS.md 11).
var (
	validFrom  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280: no well-defined end
	checkedAt  = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
)

// serverName is in every certificate: what tells nodes apart is the node id in
// the URI, which Identify returns and the dialler compares.
const serverName = "kahu"

// The URI SAN says what its bearer is: kahu://voter/<node> or kahu://proxy/<node>.
const (
	uriScheme = "kahu"
	uriVoter  = "voter"
	uriProxy  = "proxy"
)

var nodeID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$`)

// Keys are one or more secrets with all that is derived from them. All methods
// may be called concurrently.
type Keys struct {
	secrets []Secret
	voters  []*x509.Certificate // trust anchors, in the order of secrets
	proxies []*x509.Certificate
}

// New derives the keys of secrets: the first is used, all are accepted.
func New(secrets ...Secret) (*Keys, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no secret given")
	}
	k := &Keys{secrets: secrets}
	for _, s := range secrets {
		voter, err := anchor("kahu voters "+s.ID(), s.voterCA)
		if err != nil {
			return nil, fmt.Errorf("deriving the voters' authority: %w", err)
		}
		proxy, err := anchor("kahu proxies "+s.ID(), caKey(s.proxy, labelProxyCA).Public().(ed25519.PublicKey))
		if err != nil {
			return nil, fmt.Errorf("deriving the proxies' authority: %w", err)
		}
		k.voters, k.proxies = append(k.voters, voter), append(k.proxies, proxy)
	}
	return k, nil
}

// IsVoter reports whether these keys let an agent act as a voter.
func (k *Keys) IsVoter() bool { return k.secrets[0].IsVoter() }

// IDs returns the public names of the secrets in order, for rotation.
func (k *Keys) IDs() []string {
	ids := make([]string, len(k.secrets))
	for i, s := range k.secrets {
		ids[i] = s.ID()
	}
	return ids
}

// Secrets returns the secrets in order.
func (k *Keys) Secrets() []Secret { return append([]Secret(nil), k.secrets...) }

// GossipKeys returns the gossip encryption keys (32 bytes each), the first to
// encrypt with, all to decrypt with.
func (k *Keys) GossipKeys() [][]byte {
	keys := make([][]byte, len(k.secrets))
	for i, s := range k.secrets {
		keys[i] = derive(s.proxy, labelGossip)
	}
	return keys
}

// ServerTLS returns the configuration with which this node accepts voters and
// proxies. The node shows a voter's certificate when its keys allow it, else a
// proxy's. Each call makes a new key pair.
func (k *Keys) ServerTLS(node string) (*tls.Config, error) { return k.config(node, k.everybody()) }

// ClientTLS returns the configuration with which this node calls voters and
// proxies.
func (k *Keys) ClientTLS(node string) (*tls.Config, error) { return k.config(node, k.everybody()) }

// VoterServerTLS is ServerTLS that accepts voters only. It needs voter keys.
func (k *Keys) VoterServerTLS(node string) (*tls.Config, error) { return k.voterConfig(node) }

// VoterClientTLS is ClientTLS that accepts voters only. It needs voter keys.
func (k *Keys) VoterClientTLS(node string) (*tls.Config, error) { return k.voterConfig(node) }

func (k *Keys) voterConfig(node string) (*tls.Config, error) {
	if !k.IsVoter() {
		return nil, errors.New("a proxy's secret cannot make a voter's certificate")
	}
	return k.config(node, k.voters)
}

func (k *Keys) everybody() []*x509.Certificate {
	return append(append([]*x509.Certificate(nil), k.voters...), k.proxies...)
}

func (k *Keys) config(node string, trusted []*x509.Certificate) (*tls.Config, error) {
	cert, err := k.certificate(node)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, ca := range trusted {
		pool.AddCert(ca)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		RootCAs:      pool,
		ServerName:   serverName,
		Time:         func() time.Time { return checkedAt },
		// A resumed session would outlive the secret that it was made under.
		SessionTicketsDisabled: true,
	}, nil
}

// certificate makes a key pair for node, signed under the first secret.
func (k *Keys) certificate(node string) (tls.Certificate, error) {
	if !nodeID.MatchString(node) {
		return tls.Certificate{}, fmt.Errorf("%q cannot be a node id: letters, digits, '.', '_' and '-', at most 128", node)
	}
	s := k.secrets[0]
	ca, signer, role := k.proxies[0], caKey(s.proxy, labelProxyCA), uriProxy
	if s.IsVoter() {
		ca, signer, role = k.voters[0], caKey(s.voter, labelVoterCA), uriVoter
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a key for node %s: %w", node, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: randomSerial(),
		Subject:      pkix.Name{CommonName: node, OrganizationalUnit: []string{role}},
		NotBefore:    validFrom,
		NotAfter:     validUntil,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{serverName},
		URIs:         []*url.URL{{Scheme: uriScheme, Host: role, Path: "/" + node}},

		BasicConstraintsValid: true,
	}, ca, public, signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate for node %s: %w", node, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

// anchor makes a certificate that stands for a CA whose public key is all we
// may have. Verification takes from it name, key and constraints; the signature
// of a trust anchor means nothing, and here is by a throw-away key.
func anchor(name string, public ed25519.PublicKey) (*x509.Certificate, error) {
	_, throwAway, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(public)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		SubjectKeyId:          id[:20],
		NotBefore:             validFrom,
		NotAfter:              validUntil,
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: name}}, public, throwAway)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// randomSerial is positive and at most 20 bytes long, as RFC 5280 wants it.
func randomSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails: see crypto/rand
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b)
}

// Identify tells who is at the other end of a verified connection, and whether
// it may act as a voter: the authority that its certificate chains to decides,
// and what the certificate says of itself has to agree.
func (k *Keys) Identify(cs tls.ConnectionState) (node string, voter bool, err error) {
	if len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) < 2 {
		return "", false, errors.New("the peer has no verified certificate")
	}
	chain := cs.VerifiedChains[0]
	leaf, root := chain[0], chain[len(chain)-1]
	role := ""
	switch {
	case signedBy(root, k.voters):
		role = uriVoter
	case signedBy(root, k.proxies):
		role = uriProxy
	default:
		return "", false, fmt.Errorf("the peer's certificate chains to %q, which is not of this cluster", root.Subject.CommonName)
	}
	if len(leaf.URIs) != 1 {
		return "", false, fmt.Errorf("the peer's certificate has %d URI names instead of one", len(leaf.URIs))
	}
	u := leaf.URIs[0]
	if u.Scheme != uriScheme || len(u.Path) < 2 || !nodeID.MatchString(u.Path[1:]) {
		return "", false, fmt.Errorf("the peer's certificate names %q, which is not a node of kahu", u)
	}
	if u.Host != role {
		return "", false, fmt.Errorf("the peer's certificate says %q, but comes from the authority of a %s", u, role)
	}
	return u.Path[1:], role == uriVoter, nil
}

func signedBy(root *x509.Certificate, among []*x509.Certificate) bool {
	key := root.PublicKey.(crypto.PublicKey)
	for _, ca := range among {
		if ca.PublicKey.(ed25519.PublicKey).Equal(key) {
			return true
		}
	}
	return false
}
