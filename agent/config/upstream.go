package config

import (
	"net/url"
	"slices"
	"strings"
)

// Upstream is a stock Kahuna cluster that this agent stands in front of.
type Upstream struct {
	// URLs are its servers, https://HOST:PORT or http://HOST:PORT, without
	// duplicates; none: this agent is one of kahu's own cluster.
	URLs []string
	// CAFile, CertFile, KeyFile and TokenFile are files, absolute or empty: who signs
	// the servers' certificates, and how this agent says who it is.
	CAFile, CertFile, KeyFile, TokenFile string
}

// On reports whether the agent is in upstream mode.
func (u Upstream) On() bool { return len(u.URLs) > 0 }

// upstream checks everything about upstream mode, in which the agent is a proxy of
// another cluster and none of kahu's own.
func (c *checker) upstream() {
	u, f := &c.cfg.Upstream, &c.f
	if len(f.Upstream) == 0 {
		for key, set := range map[string]bool{"upstream-ca-file": f.UpstreamCAFile != "", "upstream-cert-file": f.UpstreamCertFile != "",
			"upstream-key-file": f.UpstreamKeyFile != "", "upstream-token-file": f.UpstreamTokenFile != ""} {
			if set {
				c.problem(key, "it says how a Kahuna cluster is reached, and none is named; set upstream, or leave it out")
			}
		}
		return
	}
	clear := ""
	for _, text := range f.Upstream {
		base, ok := baseURL(text)
		switch {
		case !ok:
			c.problem("upstream", "%q is not scheme, host and port; write for example https://kahuna-1:8082", text)
		case !slices.Contains(u.URLs, base):
			u.URLs = append(u.URLs, base)
		}
		if strings.HasPrefix(base, "http://") {
			clear = base
		}
	}
	u.CAFile, u.CertFile = c.kahunaFile("upstream-ca-file", f.UpstreamCAFile), c.kahunaFile("upstream-cert-file", f.UpstreamCertFile)
	u.KeyFile, u.TokenFile = c.kahunaFile("upstream-key-file", f.UpstreamKeyFile), c.kahunaFile("upstream-token-file", f.UpstreamTokenFile)
	c.upstreamSecurity(clear)
	c.upstreamAlone()
}

// upstreamSecurity: clear is the URL of a server in clear text, empty without one.
func (c *checker) upstreamSecurity(clear string) {
	u := &c.cfg.Upstream
	if (u.CertFile == "") != (u.KeyFile == "") {
		c.problem("upstream-cert-file", "a certificate and its key belong together; set both upstream-cert-file and upstream-key-file, or neither")
	}
	for _, secret := range []string{u.KeyFile, u.TokenFile} {
		if mode, ok := c.host.FileMode(secret); secret != "" && ok && mode&0o077 != 0 {
			c.warn("%s can be read by others than its owner; fix with: chmod 600 %s", secret, secret)
		}
	}
	switch {
	case clear == "":
	case u.TokenFile != "":
		c.problem("upstream-token-file", "a token sent to %s in clear text is anybody's; write https", clear)
	case u.CAFile != "" || u.CertFile != "":
		c.problem("upstream", "%s is clear text, and the certificates are of no use there; write https, or leave them out", clear)
	default:
		c.warn("upstream %s is clear text: who is on the way reads and changes everything", clear)
	}
}

// upstreamAlone refuses what makes an agent one of kahu's own cluster.
func (c *checker) upstreamAlone() {
	d := Defaults()
	for key, set := range map[string]bool{
		"role": c.f.Role == string(Voter), "join": len(c.f.Join) > 0, "bootstrap-expect": c.f.BootstrapExpect != 0, "dev": c.f.Dev,
		"secret-file": c.f.SecretFile != "", "bind": c.f.Bind != d.Bind, "advertise": c.f.Advertise != "",
		"backup.directory": c.f.Backup.Directory != "", "kahuna-listen": len(c.f.KahunaListen) > 0,
	} {
		if set {
			c.problem(key, "with upstream the agent stands in front of a Kahuna cluster, and is part of none of kahu's own; leave out one of the two")
		}
	}
	// What is left of a cluster of one's own has no effect, and is not looked at.
	c.f.Role, c.f.Gossip, c.f.Dev = string(Proxy), string(GossipOff), false
	c.f.Join, c.f.BootstrapExpect, c.f.SecretFile, c.f.Bind, c.f.Advertise = nil, 0, "", d.Bind, ""
	c.f.Backup.Directory, c.f.KahunaListen = "", nil
}

// baseURL reads scheme, host and port, and nothing else.
func baseURL(text string) (base string, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Port() == "0" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", false
	}
	return u.Scheme + "://" + u.Host, true
}
