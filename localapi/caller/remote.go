package caller

import (
	"context"
	"crypto/x509"
	"math"
)

// Kind says who vouches for a caller.
type Kind uint8

// The kinds. The zero value is a process, which the kernel vouches for.
const (
	Process     Kind = iota // on this host, through the Unix socket
	Certificate             // a client certificate that the agent's client CA has signed
	Token                   // a bearer token of the agent's token file
	Anonymous               // nobody: the listener takes whoever connects
)

// String is the kind in logs, metrics and status.
func (k Kind) String() string {
	switch k {
	case Process:
		return "process"
	case Certificate:
		return "certificate"
	case Token:
		return "token"
	case Anonymous:
		return "anonymous"
	}
	return "unknown"
}

// NoID is the UID and GID of whoever is no process on this host. The kernel
// gives it to nobody, so that a caller from the network is never taken for root
// by somebody who did not look at its Kind.
const NoID uint32 = math.MaxUint32

// OfCertificate is who presented a verified certificate at addr. Its names are
// the common name, and the DNS names and URIs of the certificate.
func OfCertificate(cert *x509.Certificate, addr string) *Caller {
	c := &Caller{Kind: Certificate, UID: NoID, GID: NoID, Remote: addr}
	if cert.Subject.CommonName != "" {
		c.Names = append(c.Names, cert.Subject.CommonName)
	}
	c.Names = append(c.Names, cert.DNSNames...)
	for _, u := range cert.URIs {
		c.Names = append(c.Names, u.String())
	}
	return c
}

// OfToken is who presented, at addr, the token of that name and id. A name can
// be given again after its token was revoked; an id never is.
func OfToken(name, id, addr string) *Caller {
	return &Caller{Kind: Token, UID: NoID, GID: NoID, Names: []string{name}, TokenID: id, Remote: addr}
}

// OfNobody is whoever connected from addr to a listener that asks for nothing.
func OfNobody(addr string) *Caller {
	return &Caller{Kind: Anonymous, UID: NoID, GID: NoID, Remote: addr}
}

type remoteKey struct{}

// With returns a context in which From finds c: for requests whose caller is
// known by something else than its connection.
func With(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, remoteKey{}, c)
}
