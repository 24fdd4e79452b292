// Package secret turns the cluster's one secret into everything that makes
// agents trust each other: certificates, their authorities, the gossip key.
//
// It promises that a proxy's secret cannot make a voter's certificate, that a
// wrong wall clock costs no connection (derived certificates have no meaningful
// dates, and are checked at a fixed time), and that secrets can be rotated
// without a stop: of several, the first is used and all are accepted. The main
// type is Keys. Who may do what is left to those who ask Identify.
//
// # What is derived from what
//
//	V  voter secret, 32 random bytes                kahu-voter-secret-v1:<base64 of V>
//	├── voter CA      Ed25519 seed HKDF(V)
//	└── P  proxy secret HKDF(V)                     kahu-proxy-secret-v1:<base64 of P and voter CA public key>
//	    ├── proxy CA  Ed25519 seed HKDF(P)
//	    ├── gossip key         HKDF(P)
//	    └── key id             HKDF(P), 4 bytes, to say in public which secret is in use
//
// HKDF is HKDF-SHA256 without salt and with the versioned label of each line. A
// proxy has the public key of the voter CA beside P: it can tell voters, but
// not act as one. A secret file has one secret a line; empty lines and lines
// that begin with # are skipped. Revocation is rotation.
package secret

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	voterPrefix = "kahu-voter-secret-v1:"
	proxyPrefix = "kahu-proxy-secret-v1:"
	secretBytes = 32
)

// The labels under which keys are derived. A changed label is another key: a
// new version gets new labels and is accepted beside the old one.
const (
	labelProxySecret = "kahu v1 proxy secret"
	labelProxyCA     = "kahu v1 proxy ca ed25519 seed"
	labelVoterCA     = "kahu v1 voter ca ed25519 seed"
	labelGossip      = "kahu v1 gossip key"
	labelKeyID       = "kahu v1 key id"
)

// Secret is one voter's or proxy's secret. It prints without its content.
type Secret struct {
	voter    []byte // V; nil in a proxy's
	proxy    []byte // P
	voterCA  ed25519.PublicKey
	original string // as in the file
}

// Generate makes a new voter secret from the kernel's randomness.
func Generate() Secret {
	v := make([]byte, secretBytes)
	rand.Read(v) // never fails: see crypto/rand
	return fromVoter(v)
}

func fromVoter(v []byte) Secret {
	return Secret{
		voter:    v,
		proxy:    derive(v, labelProxySecret),
		voterCA:  caKey(v, labelVoterCA).Public().(ed25519.PublicKey),
		original: voterPrefix + base64.StdEncoding.EncodeToString(v),
	}
}

func fromProxy(p []byte, voterCA ed25519.PublicKey) Secret {
	both := append(append([]byte(nil), p...), voterCA...)
	return Secret{
		proxy:    p,
		voterCA:  voterCA,
		original: proxyPrefix + base64.StdEncoding.EncodeToString(both),
	}
}

// Proxy returns the secret for agents that never vote. It is derived from a
// voter's, and is itself for a proxy's.
func (s Secret) Proxy() Secret { return fromProxy(s.proxy, s.voterCA) }

// IsVoter reports whether s lets an agent act as a voter.
func (s Secret) IsVoter() bool { return s.voter != nil }

// ID is a short public name of the secret, the same for a voter's and the
// proxy's derived from it.
func (s Secret) ID() string { return hex.EncodeToString(derive(s.proxy, labelKeyID)[:4]) }

// Line returns the secret as a line of a secret file, without the line's end.
func (s Secret) Line() string { return s.original }

// String implements fmt.Stringer without giving the secret away.
func (s Secret) String() string {
	kind := "proxy"
	if s.IsVoter() {
		kind = "voter"
	}
	return kind + " secret " + s.ID()
}

// GoString keeps the secret out of %#v.
func (s Secret) GoString() string { return s.String() }

// Parse reads the secrets of a file's text: at least one, all for voters or all
// for proxies. Errors name the line and never show it.
func Parse(text string) ([]Secret, error) {
	var secrets []Secret
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if len(secrets) > 0 && s.IsVoter() != secrets[0].IsVoter() {
			return nil, fmt.Errorf("line %d: voter and proxy secrets stand in one file: keep one kind", i+1)
		}
		for _, other := range secrets {
			if other.ID() == s.ID() {
				return nil, fmt.Errorf("line %d: the same secret twice", i+1)
			}
		}
		secrets = append(secrets, s)
	}
	if len(secrets) == 0 {
		return nil, errors.New("there is no secret in it: make one with 'kahu keygen'")
	}
	return secrets, nil
}

func parseLine(line string) (Secret, error) {
	body, isVoter := strings.CutPrefix(line, voterPrefix)
	want := secretBytes
	if !isVoter {
		var isProxy bool
		if body, isProxy = strings.CutPrefix(line, proxyPrefix); !isProxy {
			return Secret{}, fmt.Errorf("not a secret of this version of kahu: it has to begin with %q or %q", voterPrefix, proxyPrefix)
		}
		want = secretBytes + ed25519.PublicKeySize
	}
	raw, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return Secret{}, errors.New("what follows the prefix is not base64: was it cut or wrapped?")
	}
	if len(raw) != want {
		return Secret{}, fmt.Errorf("the secret has %d bytes instead of %d: was it cut?", len(raw), want)
	}
	if isVoter {
		return fromVoter(raw), nil
	}
	return fromProxy(raw[:secretBytes], ed25519.PublicKey(raw[secretBytes:])), nil
}

// derive panics only for lengths that SHA-256 cannot give.
func derive(from []byte, label string) []byte {
	key, err := hkdf.Key(sha256.New, from, nil, label, secretBytes)
	if err != nil {
		panic(fmt.Sprintf("secret: HKDF of %d bytes from %d under %q: %v", secretBytes, len(from), label, err))
	}
	return key
}

func caKey(from []byte, label string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(derive(from, label))
}
