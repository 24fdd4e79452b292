package secret

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// revocations are the lists of an own PKI: which certificates count no more, by who
// has issued them. A list whose next issue is due stays in force, as certificates
// stay that nobody renews: a clock or a job that fails must not cost a lock.
type revocations []*x509.RevocationList

// parseRevocations reads the lists in text, PEM or one in DER. They have to be
// complete ones; a list of one of the CAs has to be signed by it.
func parseRevocations(text []byte, cas []*x509.Certificate) (revocations, error) {
	var ders [][]byte
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	if len(ders) == 0 && len(text) > 0 && text[0] == 0x30 { // a SEQUENCE: DER
		ders = [][]byte{text}
	}
	if len(ders) == 0 {
		return nil, errors.New("there is no certificate revocation list in it")
	}
	var lists revocations
	for i, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("list %d in it: %w", i+1, err)
		}
		for _, e := range list.Extensions {
			if e.Critical {
				return nil, fmt.Errorf("list %d in it is not a complete one (it has the critical extension %s), and nothing else is understood", i+1, e.Id)
			}
		}
		if !fromOneOf(list, cas) {
			return nil, fmt.Errorf("list %d in it is of %q, and not signed by a CA of that name in the CA file", i+1, list.Issuer)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

// fromOneOf reports whether one of the CAs has signed list. Two may have one name
// while one takes the other's place.
func fromOneOf(list *x509.RevocationList, cas []*x509.Certificate) bool {
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

// holds reports whether a list of issuer has serial.
func (r revocations) holds(issuer *x509.Certificate, serial *big.Int) bool {
	for _, list := range r {
		if !bytes.Equal(list.RawIssuer, issuer.RawSubject) {
			continue
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(serial) == 0 {
				return true
			}
		}
	}
	return false
}

// check refuses a certificate when each way from it to a CA has a revoked one.
func (r revocations) check(chains [][]*x509.Certificate) error {
	if len(r) == 0 {
		return nil
	}
	var revoked *x509.Certificate
chains:
	for _, chain := range chains {
		for i, c := range chain[:len(chain)-1] {
			if r.holds(chain[i+1], c.SerialNumber) {
				revoked = c
				continue chains
			}
		}
		return nil
	}
	if revoked == nil {
		return nil // there is no chain: who verified has said so
	}
	return fmt.Errorf("certificate %s of %q has been revoked", revoked.SerialNumber.Text(16), revoked.Subject)
}

// adds reports whether r revokes what q does not.
func (r revocations) adds(q revocations) bool {
	for _, list := range r {
		for _, e := range list.RevokedCertificateEntries {
			if !q.holds(&x509.Certificate{RawSubject: list.RawIssuer}, e.SerialNumber) {
				return true
			}
		}
	}
	return false
}

// due is when the first of the lists should have been followed by its next issue;
// zero when none says.
func (r revocations) due() (at time.Time) {
	for _, list := range r {
		if !list.NextUpdate.IsZero() && (at.IsZero() || list.NextUpdate.Before(at)) {
			at = list.NextUpdate
		}
	}
	return at
}
