package config

import (
	"net/url"
	"path/filepath"
	"strings"
)

// PKI is where the certificates between agents come from, if not from the secret.
type PKI struct {
	Cert, Key, CA string // PEM files, absolute; all empty: no own PKI
	CRL           string // revocation lists, absolute; empty: none
	// AcceptSecret takes agents by the secret as well, while they move.
	AcceptSecret bool
	// VoterName and ProxyName are what certificates of the two roles are issued to:
	// a DNS name, or a URI when it has "://". Never the same.
	VoterName, ProxyName string
}

// On reports whether there is an own PKI.
func (p PKI) On() bool { return p.Cert != "" }

// maxTLSName is what a DNS name may have, and enough for a URI.
const maxTLSName = 255

// pki checks the certificates of an own PKI. What is in the files is looked at when
// they are used.
func (c *checker) pki() {
	p := &c.cfg.PKI
	p.VoterName, p.ProxyName = c.tlsName("tls-voter-name", c.f.TLSVoterName), c.tlsName("tls-proxy-name", c.f.TLSProxyName)
	if p.VoterName != "" && strings.EqualFold(p.VoterName, p.ProxyName) {
		c.problem("tls-proxy-name", "%q is the name of voters as well: a proxy's certificate could vote", p.ProxyName)
	}
	if c.f.Dev {
		return
	}
	given := 0
	for _, f := range []struct {
		key, value, credential string
		to                     *string
	}{
		{"tls-cert", c.f.TLSCert, "kahu-tls-cert", &p.Cert},
		{"tls-key", c.f.TLSKey, "kahu-tls-key", &p.Key},
		{"tls-ca", c.f.TLSCA, "kahu-tls-ca", &p.CA},
	} {
		path := f.value
		if path == "" {
			path = c.credential(f.credential)
		}
		if path == "" {
			continue
		}
		given++
		*f.to = c.path(f.key, path, nil)
		if err := c.host.CanRead(*f.to); err != nil {
			c.problem(f.key, "cannot read it: %v", err)
		}
	}
	if given > 0 && given < 3 {
		for _, f := range []struct{ key, path string }{{"tls-cert", p.Cert}, {"tls-key", p.Key}, {"tls-ca", p.CA}} {
			if f.path == "" {
				c.problem(f.key, "an own PKI needs tls-cert, tls-key and tls-ca; set it, or leave out all three")
			}
		}
	}
	switch {
	case p.On():
		p.AcceptSecret = c.f.TLSAcceptSecret
	case c.f.TLSAcceptSecret:
		c.problem("tls-accept-secret", "there is no own PKI beside which the secret would be accepted; leave it out, or set tls-cert, tls-key and tls-ca")
	}
	if c.f.TLSCRL != "" {
		if p.CRL = c.path("tls-crl", c.f.TLSCRL, nil); !p.On() {
			c.problem("tls-crl", "it is for certificates of an own PKI; leave it out, or set tls-cert, tls-key and tls-ca")
		} else if err := c.host.CanRead(p.CRL); err != nil {
			c.problem("tls-crl", "cannot read it: %v", err)
		}
	}
	if p.AcceptSecret {
		c.warn("tls-accept-secret is on: who has the secret, and who has a certificate, is let in; leave it out on all hosts when all have moved")
	}
	if mode, ok := c.host.FileMode(p.Key); p.Key != "" && ok && mode&0o007 != 0 {
		c.warn("tls-key %s can be read by everybody on this host; fix with: chmod o= %s", p.Key, p.Key)
	}
}

// credential returns the path of a systemd credential, empty without one.
func (c *checker) credential(name string) string {
	dir := c.host.getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	path := filepath.Join(dir, name)
	if _, given := c.host.FileMode(path); !given {
		return ""
	}
	return path
}

// tlsName checks what a certificate may be issued to.
func (c *checker) tlsName(key, name string) string {
	isURI := strings.Contains(name, "://")
	if isURI {
		if u, err := url.Parse(name); err != nil || u.Host == "" || u.String() != name {
			c.problem(key, "%.60q is not a URI as it would stand in a certificate, such as spiffe://example.org/kahu/voter", name)
		}
	}
	switch {
	case name == "":
		c.problem(key, "it is empty: anybody with a certificate of the CA would have the role")
	case len(name) > maxTLSName, !isURI && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "":
		c.problem(key, "%.60q is not a DNS name without wildcards, nor a URI", name)
	}
	return name
}
