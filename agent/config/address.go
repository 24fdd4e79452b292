package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// addresses checks bind, advertise, join and http, and finds the address that
// others use when bind is a wildcard.
func (c *checker) addresses() {
	bindHost, bindPort, ok := c.hostPort("bind", c.f.Bind, c.f.Dev)
	if ok {
		c.cfg.Bind = net.JoinHostPort(bindHost, bindPort)
	}
	switch {
	case c.f.Advertise != "":
		host, port, ok := c.hostPort("advertise", c.f.Advertise, false)
		switch {
		case ok && isWildcard(host):
			c.problem("advertise", "%s means every address; name the one that other agents use", c.f.Advertise)
		case ok:
			c.cfg.Advertise = net.JoinHostPort(host, port)
		}
	case ok && isWildcard(bindHost):
		if addr, ok := c.onlyAddress(); ok {
			c.cfg.Advertise = net.JoinHostPort(addr, bindPort)
		}
	case ok:
		c.cfg.Advertise = c.cfg.Bind
	}
	for _, text := range c.f.Join {
		if c.joinCloud(text) {
			continue
		}
		host, port, ok := c.hostPort("join", c.withPort(text, bindPort), false)
		if !ok {
			continue
		}
		if isWildcard(host) {
			c.problem("join", "%s is no address of another agent", text)
			continue
		}
		if addr := net.JoinHostPort(host, port); !slices.Contains(c.cfg.Join, addr) {
			c.cfg.Join = append(c.cfg.Join, addr)
		}
	}
	c.reachable()
	if c.f.HTTP != "" {
		if host, port, ok := c.hostPort("http", c.f.HTTP, c.f.Dev); ok {
			c.cfg.HTTP = net.JoinHostPort(host, port)
			if !isLoopback(host) {
				c.warn("http %s can be reached from the network, and callers have no identity there", c.cfg.HTTP)
			}
		}
	}
}

// withPort gives an entry of join that names no port the one that agents of this
// cluster listen on: this agent's.
func (c *checker) withPort(text, port string) string {
	if _, _, err := net.SplitHostPort(text); err == nil || port == "" || port == "0" {
		return text
	}
	host := strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if _, err := netip.ParseAddr(host); err != nil && !isHostName(host) {
		return text
	}
	return net.JoinHostPort(host, port)
}

// reachable refuses a voter that tells agents on other hosts to reach it at
// their own loopback. Voters dial each other both ways.
func (c *checker) reachable() {
	host, _, err := net.SplitHostPort(c.cfg.Advertise)
	if err != nil || !isLoopback(host) || c.f.Role == string(Proxy) {
		return
	}
	for _, other := range c.cfg.Join {
		if h, _, _ := net.SplitHostPort(other); !isLoopback(h) {
			c.problem("advertise", "%s cannot be reached by %s; set bind or advertise to an address of this host", c.cfg.Advertise, other)
			return
		}
	}
}

// onlyAddress chooses what to advertise for a wildcard: the one global address
// of this host, IPv4 before IPv6. With more than one it asks.
func (c *checker) onlyAddress() (string, bool) {
	all, err := c.host.Addresses()
	if err != nil {
		c.problem("advertise", "bind %s means every address, and %v; name the one that other agents use", c.f.Bind, err)
		return "", false
	}
	var v4, v6 []string
	for _, a := range all {
		switch a = a.Unmap(); {
		case !a.IsGlobalUnicast(): // private ranges are global unicast here; loopback and link-local are not
		case a.Is4():
			v4 = append(v4, a.String())
		default:
			v6 = append(v6, a.String())
		}
	}
	if len(v4) == 1 {
		return v4[0], true
	}
	if len(v4) == 0 && len(v6) == 1 {
		return v6[0], true
	}
	if found := append(v4, v6...); len(found) > 0 {
		c.problem("advertise", "bind %s means every address, and this host has %s; name the one that other agents use", c.f.Bind, strings.Join(found, ", "))
	} else {
		c.problem("advertise", "bind %s means every address, and this host has none but loopback; name the one that other agents use", c.f.Bind)
	}
	return "", false
}

// hostPort reads HOST:PORT. An empty host is the wildcard. Port 0 lets the
// kernel choose, which only makes sense when nobody has to find this agent.
func (c *checker) hostPort(key, text string, allowZero bool) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		c.problem(key, "%q is not HOST:PORT; write for example 192.0.2.7:%d or [2001:db8::7]:%d", text, DefaultPort, DefaultPort)
		return "", "", false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !allowZero {
		c.problem(key, "%q has no port between 1 and 65535", text)
		return "", "", false
	}
	if host == "" {
		host = "::"
	}
	if _, err := netip.ParseAddr(host); err != nil && !isHostName(host) {
		c.problem(key, "%q is neither an address nor a host name", host)
		return "", "", false
	}
	return host, strconv.FormatUint(n, 10), true
}

// isHostName is RFC 1123 with underscores, which container networks use. A name
// of digits and dots only is a mistyped address.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	return true
}

func isWildcard(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsUnspecified()
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
